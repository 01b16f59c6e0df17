"""The head gives the losses that transformers' own pass with labels gives, whatever the model does to its logits."""

from __future__ import annotations

import pytest
import torch
import transformers
from support.architectures import make_from
from support.models import SIZES
from support.states import ARCHITECTURES, CPU

from larf_curate.encoding.heads import LossHead
from larf_curate.errors import ModelError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions

SCALED = {
    "granite": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=7.0),
    "cohere": lambda: transformers.CohereConfig(**SIZES, logit_scale=0.2, pad_token_id=0),
}
OPT = {  # whose head runs a decoder within the decoder
    "opt": lambda: transformers.OPTConfig(
        vocab_size=512,
        hidden_size=48,
        word_embed_proj_dim=48,
        ffn_dim=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
}
MODELS = {**ARCHITECTURES, **SCALED, **OPT}


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_those_of_transformers_with_labels(name, tmp_path):
    plain = make_from(MODELS[name](), tmp_path)
    loaded = load_model(ModelOptions(str(tmp_path)), None, CPU)
    ids = torch.tensor([[5, 9, 300, 17, 4, 250, 11, 8, 77]])
    head, decoded = LossHead(loaded, logits_at_once=3 * 512), []  # pieces of three tokens
    with torch.inference_mode(), head.installed(decoded.append):
        whole = loaded.model(input_ids=ids, use_cache=False).logits  # the model itself gives what it gives without
        pieces = []
        loaded.model.get_output_embeddings().register_forward_pre_hook(lambda _m, args: pieces.append(args[0].shape[1]))
        found = head.losses(decoded[0][0, :-1], ids[0, 1:])
    assert len(decoded) == 1
    assert pieces == [3, 3, 2], "no more logits than that are in memory"
    assert "forward" not in vars(loaded.model.base_model)
    with torch.inference_mode():
        wanted = plain(input_ids=ids, labels=ids).loss
        every = plain(input_ids=ids).logits
        logits = every[0, :-1]
    torch.testing.assert_close(whole, every, rtol=1e-5, atol=1e-5)
    each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    torch.testing.assert_close(found.mean(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, each, rtol=1e-5, atol=1e-5)


def test_a_model_without_its_head_is_refused(tiny_model):
    loaded = load_model(ModelOptions(str(tiny_model)), 2, CPU)
    with pytest.raises(ModelError, match="no language-model head"):
        LossHead(loaded)
