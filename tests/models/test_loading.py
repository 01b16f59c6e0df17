"""A model's name becomes the blocks asked for and no others, or one clear ModelError."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.checkpoints import (
    BLOCKS,
    CPU,
    ROWS,
    WEIGHTS,
    assert_equal_states,
    full_states,
    load,
    make_adapter,
    states,
    whole,
    without,
    write_gguf,
)
from support.models import CHATML, SIZES, WIDE, make_model, make_tokenizer

from larf_curate.encoding.encoder import Encoder, get_encoder
from larf_curate.encoding.runtime import Runtime
from larf_curate.errors import LarfError, MissingExtraError, ModelError
from larf_curate.models.blocks import find_blocks
from larf_curate.models.devices import find_device, find_dtype
from larf_curate.models.loading import load_model
from larf_curate.models.locating import local_version
from larf_curate.models.options import ModelOptions
from larf_curate.models.shape import shape_of


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be broken."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


# Devices and precisions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "nonsense", "cpu:x"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    if device.startswith("cuda") and torch.cuda.device_count() > 7:
        pytest.skip("this machine has it")
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(ModelError, match=rf"device '{device}' cannot be used here: \S.*") as caught:
        find_device(device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("count", "devices"), [(1, [0, 0, 0]), (2, [0, 1, 0])])
def test_workers_spread_over_the_devices(monkeypatch: pytest.MonkeyPatch, count: int, devices: list[int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert [find_device(None, rank).index for rank in range(3)] == devices
    assert find_device(None).index == 0
    assert find_device("cpu", 1).type == "cpu"


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "mps", torch.float32),
        ("auto", "cuda", torch.bfloat16),
        ("float16", "cpu", torch.float16),
        ("float32", "cuda", torch.float32),
        ("int8", "cuda", torch.bfloat16),
        ("nf4", "cuda", torch.bfloat16),
        ("nf4", "cpu", torch.float32),
    ],
)
def test_auto_is_bfloat16_on_cuda_only(dtype: Any, device: str, expected: torch.dtype) -> None:
    assert find_dtype(dtype, torch.device(device)) == expected


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_dtype_asked_for_is_loaded_whatever_is_stored(
    copy: Path, dtype: Any, stored: torch.dtype, expected: torch.dtype
) -> None:
    whole(copy).to(stored).save_pretrained(copy)
    loaded = load(copy, 1, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {expected} == {loaded.dtype}


# Only the blocks asked for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("highest", range(BLOCKS))
def test_only_the_blocks_asked_for_are_loaded(tiny_model: Path, highest: int) -> None:
    loaded = load(tiny_model, highest)
    stored = load_file(tiny_model / WEIGHTS)
    above = tuple(f"model.layers.{i}." for i in range(highest + 1, BLOCKS))
    wanted = sum(t.numel() for name, t in stored.items() if not name.startswith(("lm_head", *above)))
    assert sum(p.numel() for p in loaded.model.parameters()) == wanted
    assert (len(loaded.blocks), loaded.total_blocks) == (highest + 1, BLOCKS)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training


def test_the_kinds_of_blocks_are_cut_with_them(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    make_model(tmp_path, transformers.Gemma3TextConfig(**SIZES, sliding_window=4, layer_types=kinds))
    config = load(tmp_path, 2).model.config
    assert config.layer_types == kinds[:3]
    assert config.num_hidden_layers == 3


def test_weights_above_are_not_missed(copy: Path, tiny_model: Path) -> None:
    without(copy, "model.layers.3.")
    without(copy, "model.layers.4.")
    without(copy, "lm_head")
    assert_equal_states(states(copy, [0, 2]), full_states(whole(tiny_model), [0, 2]))


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"])
def test_missing_weights_that_are_needed_are_named(copy: Path, name: str) -> None:
    assert without(copy, name) == [name]
    with pytest.raises(ModelError, match=f"lacks 1 of its weights.*{name.removeprefix('model.')}"):
        load(copy, 2)


@pytest.mark.parametrize("tower", ["audio_tower", "vision_model", "a_visual"])
def test_a_tower_of_as_many_blocks_is_not_the_decoder(tower: str) -> None:
    def stack() -> torch.nn.Module:
        return torch.nn.ModuleDict({"layers": torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))})

    decoder = stack()
    model = torch.nn.ModuleDict({tower: stack(), "language_model": decoder})
    assert find_blocks(model, 3) is decoder["layers"]
    with pytest.raises(ModelError, match="ModuleDict holds no list of 4 blocks"):
        find_blocks(model, 4)


@pytest.mark.parametrize("layer", [-1, BLOCKS, 99])
def test_a_layer_out_of_range_says_what_there_is(tiny_model: Path, layer: int) -> None:
    with pytest.raises(ModelError, match=f"layer {layer} is out of range: .* blocks 0 to 4"):
        load(tiny_model, layer)


# Local files --------------------------------------------------------------------------------------------------------


def test_a_directory_may_be_relative_or_under_home(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model.parent)
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    version = load(tiny_model, 0).version
    assert load(tiny_model.name, 0).version == load(f"~/{tiny_model.name}", 0).version == version


def test_the_version_follows_the_weights(copy: Path, tiny_model: Path) -> None:
    assert load(copy, 0).version == load(tiny_model, 0).version == local_version(copy)
    tensors = load_file(copy / WEIGHTS)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, copy / WEIGHTS, {"format": "pt"})
    assert local_version(copy) != local_version(tiny_model)


def corrupt(content: bytes) -> Callable[[Path], object]:
    return lambda directory: (directory / WEIGHTS).write_bytes(content)


def truncate(directory: Path) -> None:
    weights = directory / WEIGHTS
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def forget(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).unlink()


def reshape(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})


def rewrite(**changes: object) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, **changes}))

    return change


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "no config": forget("config.json"),
    "no weights": forget(WEIGHTS),
    "no tokenizer": lambda directory: ([(directory / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")]),
    "config is not JSON": lambda directory: (directory / "config.json").write_text("{"),
    "config of an unknown model": rewrite(model_type="no-such-thing", architectures=["NoSuchThing"]),
    "config of other sizes": rewrite(hidden_size=64),
    "weights are text": corrupt(b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 1\n"),
    "weights are empty": corrupt(b""),
    "weights are cut": truncate,
    "weights of another shape": reshape,
    "tokenizer is not JSON": lambda directory: (directory / "tokenizer.json").write_text("{"),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_model_gives_one_clear_line(copy: Path, breakage: Callable[[Path], object]) -> None:
    breakage(copy)
    with pytest.raises(ModelError) as caught:
        load(copy, 1)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["nowhere/at/all/here", "/nowhere", "./nowhere", "~/nowhere"])
def test_a_path_that_is_not_there_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(ModelError, match=rf"model {name} does not exist"):
        load(name, 0)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(ModelError, match=r"notes\.txt is not a model directory or a \.gguf file"):
        load(tmp_path / "notes.txt", 0)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"directory without config\.json"):
        load(tmp_path, 0)


def test_code_that_comes_with_a_model_does_not_run_unasked(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nfrom transformers import LlamaConfig as EvilConfig\n")
    rewrite(model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig"})(copy)
    with pytest.raises(ModelError, match="trust_remote_code"):
        load(copy, 0)
    assert not marker.exists()


def test_a_chat_template_given_replaces_the_tokenizer_s(tmp_path: Path) -> None:
    make_model(tmp_path, template=None)
    config = ModelOptions(str(tmp_path))
    with pytest.raises(ModelError, match=r"no chat template.*--chat-template"):
        Encoder(config, Runtime(load_model(config, 0, CPU)))
    given = ModelOptions(str(tmp_path), chat_template=CHATML)
    encoder = Encoder(given, Runtime(load_model(given, 0, CPU)))
    text = encoder.loaded.tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert text == "<|im_start|>user\nhello<|im_end|>\n"


def test_transformers_stays_as_loud_as_it_was(tiny_model: Path) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        load(tiny_model, 0)
        with pytest.raises(ModelError):
            load(tiny_model, 99)
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.INFO, True)
    finally:
        logging.set_verbosity(before[0])
        if not before[1]:
            logging.disable_progress_bar()


# GGUF ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf", reason="reading GGUF files needs larf-curate[demo]")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model, path)
    return path


@pytest.mark.parametrize("name", ["the file", "its directory"])
def test_a_gguf_file_gives_the_states_of_the_model_it_was_made_of(gguf_file: Path, tiny_model: Path, name: str) -> None:
    model = gguf_file if name == "the file" else gguf_file.parent
    assert_equal_states(states(model, [0, 3]), full_states(whole(tiny_model), [0, 3]))
    loaded = load(model, 1)
    assert len(loaded.blocks) == 2
    assert loaded.version == local_version(gguf_file)
    text = "How do I bake bread?<|im_end|>"
    assert loaded.tokenizer.encode(text) == transformers.AutoTokenizer.from_pretrained(tiny_model).encode(text)
    assert loaded.tokenizer.chat_template == CHATML


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all"])
def test_a_gguf_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.gguf cannot be loaded: \S"):
        load(tmp_path / "broken.gguf", 0)


def test_two_gguf_files_are_not_chosen_between(gguf_file: Path, tmp_path: Path) -> None:
    for name in ("q4.gguf", "q8.gguf"):
        shutil.copy(gguf_file, tmp_path / name)
    with pytest.raises(ModelError, match=r"one \.gguf file"):
        load(tmp_path, 0)


# Adapters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_an_adapter_gives_peft_s_own_states(tiny_model: Path, tmp_path: Path, options: dict[str, bool]) -> None:
    expected = full_states(make_adapter(tiny_model, tmp_path, **options), [0, 1, 3])
    actual = states(tmp_path, [0, 1, 3])
    assert_equal_states(actual, expected)
    assert np.abs(expected - full_states(whole(tiny_model), [0, 1, 3])).max() > 0.1
    loaded = load(tmp_path, 1)
    assert len(loaded.blocks) == 2
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())  # merged: no cost per batch


def test_an_adapter_of_the_upper_blocks_alone_leaves_the_lower_as_they_are(tiny_model: Path, tmp_path: Path) -> None:
    adapted = make_adapter(tiny_model, tmp_path, layers_to_transform=[3])
    assert_equal_states(states(tmp_path, [1, 3]), full_states(adapted, [1, 3]))
    assert_equal_states(states(tmp_path, [1]), full_states(adapted, [1]))


def test_an_adapter_s_version_names_base_and_adapter(tiny_model: Path, tmp_path: Path) -> None:
    make_adapter(tiny_model, tmp_path)
    assert load(tmp_path, 0).version == f"{local_version(tiny_model)}+{local_version(tmp_path)}"


def test_an_adapter_brings_its_own_tokenizer(tmp_path: Path) -> None:
    """Trained on a base model without a chat template: the one that it was trained with lies beside the adapter."""
    base = make_model(tmp_path / "base", template=None)
    make_adapter(base, tmp_path / "adapter")
    make_tokenizer(tmp_path / "adapter", CHATML)
    assert load(tmp_path / "adapter", 0).tokenizer.chat_template == CHATML


def test_an_adapter_on_an_adapter_is_stacked_or_refused(tiny_model: Path, tmp_path: Path) -> None:
    below = make_adapter(tiny_model, tmp_path / "below").merge_and_unload()
    both = make_adapter(tmp_path / "below", tmp_path / "above", model=below)
    try:
        actual = states(tmp_path / "above", [1])
    except ModelError:
        return
    assert_equal_states(actual, full_states(both, [1]))


def test_a_base_that_lacks_weights_is_refused_under_an_adapter_too(copy: Path, tmp_path: Path) -> None:
    make_adapter(copy, tmp_path / "adapter")
    without(copy, "model.layers.1.mlp.up_proj")
    with pytest.raises(ModelError, match=r"lacks 1 of its weights.*layers\.1\.mlp\.up_proj"):
        load(tmp_path / "adapter", 2)


def test_an_adapter_that_lacks_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    make_adapter(tiny_model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1." not in name}
    save_file(kept, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lack"):
        load(tmp_path, 2)


@pytest.mark.parametrize("content", [None, b"", b"not a safetensors file"])
def test_a_broken_adapter_gives_one_clear_line(tiny_model: Path, tmp_path: Path, content: bytes | None) -> None:
    make_adapter(tiny_model, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.unlink() if content is None else weights.write_bytes(content)
    with pytest.raises(ModelError, match=str(tmp_path)):
        load(tmp_path, 0)


def test_an_adapter_whose_base_is_gone_names_the_base(tiny_model: Path, tmp_path: Path) -> None:
    make_adapter(tiny_model, tmp_path / "adapter")
    rewritten = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    rewritten["base_model_name_or_path"] = str(tmp_path / "gone")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(rewritten))
    with pytest.raises(ModelError, match=rf"{tmp_path / 'gone'} does not exist"):
        load(tmp_path / "adapter", 0)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"base_model_name_or_path": null}'])
def test_an_adapter_config_without_a_base_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match="does not name its base model"):
        load(tmp_path, 0)


# The Hub ------------------------------------------------------------------------------------------------------------

CLIENT = """
import json, os, sys
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.runtime import Runtime
from larf_curate.models.devices import find_device
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.errors import LarfError

