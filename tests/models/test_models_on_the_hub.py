"""A model on the Hub: its commit, its cache, its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.utils import httpx
from huggingface_hub.utils._http import default_client_factory
from support.checkpoints import (
    ROWS,
    assert_equal_states,
    full_states,
    make_adapter,
    whole,
)
from support.hub import GOOD_TOKEN, NumberedRepo, empty
from support.loopback_hub import Hub
from support.models import CHATML

from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.runtime import Runtime
from larf_curate.errors import LarfError
from larf_curate.models.devices import find_device
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions


def outcomes(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What loading gives: the states and the version, or the error."""
    found = []
    for case in cases:
        layers = case.pop("layers", [0])
        try:
            options = ModelOptions(**case)
            loaded = load_model(options, max(layers), find_device("cpu"))
            values = Encoder(options, Runtime(loaded)).encode(ROWS, layers).values
            found.append({"states": values.tolist(), "version": loaded.version})
        except LarfError as error:
            found.append({"error": f"{type(error).__name__}: {error}"})
    return found


@contextmanager
def hub_is_down() -> Iterator[None]:
    """Every connection is refused."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused", request=request)

    huggingface_hub.set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(refuse)))
    try:
        yield
    finally:
        huggingface_hub.set_client_factory(default_client_factory)


@contextmanager
def offline() -> Iterator[None]:
    """As in a process that began with HF_HUB_OFFLINE=1: the Hub's client reads that when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def on_hub(tiny_model: Path, loopback: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Outcomes of loading from a Hub on loopback, from one that is down, and offline; and the requests it has seen."""
    adapter = tmp_path_factory.mktemp("adapter")
    adapted = make_adapter(tiny_model, adapter)
    base = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    config = json.loads((adapter / "adapter_config.json").read_text())
    lora = {path.name: path.read_bytes() for path in adapter.iterdir()}
    lora["adapter_config.json"] = json.dumps({**config, "base_model_name_or_path": "acme/tiny"}).encode()
    empty(loopback)
    for name, files, private in (
        ("acme/tiny", base, False),
        ("acme/lora", lora, False),
        ("acme/private", base, True),
        ("acme/hidden", base, True),
        ("acme/empty", {"README.md": b"hello"}, False),
    ):
        loopback.repos[name] = NumberedRepo(name, "model", private)
        loopback.repos[name].files = dict(files)
    for name, branch in (("acme/tiny", "v1"), ("acme/lora", "v2")):
        loopback.repos[name].branches[branch] = dict(loopback.repos[name].files)
    cases: dict[str, dict[str, Any]] = {
        "plain": {"model": "acme/tiny", "layers": [0, 3]},
        "revision": {"model": "acme/tiny", "revision": "v1", "layers": [0, 3]},
        "adapter": {"model": "acme/lora", "revision": "v2", "layers": [0, 3]},
        "private": {"model": "acme/private", "layers": [0, 3]},
        "missing": {"model": "acme/nowhere"},
        "no slash": {"model": "tiny-no-such-model"},
        "not an id": {"model": "acme/two words"},
        "empty": {"model": "acme/empty"},
        "no such file": {"model": "acme/tiny/missing.gguf"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", GOOD_TOKEN)
        results: dict[str, Any] = dict(zip(cases, outcomes(list(cases.values())), strict=True))
        patch.delenv("HF_TOKEN")
        (results["private, no token"],) = outcomes([{"model": "acme/hidden"}])
        results["template"] = ModelOptions.of("demo", chat_template="acme/tiny").chat_template
    results["requests"] = [path for _, path in loopback.requests]
    results["shas"] = {
        name: {branch: repo.head(branch) for branch in repo.branches} for name, repo in loopback.repos.items()
    }
    for name, without_a_hub in (("down", hub_is_down()), ("offline", offline())):
        with without_a_hub:
            known, unknown = outcomes([{"model": "acme/tiny", "layers": [0, 3]}, {"model": "acme/other"}])
        results[f"{name}, cached"], results[name] = known, unknown
    assert loopback.requests[len(results["requests"]) :] == [], "neither has asked the Hub"
    results["expected"] = full_states(whole(tiny_model), [0, 3])
    results["expected adapter"] = full_states(adapted, [0, 3])
    return results


@pytest.mark.parametrize("case", ["plain", "revision", "private", "down, cached", "offline, cached"])
def test_a_hub_id_gives_the_states_of_the_local_model(on_hub: dict[str, Any], case: str) -> None:
    assert "error" not in on_hub[case], on_hub[case]
    assert_equal_states(np.array(on_hub[case]["states"]), on_hub["expected"])


def test_an_adapter_on_the_hub_gives_peft_s_own_states(on_hub: dict[str, Any]) -> None:
    assert "error" not in on_hub["adapter"], on_hub["adapter"]
    assert_equal_states(np.array(on_hub["adapter"]["states"]), on_hub["expected adapter"])


def test_a_chat_template_may_be_that_of_a_model_on_the_hub(on_hub: dict[str, Any]) -> None:
    assert on_hub["template"] == CHATML


def test_a_version_is_the_commit_that_was_loaded(on_hub: dict[str, Any]) -> None:
    tiny, lora = on_hub["shas"]["acme/tiny"], on_hub["shas"]["acme/lora"]
    assert on_hub["plain"]["version"] == tiny["main"]
    assert on_hub["revision"]["version"] == tiny["v1"]
    assert on_hub["adapter"]["version"] == f"{tiny['main']}+{lora['v2']}"


@pytest.mark.parametrize(("repo", "revision"), [("acme/tiny", "v1"), ("acme/lora", "v2")])
def test_the_revision_asked_for_is_looked_up_and_its_commit_loaded(
    on_hub: dict[str, Any], repo: str, revision: str
) -> None:
    assert f"/api/models/{repo}/revision/{revision}" in on_hub["requests"]
    files = {path for path in on_hub["requests"] if path.startswith(f"/{repo}/resolve/")}
    weights = {path.rsplit("/", 1)[0] for path in files if path.endswith(".safetensors")}
    commit = on_hub["shas"][repo][revision]
    assert f"/{repo}/resolve/{commit}" in weights
    assert not {f"/{repo}/resolve/{name}" for name in ("main", revision)} & weights, "a branch may have moved since"
    if repo == "acme/lora":  # the one never asked for without a revision
        assert not [path for path in files if path.startswith(f"/{repo}/resolve/main/")]


@pytest.mark.parametrize("case", ["missing", "no slash", "not an id", "private, no token"])
def test_a_repository_that_cannot_be_read_is_named_with_the_way_out(on_hub: dict[str, Any], case: str) -> None:
    assert on_hub[case]["error"].startswith("ModelError: ")
    assert "neither a local path, nor `demo` or `demo-aligned`, nor a repository on the Hub" in on_hub[case]["error"]
    assert "hf auth login" in on_hub[case]["error"]


@pytest.mark.parametrize(
    ("case", "name"),
    [("empty", "acme/empty"), ("no such file", "missing.gguf"), ("down", "acme/other"), ("offline", "acme/other")],
)
def test_what_else_goes_wrong_on_the_hub_is_one_clear_line(on_hub: dict[str, Any], case: str, name: str) -> None:
    assert on_hub[case]["error"].startswith("ModelError: ")
    assert name in on_hub[case]["error"]
    assert "\n" not in on_hub[case]["error"]
