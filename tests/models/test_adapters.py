"""A PEFT adapter is merged into the base model that it names, or one clear ModelError says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import (
    assert_equal_states,
    full_states,
    load,
    make_adapter,
    states,
    whole,
    without,
)
from support.models import CHATML, SIZES, make_model, make_tokenizer

from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.padding import PaddedPass
from larf_curate.encoding.runtime import Runtime
from larf_curate.errors import ModelError
from larf_curate.models import locating
from larf_curate.models.locating import local_version, locate
from larf_curate.models.options import ModelOptions


@pytest.fixture(scope="module")
def made_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The directory of a LoRA over the tiny model, and peft's own whole model."""
    home = tmp_path_factory.mktemp("adapter")
    return home, make_adapter(tiny_model, home)


@pytest.fixture(scope="module")
def plain_adapter(made_adapter: tuple[Path, Any]) -> Path:
    """A LoRA over the tiny model, to be copied."""
    return made_adapter[0]


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


def test_an_adapter_s_version_names_base_and_adapter(tiny_model: Path, plain_adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_adapter, tmp_path, dirs_exist_ok=True)
    assert load(tmp_path, 0).version == f"{local_version(tiny_model)}+{local_version(tmp_path)}"


def test_an_adapter_brings_its_own_tokenizer(tmp_path: Path) -> None:
    """Trained on a base model without a chat template: the one that it was trained with lies beside the adapter."""
    base = make_model(tmp_path / "base", template=None)
    make_adapter(base, tmp_path / "adapter")
    make_tokenizer(tmp_path / "adapter", CHATML)
    assert load(tmp_path / "adapter", 0).tokenizer.chat_template == CHATML


def test_an_adapter_s_tokenizer_without_a_chat_template_takes_the_base_s(plain_adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_adapter, tmp_path, dirs_exist_ok=True)
    make_tokenizer(tmp_path, None)
    assert load(tmp_path, 0).tokenizer.chat_template == CHATML


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


def test_an_adapter_that_lacks_weights_is_refused(plain_adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_adapter, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1." not in name}
    save_file(kept, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lack"):
        load(tmp_path, 2)


@pytest.mark.parametrize("content", [None, b"", b"not a safetensors file"])
def test_a_broken_adapter_gives_one_clear_line(plain_adapter: Path, tmp_path: Path, content: bytes | None) -> None:
    shutil.copytree(plain_adapter, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "adapter_model.safetensors"
    weights.unlink() if content is None else weights.write_bytes(content)
    with pytest.raises(ModelError, match=str(tmp_path)):
        load(tmp_path, 0)


def test_an_adapter_whose_base_is_gone_names_the_base(plain_adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_adapter, tmp_path / "adapter", dirs_exist_ok=True)
    rewritten = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    rewritten["base_model_name_or_path"] = str(tmp_path / "gone")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(rewritten))
    with pytest.raises(
        ModelError, match=rf"adapter {tmp_path / 'adapter'} .*{tmp_path / 'gone'} does not exist.*--base"
    ):
        load(tmp_path / "adapter", 0)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"base_model_name_or_path": null}'])
def test_an_adapter_config_without_a_base_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match="does not name its base model"):
        load(tmp_path, 0)


# As trl makes them --------------------------------------------------------------------------------------------------


def with_new_tokens(base: Path, more: int = 3) -> Any:
    """The base with embeddings for more tokens, as trl's `setup_chat_format` resizes them."""
    model = whole(base)
    torch.manual_seed(2)
    model.resize_token_embeddings(SIZES["vocab_size"] + more, mean_resizing=False)
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        torch.nn.init.normal_(embeddings.weight.data[-more:], std=0.3)
    return model


NEW = [[5, 6, SIZES["vocab_size"] + 1, 8], [300, SIZES["vocab_size"] + 2], [42]]
"""Rows with tokens that the base has no embedding for."""


def own_states(model: Path, layers: list[int], rows: list[list[int]]) -> np.ndarray:
    """By the fastest pass; where an adapter became part of the weights, `padded_states` takes half as long."""
    return Encoder(ModelOptions(str(model)), Runtime(load(model, max(layers)))).encode(rows, layers).values


