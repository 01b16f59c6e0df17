"""Losses of trained tokens are those of transformers' own full pass, row by row, in whatever batches rows run."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import transformers
from support.states import ARCHITECTURES, CPU, make_architecture

from larf_curate.encoding.directions import Factors, WeightDirection, block_layers, layer_shape
from larf_curate.encoding.losses import token_losses
from larf_curate.encoding.packed_batch import PackingSettings
from larf_curate.encoding.packing import PackedPass
from larf_curate.encoding.padding import PaddedPass
from larf_curate.encoding.runtime import Runtime
from larf_curate.errors import ModelError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions

PREFIX = [11, 12, 13, 14, 15, 16]


def rows_and_marks(seed: int = 0) -> tuple[list[list[int]], list[list[bool]]]:
    """Rows with a shared prefix and without, of many lengths; some tokens of each are trained, among them the last."""
    chance = random.Random(seed)
    rows = [PREFIX + [chance.randrange(3, 400) for _ in range(length)] for length in (1, 2, 3, 9, 9, 25, 40)]
    rows += [[chance.randrange(3, 400) for _ in range(length)] for length in (2, 7, 30)]
    marks = [[False, *(chance.random() < 0.6 for _ in row[1:-1]), True] for row in rows]
    marks[3] = [False, True, *[False] * (len(rows[3]) - 2)]  # trained within what others share
    rows.append(list(rows[4]))  # an equal row, of which other tokens are trained
    marks.append([not mark if place else False for place, mark in enumerate(marks[4])])
    return rows, marks


def full_losses(model, rows, marks) -> list[np.ndarray]:
    """One row at a time through the whole model in float32."""
    found = []
    for row, trained in zip(rows, marks, strict=True):
        ids = torch.tensor([row])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()
        found.append(losses[[place - 1 for place, mark in enumerate(trained) if mark]])
    return found


def runtime_of(home) -> Runtime:
    return Runtime(load_model(ModelOptions(str(home)), None, CPU))


ELSEWHERE = {"llama3_rope", "qwen2", "qwen3", "gemma3_text", "olmo2"}
"""Their losses are measured in test_architectures.py, and they run as others do here: fused blocks, or packed ones."""


@pytest.fixture(scope="module", params=[name for name in ARCHITECTURES if name not in ELSEWHERE])
def runtime_and_losses(request, tmp_path_factory) -> tuple[Runtime, list[np.ndarray]]:
    """A model, and the losses of `rows_and_marks` by transformers."""
    home = tmp_path_factory.mktemp("model")
    model = make_architecture(home, request.param)
    return runtime_of(home), full_losses(model, *rows_and_marks())


@pytest.fixture(scope="module")
def llama(tiny_model) -> Runtime:
    """For tests that leave its weights as they are."""
    return runtime_of(tiny_model)


@pytest.mark.parametrize("batch_tokens", [8, 4096])
@pytest.mark.slow
def test_losses_are_those_of_transformers(runtime_and_losses, batch_tokens):
    runtime, wanted = runtime_and_losses
    rows, marks = rows_and_marks()
    found = token_losses(runtime, rows, marks, batch_tokens=batch_tokens)
    assert isinstance(runtime.forward, PackedPass)
    assert found.issues == [None] * len(rows)
    for losses, expected in zip(found.values, wanted, strict=True):
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


def test_a_prefix_that_pays_runs_once_and_ends_before_the_first_trained_token(llama, tiny_model):
    chance = random.Random(1)
    prefix = [chance.randrange(3, 400) for _ in range(120)]
    rows = [prefix + [chance.randrange(3, 400) for _ in range(10)] for _ in range(12)]
    marks = [[False] * (90 if number % 2 else 121) + [True] * (40 if number % 2 else 9) for number in range(12)]
    found = token_losses(llama, rows, marks)
    assert "; the head for trained tokens alone, equal rows once, no padding" in found.execution
    assert "layer" not in found.execution, "every block runs"
    assert any(batch.prefix for batch in _planned(llama, rows, marks))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    wanted = full_losses(model, rows, marks)
    for losses, expected in zip(found.values, wanted, strict=True):
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


def _planned(runtime, rows, marks):
    from larf_curate.encoding.losses import LossReadout

    places = {tuple(row): [p for p, mark in enumerate(m) if mark] for row, m in zip(rows, marks, strict=True)}
    with runtime.forward.reading(LossReadout(runtime, places)):
        return runtime.forward.plan([tuple(row) for row in rows], 4096)


@pytest.mark.parametrize("forward", [PackedPass, PaddedPass])
def test_losses_do_not_depend_on_neighbours_or_order(forward, llama):
    runtime = Runtime(llama.loaded, forward(llama.loaded))
    rows, marks = rows_and_marks()
    together = token_losses(runtime, rows, marks)
    for number in reversed(range(len(rows))):
        alone = token_losses(runtime, [rows[number]], [marks[number]])
        np.testing.assert_allclose(alone.values[0], together.values[number], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "phi3", "gpt_neox"])
def test_a_step_along_a_direction_moves_losses_as_moved_weights_do(name, tmp_path):
    """Fused blocks too, which call no layer for their last products."""
    moved = make_architecture(tmp_path, name)
    runtime = runtime_of(tmp_path)
    draw = np.random.default_rng(0)
    parts = {}
    for path, layer in block_layers(runtime.loaded).items():
        outputs, inputs = layer_shape(layer)
        left, right = draw.normal(size=(outputs, 1)), draw.normal(size=(1, inputs))
        parts[path] = Factors(left.astype(np.float32), right.astype(np.float32))
    rows, marks = rows_and_marks()
    before = token_losses(runtime, rows, marks)
    with WeightDirection(parts).step(runtime.loaded, 0.02):
        found = token_losses(runtime, rows, marks)
    after = token_losses(runtime, rows, marks)
    blocks = next(m for m in moved.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 5)
    layers = dict(blocks.named_modules())
    with torch.no_grad():
        for path, part in parts.items():
            layers[path].weight += torch.from_numpy(0.02 * part.left @ part.right)
    for losses, expected, unmoved in zip(found.values, full_losses(moved, rows, marks), before.values, strict=True):
        np.testing.assert_allclose(losses, expected, rtol=3e-5, atol=3e-5)
        assert np.abs(losses - unmoved).max() > 1e-3
    assert all(np.array_equal(a, b) for a, b in zip(before.values, after.values, strict=True))


def test_a_shared_prefix_moves_with_the_weights(llama):
    """Its keys and values are kept for the next batch, and not for the next step along a direction."""
    rows = [[*PREFIX, 20 + number, 30 + number] for number in range(6)]
    marks = [[False] * (len(PREFIX) + 1) + [True]] * 6
    packed, padded = (
        Runtime(llama.loaded, forward)
        for forward in (
            PackedPass(llama.loaded, settings=PackingSettings(prefix_overhead=0)),
            PaddedPass(llama.loaded),
        )
    )
    draw = np.random.default_rng(0)
    parts = {
        path: Factors(*(draw.normal(size=size).astype(np.float32) for size in ((shape[0], 1), (1, shape[1]))))
        for path, shape in ((path, layer_shape(layer)) for path, layer in block_layers(packed.loaded).items())
    }
    for size in (0.02, -0.02):
        found = []
        for runtime in (packed, padded):
            with WeightDirection(parts).step(runtime.loaded, size):
                found.append(np.concatenate(token_losses(runtime, rows, marks).values))
        np.testing.assert_allclose(found[0], found[1], rtol=3e-5, atol=3e-5)


def test_rows_without_trained_tokens_and_models_without_a_head_are_refused(llama, tiny_model):
    for marks in ([False, False], [True, True], [False]):
        with pytest.raises(ValueError, match="row 0: trained tokens must be some of the row's 2, without the first"):
            token_losses(llama, [[5, 6]], [marks])
    cut = Runtime(load_model(ModelOptions(str(tiny_model)), 2, CPU))
    with pytest.raises(ModelError, match="no language-model head"):
        token_losses(cut, [[5, 6]], [[False, True]])
    assert token_losses(llama, [], []).values == []


def test_a_loss_that_is_no_number_is_an_issue_of_its_row(tiny_model):
    runtime = runtime_of(tiny_model)
    with torch.no_grad():
        runtime.loaded.model.get_input_embeddings().weight[333] = float("inf")
    found = token_losses(runtime, [[5, 6, 7], [5, 333, 7]], [[False, True, True]] * 2)
    assert found.values[1] is None
    assert found.issues[0] is None
    assert found.issues[1] == "non_finite_state"
    assert np.isfinite(found.values[0]).all()
