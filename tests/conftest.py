"""Models and scorers that tests share: tiny random ones built from a config, and the embedded demo model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.models import WIDE, make_model

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random 5-block Llama of hidden size 48."""
    return make_model(tmp_path_factory.mktemp("tiny"))


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


@pytest.fixture(scope="session")
def demo_scorer():
    """The packaged references on the embedded demo model at the recommended block: about a minute, once."""
    from larf_curate import LARFScorer
    from larf_curate.cli import DEMO_LAYER

    return LARFScorer.fit("demo", DEMO_LAYER)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A Hub on loopback. Run its client in a subprocess: the client reads its settings when it is imported."""
    from support.loopback_hub import serve

    with serve() as server:
        yield server


@pytest.fixture
def hub_environment(hub, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The environment of a client of `hub`, with an empty cache; `token=None` for none."""

    def environment(token: str | None = "hf_good") -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        extra = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        return {**plain, **extra, **({"HF_TOKEN": token} if token else {})}

    return environment


@pytest.fixture
def make_run(tmp_path: Path):
    """See `support.made_runs.run_maker`."""
    from support.made_runs import run_maker

    return run_maker(tmp_path)


@pytest.fixture
def plain_run(make_run):
    from support.made_runs import sample_rows

    return make_run(*sample_rows())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest last: whatever else is wrong shows first."""
    items.sort(key=lambda item: item.name == "test_the_demo")
