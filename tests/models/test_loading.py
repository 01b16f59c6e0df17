"""A model's name becomes the blocks asked for and no others, or one clear ModelError."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.architectures import make
from support.checkpoints import (
    BLOCKS,
    CPU,
    WEIGHTS,
    assert_equal_states,
    full_states,
    load,
    states,
    whole,
    without,
    write_gguf,
)
from support.models import CHATML, SIZES, make_model

from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.runtime import Runtime
from larf_curate.errors import LarfError, ModelError
from larf_curate.models.blocks import find_blocks
from larf_curate.models.devices import find_device, find_dtype
from larf_curate.models.loading import load_model
from larf_curate.models.locating import local_version
from larf_curate.models.options import ModelOptions

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


def test_the_kinds_of_blocks_stay_those_of_the_whole_model(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    make_model(tmp_path, transformers.Gemma3TextConfig(**SIZES, sliding_window=4, layer_types=kinds))
    loaded = load(tmp_path, 2)
    assert len(loaded.blocks) == 3
    assert loaded.model.config.layer_types == kinds
    assert loaded.model.config.num_hidden_layers == BLOCKS


def test_weights_above_are_not_missed(copy: Path, tiny_model: Path) -> None:
    without(copy, "model.layers.3.")
    without(copy, "model.layers.4.")
    without(copy, "lm_head")
    assert_equal_states(states(copy, [0, 2]), full_states(whole(tiny_model), [0, 2]))


def test_a_final_norm_is_not_missed_where_it_is_not_run(copy: Path, tiny_model: Path) -> None:
    """As in checkpoints of DeepSeek 4."""
    without(copy, "model.norm")
    assert_equal_states(states(copy, [0, 3]), full_states(whole(tiny_model), [0, 3]))
    with pytest.raises(ModelError, match=r"lacks 1 of its weights .*norm\.weight"):
        load_model(ModelOptions(str(copy)), None, CPU)


def test_a_block_that_attends_to_pictures_alone_is_no_layer(tmp_path: Path) -> None:
    make("Llama 3.2 Vision", tmp_path)
    for layers in ([0, 1], [1, 2]):
        with pytest.raises(ModelError, match="block 1 does not run on text alone"):
            states(tmp_path, layers)
    assert states(tmp_path, [0, 2]).shape == (3, 2, 32)


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


def test_the_version_follows_the_middle_of_a_large_file_too(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(1 << 20))
    before = local_version(tmp_path)
    weights.write_bytes(bytes(1 << 19) + b"\1" * (1 << 16) + bytes((1 << 19) - (1 << 16)))
    assert local_version(tmp_path) != before


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


def test_a_gguf_file_is_parsed_once_and_the_package_is_left_as_it_was(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf

    parsed: list[str] = []
    named: list[int] = []
    reading, naming = gguf.GGUFReader.__init__, gguf.get_tensor_name_map

    def read(self: Any, path: Any, *rest: Any) -> None:
        parsed.append(str(path))
        reading(self, path, *rest)

    def name(architecture: Any, blocks: int) -> Any:
        named.append(blocks)
        return naming(architecture, blocks)

    monkeypatch.setattr(gguf.GGUFReader, "__init__", read)
    monkeypatch.setattr(gguf, "get_tensor_name_map", name)
    before = gguf.GGUFReader
    load(gguf_file, 0)
    assert parsed == [str(gguf_file)]
    assert len(named) == len(set(named))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError):
        load(tmp_path / "broken.gguf", 0)
    assert gguf.GGUFReader is before
    assert gguf.get_tensor_name_map is name


def test_a_gguf_file_without_a_chat_template_is_refused_before_its_weights_are_read(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = pytest.importorskip("gguf", reason="reading GGUF files needs larf-curate[demo]")
    monkeypatch.setattr(gguf.GGUFWriter, "add_chat_template", lambda *_: None)
    write_gguf(tiny_model, tmp_path / "tiny.gguf")
    monkeypatch.setattr("larf_curate.models.loading._read_weights", lambda *_a, **_k: pytest.fail("weights are read"))
    with pytest.raises(ModelError, match="has no chat template"):
        load(tmp_path / "tiny.gguf", 0)


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


def test_every_error_is_one_that_the_command_line_catches() -> None:
    assert issubclass(ModelError, LarfError)
