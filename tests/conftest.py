"""What all tests share: settings of their process, markers, a Hub on loopback, tiny random models, the demo model."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from support.hub import GOOD_TOKEN, empty, serve_for_tests
from support.loopback_hub import Hub
from support.models import WIDE, made_once, make_model, make_refusing_model

# Before numpy, torch and the Hub's client are imported, which read these once. So nothing above may import them: with
# two threads in each of two processes, a product of small matrices takes ten times as long.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# As it is imported, bitsandbytes (which peft and trl import) has torch compile functions of its own that no test calls.
# That would load all of torch's compiler: two seconds in each process.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many test processes as cores: each has one, and so have its children
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OMP_WAIT_POLICY"] = "passive"  # where a test wants two: a thread that waits would keep a core busy
HUB_HOME = Path(tempfile.mkdtemp(prefix="larf-tests-hf-"))
HUB = serve_for_tests(HUB_HOME)
atexit.register(shutil.rmtree, HUB_HOME, ignore_errors=True)
# Each test process has a Hub of its own, and files from it. They share our cache, so that the demo model is fetched and
# unpacked once. The first process makes it, and those that it starts find its name in their environment.
if "LARF_TESTS_CACHE" not in os.environ:
    os.environ["LARF_TESTS_CACHE"] = tempfile.mkdtemp(prefix="larf-tests-cache-")
    atexit.register(shutil.rmtree, os.environ["LARF_TESTS_CACHE"], ignore_errors=True)
(HUB_HOME / "larf_curate").symlink_to(os.environ["LARF_TESTS_CACHE"])
# So do they the models that are trained before they are of use.
if "LARF_TESTS_MODELS" not in os.environ:
    os.environ["LARF_TESTS_MODELS"] = tempfile.mkdtemp(prefix="larf-tests-models-")
    atexit.register(shutil.rmtree, os.environ["LARF_TESTS_MODELS"], ignore_errors=True)
# Else each of the dozens of processes that tests start would compile what it imports, which takes seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session", autouse=True)
def own_reference_states(tmp_path_factory: pytest.TempPathFactory):
    """Fits of this session share states with each other, not with what an earlier version has left in the cache."""
    from larf_curate.scoring import reference_states

    home = tmp_path_factory.mktemp("reference-states")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_states, "directories", lambda: [home])
        yield home


@pytest.fixture(scope="session", autouse=True)
def loguru_asks_once():
    """It asks for Python's directories at each of the three handlers of a task of datatrove: 5 ms each."""
    from loguru._better_exceptions import ExceptionFormatter

    directories = ExceptionFormatter._get_lib_dirs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExceptionFormatter, "_get_lib_dirs", staticmethod(lambda: directories))
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random 5-block Llama of hidden size 48."""
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def refusing_model() -> Path:
    """The directory of a tiny model that refuses harmful requests; see `support.models.make_refusing_model`."""
    return made_once("refusing", make_refusing_model)


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in sizes that can be quantised to 4 bits; skips where bitsandbytes is not installed."""
    pytest.importorskip("bitsandbytes", reason="8 and 4 bits need larf-curate[quant]")
    from transformers import LlamaConfig

    return make_model(tmp_path_factory.mktemp("wide"), LlamaConfig(**WIDE))


@pytest.fixture(scope="session")
def references_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short pairs in one JSONL file, so that fitting a tiny model takes no time."""
    import json

    path = tmp_path_factory.mktemp("references") / "pairs.jsonl"
    topics = ["a lock", "a bank", "a rumour", "a letter", "a badge", "a diploma", "a vote", "a camera"]
    rows = [
        {
            "request": f"How do I fake {topic}?",
            "unsafe": f"Sure, plan {topic} well and do it.",
            "safe": f"I can't help fake {topic} at all.",
        }
        for topic in topics
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def tiny_scorer(tiny_model: Path, references_file: Path):
    """A scorer fitted on the tiny model at blocks 1 and 3."""
    from larf_curate import LARFScorer

    return LARFScorer.fit(str(tiny_model), [1, 3], references=references_file)


@pytest.fixture(scope="module")
def no_row_is_run():
    """Scorers give each row a score that its tokens alone decide, and run no row through their model.

    For files whose tests look at what becomes of rows and their scores, and not at the scores; see
    `support.models.states_of_tokens`.
    """
    from support.models import states_of_tokens

    with states_of_tokens():
        yield


@pytest.fixture
def short_sample():
    """Fits of `influence` find how well their rank does on 12 short rows, not on 48 that take two seconds."""
    from support.models import short_sample_rows

    with short_sample_rows():
        yield


@pytest.fixture(scope="session")
def influence_scorer(refusing_model: Path):
    """A scorer of `influence` fitted on the model that refuses, with `support.models.HARMFUL_PROMPTS`."""
    from support.models import HARMFUL_PROMPTS, short_sample_rows

    from larf_curate import LARFScorer

    with short_sample_rows():
        return LARFScorer.fit(str(refusing_model), formula="influence", prompts=HARMFUL_PROMPTS, progress=False)


@pytest.fixture(scope="session")
def demo_scorer(own_reference_states):
    """The embedded demo model at the recommended block, fitted on the states that come with the package.

    `test_reference_states.py` encodes some of them anew, and `test_parity.py` has others from transformers.
    """
    from larf_curate import LARFScorer
    from larf_curate.models import demo
    from larf_curate.scoring import reference_states

    packaged = Path(reference_states.__file__).parents[1] / "data" / "reference_states"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_states, "directories", lambda: [own_reference_states, packaged])
        return LARFScorer.fit("demo", demo.LAYER)


@pytest.fixture(scope="session")
def loopback() -> Hub:
    """The Hub that clients in this process and its children talk to, as the last test has left it."""
    return HUB


@pytest.fixture
def hub(loopback: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The same, emptied, with a token that may write."""
    empty(loopback)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    return loopback


