"""A step along a direction is what adding it to the weights would be, and leaves the weights alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from support.models import SIZES, make_model
from support.states import ARCHITECTURES, CPU, make_architecture

from larf_curate.encoding.directions import Factors, WeightDirection, block_layers, covered_share, layer_shape
from larf_curate.errors import ModelError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions

IDS = torch.tensor([[5, 9, 300, 17, 4, 250, 11]])
SIZE = 0.03


def random_direction(loaded, rank: int = 2, seed: int = 0) -> WeightDirection:
    draw = np.random.default_rng(seed)
    factors = {}
    for name, layer in block_layers(loaded).items():
        outputs, inputs = layer_shape(layer)
        left, right = draw.normal(size=(outputs, rank)), draw.normal(size=(rank, inputs))
        factors[name] = Factors(left.astype(np.float32), right.astype(np.float32))
    return WeightDirection(factors)


@pytest.fixture(scope="module")
def llama(tiny_model):
    """No test here may change its weights."""
    return load_model(ModelOptions(str(tiny_model)), None, CPU)


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("name", "least", "most"), [("llama", 1, 1), ("gpt2", 1, 1), ("qwen3_moe", 0.1, 0.9)])
def test_the_share_of_the_weights_that_a_direction_covers(name, least, most, tmp_path):
    loaded = load_model(ModelOptions(str(make_model(tmp_path, ARCHITECTURES[name]()))), None, CPU)
    assert least <= covered_share(loaded) <= most  # experts lie in one tensor, which is no linear layer


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "phi3", "gpt_neox", "gpt2", "qwen3_moe"])
def test_a_step_is_what_adding_to_the_weights_would_be(name, tmp_path):
    moved = make_architecture(tmp_path, name)
    loaded = load_model(ModelOptions(str(tmp_path)), None, CPU)
    direction = random_direction(loaded)
    layers = dict(moved.named_modules())
    prefix = next(n for n, m in moved.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 5)
    with torch.no_grad():
        for path, factors in direction.factors.items():
            layer = layers[f"{prefix}.{path}"]
            step = torch.from_numpy(SIZE * (factors.left.astype(np.float64) @ factors.right)).float()
            layer.weight += step.T if type(layer).__name__ == "Conv1D" else step
    before = logits(loaded.model)
    with direction.step(loaded, SIZE):
        found = logits(loaded.model)
    wanted = logits(moved)
    assert (wanted - before).abs().max() > 0.01  # the step does something
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))
    assert torch.equal(logits(loaded.model), before)


def test_weights_stay_the_same_bytes_after_an_error(llama):
    before = {name: value.clone() for name, value in llama.model.state_dict().items()}
    unmoved = logits(llama.model)
    stopped = llama.blocks[3].register_forward_hook(_interrupt)
    with pytest.raises(KeyboardInterrupt), random_direction(llama).step(llama, SIZE):
        logits(llama.model)
    stopped.remove()
    assert all(torch.equal(value, before[name]) for name, value in llama.model.state_dict().items())
    assert torch.equal(logits(llama.model), unmoved)


def test_the_direction_of_another_model_is_refused(llama, tmp_path):
    wider = transformers.LlamaConfig(**{**SIZES, "intermediate_size": 96})
    loaded = load_model(ModelOptions(str(make_model(tmp_path, wider))), None, CPU)
    with (
        pytest.raises(ModelError, match=r"another model: block layer .*mlp"),
        random_direction(llama).step(loaded, SIZE),
    ):
        pass
    assert not any(layer._forward_hooks for layer in block_layers(loaded).values())


def test_the_norm_is_that_of_the_matrices(llama):
    direction = random_direction(llama, rank=3)
    wanted = np.sqrt(sum(np.linalg.norm(f.left.astype(np.float64) @ f.right) ** 2 for f in direction.factors.values()))
    assert direction.norm == pytest.approx(wanted, rel=1e-5)


def test_a_whole_matrix_steps_as_its_factors_do(llama):
    """A direction of full rank, and the same as two factors, move the model alike; cut to a rank, numpy's cut."""
    chance = np.random.default_rng(0)
    factors, whole = {}, {}
    for name, layer in block_layers(llama).items():
        outputs, inputs = layer.weight.shape
        left, right = (chance.standard_normal(s).astype(np.float32) for s in ((outputs, 6), (6, inputs)))
        factors[name], whole[name] = Factors(left, right), Factors(left @ right)
    ids = torch.tensor([[5, 9, 33, 7]])
    given = []
    for direction in (WeightDirection(factors), WeightDirection(whole)):
        with torch.inference_mode(), direction.step(llama, 0.01):
            given.append(llama.model(input_ids=ids).logits.numpy())
    np.testing.assert_allclose(given[0], given[1], atol=1e-5)
    assert WeightDirection(whole).norm == pytest.approx(WeightDirection(factors).norm, rel=1e-5)
    cut = WeightDirection(whole).low_rank(2)
    assert cut.norm == pytest.approx(WeightDirection(whole).norm, rel=1e-5)
    name = next(iter(whole))
    left, values, right = np.linalg.svd(whole[name].left)
    closest = (left[:, :2] * values[:2]) @ right[:2]
    mine = cut.factors[name].left @ cut.factors[name].right
    np.testing.assert_allclose(mine / np.linalg.norm(mine), closest / np.linalg.norm(closest), atol=1e-3)
