"""States and losses of many architectures are transformers' own: see `support.architectures` and docs/models.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.architectures import ARCHITECTURES, measure
from support.models import make_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(home)
    return home


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.slow
def test_states_and_losses_are_those_of_one_row_at_a_time(name: str, tmp_path: Path, tokenizer: Path) -> None:
    """After the first, a middle and the last block; cut and whole; packed and padded; in small and large batches."""
    measured = measure(name, tmp_path, tokenizer)
    assert measured.states < 1e-4
    assert measured.scores < 1e-3
    assert measured.losses < 1e-4


def test_the_page_tells_of_every_architecture() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    assert [name for name in ARCHITECTURES if f"| {name} |" not in page] == []