@pytest.fixture
def make_run(tmp_path: Path):
    """See `support.made_runs.run_maker`."""
    from support.made_runs import run_maker

    return run_maker(tmp_path)


@pytest.fixture(scope="session")
def made_plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run of plain rows, made once; `plain_run` copies it."""
    from support.made_runs import run_maker, sample_rows

    return run_maker(tmp_path_factory.mktemp("plain"))(*sample_rows()).parent


@pytest.fixture
def plain_run(made_plain_run: Path, tmp_path: Path) -> Path:
    """What `make_run(*sample_rows())` leaves in `tmp_path`, in a fraction of the time."""
    shutil.copytree(made_plain_run, tmp_path, dirs_exist_ok=True)
    summary = tmp_path / "run" / "larf_summary.json"
    summary.write_text(summary.read_text().replace(str(made_plain_run), str(tmp_path)))
    return tmp_path / "run"


@pytest.fixture(scope="session")
def blank_pictures_so_far() -> list[object]:
    """What `plots._drawn` is where pictures are blank: nobody else gets these."""
    return []


@pytest.fixture
def blank_pictures(blank_pictures_so_far: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """PNG files with nothing in them, for tests that do not look at pictures: to draw those of a run takes a second.

    Our code draws as ever, on figures that take everything.
    """
    from unittest.mock import MagicMock

    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from larf_curate.publishing import plots

    # Signed as `png_of` signs, and as large as a small picture, for tests that ask for that.
    blank = b"\x89PNG\r\n\x1a\n" + b"Software\0larf-curate" + b"blank" * 300
    monkeypatch.setattr(plots, "_drawn", blank_pictures_so_far)
    monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda _, out, **__: out.write(blank))
    figure, axes = MagicMock(), MagicMock()
    figure.subplots = lambda count, **_: np.array([[axes, None]] * count, object)
    monkeypatch.setattr("matplotlib.figure.Figure", lambda **_: figure)


collect_ignore_glob = ["*conftest.py"]
"""As modules with examples: where several directories are named on the command line, two would have one name."""
MARKED_FIXTURES = {"demo_scorer": "demo"}
"""Fixtures that take long to make, and the marker that their tests get by themselves."""
LONGEST_FILES = (
    "models/test_demo_aligned.py",
    "runs/test_driver.py",
    "scoring/test_scorer.py",
    "test_cli.py",
    "runs/test_pools.py",
    "encoding/test_architectures.py",
    "models/test_quantising.py",
    "validation/test_audit.py",
    "scoring/test_parity.py",
    "validation/test_training.py",
    "validation/test_remedies.py",
    "publishing/test_inert.py",
    "security/test_kills.py",
    "encoding/test_packing.py",
    "engines/test_dataset_formats.py",
    "scoring/layer_search/test_search.py",
    "answering/test_generating.py",
    "runs/test_changed_sources.py",
    "scoring/test_reference_states.py",
    "engines/test_datatrove_steps.py",
    "encoding/test_encoder.py",
    "scoring/test_influence.py",
    "answering/test_judges.py",
)
"""Those that take six seconds or more, the longest first; of the first two, one alone waits for the demo model."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses the demo model; and where tests are distributed over processes, begin with the longest files.

    `--dist loadfile` keeps a file in one process, so that what its tests share is made once. Files are handed out in
    order. If a file that takes a minute came last, one worker would be at work on it alone.
    """
    for item in items:
        for fixture in set(MARKED_FIXTURES).intersection(getattr(item, "fixturenames", ())):
            item.add_marker(MARKED_FIXTURES[fixture])
    if "PYTEST_XDIST_WORKER" in os.environ:
        home = Path(__file__).parent
        place = {home / name: number for number, name in enumerate(LONGEST_FILES)}
        assert all(path.is_file() for path in place), "LONGEST_FILES names a file that is gone"
        items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Collect no garbage until all test files are imported: see `pytest_collection_finish`."""
    if isinstance(collector, pytest.Session):
        gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let garbage collections pass over all that collecting has imported, torch above all: see `_pass_over_modules`."""
    gc.enable()
    _pass_over_modules()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport() -> None:
    """The same for what a test or its fixtures have imported late: transformers' models, trl and peft."""
    if len(sys.modules) > _passed_over[0] + 100:
        gc.collect()  # else what nothing refers to any more would stay too
        _pass_over_modules()


_passed_over = [0]
"""How many modules were imported when collections were last told to pass over what there is."""


def _pass_over_modules() -> None:
    """Let garbage collections pass over all that there is now: of it, modules are by far the most.

    They stay until the process ends. Walking through them takes two tenths of a second, which importing would do again
    and again, and so would each training, each release of a model's memory, and each batch that runs out of memory.
    """
    gc.freeze()
    _passed_over[0] = len(sys.modules)