def padded_states(model: Path, layers: list[int], rows: list[list[int]]) -> np.ndarray:
    """Without looking for the fastest pass."""
    loaded = load(model, max(layers))
    return Encoder(ModelOptions(str(model)), Runtime(loaded, PaddedPass(loaded))).encode(rows, layers).values


def peft_states(model: Any, layers: list[int], rows: list[list[int]]) -> np.ndarray:
    kept = []
    for row in rows:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states
        kept.append(torch.stack([hidden[layer + 1][0, -1] for layer in layers]))
    return torch.stack(kept).numpy()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"trainable_token_indices": {"embed_tokens": [510, 512, 513, 514]}},
    ],
    ids=["beside the adapter", "modules_to_save", "adapted embeddings", "trained tokens"],
)
@pytest.mark.filterwarnings("ignore")
def test_resized_embeddings_come_with_the_adapter(tiny_model: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    adapted = make_adapter(tiny_model, tmp_path, model=with_new_tokens(tiny_model), **options)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.normal_(std=0.5)
    adapted.save_pretrained(tmp_path)
    rewritten = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**rewritten, "base_model_name_or_path": str(tiny_model)}))
    assert_equal_states(padded_states(tmp_path, [0, 2], NEW), peft_states(adapted, [0, 2], NEW))


@pytest.mark.parametrize(
    "targets",
    [
        {"layers_to_transform": [3, 4]},
        {"target_modules": ["model.layers.4.mlp.up_proj", "layers.3.self_attn.q_proj"]},
        {"target_modules": r".*layers\.(3|4)\.mlp\.down_proj"},
    ],
    ids=["layers_to_transform", "names", "regex"],
)
@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_adds_to_the_upper_blocks_keeps_what_it_replaces_below(
    tiny_model: Path, tmp_path: Path, targets: dict[str, Any], saved: bool
) -> None:
    more = {"modules_to_save": ["embed_tokens"]} if saved else {}
    adapted = make_adapter(tiny_model, tmp_path, **targets, **more)
    rows = [[5, 6, 7], [300, 42]]
    for layers in ([0, 1], [1, 3]):
        assert_equal_states(padded_states(tmp_path, layers, rows), peft_states(adapted, layers, rows))


@pytest.mark.filterwarnings("ignore")
def test_trained_tokens_are_kept_when_all_else_lies_above(tiny_model: Path, tmp_path: Path) -> None:
    adapted = make_adapter(
        tiny_model, tmp_path, layers_to_transform=[4], trainable_token_indices={"embed_tokens": [6, 42]}
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.normal_(std=0.5)
    adapted.save_pretrained(tmp_path)
    rows = [[5, 6, 7], [300, 42], [9, 10]]
    assert_equal_states(own_states(tmp_path, [0, 1], rows), peft_states(adapted, [0, 1], rows))


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_merged_runs_beside_the_model(tiny_model: Path, tmp_path: Path) -> None:
    """A bias on layers that have none."""
    adapted = make_adapter(tiny_model, tmp_path, lora_bias=True)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name and name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(tmp_path)
    rows = [[5, 6, 7], [300, 42], [9, 10]]
    assert_equal_states(own_states(tmp_path, [0, 3], rows), peft_states(adapted, [0, 3], rows))
    assert any("lora" in name for name, _ in load(tmp_path, 1).model.named_parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_merge_that_fails_half_way_leaves_nothing_behind(
    made_adapter: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    home, adapted = made_adapter
    merged: list[int] = []
    merge = Linear.merge

    def fail_third(self: Any, *args: Any, **options: Any) -> None:
        merged.append(1)
        if len(merged) == 3:
            raise ValueError("this layer cannot be merged")
        merge(self, *args, **options)

    monkeypatch.setattr(Linear, "merge", fail_third)
    rows = [[5, 6, 7], [300, 42]]
    assert_equal_states(own_states(home, [0, 3], rows), peft_states(adapted, [0, 3], rows))
    assert len(merged) == 3


@pytest.mark.filterwarnings("ignore")
def test_an_alora_is_at_work_from_its_invocation_on(tiny_model: Path, tmp_path: Path) -> None:
    adapted = make_adapter(tiny_model, tmp_path, alora_invocation_tokens=[7, 8], target_modules=["q_proj", "v_proj"])
    rows = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 8], [5, 6, 9, 10, 11], [7, 8, 5, 7, 8, 6, 9]]
    expected = peft_states(adapted, [0, 3], rows)
    assert_equal_states(own_states(tmp_path, [0, 3], rows), expected)
    assert np.abs(expected[:2] - peft_states(whole(tiny_model), [0, 3], rows[:2])).max() > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer_replication": [[0, 4], [2, 5]]}, "repeats blocks of its base"),
        (
            {"peft_type": "ADAPTION_PROMPT", "adapter_len": 4, "adapter_layers": 2},
            r"changes the prompt.*ADAPTION_PROMPT",
        ),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, r"changes the prompt.*PROMPT_TUNING"),
    ],
    ids=["layer_replication", "adaption_prompt", "prompt_tuning"],
)
def test_adapters_that_cannot_be_used_are_named_in_one_line(
    plain_adapter: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    shutil.copytree(plain_adapter, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    kept = (
        config if "peft_type" not in change else {key: config[key] for key in ("base_model_name_or_path", "task_type")}
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({**kept, **change}))
    with pytest.raises(ModelError, match=words) as caught:
        load(tmp_path, 1)
    assert "\n" not in str(caught.value)


# Where the base is --------------------------------------------------------------------------------------------------


def rename_base(adapter: Path, base: object, **more: object) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base, **more}))


