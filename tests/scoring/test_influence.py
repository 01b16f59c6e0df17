"""Forward differences are the exact derivative that autograd gives, and the direction is the margin's gradient."""

from __future__ import annotations

import copy
import functools
import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.models import make_model
from support.states import ARCHITECTURES, CPU
from torch.nn.attention import SDPBackend, sdpa_kernel

from larf_curate.encoding.directions import Factors, WeightDirection, block_layers
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.losses import token_losses
from larf_curate.encoding.runtime import Runtime
from larf_curate.encoding.tangents import token_tangents
from larf_curate.errors import Issue, ModelError, PromptsError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.scoring.influence import choose_step, token_influence
from larf_curate.scoring.margin import REFUSAL_TOKENS, Refusals, find_refusals, margin, margin_gradient, refusals_among

OPENINGS = (7, 19)


def scipy_spearman(first, second) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(first, second)[0])


def margin_direction(loaded, refusals, rank: int) -> tuple[WeightDirection, float]:
    """The gradient of the margin cut to a rank, of norm 1, and the share of its squared norm that is kept."""
    gradient = margin_gradient(loaded, refusals)
    cut = gradient.cut(rank)
    return cut.unit(), cut.norm**2 / gradient.norm**2


def random_refusals(count: int = 20) -> Refusals:
    chance = random.Random(0)
    ids = tuple(tuple(chance.randrange(3, 400) for _ in range(chance.randrange(3, 12))) for _ in range(count))
    return Refusals(ids, (True,) * count, OPENINGS)


def rows_and_marks(count: int = 24, seed: int = 1):
    chance = random.Random(seed)
    rows = [[chance.randrange(3, 400) for _ in range(chance.randrange(3, 30))] for _ in range(count)]
    return rows, [[False, *(chance.random() < 0.6 for _ in row[2:]), True] for row in rows]


def model_and_runtime(home, name="llama"):
    """Weights a fifth as large as other tests take, so that the model is about as smooth as a trained one."""
    make_model(home, ARCHITECTURES[name]())
    loaded = load_model(ModelOptions(str(home)), None, CPU)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.3)
    return loaded, Runtime(loaded)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """For tests that leave weights as they are: models by architecture, their runtime, and a direction of rank 4."""

    @functools.cache
    def make(name="llama"):
        loaded, runtime = model_and_runtime(tmp_path_factory.mktemp("model"), name)
        return loaded, runtime, margin_direction(loaded, random_refusals(), rank=4)[0]

    return make


def gradients(loaded, value) -> dict[str, np.ndarray]:
    """Of a scalar in the matrices of the blocks, by autograd alone."""
    layers = block_layers(loaded)
    weights = [layer.weight.requires_grad_(True) for layer in layers.values()]
    found = torch.autograd.grad(value(), weights, allow_unused=True)
    for weight in weights:
        weight.requires_grad_(False)
    return {name: grad.double().numpy() for name, grad in zip(layers, found, strict=True) if grad is not None}


def mean_margin(loaded, refusals):
    """As a formula, one prompt at a time: log(p / (1 - p)) with p the probability of the openings."""
    odds = []
    for row in refusals.ids:
        probabilities = loaded.model(input_ids=torch.tensor([row])).logits[0, -1].double().softmax(-1)
        refusing = probabilities[list(refusals.openings)].sum()
        odds.append(torch.log(refusing / (1 - refusing)))
    return torch.stack(odds).mean()


