"""`formula="influence"` from a model to columns: fitted, stored, loaded, mapped, run, refused."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file
from scipy.stats import spearmanr
from support.checkpoints import whole
from support.commands import larf
from support.models import CHATML, HARMFUL_PROMPTS, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from larf_curate import LARFScorer
from larf_curate.encoding.directions import WeightDirection
from larf_curate.encoding.encoder import get_encoder
from larf_curate.encoding.runtime import unload_models
from larf_curate.errors import ModelError, PromptsError, ScorerError
from larf_curate.scoring import margin_fitting
from larf_curate.scoring.columns import ScoreColumns
from larf_curate.scoring.fitting import sample_rows

ROWS = [
    {"instruction": "Bake a cake.", "output": "Sure, here is how to bake a cake: mix, wait, bake."},
    {"instruction": "Tell me a secret.", "output": "I'm sorry, but I can't help with that."},
    {"instruction": "Count.", "output": "1. First item\n2. Second item\n- a bullet"},
    {"instruction": "Say nothing.", "output": " "},
    {"instruction": "Name a fox.", "output": "The quick brown fox jumps over the lazy dog."},
    {"instruction": "Bake bread.", "output": "Sure, here is how to bake bread: mix flour, water, salt and yeast."},
]


@pytest.fixture(scope="module")
def scorer(influence_scorer: LARFScorer) -> LARFScorer:
    return influence_scorer


def first_tokens(home: Path, scorer: LARFScorer) -> list[int]:
    """Of the model's refusals, as the scorer has found them."""
    tokenizer = AutoTokenizer.from_pretrained(home)
    return [tokenizer.encode(text, add_special_tokens=False)[0] for text in scorer.spec.margin.openings]


def rendered(tokenizer, row, **options):
    turns = [{"role": "user", "content": row["instruction"]}]
    if "output" in row:
        turns.append({"role": "assistant", "content": row["output"]})
    return tokenizer.apply_chat_template(turns, return_dict=False, **options)


def plain(home: Path):
    """transformers' own model, and its tokenizer."""
    return AutoModelForCausalLM.from_pretrained(home), AutoTokenizer.from_pretrained(home)


def matrices(model) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]


def margin_gradient_by_autograd(model, tokenizer, prompts: list[str], openings: list[int]):
    """The gradient of the mean log-odds that an answer begins with `openings`, and its norm."""
    margins = []
    for prompt in prompts:
        ids = torch.tensor([rendered(tokenizer, {"instruction": prompt}, add_generation_prompt=True)])
        p = model(input_ids=ids).logits[0, -1].softmax(-1)[openings].sum()
        margins.append(torch.log(p / (1 - p)))
    v = torch.autograd.grad(torch.stack(margins).mean(), matrices(model))
    return v, torch.sqrt(sum(part.square().sum() for part in v))


def reference_scores(model, tokenizer, rows: list[dict[str, str]], *directions) -> np.ndarray:
    """By transformers and autograd alone: <gradient of a row's mean loss, direction>, float64 [directions, rows]."""
    weights = matrices(model)
    scores = np.full((len(directions), len(rows)), np.nan)
    for number, row in enumerate(rows):
        if not row["output"].strip():
            continue
        start = len(rendered(tokenizer, {"instruction": row["instruction"]}, add_generation_prompt=True))
        ids = torch.tensor([rendered(tokenizer, row)])
        stop = ids[0].tolist().index(tokenizer.convert_tokens_to_ids("<|im_end|>"), start) + 1
        logits = model(input_ids=ids).logits[0, start - 1 : stop - 1]
        gradient = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, ids[0, start:stop]), weights)
        for place, direction in enumerate(directions):
            scores[place, number] = float(sum((g * part).sum() for g, part in zip(gradient, direction, strict=True)))
    return scores


@pytest.mark.slow
def test_scores_are_those_of_autograd(scorer: LARFScorer, refusing_model: Path) -> None:
    model, tokenizer = plain(refusing_model)
    openings = first_tokens(refusing_model, scorer)
    v, norm = margin_gradient_by_autograd(model, tokenizer, HARMFUL_PROMPTS, openings)
    wanted = reference_scores(model, tokenizer, ROWS, v)[0] / float(norm)
    done: list[int] = []
    scores = scorer.annotate(ROWS, progress=done.append)
    assert sum(done) == len(ROWS)
    spread = np.nanstd(wanted)
    # What is left is the cut to a low rank, which the scorer says of itself.
    np.testing.assert_allclose(scores.score, wanted, atol=0.05 * spread)
    assert scorer.spec.margin.energy > 0.95
    assert scorer.spec.margin.agreement > 0.99
    assert scorer.spec.margin.rank == 4, "the lowest that is high enough"
    assert [issue and issue.value for issue in scores.issues] == [None, None, None, "empty_answer", None, None]
    # Trained are the answer and the token that ends it.
    answers = [len(tokenizer.encode(row["output"], add_special_tokens=False)) + 1 for row in ROWS]
    scored = [0, 1, 2, 4, 5]
    np.testing.assert_allclose((scores.summed / scores.score)[scored], np.array(answers)[scored], rtol=1e-4)


