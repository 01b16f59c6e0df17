"""The house: what an import costs, and which room may know which."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from support.commands import larf
from support.forks import forget, said_in_a_fork
from support.made_runs import MakeRun

import larf_curate
from larf_curate.cli import app

HOME = Path(larf_curate.__file__).parent
HEAVY = {"torch", "transformers", "datasets", "datatrove", "pyarrow", "numpy", "matplotlib", "peft"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules in memory after some code has run in a fresh interpreter."""
    code += "\nimport sys, json; print('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.process
def test_import_costs_nothing():
    assert loaded_by("import larf_curate; larf_curate.__version__; dir(larf_curate)") & HEAVY == set()


@pytest.mark.process
def test_importing_rows_encoding_and_scoring_loads_no_framework():
    found = loaded_by("from larf_curate import LARFScorer, ReferenceSet, Threshold")
    assert found & {"torch", "transformers", "datasets", "datatrove"} == set()


@pytest.mark.process
def test_help_is_quick():
    """That of every command; none of them imports what takes seconds."""
    commands = typer.main.get_command(app).commands
    assert len(commands) > 9
    code = "import sys\nfrom larf_curate.cli import main\n"
    code += f"for arguments in {[['--help'], ['--version'], *([name, '--help'] for name in commands)]}:\n"
    code += "    sys.argv[1:] = arguments\n"
    code += "    try: main()\n    except SystemExit as end: assert not end.code\n"
    assert loaded_by(code) & HEAVY == set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.usefixtures("hub", "blank_pictures")
def test_commands_that_need_no_model_need_no_torch(make_run: MakeRun, tmp_path: Path) -> None:
    """Deciding again, reports, cards and what a bug report needs work where only the scoring machine has torch."""
    run = make_run([{"instruction": f"Ask {n}?", "output": "Do this."} for n in range(40)], [n / 40 for n in range(40)])
    commands: list[list[str]] = [
        ["--help"],
        ["env"],
        ["report", str(run)],
        ["filter", str(run / "kept"), "--drop-top", "3", "--out", str(tmp_path / "again.parquet")],
        ["push", str(run), "--repo", "acme/clean", "--dry-run"],
    ]

    def run_without_torch() -> str:
        forget("larf_curate", "torch", "transformers")
        sys.modules.update(torch=None, transformers=None)  # importing one raises, as if it were not installed
        said = ""
        for command in commands:
            done = larf(*command, cwd=tmp_path)
            assert done.returncode == 0, (command, done.stderr)
            said += done.stdout
        assert sys.modules["larf_curate.cli"].app is not app
        return said

    said = said_in_a_fork(run_without_torch)
    assert "nothing was sent to acme/clean" in said
    assert "huggingface-hub" in said  # `env` has listed the packages


def test_public_names_are_there_with_an_example_each():
    assert set(larf_curate.__all__) >= {"LARFScorer", "ReferenceSet", "Threshold", "score_dataset"}
    for name in larf_curate.__all__:
        assert getattr(larf_curate, name).__name__ == name
        assert ">>> " in (getattr(larf_curate, name).__doc__ or ""), name
    assert dir(larf_curate) == sorted([*larf_curate.__all__, "__version__"])
    with pytest.raises(AttributeError, match="'larf_curate' has no attribute 'Filter'"):
        _ = larf_curate.Filter


# Which room imports which -------------------------------------------------------------------------------------------

FLOW = [
    {"errors", "digests", "inert", "json_fields", "packaged", "safe_yaml"},
    {"atomic", "cache", "progress"},
    {"hub", "typed_records", "written"},
    {"pushing"},
    {"rows", "sources"},
    {"models"},
    {"encoding"},
    {"answering"},
    {"scoring"},
    {"deciding"},
    {"validation"},
    {"engines", "publishing"},
    {"runs", "datatrove"},
    {"recipe"},
    {"console"},
    {"cli"},
    {"__main__"},
]
"""Rooms in the order the data flows: a room knows those before it, never one beside or after it."""
MODULES = [path for path in sorted(HOME.rglob("*.py")) if "data" not in path.parts]


def room(path: Path) -> str:
    return path.relative_to(HOME).parts[0].removesuffix(".py")


@functools.cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Absolute names of what a module imports, and whether that happens as soon as it is imported itself."""
    package = ["larf_curate", *path.relative_to(HOME).parts[:-1]]

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            full = ".".join([*base, *filter(None, [node.module])])
            # `from . import demo` names a module, `from .demo import NAME` names one thing in it: both begin alike
            yield from ((f"{full}.{alias.name}", at_import) for alias in node.names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            at_import = False
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            at_import = False
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.expr):  # an import is a statement, and no expression holds one
                yield from visit(child, at_import)

    return tuple(visit(ast.parse(path.read_text(encoding="utf-8")), at_import=True))


def test_the_reader_of_imports_reads_them():
    """Guards the guard: relative, absolute, nested and type-checking imports are all found."""
    found = dict(imports(HOME / "engines" / "local_files.py"))
    assert found["larf_curate.scoring.scorer.LARFScorer"] is True
    assert found["pyarrow"] is True
    found = dict(imports(HOME / "engines" / "dataset_map.py"))
    assert found["datasets.IterableDataset"] is False
    assert dict(imports(HOME / "models" / "locating.py"))["larf_curate.models.demo"] is True


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) != "__init__"], ids=lambda p: str(p.relative_to(HOME)))
def test_imports_run_one_way(path):
    own = {name.split(".")[1] for name, _ in imports(path) if name.startswith("larf_curate.")}
    before = {
        known for rooms in FLOW[: next(i for i, rooms in enumerate(FLOW) if room(path) in rooms)] for known in rooms
    }
    assert own - {room(path)} - {"__version__"} <= before


def test_every_room_has_its_place():
    assert {room(path) for path in MODULES} - {"__init__"} == set.union(*FLOW), (
        "a new room: say in FLOW where it stands"
    )


def module_name(path: Path) -> str:
    return ".".join(["larf_curate", *path.relative_to(HOME).with_suffix("").parts]).removesuffix(".__init__")


def test_no_file_imports_itself_by_way_of_others():
    """Late and type-only imports count: a circle that works today is one that breaks with the next import."""
    names = {module_name(path): path for path in MODULES if path != HOME / "__init__.py"}
    arrows = {}
    for name, path in names.items():
        wanted = [imported for imported, _ in imports(path)]
        arrows[name] = {full for full in wanted if full in names} | {
            full.rpartition(".")[0] for full in wanted if full.rpartition(".")[0] in names
        }
        arrows[name] -= {name}
    reached = {name: set(found) for name, found in arrows.items()}
    while True:
        more = {name: set.union(found, *(reached[other] for other in found)) for name, found in reached.items()}
        if more == reached:
            break
        reached = more
    assert sorted(name for name, found in reached.items() if name in found) == []


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if room(p) not in ("engines", "runs", "datatrove", "console")],
    ids=lambda p: str(p.relative_to(HOME)),
)
def test_nothing_below_engines_loads_the_engines_libraries(path):
    loaded = {name.split(".")[0] for name, at_import in imports(path) if at_import}
    assert loaded & {"datasets", "datatrove"} == set()


def test_no_module_is_too_long_to_be_read_at_once():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert [str(path.relative_to(HOME)) for path, length in lengths.items() if length > 350] == []


def test_only_the_command_line_prints_tables():
    users = {room(path) for path in MODULES for name, _ in imports(path) if name.split(".")[0] in ("typer", "rich")}
    assert users <= {"cli", "console"}