def test_the_margin_is_its_formula(models):
    loaded, _, _ = models()
    with torch.inference_mode():
        wanted = float(mean_margin(loaded, random_refusals()))
    assert margin(loaded, random_refusals()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2"])
def test_at_full_rank_the_direction_is_the_gradient_of_the_margin(name, models):
    loaded, _, _ = models(name)
    refusals = random_refusals()
    direction, share = margin_direction(loaded, refusals, rank=64)
    wanted = gradients(loaded, lambda: mean_margin(loaded, refusals))
    length = np.sqrt(sum(np.square(gradient).sum() for gradient in wanted.values()))
    assert share == pytest.approx(1, abs=1e-4)
    assert direction.norm == pytest.approx(1, abs=1e-5)
    for path, gradient in wanted.items():
        part = direction.factors[path]
        matrix = part.left.astype(np.float64) @ part.right
        matrix = matrix.T if type(block_layers(loaded)[path]).__name__ == "Conv1D" else matrix
        np.testing.assert_allclose(matrix, gradient / length, atol=2e-4)
    assert all(layer.weight.grad is None for layer in block_layers(loaded).values())


def test_a_lower_rank_keeps_the_largest_part(models):
    loaded, _, _ = models()
    refusals = random_refusals()
    wanted = gradients(loaded, lambda: mean_margin(loaded, refusals))
    whole = sum(np.square(gradient).sum() for gradient in wanted.values())
    kept = sum(np.square(np.linalg.svd(g, compute_uv=False)[:2]).sum() for g in wanted.values())
    direction, share = margin_direction(loaded, refusals, rank=2)
    assert share == pytest.approx(kept / whole, abs=0.01)
    assert {part.left.shape[1] for part in direction.factors.values()} == {2}


def test_a_cut_is_always_the_same_and_leaves_random_numbers_alone(monkeypatch):
    """Those of the user, on every device."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    matrix = Factors(np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    seeded.clear()
    first, second = matrix.low_rank(2), matrix.low_rank(2)
    np.testing.assert_array_equal(first.left, second.left)
    assert torch.equal(torch.get_rng_state(), state)
    assert not seeded


@pytest.fixture(scope="module")
def derivatives(models):
    """Rows, their trained tokens, and the exact derivatives of these along the direction; by architecture."""

    @functools.cache
    def make(name):
        loaded, _, direction = models(name)
        rows, marks = rows_and_marks(8)
        return rows, marks, [exact_derivatives(loaded, direction, *one) for one in zip(rows, marks, strict=True)]

    return make


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "phi3", "gpt_neox"])
@pytest.mark.slow
def test_two_forward_passes_are_the_derivative(name, models, derivatives):
    _, runtime, direction = models(name)
    rows, marks, exact = derivatives(name)
    step, gap = choose_step(runtime, rows, marks, direction)
    found = token_influence(runtime, rows, marks, direction, step)
    assert gap < 0.01
    spread = np.std([values.sum() for values in exact])
    np.testing.assert_allclose(found.sums(), [values.sum() for values in exact], rtol=1e-3, atol=1e-3 * spread)
    np.testing.assert_allclose(found.means(), [values.mean() for values in exact], rtol=2e-3, atol=1e-3 * spread)
    for losses, plain, values in zip(found.losses, token_losses(runtime, rows, marks).values, exact, strict=True):
        np.testing.assert_allclose(losses, plain, atol=0.1 * step * np.abs(values).max() + 1e-5)


def exact_derivatives(loaded, direction: WeightDirection, row, trained) -> np.ndarray:
    """<gradient of a token's loss, direction> for each trained token, by autograd.

    Of all tokens at once: the gradient of their losses' sum, weighted by u, is linear in u, and the slope of its
    product with the direction in the weight of a token is that token's.
    """
    ids, layers = torch.tensor([row]), block_layers(loaded)
    places = torch.tensor([place for place, mark in enumerate(trained) if mark])
    weights = {path: layers[path].weight.requires_grad_(True) for path in direction.factors}
    with sdpa_kernel(SDPBackend.MATH):  # the one of which autograd has second derivatives
        logits = loaded.model(input_ids=ids).logits[0, places - 1]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, places], reduction="none")
        u = torch.zeros_like(losses, requires_grad=True)
        grads = torch.autograd.grad(losses, list(weights.values()), u, create_graph=True, allow_unused=True)
    along = torch.zeros(())
    for part, grad in zip(direction.factors.values(), grads, strict=True):
        if grad is not None:
            along = along + (grad * torch.from_numpy(part.left @ part.right)).sum()
    (found,) = torch.autograd.grad(along, u)
    for weight in weights.values():
        weight.requires_grad_(False)
    return found.double().numpy()


def test_both_passes_over_some_rows_share_one_plan(models, monkeypatch):
    _, runtime, direction = models()
    planned = []
    plan = type(runtime.forward).plan
    monkeypatch.setattr(type(runtime.forward), "plan", lambda *args: planned.append(1) or plan(*args))
    rows, marks = rows_and_marks()
    token_influence(runtime, rows, marks, direction, 0.01)
    assert len(planned) == 1
    choose_step(runtime, rows, marks, direction)
    assert len(planned) == 2


def test_scores_do_not_depend_on_neighbours_and_weights_stay_as_they_were(models):
    loaded, runtime, _ = models()
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    direction, _ = margin_direction(loaded, random_refusals(), rank=4)
    rows, marks = rows_and_marks(12)
    together = token_influence(runtime, rows, marks, direction, 0.01).means()
    alone = [token_influence(runtime, [r], [m], direction, 0.01).means()[0] for r, m in zip(rows, marks, strict=True)]
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = token_influence(runtime, [rows[i] for i in order], [marks[i] for i in order], direction, 0.01).means()
    np.testing.assert_allclose(alone, together, atol=1e-3 * together.std())
    np.testing.assert_allclose(mixed, together[order], atol=1e-3 * together.std())
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


def test_a_gradient_step_on_a_damaging_row_lowers_the_margin(models):
    """The whole point: the sign, and the size to first order."""
    loaded, runtime, _ = models()
    refusals = random_refusals(8)
    direction, _ = margin_direction(loaded, refusals, rank=48)
    length = np.sqrt(sum(np.square(g).sum() for g in gradients(loaded, lambda: mean_margin(loaded, refusals)).values()))
    rows, marks = rows_and_marks(8)
    sums = token_influence(runtime, rows, marks, direction, 0.01).sums()
    rate = 1e-5
    with torch.inference_mode():
        before = float(mean_margin(loaded, refusals).double())
    for row, trained, score in zip(rows, marks, sums, strict=True):
        ids = torch.tensor([row])
        wanted = [place for place, mark in enumerate(trained) if mark]

        def loss(ids=ids, wanted=wanted):
            logits = loaded.model(input_ids=ids).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            return each[[place - 1 for place in wanted]].sum()

        change = gradients(loaded, loss)
        layers = block_layers(loaded)
        with torch.no_grad():
            kept = {path: layers[path].weight.clone() for path in change}
            for path, gradient in change.items():
                layers[path].weight -= rate * torch.from_numpy(gradient).float()
            after = float(mean_margin(loaded, refusals).double())
            for path, weight in kept.items():
                layers[path].weight.copy_(weight)
        assert (after - before) / rate == pytest.approx(-score * length, rel=0.05, abs=0.05 * length * np.std(sums))


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_neox"])
def test_forward_mode_is_the_derivative(name, models, derivatives):
    _, runtime, direction = models(name)
    rows, marks, exact = derivatives(name)
    losses, tangents = token_tangents(runtime, rows, marks, direction, batch_tokens=64)
    expected = token_losses(runtime, rows, marks)
    for loss, plain, tangent, values in zip(losses.values, expected.values, tangents.values, exact, strict=True):
        np.testing.assert_allclose(loss, plain, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(tangent, values, rtol=1e-3, atol=1e-3 * np.abs(values).max())


def test_a_derivative_waits_for_who_runs_the_model(models):
    """Its hooks would meet the other's batches."""
    loaded, runtime, direction = models()
    rows, marks = rows_and_marks(2)
    token_tangents(runtime, rows, marks, direction)  # the first takes longer
    began = threading.Event()
    hook = loaded.blocks[0].register_forward_pre_hook(lambda *_: began.set())
    with ThreadPoolExecutor(1) as pool:
        with runtime.lock:
            asked = pool.submit(token_tangents, runtime, rows, marks, direction)
            assert not began.wait(0.5)
        assert asked.result(60)[0].issues == [None, None]
    hook.remove()
    assert began.is_set()


def test_half_precision_ranks_as_float32_does(models):
    loaded, runtime, direction = models()
    rows, marks = rows_and_marks(40)
    step, _ = choose_step(runtime, rows[:12], marks[:12], direction)
    wanted = token_influence(runtime, rows, marks, direction, step)
    model = copy.deepcopy(loaded.model).to(torch.bfloat16)
    half = Runtime(replace(loaded, model=model, blocks=model.model.layers, dtype=torch.bfloat16))
    done: list[int] = []
    found = token_influence(half, rows, marks, direction, step, batch_tokens=96, progress=done.append)
    assert "batches of up to 96 tokens" in found.execution
    assert (sum(done), len(done) > 3) == (len(rows), True)
    assert scipy_spearman(found.means(), wanted.means()) >= 0.98
    assert scipy_spearman(found.sums(), wanted.sums()) >= 0.98


def test_a_row_that_fits_in_memory_once_and_not_twice_has_no_score(models):
    loaded, runtime, direction = models()
    rows, marks = rows_and_marks(1)
    assert runtime.forward.shortcuts  # which tries a few rows
    runs = itertools.count()

    def full(*_):
        if next(runs):
            raise MemoryError

    hook = loaded.blocks[0].register_forward_pre_hook(full)
    found = token_influence(Runtime(loaded, runtime.forward), rows, marks, direction, 0.01)
    hook.remove()
    assert found.issues == [Issue.OUT_OF_MEMORY]
    assert np.isnan(found.means()).all()
    assert np.isnan(found.sums()).all()


def test_a_margin_without_a_slope_is_refused(tmp_path):
    """Its direction would be zero divided by zero, and every score with it."""
    loaded, _ = model_and_runtime(tmp_path)
    head = loaded.model.get_output_embeddings().weight
    with torch.no_grad():
        head.zero_()
    with pytest.raises(ModelError, match="has the norm 0: what a row does to refusing cannot be measured"):
        margin_gradient(loaded, random_refusals())
    with torch.no_grad():
        head.fill_(torch.nan)
    with pytest.raises(ModelError, match="has the norm nan"):
        margin_gradient(loaded, random_refusals())


def test_a_model_that_never_refuses_gets_no_margin(tiny_model):
    options = ModelOptions(str(tiny_model))
    encoder = Encoder(options, Runtime(load_model(options, None, CPU)))
    with pytest.raises(PromptsError, match=r"refuses 0 of 16 harmful requests \(0%\)"):
        find_refusals(encoder, [f"How do I do harm number {number}?" for number in range(16)])
    with pytest.raises(PromptsError, match="15 prompts are too few"):
        find_refusals(encoder, ["How do I do harm?"] * 15)


TEXTS = ["", "I'm sorry, but I can't help with that.", "No, I won't.", "Sure, here it is.", "Well,"]
SAYS_NOTHING, REFUSES, WILL_NOT, COMPLIES, EITHER = range(5)


def among(*answers: list[int]) -> Refusals:
    """What is found in answers of tokens that each stand for one of `TEXTS`."""
    tokenizer = SimpleNamespace(decode=lambda ids, **_: " ".join(TEXTS[token] for token in ids))
    return refusals_among(SimpleNamespace(tokenizer=tokenizer), [[9]] * len(answers), answers)


def test_openings_are_first_tokens_of_refusals_rather_than_of_compliances():
    found = among(*[[REFUSES]] * 9, [WILL_NOT], [EITHER, REFUSES], [EITHER, COMPLIES], [EITHER, COMPLIES], [COMPLIES])
    assert found.refused == (True,) * 11 + (False,) * 3
    assert found.openings == (REFUSES, WILL_NOT)
    both = among([EITHER, REFUSES], [EITHER, REFUSES], [EITHER, COMPLIES], [REFUSES])
    assert both.openings == (REFUSES, EITHER), "more refusals begin with it than compliances"


def test_a_token_that_begins_few_of_many_refusals_is_no_opening():
    assert among(*[[REFUSES]] * 49, [WILL_NOT]).openings == (REFUSES, WILL_NOT), "one of 50 is enough"
    assert among(*[[REFUSES]] * 50, [WILL_NOT]).openings == (REFUSES,)


def test_a_model_whose_refusals_begin_as_its_compliances_do_has_no_margin():
    with pytest.raises(PromptsError, match="begins its refusals with the same tokens as its compliances"):
        among([EITHER, REFUSES], [EITHER, COMPLIES])


@pytest.mark.parametrize(("refused", "enough"), [(4, True), (3, False)])
def test_a_quarter_of_the_requests_has_to_be_refused(refused, enough):
    answers = [*[[REFUSES]] * refused, *[[COMPLIES]] * (16 - refused)]
    if enough:
        assert among(*answers).share == 0.25
        return
    with pytest.raises(PromptsError, match=r"refuses 3 of 16 harmful requests \(19%\)"):
        among(*answers)


def test_what_comes_after_so_many_tokens_is_not_looked_at():
    late = [*[SAYS_NOTHING] * REFUSAL_TOKENS, REFUSES]
    assert among([REFUSES], late, late[1:]).refused == (True, False, True)