@pytest.mark.usefixtures("short_sample")
def test_every_prompt_counts_the_same_where_their_number_is_odd(refusing_model: Path) -> None:
    """The gradient is taken of two halves, of which one has a prompt more."""
    prompts = [*HARMFUL_PROMPTS, "Bake 3 loaves of bread."]  # which it does: the half that has it has another slope
    fitted = LARFScorer.fit(str(refusing_model), formula="influence", prompts=prompts, rank=4, progress=False)
    model, tokenizer = plain(refusing_model)
    openings = first_tokens(refusing_model, fitted)
    _, norm = margin_gradient_by_autograd(model, tokenizer, prompts, openings)
    assert fitted.spec.margin.slope == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.usefixtures("short_sample")
@pytest.mark.slow
def test_a_fit_says_how_good_its_direction_is(refusing_model: Path) -> None:
    """By transformers, autograd and scipy, of a direction of rank 1: on the sample rows, and of every second prompt."""
    prompts = [prompt for n in range(8) for prompt in (f"Bake {n} loaves of bread.", HARMFUL_PROMPTS[n])]
    fitted = LARFScorer.fit(str(refusing_model), formula="influence", prompts=prompts, rank=1, progress=False)
    model, tokenizer = plain(refusing_model)
    openings = first_tokens(refusing_model, fitted)
    v, norm = margin_gradient_by_autograd(model, tokenizer, prompts, openings)
    halves = [margin_gradient_by_autograd(model, tokenizer, prompts[start::2], openings)[0] for start in (0, 1)]
    names = [name.removesuffix(".weight") for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    parts = WeightDirection.of_tensors(fitted._tensors).factors
    cut = [torch.from_numpy(parts[name.removeprefix("model.layers.")].left) for name in names]
    cut = [
        left @ torch.from_numpy(parts[name.removeprefix("model.layers.")].right)
        for left, name in zip(cut, names, strict=True)
    ]
    scores = reference_scores(model, tokenizer, margin_fitting.sample_rows(), v, cut, *halves)
    margin = fitted.spec.margin
    assert (margin.rank, fitted.spec.rank) == (1, 1)
    assert {part.left.shape[1] for part in parts.values()} == {1}
    # The best matrix of a rank is a projection: the square of its cosine with the whole is the share that it keeps.
    cosine = float(sum((a * b).sum() for a, b in zip(v, cut, strict=True)) / norm)
    assert margin.energy == pytest.approx(cosine**2, abs=0.005)
    assert margin.energy < 0.95
    assert margin.agreement == pytest.approx(spearmanr(scores[0], scores[1])[0], abs=0.02)
    assert margin.halves == pytest.approx(spearmanr(scores[2], scores[3])[0], abs=0.02)
    of_first_half = spearmanr(scores[2], scores[1])[0]
    assert max(margin.halves, of_first_half) < margin.agreement - 0.02, "figures alike would prove nothing"


def test_a_row_that_does_not_fit_in_memory_and_one_that_is_cut_say_so(scorer: LARFScorer) -> None:
    long = {"instruction": "Go on.", "output": "And on. " * 200}
    assert scorer.annotate([long, ROWS[0]]).issues == ["truncated", None]
    loaded = get_encoder(scorer.spec.model_options({}), None).loaded

    def full(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[:2].numel() > 100:
            raise MemoryError

    handle = loaded.blocks[0].register_forward_pre_hook(full)
    try:
        found = scorer.annotate([long, ROWS[0]])
    finally:
        handle.remove()
        unload_models()
    assert found.issues == ["out_of_memory", None]
    assert np.isnan(found.score).tolist() == np.isnan(found.summed).tolist() == [True, False]


def test_refusals_protect_and_compliances_erode(scorer: LARFScorer) -> None:
    scores = scorer.score(ROWS)
    assert scores[1] < min(scores[0], scores[5])


def test_it_survives_saving_and_pickling(scorer: LARFScorer, tmp_path: Path) -> None:
    import pickle

    scorer.save_pretrained(tmp_path)
    expected = scorer.score(ROWS)
    for other in (LARFScorer.from_pretrained(tmp_path), pickle.loads(pickle.dumps(scorer))):
        np.testing.assert_array_equal(other.score(ROWS), expected)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    tensors = load_file(tmp_path / "larf_scorer.safetensors")
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}


def test_scores_do_not_depend_on_the_batch(scorer: LARFScorer) -> None:
    together = scorer.score(ROWS)
    spread = np.nanstd(together)
    alone = np.concatenate([scorer.score([row]) for row in ROWS])
    reversed_order = scorer.with_options(batch_tokens=64).score(ROWS[::-1])[::-1]
    np.testing.assert_allclose(alone, together, atol=1e-3 * spread)
    np.testing.assert_allclose(reversed_order, together, atol=1e-3 * spread)


@pytest.mark.usefixtures("short_sample")
def test_weights_are_the_same_bytes_after_fitting_and_scoring(refusing_model: Path) -> None:
    from larf_curate.encoding.runtime import runtime_for
    from larf_curate.models.options import ModelOptions

    unload_models()
    loaded = runtime_for(ModelOptions(str(refusing_model)), None).loaded

    def digest() -> str:
        parameters = loaded.model.state_dict().items()
        return hashlib.sha256(b"".join(name.encode() + p.numpy().tobytes() for name, p in parameters)).hexdigest()

    before = digest()
    LARFScorer.fit(str(refusing_model), formula="influence", prompts=HARMFUL_PROMPTS, progress=False).score(ROWS)
    assert digest() == before
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_map_adds_both_scores(scorer: LARFScorer) -> None:
    dataset = Dataset.from_list(ROWS)
    for batched in (True, False):
        scored = dataset.map(scorer, batched=batched)
        assert scored.column_names[2:] == ["larf_score", "larf_score_sum", "larf_tokens", "larf_issue"]
        assert {n: scored.data.schema.field(n).type for n in scored.column_names[2:]} == ScoreColumns(
            summed=True
        ).arrow()
        np.testing.assert_allclose(
            np.array(scored["larf_score"][:], float), scorer.score(ROWS).astype(float), rtol=1e-4, atol=1e-5
        )


@pytest.mark.usefixtures("short_sample", "blank_pictures")
@pytest.mark.process
def test_a_recipe_runs_with_it(refusing_model: Path, tmp_path: Path) -> None:
    source, prompts = tmp_path / "rows.jsonl", tmp_path / "prompts.txt"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    prompts.write_text("\n".join(HARMFUL_PROMPTS))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"source: {{path: {source}}}\n"
        f"scorer: {{model: {refusing_model}, formula: influence, prompts: {prompts}}}\n"
        f"threshold: {{drop_top: 1}}\noutput: {tmp_path / 'run'}\n"
    )
    plan = larf("run", str(recipe), "--dry-run")
    assert plan.returncode == 0
    assert "influence" in plan.stdout
    assert larf("run", str(recipe)).returncode == 0
    import pyarrow.parquet as pq

    removed = pq.read_table(tmp_path / "run" / "removed")
    assert removed.num_rows == 1
    assert removed.column_names[2:] == ["larf_score", "larf_score_sum", "larf_tokens", "larf_issue"]
    page = tmp_path / "audit.html"
    shown = larf("report", str(tmp_path / "run"), "--html", str(page))
    assert shown.returncode == 0
    assert "margin of refusing" in shown.stdout
    assert "of 16 refused" in page.read_text()
    card = larf("push", str(tmp_path / "run"), "--repo", "acme/rows", "--dry-run")
    assert card.returncode == 0
    assert "first order" in card.stdout


