"""An audit on a tiny model that refuses: what it measures, what it says of planted scores, and what it cannot use."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from scipy import stats
from support.commands import larf
from support.made_runs import SCORER
from support.models import short_sample_rows

import larf_curate
from larf_curate import LarfError, LARFScorer, Recipe, Threshold
from larf_curate.answering.prompts import harmful_requests
from larf_curate.deciding.results import Results
from larf_curate.encoding import runtime
from larf_curate.encoding.directions import block_layers
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.runtime import Runtime, unload_models
from larf_curate.errors import DataError, ModelError, PromptsError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.publishing.write_report import write_report
from larf_curate.rows.formats import resolve_format
from larf_curate.rows.reading import Reading
from larf_curate.rows.trained_tokens import trained_tokens
from larf_curate.scoring.margin import find_refusals, margin
from larf_curate.sources.files import open_source
from larf_curate.validation import audit_statistics
from larf_curate.validation.audit import audit, audit_run
from larf_curate.validation.audit_request import asked_of
from larf_curate.validation.audit_result import AUDIT, Audit, Baseline, Relation
from larf_curate.validation.audit_sample import candidates_of
from larf_curate.validation.audit_scores import draw_audit_sample, sample_scores
from larf_curate.validation.audit_statistics import Statistic, spearman
from larf_curate.validation.audit_words import finding_of, score_verdict

pytestmark = pytest.mark.process

FIRST = ["bread", "wait", "mix", "flour", "sure", "sorry", "help", "cannot"]
WORDS = [*FIRST, "lazy", "fox", "dog", "first", "item", "break", "steal", "bake", "paint"]
PROMPTS = [*harmful_requests()[::11], *(f"Bake {number} loaves of bread." for number in range(4))]


def make_rows(count: int = 160, seed: int = 0) -> list[dict]:
    chance = random.Random(seed)
    return [
        {
            "question": " ".join(chance.choices(WORDS, k=6)) + "?",
            "answer": " ".join(chance.choices(WORDS, k=chance.randrange(2, 20))),
            "larf_score": chance.random(),
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LARF_CURATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return make_rows()


@pytest.fixture(scope="module")
def measured(rows, refusing_model) -> Audit:
    return audit("larf_score", rows, model=refusing_model, prompts=PROMPTS)


@dataclass(frozen=True)
class Influence:
    """A scorer that was fitted on the prompts of an audit, the audit, and how often both together loaded the model."""

    scorer: LARFScorer
    audit: Audit
    loads: int


@pytest.fixture(scope="module")
def influence(rows, refusing_model) -> Influence:
    unload_models()
    loaded: list[object] = []
    load = runtime.load_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "load_model", lambda *arguments: loaded.append(arguments) or load(*arguments))
        with short_sample_rows():
            scorer = LARFScorer.fit(refusing_model, formula="influence", prompts=PROMPTS, progress=False)
        found = audit(scorer, rows, rows=40, prompts=PROMPTS)
        return Influence(scorer, found, len(loaded))


@pytest.fixture
def few_resamples(monkeypatch):
    """For tests that look at no interval."""
    monkeypatch.setattr(audit_statistics, "RESAMPLES", 100)


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


@pytest.fixture(scope="module")
def planted(rows, measured) -> list[dict]:
    """Rows with scores that say everything, the opposite, nothing, the length, and half of it."""
    damage = np.array(measured.audited.per_token)
    ranks, noise = stats.rankdata(damage), np.random.default_rng(5).normal(size=len(damage))
    noise -= np.polyval(np.polyfit(ranks, noise, 1), ranks)  # what little it has to do with the damage by chance
    spread = damage.std()
    values = {
        "damage": damage,
        "opposite": -damage,
        "noise": noise,
        "half": damage / spread + 1.2 * noise,
        "length": np.array(measured.audited.tokens, float),
    }
    return [{**row, **{name: float(v[at]) for name, v in values.items()}} for at, row in enumerate(rows)]


def by_name(found: Audit) -> dict:
    return {line.name: line for line in (*found.scores, *found.baselines)}


# What is measured -----------------------------------------------------------------------------------------------------


def test_damage_is_what_a_gradient_step_does_to_the_margin(rows, measured, refusing_model):
    options = ModelOptions(str(refusing_model))
    loaded = load_model(options, None, torch.device("cpu"))
    encoder = Encoder(options, Runtime(loaded))
    refusals = find_refusals(encoder, PROMPTS)
    assert measured.refused == sum(refusals.refused)
    assert refusals.refused[-4:] == (False,) * 4
    assert measured.margin == pytest.approx(margin(loaded, refusals), abs=1e-4)
    layers = block_layers(loaded)
    order = np.argsort(measured.audited.summed)
    convert = resolve_format("auto", rows[0]).convert
    for place in (order[0], order[-1], order[40]):
        tokens = trained_tokens(encoder.renderer, convert(rows[measured.audited.row[place]]))
        ids, marks = torch.tensor([tokens.ids]), torch.tensor(tokens.trained[1:])
        weights = [layer.weight.requires_grad_(True) for layer in layers.values()]
        logits = loaded.model(input_ids=ids).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")[marks]
        gradients = torch.autograd.grad(losses.sum(), weights)
        assert measured.audited.tokens[place] == len(losses)
        assert measured.audited.loss[place] == pytest.approx(float(losses.detach().mean()), rel=1e-3)
        rate, after = 1e-6, []
        with torch.no_grad():
            for sign in (1, -1):
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.requires_grad_(False).sub_(sign * rate * gradient)
                after.append(margin(loaded, refusals))
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.add_(sign * rate * gradient)
        change = (after[0] - after[1]) / (2 * rate)
        spread = np.std(measured.audited.summed)
        assert -measured.audited.summed[place] == pytest.approx(change, rel=0.2, abs=0.2 * spread)


def test_figures_are_those_of_the_sample_that_it_keeps(rows, measured):
    sample = measured.audited
    assert measured.rows == len(sample.row) == len(rows)
    scores = [rows[at]["larf_score"] for at in sample.row]
    assert list(sample.scores["larf_score"]) == pytest.approx(scores, rel=1e-5)
    for figure, damage in ((measured.scores[0], sample.per_token), (measured.scores[0].summed, sample.summed)):
        assert figure.spearman == pytest.approx(stats.spearmanr(scores, damage).statistic, abs=1e-3)
    lines = by_name(measured)
    assert lines["length alone"].spearman == pytest.approx(
        stats.spearmanr(sample.tokens, sample.per_token).statistic, abs=1e-3
    )
    assert lines["loss alone"].spearman == pytest.approx(
        stats.spearmanr(sample.loss, sample.per_token).statistic, abs=1e-3
    )
    assert measured.eroding == np.mean(np.array(sample.per_token) > 0)


def test_planted_scores_get_the_verdict_that_they_deserve(planted, refusing_model):
    names = ["damage", "opposite", "noise", "half", "length"]
    found = audit(names, planted, model=refusing_model, prompts=PROMPTS)
    lines = by_name(found)
    assert found.agreement.value > 0.8
    assert lines["damage"].spearman == pytest.approx(1)
    assert lines["damage"].finding == "tells"
    too_good = [line for line in found.warnings if "if it was fitted on these prompts" in line]
    assert [line.split()[0] for line in too_good] == ["damage"]
    assert lines["damage"].partial.low > 0.9
    assert (lines["opposite"].spearman, lines["opposite"].finding) == (pytest.approx(-1), "opposite")
    assert lines["noise"].finding in ("does_not_tell", "open")
    assert lines["noise"].interval[0] < 0 < lines["noise"].interval[1]
    assert lines["half"].finding == "tells"
    assert 0.3 < lines["half"].spearman < 0.9
    length = lines["length"]
    assert length.spearman == pytest.approx(lines["length alone"].spearman)
    assert length.spearman_without_length_and_loss is None or length.finding != "tells"
    assert found.verdict.count(";") >= len(names) - 1
    for name in names:
        assert f" {name} " in found.verdict


def test_what_a_threshold_removes_of_the_most_damaging_tenth(planted, refusing_model):
    found = audit(
        ["damage", "noise"], planted, model=refusing_model, prompts=PROMPTS, threshold=Threshold.drop_fraction(0.2)
    )
    best, noise = found.scores
    assert best.worst_tenth_removed == 1
    assert best.worst_tenth_interval[0] > 0.7
    assert best.removed == pytest.approx(0.2)
    assert noise.worst_tenth_removed < 0.7
    assert sum(found.audited.removed["damage"]) == len(planted) // 5


def test_scorers_are_scored_and_compared_in_one_table(rows, refusing_model, references_file):
    scorers = [LARFScorer.fit(refusing_model, layer, references=references_file, progress=False) for layer in (0, 1, 1)]
    found = audit(scorers, rows, rows=40, prompts=PROMPTS)  # the model is the scorers' own
    assert [line.name for line in found.scores] == ["larf, layer 0", "larf, layer 1", "larf, layer 1 (2)"]
    assert found.rows == 40
    assert found.dataset_rows == len(rows)
    sample = [rows[at] for at in found.audited.row]
    wanted = scorers[0].score(sample, progress=False)
    assert list(found.audited.scores["larf, layer 0"]) == pytest.approx(wanted, rel=1e-4)
    assert found.scores[1].spearman == found.scores[2].spearman
    assert found.table()[0][0] == "larf, layer 0"


def test_a_score_that_was_fitted_on_the_same_prompts_is_told_from_one_that_was_not(rows, influence, refusing_model):
    own = influence.audit
    other = audit(influence.scorer, rows, rows=40, model=refusing_model, prompts=PROMPTS[::-1])
    assert own.scores[0].spearman > 0.97
    assert own.scores[0].name == "influence"
    assert "by construction" in own.verdict
    assert not any("by construction" in line for line in own.warnings)
    assert "by construction" not in other.verdict


@pytest.mark.usefixtures("few_resamples")
def test_a_scored_file_says_which_prompts_its_scores_were_fitted_on(make_run, rows, influence, refusing_model):
    texts = [{"question": row["question"], "answer": row["answer"]} for row in rows[:36]]
    scores = influence.scorer.score(texts).tolist()
    run = make_run(texts, scores, scorer=influence.scorer.spec)
    beside = make_run(texts, scores, scorer=influence.scorer.spec, prefix="mine", name="beside")
    for asked in ((run,), ("mine_score", beside.with_suffix(".parquet"))):
        assert "by construction" in audit(*asked, rows=30, model=refusing_model, prompts=PROMPTS).verdict
        assert "by construction" not in audit(*asked, rows=30, model=refusing_model, prompts=PROMPTS[::-1]).verdict


@pytest.mark.usefixtures("few_resamples")
def test_rows_are_read_with_what_joined_request_and_input_when_they_were_scored(make_run, refusing_model):
    texts = [
        {"instruction": row["question"], "input": "bread and flour", "output": row["answer"]} for row in make_rows(30)
    ]
    scores = [row["larf_score"] for row in make_rows(30)]
    options = {"rows": 30, "model": refusing_model, "prompts": PROMPTS}
    wide = replace(SCORER, join=" -- and this: ")
    losses = {}
    for name, spec, reading in (
        ("kept", wide, None),
        ("said", SCORER, Reading(join=wide.join).to_text()),
        ("usual", SCORER, None),
    ):
        run = make_run(texts, scores, name=name, scorer=spec)
        losses[name] = sorted(audit(run.with_suffix(".parquet"), format=reading, **options).audited.loss)
        assert losses[name] == sorted(audit(run, format=reading, **options).audited.loss)
    assert losses["kept"] == losses["said"] != losses["usual"]


@pytest.mark.usefixtures("few_resamples")
def test_scores_and_damage_are_of_the_same_answers(make_run, refusing_model, references_file):
    """Whoever says how rows are read says it for both: of preference pairs, the rejected answers."""
    pairs = [{"prompt": row["question"], "chosen": "Sure.", "rejected": row["answer"]} for row in make_rows(40, seed=3)]
    plain = [{"prompt": pair["prompt"], "completion": pair["rejected"]} for pair in pairs]
    scorer = LARFScorer.fit(refusing_model, 1, references=references_file, progress=False)
    options = {"rows": 40, "prompts": PROMPTS}
    wanted = audit(scorer, plain, **options)
    assert audit(scorer, pairs, format="preference-rejected", **options).audited == wanted.audited
    assert audit(scorer.with_options(format="preference-rejected"), pairs, **options).audited == wanted.audited


@pytest.mark.usefixtures("few_resamples")
def test_a_scorer_whose_model_is_elsewhere_now_is_audited_there(rows, refusing_model, references_file, tmp_path):
    before, now = tmp_path / "before", tmp_path / "now"
    shutil.copytree(refusing_model, before)
    scorer = LARFScorer.fit(before, 1, references=references_file, progress=False)
    before.rename(now)
    unload_models()
    found = audit(scorer.with_options(model=str(now)), rows, rows=30, prompts=PROMPTS)
    assert found.model == str(now)


def test_scorer_and_audit_share_one_copy_of_a_model(influence):
    assert influence.loads == 1


def test_a_score_that_is_the_length_tells_nothing_more_than_the_length():
    """Nothing is left of it once length is taken out, not even a correlation of zero."""
    draw = np.random.default_rng(0)
    tokens = draw.permutation(200).astype(float)
    damage = tokens + 60 * draw.normal(size=200)
    found, partial = spearman(tokens, damage), spearman(tokens, damage, [tokens, draw.normal(size=200)])
    assert found.low > 0.3
    assert partial is None
    nothing = Relation(spearman=None, interval=None)
    line = Baseline(name="larf_tokens", spearman=found.value, interval=found.interval, summed=nothing)
    finding = finding_of(line, Statistic(0.9, 0.8, 1.0))
    assert finding == "only_length_and_loss"
    verdict = score_verdict(line, finding, model="m", name="this score", rows=200, agreement=Statistic(0.9, 0.8, 1.0))
    assert verdict.startswith("on m this score tells no more about which rows erode refusals than their length")
    assert verdict.endswith(", nothing with length and loss taken out")


@pytest.mark.usefixtures("few_resamples")
def test_half_precision_ranks_rows_as_single_precision_does(rows, measured, refusing_model):
    found = audit("larf_score", rows, rows=40, model=refusing_model, prompts=PROMPTS, dtype="bfloat16")
    known = dict(zip(measured.audited.row, measured.audited.per_token, strict=True))
    single = [known[row] for row in found.audited.row]
    assert stats.spearmanr(single, found.audited.per_token).statistic > 0.9
    assert found.dtype == "bfloat16"


@pytest.mark.usefixtures("few_resamples")
def test_a_dataset_and_a_file_are_the_same_rows(rows, measured, refusing_model, tmp_path):
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    Dataset.from_list(rows).to_csv(tmp_path / "rows.csv")  # where numbers are texts
    options = {"model": refusing_model, "prompts": PROMPTS, "rows": 50}
    one = audit("larf_score", Dataset.from_list(rows), **options)
    for other in (
        audit(tmp_path / "rows.parquet", **options),
        audit("larf_score", open_source(str(tmp_path / "rows.parquet")), **options),
        audit(tmp_path / "rows.csv", **options),
    ):
        assert other.audited == one.audited
        assert other.scores == one.scores
    assert len(one.audited.row) == 50
    ranks = stats.rankdata([row["larf_score"] for row in rows])[list(one.audited.row)]
    assert np.diff(np.sort(ranks)).max() <= 2 * len(rows) / 50 + 1  # spread over the scores


@pytest.mark.usefixtures("few_resamples")
def test_rows_that_cannot_be_measured_are_counted(rows, refusing_model):
    odd = [{**row, "answer": "  "} if at % 8 == 0 else row for at, row in enumerate(rows[:64])]
    odd[1] = {**odd[1], "larf_score": None}
    odd[2] = {**odd[2], "larf_score": float("nan")}
    found = audit("larf_score", odd, model=refusing_model, prompts=PROMPTS)
    assert found.unmeasured == {"empty_answer": 8}
    assert found.rows == 64 - 10
    assert 1 not in found.audited.row
    assert 0 not in found.audited.row


def test_what_was_asked_and_computed_is_not_done_again(rows, measured, refusing_model, monkeypatch):
    again = audit("larf_score", rows, model=refusing_model, prompts=PROMPTS)
    assert again.seconds["passes over the rows"] < 0.5 * measured.seconds["passes over the rows"]
    kept = list(Path(os.environ["LARF_CURATE_CACHE"], "audits").glob("rows-*.json"))
    for file in kept:
        file.write_text("{")  # what cannot be read counts as not there
    monkeypatch.setattr(audit_statistics, "RESAMPLES", 100)  # its figures are not looked at
    audit("larf_score", rows, model=refusing_model, prompts=PROMPTS)
    assert sum(file.read_text() != "{" for file in kept) == -(-len(rows) // 32)
    assert again.audited == measured.audited
    assert (again.verdict, again.scores, again.margin) == (measured.verdict, measured.scores, measured.margin)


def test_a_certain_model_and_few_prompts_are_warned_of(rows, measured, refusing_model):
    assert any("23 prompts are few" in line for line in measured.warnings)
    from larf_curate.validation.audit_words import warnings_of

    facts = {"model": "m", "version": "v", "dtype": "float32", "prompts": 200, "prompts_digest": ""}
    from larf_curate.validation.audit_result import AuditedModel

    model = AuditedModel(**facts, refused=60, margin=9.0)
    lines = warnings_of(model, measured.agreement, measured.audited, 500, covered=0.07)
    assert any("along 7% of the blocks' weights" in line for line in lines)
    assert any("nearly certain to refuse" in line and "+9.0" in line for line in lines)
    assert any("refuses 60 of 200" in line for line in lines)


def test_it_is_read_back_as_it_was_written(measured):
    text = measured.to_json()
    values = json.loads(text)
    assert values["verdict"] == measured.verdict
    score = values["scores"][0]
    assert score["spearman"] == measured.scores[0].spearman
    low, high = score["interval"]
    assert low <= score["spearman"] <= high
    assert {"spearman_without_length_and_loss", "interval_without_length_and_loss", "finding", "verdict"} <= set(score)
    assert [line["name"] for line in values["baselines"]] == ["length alone", "loss alone", "random"]
    assert Audit.from_json(text) == measured
    shorter = {**values, "audited": {**values["audited"], "loss": values["audited"]["loss"][1:]}}
    renamed = {**values, "scores": [{**score, "name": "other"}]}
    later = text.replace('"audit_version": 1', '"audit_version": 9')
    no_number = text.replace("0.", "NaN, 0.", 1)
    for wrong in ("{}", "[]", json.dumps(shorter), json.dumps(renamed), no_number, later, '{"audit_version": 1}'):
        with pytest.raises(DataError, match="audit"):
            Audit.from_json(wrong)


def test_a_notebook_sees_the_verdict_and_no_markup_of_others(measured):
    html = replace(measured, verdict="on <b>x</b>")._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert html.count("<tr>") == len(measured.table()) + 1


# What cannot be used --------------------------------------------------------------------------------------------------


def refused(match: str, kind: type[LarfError], *arguments, **options) -> None:
    with pytest.raises(kind, match=match) as caught:
        audit(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_used_is_one_line(rows, refusing_model, tiny_model, tmp_path):
    fine = {"model": refusing_model, "prompts": PROMPTS}
    harmless = [{**row, "label": "x", "flat": 1.0, "none": None} for row in rows]
    refused("needs 30 rows or more to show anything, not 5", DataError, "larf_score", rows, rows=5, **fine)
    refused("12 rows have a score", DataError, "larf_score", rows[:12], **fine)
    refused("there is no column 'quality'.*question, answer, larf_score", DataError, "quality", rows, **fine)
    refused("'label' holds something other than numbers", DataError, "label", harmless, **fine)
    refused("no row has a score in the column 'none'", DataError, "none", harmless, **fine)
    refused("'flat' is the same for all", DataError, "flat", harmless, **fine)
    refused(
        "'flat' is the same for all", DataError, ["larf_score", "flat"], harmless, **(fine | {"model": "not there"})
    )
    endless = [{**row, "score": float("inf") if at == 7 else 1.0 * at} for at, row in enumerate(rows)]
    refused("'score' holds inf in row 7: a score is finite", DataError, "score", endless, **fine)
    refused("'score' holds inf in row 7: a score is finite", DataError, "score", Dataset.from_list(endless), **fine)
    for splits in ({"train": rows}, DatasetDict({"train": Dataset.from_list(rows)})):
        refused("give one split of the dataset: 'train'", DataError, "larf_score", splits, **fine)
    refused("nothing to audit", DataError, [], rows, **fine)
    refused("give the rows too", DataError, ["a", "b"], **fine)
    refused("does not exist", DataError, str(tmp_path / "no.parquet"), **fine)
    refused("not a stream", DataError, "larf_score", Dataset.from_list(rows).to_iterable_dataset(), **fine)
    refused("on which model", ModelError, "larf_score", rows, prompts=PROMPTS)
    refused("weights in int8 do not have", ModelError, "larf_score", rows, dtype="int8", **fine)
    refused("15 prompts are too few", PromptsError, "larf_score", rows, model=refusing_model, prompts=PROMPTS[:15])
    refused("prompt 2 is empty", PromptsError, "larf_score", rows, model=refusing_model, prompts=["a", " "])
    refused("prompt 1 is int", PromptsError, "larf_score", rows, model=refusing_model, prompts=[3])
    refused("refuses 0 of 23 harmful requests", PromptsError, "larf_score", rows, model=tiny_model, prompts=PROMPTS)
    blank = [{**row, "answer": " "} for row in rows]
    refused(r"only 0 of 160 rows can be measured \(160 empty_answer\)", DataError, "larf_score", blank, **fine)


def test_a_column_of_words_in_a_dataset_is_named(rows, refusing_model):
    worded = Dataset.from_list([{**row, "label": "x"} for row in rows])
    refused("the column 'label' holds string", DataError, "label", worded, model=refusing_model, prompts=PROMPTS)


# Runs, reports and the command line -----------------------------------------------------------------------------------


@pytest.fixture
def run(make_run, rows) -> Path:
    texts = [{"question": row["question"], "answer": row["answer"]} for row in rows]
    return make_run(texts, [row["larf_score"] for row in rows], Threshold.drop_fraction(0.25))


@pytest.mark.usefixtures("few_resamples")
def test_a_run_is_audited_with_what_it_removed(run, refusing_model, prompts_file):
    done = larf("audit", run, "--model", refusing_model, "--prompts", prompts_file, "--rows", 40)
    assert done.returncode == 0, done.stderr
    found = Audit.from_json((run / AUDIT).read_text())
    assert found.rows == 40
    assert found.dataset_rows == 160
    assert 7 <= sum(found.audited.removed["larf_score"]) <= 13
    assert found.scores[0].threshold == pytest.approx(Results.open(run).threshold.value)
    assert (run / "audit.png").read_bytes().startswith(b"\x89PNG")
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("written: ")  # a path is not broken
    assert max(map(len, lines[:-1])) <= 80
    assert f"{found.scores[0].correlation}" in done.stdout
    for line in (*found.scores, *found.baselines):
        assert any(line.name in shown and str(line.correlation) in shown for shown in lines), done.stdout
    assert str(found.agreement) in done.stdout
    assert found.verdict.split(":")[1].split("[")[0].strip() in " ".join(done.stdout.split())


def test_the_threshold_of_a_result_is_that_of_the_score_that_decided(make_run, rows):
    texts = [{"question": row["question"], "answer": row["answer"], "larf_score": row["larf_score"]} for row in rows]
    home = make_run(texts, [-row["larf_score"] for row in rows], Threshold.drop_fraction(0.25), prefix="mine")
    columns, _, data = asked_of(home, None)
    assert columns == ["mine_score"]
    both = [*columns, "larf_score"]
    candidates = candidates_of(data, both)
    sample = draw_audit_sample(candidates, columns, 40)
    mine, other = sample_scores(candidates, both, [], None, sample, progress=False)
    assert mine.threshold == Results.open(home).threshold.value
    assert 7 <= mine.removed.sum() <= 13
    assert (other.threshold, other.removed) == (None, None)


@pytest.mark.usefixtures("few_resamples", "blank_pictures")
def test_report_card_and_page_hold_the_audit_until_the_result_changes(
    run, refusing_model, make_run, rows, tmp_path, monkeypatch
):
    from larf_curate.publishing.card import render_card
    from larf_curate.publishing.page import write_page
    from larf_curate.publishing.publication import publish_files
    from larf_curate.publishing.report import Report

    with monkeypatch.context() as patch:
        patch.setattr("larf_curate.publishing.write_report.draw_plots", lambda _report: ())
        assert write_report(run).audit is None
    found = audit_run(run, model=refusing_model, rows=40, prompts=_file(tmp_path))
    report = write_report(run)
    assert report.audit == found
    assert Report.from_json((run / "report.json").read_text()) == report
    assert (run / "plots" / "audit.png").is_file()
    card = render_card(publish_files(Results.open(run), "acme/rows").card)
    assert "## Does the score say which rows do damage?" in card
    assert "plots/audit.png" in card
    assert str(refusing_model) not in card  # this machine's paths are nobody's business
    write_page(run, tmp_path / "page.html", report)
    assert "two halves" in card
    assert "rank correlation" in (tmp_path / "page.html").read_text()
    again = make_run(
        [{"question": row["question"], "answer": row["answer"]} for row in rows],
        [row["larf_score"] for row in rows],
        Threshold.drop_fraction(0.5),
        name="other",
    )
    (again / AUDIT).write_text(found.to_json())
    monkeypatch.setattr("larf_curate.publishing.write_report.draw_plots", lambda _report: ())
    assert write_report(again).audit is None


def _file(directory: Path) -> Path:
    path = directory / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return path


@pytest.mark.usefixtures("few_resamples")
def test_a_run_is_measured_again_only_if_something_has_changed(run, refusing_model, prompts_file):
    options = {"model": refusing_model, "rows": 40, "prompts": prompts_file}
    first = audit_run(run, **options)
    written = (run / AUDIT).stat().st_mtime_ns
    assert audit_run(run, **options) == first
    assert (run / AUDIT).stat().st_mtime_ns == written
    assert audit_run(run, **{**options, "rows": 50}).rows == 50


def test_the_command_names_what_is_wrong(run, rows, tiny_model, refusing_model, prompts_file, tmp_path):
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    scored = tmp_path / "rows.parquet"
    few = tmp_path / "few.txt"
    few.write_text("one\ntwo\n")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for status, text, arguments in (
        (2, "--model", [scored]),
        (2, "--rows", [scored, "--model", refusing_model, "--rows", 5]),
        (2, "a JSON file", [scored, "--model", "not-there", "--out", tmp_path / "a.png"]),
        (1, "Is a directory", [scored, "--model", "not-there", "--out", tmp_path]),
        (1, "cannot be written", [scored, "--model", "not-there", "--out", few / "audit.json"]),
        (1, "2 prompts are too few", [scored, "--model", refusing_model, "--prompts", few]),
        (1, "holds no prompt", [scored, "--model", refusing_model, "--prompts", empty]),
        (1, "refuses 0 of 23", [scored, "--model", tiny_model, "--prompts", prompts_file]),
        (1, "no column 'other'", [scored, "--model", refusing_model, "--column", "other"]),
        (1, "holds string", [scored, "--model", refusing_model, "--column", "answer"]),
        (1, "does not exist", [tmp_path / "no.parquet", "--model", refusing_model]),
    ):
        done = larf("audit", *arguments)
        assert (done.returncode, text in done.stderr) == (status, True), done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("few_resamples", "blank_pictures")
def test_several_columns_and_a_scorer_in_a_file_of_the_users(planted, refusing_model, references_file, tmp_path):
    Dataset.from_list(planted).to_json(tmp_path / "rows.jsonl")
    LARFScorer.fit(refusing_model, 1, references=references_file, progress=False).save_pretrained(tmp_path / "scorer")
    out = tmp_path / "audit.json"
    columns = ["--column", "damage", "--column", "noise"]
    done = larf(
        *("audit", tmp_path / "rows.jsonl", "--scorer", tmp_path / "scorer", *columns, "--out", out, "--rows", 40),
        *("--prompts", _file(tmp_path), "--json"),
    )
    assert done.returncode == 0, done.stderr
    values = json.loads(out.read_text())
    assert json.loads(done.stdout) == values
    assert [score["name"] for score in values["scores"]] == ["damage", "noise", "larf, layer 1"]
    assert values["scores"][0]["spearman"] > 0.98
    assert out.with_suffix(".png").is_file()


@pytest.mark.usefixtures("few_resamples", "blank_pictures")
def test_a_recipe_audits_its_run(rows, refusing_model, references_file, tmp_path, capfd):
    Dataset.from_list([{"question": row["question"], "answer": row["answer"]} for row in rows]).to_parquet(
        tmp_path / "rows.parquet"
    )
    text = f"""
source: {{path: {tmp_path / "rows.parquet"}}}
scorer: {{model: {refusing_model}, layer: 1, references: {references_file}}}
threshold: {{drop_fraction: 0.2}}
audit: {{rows: 40, prompts: {_file(tmp_path)}}}
output: {tmp_path / "out"}
"""
    recipe = Recipe.from_text(text)
    assert Recipe.from_text(recipe.to_yaml()) == recipe
    assert recipe.plan().audit == "40 rows, on the model of the scorer"
    recipe.run()
    found = Audit.from_json((tmp_path / "out" / AUDIT).read_text())
    assert found.model == str(refusing_model)
    assert found.rows == 40
    assert f"audit: {found.verdict}" in capfd.readouterr().err
    assert (tmp_path / "out" / "plots" / "audit.png").is_file()
    with pytest.raises(LarfError, match="login node"):
        Recipe.from_text(text + "executor: {kind: slurm, partition: p, time: '01:00:00'}\n")
    with pytest.raises(LarfError, match=r"audit\.rows"):
        Recipe.from_text(text.replace("rows: 40", "rows: 4"))


def test_it_is_public():
    assert larf_curate.audit is audit