@pytest.mark.parametrize("named", ["/gone", None, ""])
def test_a_base_that_moved_may_be_given(
    tiny_model: Path, made_adapter: tuple[Path, Any], tmp_path: Path, named: object
) -> None:
    shutil.copytree(made_adapter[0], tmp_path, dirs_exist_ok=True)
    expected = full_states(made_adapter[1], [1])
    rename_base(tmp_path, named)
    with pytest.raises(ModelError, match=rf"{tmp_path}.*base.*base= \(--base\)"):
        load(tmp_path, 1)
    assert_equal_states(states(tmp_path, [1], base=str(tiny_model)), expected)


def test_a_base_beside_the_adapter_is_found_from_anywhere(
    tiny_model: Path, made_adapter: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = shutil.copytree(made_adapter[0], tmp_path / "run" / "adapter")
    expected = full_states(made_adapter[1], [1])
    (tmp_path / "run" / "base").symlink_to(tiny_model)
    rename_base(adapter, "../base")
    monkeypatch.chdir("/")
    assert_equal_states(states(adapter, [1]), expected)


def test_an_adapter_that_names_itself_as_its_base_is_refused(plain_adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_adapter, tmp_path, dirs_exist_ok=True)
    rename_base(tmp_path, str(tmp_path))
    with pytest.raises(ModelError, match=rf"adapter {tmp_path} names itself as its base model: .*--base"):
        load(tmp_path, 1)


def test_a_base_for_what_is_no_adapter_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"is not an adapter.*--base"):
        load(tiny_model, 1, base="demo")


@pytest.mark.parametrize(
    ("base", "named", "expected"),
    [
        (None, None, ("acme/base", None)),
        (None, "v2", ("acme/base", "v2")),
        ("@v3", "v2", ("acme/base", "v3")),
        ("other/base@v4", "v2", ("other/base", "v4")),
        ("other/base", "v2", ("other/base", None)),
    ],
)
def test_the_revision_of_the_base_is_followed(
    base: str | None,
    named: str | None,
    expected: tuple[str, str | None],
    plain_adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(plain_adapter, tmp_path, dirs_exist_ok=True)
    rename_base(tmp_path, "acme/base", revision=named)
    asked: list[tuple[str, str | None]] = []
    commit = "0123456789" * 4

    def find(model: str, revision: str | None, _base: str | None) -> Any:
        asked.append((model, revision))
        return locating.ModelFiles(model, commit, {"revision": commit})

    monkeypatch.setattr(locating, "_hub_source", find)
    source = locate(str(tmp_path), base=base)
    assert asked == [expected]
    assert source.arguments == {"revision": commit}
    assert locating.base_of(source.version) == f"@{commit}"
