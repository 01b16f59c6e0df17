"""The head gives the losses that transformers' own pass with labels gives, whatever the model does to its logits."""

from __future__ import annotations

import pytest
import torch
import transformers
from support.models import SIZES, make_model
from support.states import ARCHITECTURES, CPU

from larf_curate.encoding import heads
from larf_curate.encoding.heads import LossHead
from larf_curate.errors import ModelError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions

SCALED = {
    "granite": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=7.0),
    "cohere": lambda: transformers.CohereConfig(**SIZES, logit_scale=0.2, pad_token_id=0),
}
MODELS = {**ARCHITECTURES, **SCALED}


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_those_of_transformers_with_labels(name, tmp_path, monkeypatch):
    home = make_model(tmp_path, MODELS[name]())
    loaded = load_model(ModelOptions(str(home)), None, CPU)
    ids = torch.tensor([[5, 9, 300, 17, 4, 250, 11, 8, 77]])
    monkeypatch.setattr(heads, "_PIECE", 3 * 512)  # pieces of three tokens
    forward = type(loaded.model.base_model).forward
    with torch.inference_mode(), LossHead(loaded) as head:
        states = head.decode(input_ids=ids, use_cache=False)[0]
        found = head.losses(states[:-1], ids[0, 1:])
    assert loaded.model.base_model.forward.__func__ is forward
    with torch.inference_mode():
        plain = transformers.AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32)
        wanted = plain(input_ids=ids, labels=ids).loss
        logits = plain(input_ids=ids).logits[0, :-1]
    each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    torch.testing.assert_close(found.mean(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, each, rtol=1e-5, atol=1e-5)


def test_a_model_without_its_head_is_refused(tmp_path):
    loaded = load_model(ModelOptions(str(make_model(tmp_path))), 2, CPU)
    with pytest.raises(ModelError, match="no language-model head"):
        LossHead(loaded)