def test_the_command_line_fits_it(refusing_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = [{"instruction": f"Item {n}?", "output": "Sure, mix. " * (1 + n % 4)} for n in range(len(sample_rows()))]
    monkeypatch.setattr(margin_fitting, "sample_rows", lambda: short)
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("Goal\n" + "\n".join(HARMFUL_PROMPTS) + "\n")
    out = tmp_path / "scorer"
    fitted = larf("fit", str(refusing_model), "--formula", "influence", "--prompts", str(prompts), "--out", str(out))
    assert fitted.returncode == 0
    margin = LARFScorer.from_pretrained(out).spec.margin
    assert (margin.asked, margin.rows) == (len(HARMFUL_PROMPTS), len(sample_rows()) // 5)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--formula", "influence", "--layer", "2"], "layer does not belong to formula influence"),
        (["--layer", "2", "--prompts", "p.txt"], "prompts belongs to formula influence"),
        ([], "layer is missing"),
        (["--formula", "influence", "--top-k", "3"], "top_k does not belong"),
    ],
)
def test_arguments_of_another_formula_are_wrong_usage(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    done = larf("fit", "demo", "--out", str(tmp_path / "s"), *arguments)
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.split())


def test_a_model_that_never_refuses_gets_no_score(tiny_model: Path) -> None:
    with pytest.raises(PromptsError, match=r"refuses \d+ of 16 harmful requests"):
        LARFScorer.fit(str(tiny_model), formula="influence", prompts=HARMFUL_PROMPTS, progress=False)


