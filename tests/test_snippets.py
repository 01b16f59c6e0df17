"""What the pages show is run: commands, recipes, Python and the notebook, with a tiny model in place of a large one."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from support.commands import larf
from support.validations import made_validation

import larf_curate
from larf_curate import LARFScorer, Recipe
from larf_curate.answering.prompts import harmful_requests
from larf_curate.validation.results import Validation
from larf_curate.validation.validate import validate

pytestmark = pytest.mark.usefixtures("no_row_is_run")

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN = ("audit", "datatrove", "influence", "layers", "performance", "publishing", "recipes", "references", "remedies")
PAGES = ["README.md", *(f"docs/{name}.md" for name in (*RUN, "validation"))]
AFTER_THE_QUICKSTART = ("docs/audit.md", "docs/remedies.md")
NOT_RUN = {"api", "commands", "performance-measured", "spans"}
"""Pages whose blocks are not run here: made from the code, benchmarks, and one for trl (tests/scoring/test_spans)."""
SEARCH = re.compile(r"^larf-curate layers|--layer auto")  # minutes on any model: tests/scoring/layer_search has them
PROMPTS = harmful_requests()[::10]
ROWS = [{"instruction": f"Say {number}.", "output": f"{number} it is. " * (1 + number % 7)} for number in range(40)]


@pytest.fixture(scope="module")
def fitted() -> dict[object, LARFScorer]:
    """Scorers that one page fits as another has."""
    return {}


@pytest.fixture
def place(
    fitted: dict[object, LARFScorer],
    tmp_path: Path,
    tiny_model: Path,
    refusing_model: Path,
    tiny_scorer: LARFScorer,
    references_file: Path,
    blank_pictures: None,
    short_sample: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A directory with the files that pages name, in which every model is a tiny one and every dataset these rows."""
    monkeypatch.chdir(tmp_path)
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    Path("rows").mkdir()
    for name in ("alpaca.jsonl", "alpaca_500.jsonl", "rows.jsonl", "rows/part.jsonl"):
        Path(name).write_text(text)
    tiny_scorer.save_pretrained("my-scorer")
    shutil.copyfile(references_file, "pairs.jsonl")
    Path("recipes").mkdir()
    Path("recipes/quickstart.yaml").write_text(
        f"source: {{path: rows.jsonl}}\nscorer: {{model: {tiny_model}, layer: 1, references: {references_file}}}\n"
        "threshold: {drop_fraction: 0.1}\noutput: runs/quickstart\n"
    )
    fit = LARFScorer.fit.__func__  # type: ignore[attr-defined]

    def fit_tiny(
        cls: type[LARFScorer], model: object, layer: object = None, *, formula: str = "larf", **options: Any
    ) -> LARFScorer:
        influence = formula == "influence"
        small_model = refusing_model if influence or model == refusing_model else tiny_model
        if (influence, small_model) not in fitted:
            how = {"formula": formula} if influence else {"layer": 1, "references": references_file}
            fitted[influence, small_model] = fit(cls, small_model, progress=False, **how)
        return fitted[influence, small_model]

    monkeypatch.setattr(LARFScorer, "fit", classmethod(fit_tiny))
    monkeypatch.setattr("larf_curate.answering.prompts.harmful_requests", lambda: PROMPTS)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Dataset.from_list(ROWS))
    return tmp_path


