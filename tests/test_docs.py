"""The documents say what is there: generated parts, links, snippets, options, versions, names of other libraries."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from support.visits import files_visited
from test_package import FLOW
from typer.testing import CliRunner

import larf_curate
from larf_curate import LARFScorer
from larf_curate.cli import app
from larf_curate.rows.formats import FORMATS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """Markdown without its code: what looks like a link in there is none."""
    return re.sub(r"`[^`\n]*`", "", FENCED.sub("", text))


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_those_of_the_code(generate: ModuleType) -> None:
    assert [path.name for path in generate.stale()] == [], "run: python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(target)
    assert dead == []


PYTHON = [code for language, code in FENCED.findall(README) if language == "python"]


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_in_the_readme_compiles_and_imports_what_is_there(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("larf_curate"):
            module = importlib.import_module(str(node.module))
            assert {alias.name for alias in node.names} <= set(module.__all__)


def test_the_pages_tell_of_every_row_format() -> None:
    section = (ROOT / "docs" / "rows.md").read_text(encoding="utf-8")
    for row_format in FORMATS.values():
        line = next(line for line in section.splitlines() if f"`{row_format.name}`" in line)
        assert all(f"`{column}`" in line for column in row_format.required)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """Written as `scoring/formulas.py`, from the top of the package or of the repository."""
    named = set(re.findall(r"`([\w./-]+/[\w-]+\.(?:py|cpp|jinja|ya?ml))`", page.read_text(encoding="utf-8")))
    homes = (ROOT, ROOT / "larf_curate")
    assert [name for name in sorted(named) if not any((home / name).is_file() for home in homes)] == []


def help_of(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    return result.output


def test_every_command_and_option_is_named_in_the_pages() -> None:
    """By what `--help` prints, not by how docs/generate.py reads the code."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.parent.name == "docs")
    commands = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(commands) >= 8
    for command in commands:
        assert f"larf-curate {command} " in pages
        section = pages.partition(f"## larf-curate {command}\n")[2].partition("\n## ")[0]
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", help_of(command))) - {"--help"}
        assert options, f"no option of {command} was found in its help"
        assert options - set(re.findall(r"--[a-z][a-z-]+", section)) == set(), command


def part_of_architecture(heading: str) -> str:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_the_order_of_rooms_is_the_one_that_is_tested() -> None:
    lines = re.findall(r"^    (\S.*)$", part_of_architecture("Why imports run one way"), re.MULTILINE)
    assert [set(line.split(", ")) for line in reversed(lines)] == FLOW


LIVES = {
    "The life of a row": ["score", "rows.jsonl", "--scorer", "my-scorer", "--out", "scored.parquet"],
    "The life of a run": ["run", "recipe.yaml"],
}


@pytest.mark.parametrize("heading", LIVES)
@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.slow
def test_a_life_is_told_with_every_file_that_it_comes_to(
    heading: str, tiny_scorer: LARFScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the command that the page shows, and compares the files that it names with those that were come to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LARF_CURATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LARF_CURATE_COMPILE", "0")
    rows = [{"instruction": f"Say {number}.", "output": f"{number} it is."} for number in range(20)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_scorer.save_pretrained("my-scorer")
    Path("recipe.yaml").write_text(
        "source: {path: rows.jsonl}\nscorer: {from: my-scorer}\nthreshold: {drop_top: 3}\noutput: run\n"
    )
    larf_curate.clear_caches()
    for module in pkgutil.walk_packages(larf_curate.__path__, "larf_curate."):  # calls while a module is imported
        importlib.import_module(module.name)  # are not part of a life, whichever test imports it first

    def run() -> None:
        assert CliRunner().invoke(app, LIVES[heading]).exit_code == 0

    part = part_of_architecture(heading)
    command, told = FENCED.search(part), FENCED.sub("", part)
    assert command is not None
    assert command[2] == f"$ larf-curate {' '.join(LIVES[heading])}\n"
    not_come_to = {"publishing/publication.py", "publishing/card.py", "publishing/push_run.py"}  # the page says so
    named = set(re.findall(r"`([\w/]+\.py)`", told)) - not_come_to
    visited = {name for name in files_visited(run) if "/" in name or name == "console.py"}
    assert named == visited, (
        f"docs/architecture.md, {heading}: not told of {sorted(visited - named)}, not come to {sorted(named - visited)}"
    )


def test_the_version_is_one() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert citation["version"] == newest[1] == larf_curate.__version__


def test_the_interfaces_of_others_that_contributing_lists_are_where_it_says() -> None:
    """A line for something that is gone would keep an upper bound alive for nothing."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Other libraries' private interfaces\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 10
    for _, names, files, _ in rows:
        sources = [
            (ROOT / "larf_curate" / name).read_text(encoding="utf-8") for name in re.findall(r"`([^`]+)`", files)
        ]
        for name in re.findall(r"`([^`]+)`", names):
            assert any(name in source for source in sources), f"{name} is not in {files.strip()}"


def test_actions_are_pinned_to_commits() -> None:
    workflows = (ROOT / ".github" / "workflows").glob("*.yml")
    used = [line for path in workflows for line in re.findall(r"uses: (.+)", path.read_text(encoding="utf-8"))]
    assert used
    assert [line for line in used if not re.fullmatch(r"\./\S+|[\w./-]+@[0-9a-f]{40} # v[\d.]+", line)] == []


@pytest.mark.slow
def test_private_names_of_others_are_all_listed_in_contributing() -> None:
    """Names with an underscore that the package uses and does not define."""
    defined = {"_exit"}  # of os, which documents it
    used: dict[str, Path] = {}
    for path in (ROOT / "larf_curate").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                own = isinstance(node, ast.Name) or getattr(node.value, "id", "") in ("self", "cls")
                defined |= {node.id if isinstance(node, ast.Name) else node.attr} if own else set()
            if isinstance(node, ast.Attribute):
                used[node.attr] = path
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
                used |= {one.value: path for one in node.args[1:2] if isinstance(one, ast.Constant)}
    private = {name: path for name, path in used.items() if re.match("_[a-z]", name) and name not in defined}
    assert len(private) >= 3, "this test finds nothing any more"
    listed = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert {name: path.name for name, path in private.items() if f"`{name}`" not in listed} == {}


NEED_A_MODEL = {"LARFScorer", "audit", "find_safety_layers", "score_dataset", "validate"}


@pytest.mark.parametrize("name", larf_curate.__all__)
def test_every_public_name_has_an_example(name: str) -> None:
    """Doctest runs them, but for those of names that can do nothing without a model; these say so."""
    described = inspect.getdoc(getattr(larf_curate, name)) or ""
    examples = doctest.DocTestParser().get_examples(described)
    assert examples != []
    for example in examples:
        ast.parse(example.source)
    runs = any(ast.parse(example.source).body and not example.options.get(doctest.SKIP) for example in examples)
    assert runs != (name in NEED_A_MODEL)
    assert ("Not run by doctest" in described) == (name in NEED_A_MODEL)


@pytest.mark.parametrize("path", sorted((ROOT / "larf_curate").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_arguments_that_a_docstring_tells_of_are_those_of_the_function(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)) if "Args:\n" in text else ():
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        _, _, told = (ast.get_docstring(node) or "").partition("\nArgs:\n")
        told = re.split(r"\n\S", told)[0]  # up to the next section
        named = re.findall(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*):", told, re.MULTILINE)
        arguments = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
        assert {name.strip(" *") for names in named for name in names.split(",")} <= arguments, node.name
