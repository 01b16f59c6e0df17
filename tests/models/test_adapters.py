"""A PEFT adapter is merged into the base model that it names, or one clear ModelError says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
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
from support.models import CHATML, make_model, make_tokenizer

from larf_curate.errors import ModelError
from larf_curate.models.locating import local_version


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