def small(text: str, model: Path, refusing: Path, references: Path) -> str:
    """What a page shows, for fewer rows, which lie in a file here, and for tiny models; nothing is trained."""
    text = re.sub(r"(drop_top(?:: |=|\()|--drop-top )\d+", r"\g<1>5", text)
    for large, tiny in (
        ("yahma/alpaca-cleaned, split: train", "rows.jsonl"),
        ("model: meta-llama/Llama-3.1-8B-Instruct, layer: 12", f"model: {model}, layer: 1, references: {references}"),
        ("tasks: 8", "tasks: 1"),
        ("demo-aligned", str(refusing)),
        ("accelerate launch --num_processes 4 -m larf_curate", "larf-curate"),
        ("runs/mine --model MODEL", f"runs/quickstart --model {refusing}"),
        ("larf-curate validate", "larf-curate validate --dry-run"),
    ):
        text = text.replace(large, tiny)
    return text


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.process
def test_what_a_page_shows_can_be_typed(
    page: str,
    place: Path,
    hub: object,
    tiny_model: Path,
    refusing_model: Path,
    references_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = FENCED.findall((ROOT / page).read_text(encoding="utf-8"))
    if page.endswith("publishing.md"):  # begins where recipes.md ends
        blocks = [*FENCED.findall((ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")), *blocks]
    if page in AFTER_THE_QUICKSTART:
        blocks = [("console", "$ larf-curate run recipes/quickstart.yaml\n"), *blocks]
    if page == "docs/audit.md":  # by default a scorer is audited on its own model, which has to refuse
        for name in ("scorer-layer-9", "scorer-layer-16"):
            LARFScorer.fit(refusing_model, 1).save_pretrained(name)
    monkeypatch.setattr("larf_curate.validate", told_by_hand)
    dataset = Dataset.from_list([{**row, "other_score": number / 40} for number, row in enumerate(ROWS)])
    names: dict[str, Any] = {"dataset": dataset, "ds": dataset}
    ran = 0
    for language, shown in blocks:
        code = small(shown, tiny_model, refusing_model, references_file)
        if language == "yaml":
            Path("recipe.yaml").write_text(code)
        elif language == "python":
            exec(compile(code, page, "exec"), names)  # the page's blocks go on from one another
        elif language == "console":
            for line in re.findall(r"^\$ (.+)$", code, re.MULTILINE):
                if line.startswith("larf-curate") and not SEARCH.search(line):
                    done = larf(*shlex.split(line, comments=True)[1:])
                    assert done.returncode == 0, f"{line}\n{done.stderr}"
        ran += language in ("python", "console")
    assert ran


def told_by_hand(*arguments: Any, **options: Any) -> Validation:
    """In place of `validate`, which trains: tests/validation has it."""
    inspect.signature(validate).bind(*arguments, **options)
    return made_validation(Path("runs/quickstart"))


def test_every_page_with_something_to_type_is_typed() -> None:
    with_blocks = {
        path.stem
        for path in (ROOT / "docs").glob("*.md")
        if any(language in ("console", "python") for language, _ in FENCED.findall(path.read_text(encoding="utf-8")))
    }
    assert with_blocks - {"architecture"} == {Path(page).stem for page in PAGES[1:]} | NOT_RUN


def test_every_part_of_a_recipe_in_a_page_is_one() -> None:
    """Some pages show one section: it fits into the recipe of the README."""
    whole, *_ = (
        code for language, code in FENCED.findall((ROOT / "README.md").read_text("utf-8")) if language == "yaml"
    )
    shown = 0
    for path in (ROOT / "docs").glob("*.md"):
        for language, code in FENCED.findall(path.read_text(encoding="utf-8")):
            if language == "yaml":
                shown += 1
                Recipe.from_text(code if "source:" in code else whole + code)
    assert shown >= 3


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_python_in_a_page_compiles_and_imports_what_is_public(page: str) -> None:
    for language, code in FENCED.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        if language == "python" and page != "api.md":
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and node.module == "larf_curate":
                    assert {alias.name for alias in node.names} <= set(larf_curate.__all__)


def test_the_notebook_runs_from_top_to_bottom(place: Path) -> None:
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [], "outputs are of one machine and one day: clear them"
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "notebook", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "notebook", "eval"), names))
    scorer = next(value for value in shown if isinstance(value, LARFScorer))
    assert "separation of unseen pairs" in scorer._repr_html_()
    look = names["scorer"].report(names["ds"], names["Threshold"].drop_top(2))
    assert [row.outcome for row in look.rows[:3]] == ["removed", "removed", "kept"]
    scores = sorted(names["ds"]["larf_score"], reverse=True)
    assert [row.score for row in look.rows] == pytest.approx(scores)
    assert look._repr_html_().count("<tr>") == 1 + len(scores)
    assert [names["ds"]["larf_score"][row.row] for row in look.rows] == [row.score for row in look.rows]


def test_what_a_notebook_shows_cannot_act(tiny_scorer: LARFScorer) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    rows = [{"question": hostile, "answer": f"{hostile} {number}"} for number in range(4)]
    look = tiny_scorer.report(Dataset.from_list(rows), larf_curate.Threshold.drop_top(1))
    html = look._repr_html_() + tiny_scorer.annotate(rows)._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "<img" not in html


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