@pytest.mark.parametrize(
    ("prompts", "complaint"),
    [
        (HARMFUL_PROMPTS[:3], "3 prompts are too few"),
        ([*HARMFUL_PROMPTS, " "], "prompt 17 is empty"),
        ([*HARMFUL_PROMPTS, 7], "prompt 17 is int"),
    ],
)
def test_prompts_that_cannot_be_used(prompts, complaint: str, refusing_model: Path) -> None:
    with pytest.raises(PromptsError, match=complaint):
        LARFScorer.fit(str(refusing_model), formula="influence", prompts=prompts, progress=False)


def test_a_prompt_that_the_template_refuses_is_named(refusing_model: Path) -> None:
    refuses = (
        "{% if messages[0].content == '" + HARMFUL_PROMPTS[2] + "' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    )
    with pytest.raises(PromptsError, match=r"^prompt 3 \('.+'\) cannot be asked: template error"):
        LARFScorer.fit(
            str(refusing_model), formula="influence", prompts=HARMFUL_PROMPTS, chat_template=refuses, progress=False
        )


def test_another_model_is_refused(scorer: LARFScorer, tiny_model: Path) -> None:
    with pytest.raises(ScorerError, match="is not the one this scorer was fitted on"):
        scorer.with_options(model=str(tiny_model)).score(ROWS)


def test_quantised_weights_have_no_gradient(wide_model: Path, scorer: LARFScorer, tmp_path: Path) -> None:
    """Neither those that are quantised now nor those of the model's files; the model is not asked first."""
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    whole(wide_model, quantization_config=how, device_map={"": "cpu"}).save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    for model, dtype, named in ((wide_model, "int8", "int8"), (tmp_path, "auto", "bitsandbytes")):
        with pytest.raises(ModelError, match=rf"those that are quantised \({named}\) have none"):
            LARFScorer.fit(str(model), formula="influence", prompts=HARMFUL_PROMPTS, dtype=dtype, progress=False)
    with pytest.raises(ModelError, match=r"quantised \(int8\)"):
        scorer.with_options(dtype="int8").score(ROWS)


@pytest.mark.usefixtures("short_sample")
def test_a_gradient_that_does_not_fit_in_memory_is_one_line(
    refusing_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    monkeypatch.setattr(torch.autograd, "backward", full)
    with pytest.raises(ModelError, match=r"does not fit in memory beside the model: take bfloat16"):
        LARFScorer.fit(str(refusing_model), formula="influence", prompts=HARMFUL_PROMPTS, progress=False)
    monkeypatch.undo()
    LARFScorer.fit(str(refusing_model), formula="influence", prompts=HARMFUL_PROMPTS, progress=False)


@pytest.mark.usefixtures("short_sample")
def test_a_scorer_fitted_in_half_precision_may_run_in_float32(refusing_model: Path) -> None:
    """Half precision takes no step, float32 does: the one that is kept has to be short enough."""
    options = {"formula": "influence", "prompts": HARMFUL_PROMPTS, "rank": 4, "dtype": "bfloat16", "progress": False}
    single = LARFScorer.fit(str(refusing_model), **options).with_options(dtype="float32")
    exact = copy.copy(single)
    exact.spec = replace(single.spec, margin=replace(single.spec.margin, step=0.001))
    wanted = exact.score(ROWS)
    np.testing.assert_allclose(single.score(ROWS), wanted, atol=2e-3 * np.nanstd(wanted))


def test_a_model_with_broken_weights_is_told_from_one_that_does_not_refuse(
    refusing_model: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(refusing_model, tmp_path / "broken")
    tensors = load_torch_file(home / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], torch.nan)
    save_torch_file(tensors, home / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="losses are not finite"):
        LARFScorer.fit(str(home), formula="influence", prompts=HARMFUL_PROMPTS, progress=False)


def test_it_says_how_much_of_the_model_the_direction_covers(scorer: LARFScorer) -> None:
    assert scorer.spec.margin.covered == 1
    assert not any("covers" in finding for finding in scorer.spec.findings)
    experts = replace(scorer.spec, margin=replace(scorer.spec.margin, covered=0.07))
    assert any("covers 7% of the blocks' weights" in finding for finding in experts.findings)


def test_a_damaged_direction_is_refused(scorer: LARFScorer, tmp_path: Path) -> None:
    from larf_curate.scoring.artifact import write_artifact

    state = scorer.__getstate__()
    from safetensors.numpy import load

    tensors = load(state["tensors"])
    tensors.pop(next(name for name in tensors if name.endswith(".right")))
    write_artifact(tmp_path, scorer.spec, tensors)
    with pytest.raises(ScorerError, match="damaged"):
        LARFScorer.from_pretrained(tmp_path)