outcomes = []
for case in json.load(sys.stdin):
    if not case.pop("token", True):
        os.environ.pop("HF_TOKEN", None)
    layers = case.pop("layers", [0])
    try:
        config = ModelOptions(**case)
        loaded = load_model(config, max(layers), find_device("cpu"))
        values = Encoder(config, Runtime(loaded)).encode(ROWS, layers).values
        outcomes.append({"states": values.tolist(), "version": loaded.version})
    except LarfError as error:
        outcomes.append({"error": f"{type(error).__name__}: {error}"})
    except Exception as error:
        outcomes.append({"error": f"UNEXPECTED {type(error).__name__}: {error}"})
print("OUTCOMES" + json.dumps(outcomes))
"""


def run_client(cases: list[dict[str, Any]], endpoint: str, home: Path, **extra: str) -> list[dict[str, Any]]:
    """What loading gives in a fresh process, which alone reads the settings of the Hub's client."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_good"}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT.replace("ROWS", str(ROWS))],
        input=json.dumps(cases),
        env={**plain, **hub, **extra},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes: list[dict[str, Any]] = json.loads(done.stdout.split("OUTCOMES")[1])
    return outcomes


@pytest.fixture(scope="module")
def on_hub(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Outcomes of loading from a Hub on loopback, all in one process, and the requests that it saw."""
    from support.loopback_hub import Repo, serve

    home, adapter = tmp_path_factory.mktemp("hf"), tmp_path_factory.mktemp("adapter")
    adapted = make_adapter(tiny_model, adapter)
    base = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    config = json.loads((adapter / "adapter_config.json").read_text())
    lora = {path.name: path.read_bytes() for path in adapter.iterdir()}
    lora["adapter_config.json"] = json.dumps({**config, "base_model_name_or_path": "acme/tiny"}).encode()
    with serve() as hub:
        for name, files, private in (
            ("acme/tiny", base, False),
            ("acme/lora", lora, False),
            ("acme/private", base, True),
            ("acme/empty", {"README.md": b"hello"}, False),
        ):
            hub.repos[name] = Repo(name, "model", private)
            hub.repos[name].files = dict(files)
        for name, branch in (("acme/tiny", "v1"), ("acme/lora", "v2")):
            hub.repos[name].branches[branch] = dict(hub.repos[name].files)
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
            "private, no token": {"model": "acme/private", "token": False},
        }
        outcomes = run_client(list(cases.values()), hub.endpoint, home)
        shas = {name: {branch: repo.head(branch) for branch in repo.branches} for name, repo in hub.repos.items()}
    dead = hub.endpoint  # its server is gone, its cache is not
    again = [{"model": "acme/tiny", "layers": [0, 3]}, {"model": "acme/other"}]
    with ThreadPoolExecutor() as pool:
        down = pool.submit(run_client, again, dead, home)
        offline = pool.submit(run_client, again, dead, home, HF_HUB_OFFLINE="1")
    results = dict(zip(cases, outcomes, strict=True))
    results["down, cached"], results["down"] = down.result()
    results["offline, cached"], results["offline"] = offline.result()
    results["requests"], results["shas"] = [path for _, path in hub.requests], shas
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


def test_every_error_is_one_that_the_command_line_catches() -> None:
    assert issubclass(ModelError, LarfError)


# 8 and 4 bits -------------------------------------------------------------------------------------------------------

QUANTISED = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}
QUANTISING = pytest.mark.parametrize("dtype", QUANTISED)


def rounded(model: Any, dtype: str) -> Any:
    """The same with every linear weight of its blocks rounded to 8 or 4 bits, and still float32."""
    from bitsandbytes import functional

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "layers." in name:
            if dtype == "int8":
                codes, scales, _ = functional.int8_vectorwise_quant(module.weight.data.half())
                module.weight.data = functional.int8_vectorwise_dequant(codes, scales)
            else:
                codes, state = functional.quantize_4bit(module.weight.data, quant_type="nf4", compress_statistics=True)
                module.weight.data = functional.dequantize_4bit(codes, state)
    return model


def least_cosine(actual: np.ndarray, expected: np.ndarray) -> float:
    norms = np.linalg.norm(actual, axis=-1) * np.linalg.norm(expected, axis=-1)
    return float(((actual * expected).sum(axis=-1) / norms).min())


@QUANTISING
def test_linear_layers_are_quantised_and_nothing_else(wide_model: Path, dtype: Any) -> None:
    loaded = load(wide_model, 3, dtype=dtype)
    kinds = {name: type(module).__name__ for name, module in loaded.model.named_modules() if name.endswith("_proj")}
    assert set(kinds.values()) == {QUANTISED[dtype]}
    assert len(kinds) == 7 * 4
    plain = {parameter.dtype for name, parameter in loaded.model.named_parameters() if "_proj" not in name}
    assert plain == {torch.float32} == {loaded.dtype}
    assert (loaded.dtype_name, len(loaded.blocks)) == (dtype, 4)


def test_states_in_nf4_are_those_of_the_rounded_weights(wide_model: Path) -> None:
    actual = states(wide_model, [0, 3], dtype="nf4")
    assert_equal_states(actual, full_states(rounded(whole(wide_model), "nf4"), [0, 3]))
    assert 0.8 < least_cosine(actual, states(wide_model, [0, 3])) < 0.99  # random weights, which bear rounding badly


def test_states_in_int8_are_near_those_of_the_rounded_weights(wide_model: Path) -> None:
    actual, expected = states(wide_model, [0, 3], dtype="int8"), full_states(rounded(whole(wide_model), "int8"), [0, 3])
    assert 0.998 < least_cosine(actual, expected) < 1 - 1e-6  # what goes into a layer is rounded too
    assert 0.998 < least_cosine(actual, states(wide_model, [0, 3])) < 1 - 1e-6


@QUANTISING
def test_a_state_does_not_hang_on_its_batch(wide_model: Path, dtype: Any) -> None:
    """As it would with LLM.int8's outliers, which are looked for in a whole batch."""
    config = ModelOptions(str(wide_model), dtype=dtype)
    loaded = load_model(config, 3, CPU)
    with torch.no_grad():
        loaded.blocks[1].input_layernorm.weight *= 3  # outliers (above 6) in columns that differ from row to row
    encoder = Encoder(config, Runtime(loaded))
    together = encoder.encode(ROWS, [0, 3]).values
    alone = np.concatenate([encoder.encode([row], [0, 3]).values for row in ROWS])
    assert_equal_states(together, alone)


@QUANTISING
def test_quantised_loading_and_running_say_nothing(wide_model: Path, dtype: str) -> None:
    """bitsandbytes would tell of every batch that it casts, and of a package that it would fetch kernels with."""
    program = (
        "import sys\n"
        "from larf_curate.encoding.encoder import get_encoder\n"
        "from larf_curate.models.options import ModelOptions\n"
        "encoder = get_encoder(ModelOptions(sys.argv[1], dtype=sys.argv[2], device='cpu'), 1)\n"
        "encoder.encode([[5, 6, 7], [8]], [1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(wide_model), dtype], capture_output=True, check=True, encoding="utf-8"
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_each_dtype_is_a_model_of_its_own(wide_model: Path) -> None:
    found = [get_encoder(ModelOptions(str(wide_model), dtype=d, device="cpu"), 1) for d in ("auto", "int8", "nf4")]
    assert [encoder.loaded.dtype_name for encoder in found] == ["float32", "int8", "nf4"]
    again = get_encoder(ModelOptions(str(wide_model), dtype="nf4", device="cpu", batch_tokens=9), 0)
    assert again.loaded is found[2].loaded


def test_the_demo_model_has_weights_that_can_be_quantised(wide_model: Path) -> None:
    """It comes as a GGUF file; what is loaded is the safetensors copy of that."""
    loaded = load("demo", 1, dtype="nf4")
    assert type(loaded.blocks[1].mlp.up_proj).__name__ == "Linear4bit"


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
@QUANTISING
def test_a_missing_package_names_the_extra(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, package: str, dtype: Any
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a))
    monkeypatch.setattr("larf_curate.models.loading.locate", lambda *_: pytest.fail("fetches a model for nothing"))
    if package == "accelerate":
        pytest.importorskip("bitsandbytes")
    with pytest.raises(MissingExtraError, match=rf"--dtype {dtype}.*`{package}`.*larf-curate\[quant\]"):
        load(tiny_model, 0, dtype=dtype)


@QUANTISING
def test_a_device_that_cannot_quantise_is_named(wide_model: Path, dtype: Any) -> None:
    with pytest.raises(ModelError, match=rf"dtype {dtype} runs on cuda, xpu, cpu, not on mps"):
        load_model(ModelOptions(str(wide_model), dtype=dtype), 0, torch.device("mps"))


def test_sizes_that_the_cpu_gets_wrong_in_4_bits_are_refused(wide_model: Path, tiny_model: Path) -> None:
    """bitsandbytes 0.50 dequantises rows of 48 weights to something else, and does not say so."""
    with pytest.raises(ModelError, match=r"48 inputs.*no multiple of 64; take int8, or a GPU"):
        load(tiny_model, 1, dtype="nf4")
    assert load(tiny_model, 1, dtype="int8").dtype_name == "int8"


@QUANTISING
def test_a_model_without_linear_layers_is_not_called_quantised(
    wide_model: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    monkeypatch.setattr("larf_curate.models.quantising.loading_arguments", lambda *_: {})
    with pytest.raises(ModelError, match=f"no linear layers that could be quantised to {dtype}"):
        load(wide_model, 0, dtype=dtype)


@QUANTISING
def test_a_gguf_file_is_not_quantised_again(wide_model: Path, gguf_file: Path, dtype: Any) -> None:
    with pytest.raises(ModelError, match=rf"tiny\.gguf is a GGUF file.* {dtype} again"):
        load(gguf_file, 0, dtype=dtype)


@QUANTISING
def test_a_checkpoint_that_is_quantised_loads_as_it_is_and_no_other_way(
    wide_model: Path, tmp_path: Path, dtype: str
) -> None:
    kinds = {"int8": {"load_in_8bit": True}, "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
    how = transformers.BitsAndBytesConfig(**kinds[dtype], bnb_4bit_compute_dtype=torch.float32)
    whole(wide_model, quantization_config=how, device_map={"": "cpu"}).save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    loaded = load(tmp_path, 2)
    assert type(loaded.blocks[0].mlp.up_proj).__name__ == QUANTISED[dtype]
    assert len(loaded.blocks) == 3
    assert least_cosine(states(tmp_path, [2]), full_states(rounded(whole(wide_model), dtype), [2])) > 0.998
    for other in QUANTISED:
        with pytest.raises(ModelError, match=rf"quantised already \(bitsandbytes\).* {other} again.*auto"):
            load(tmp_path, 2, dtype=other)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["embed_tokens"]}], ids=str)
@QUANTISING
def test_an_adapter_beside_quantised_weights_gives_peft_s_states(
    wide_model: Path, tmp_path: Path, dtype: Any, options: dict[str, Any]
) -> None:
    make_adapter(wide_model, tmp_path, **options)
    if dtype == "int8" and "use_dora" in options:
        with pytest.raises(ModelError, match="is a DoRA, which peft cannot run beside int8: take nf4"):
            load(tmp_path, 3, dtype=dtype)
        return
    peft = pytest.importorskip("peft")
    expected = full_states(peft.PeftModel.from_pretrained(rounded(whole(wide_model), dtype), tmp_path), [0, 3])
    actual = states(tmp_path, [0, 3], dtype=dtype)
    if dtype == "nf4":
        assert_equal_states(actual, expected)
    assert least_cosine(actual, expected) > 0.99
    assert least_cosine(actual, states(wide_model, [0, 3], dtype=dtype)) < 0.8
    loaded = load(tmp_path, 1, dtype=dtype)
    assert (len(loaded.blocks), loaded.dtype_name) == (2, dtype)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("dtype", ["float32", *QUANTISED])
def test_an_adapter_of_the_prompt_is_refused(wide_model: Path, tmp_path: Path, dtype: Any) -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    adapted = peft.get_peft_model(whole(wide_model), config)
    adapted.peft_config["default"].base_model_name_or_path = str(wide_model)
    adapted.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="changes the prompt, not the model"):
        load(tmp_path, 1, dtype=dtype)


@pytest.mark.parametrize("highest", [1, BLOCKS - 1])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "moe"])
@QUANTISING
def test_what_is_quantised_is_what_the_shape_reckons_with(
    wide_model: Path, tmp_path: Path, dtype: Any, kind: str, highest: int
) -> None:
    configs = {
        "llama": transformers.LlamaConfig(**WIDE),
        "gpt2": transformers.GPT2Config(vocab_size=512, n_embd=64, n_layer=BLOCKS, n_head=4, n_positions=128),
        "moe": transformers.MixtralConfig(**WIDE, num_local_experts=2, num_experts_per_tok=1),
    }
    model = make_model(tmp_path, configs[kind])
    plain, shape = load(model, highest), shape_of(str(model), None, highest)
    assert shape.parameters == sum(parameter.numel() for parameter in plain.model.parameters())
    found = load(model, highest, dtype=dtype).model.named_parameters()
    codes = {name for name, parameter in found if not parameter.is_floating_point()}
    weights = {name: parameter.numel() for name, parameter in plain.model.named_parameters()}
    assert shape.linear_parameters == sum(weights[name] for name in codes)
