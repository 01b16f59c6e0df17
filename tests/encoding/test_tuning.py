"""The size of a batch is measured once, kept, and within what memory is free."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from support.models import SIZES
from support.states import LAYERS, assert_equal_states, encoder_of, full_states, random_rows

from larf_curate.encoding import tuning
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.tuning import batch_tokens_for

MANY = tuning._WORTH  # tokens for which a measurement pays


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "cache"
    monkeypatch.setenv("LARF_CURATE_CACHE", str(home))
    return home


def size_for(encoder: Encoder, tokens: int = MANY) -> int:
    return batch_tokens_for(encoder.runtime, tokens)


def rates(monkeypatch: pytest.MonkeyPatch, known: dict[int, float]) -> list[int]:
    """These instead of measured ones; returns the sizes asked for, as they come."""
    asked: list[int] = []

    def rate(_loaded: object, _forward: object, size: int) -> float:
        asked.append(size)
        if size not in known:
            raise RuntimeError("out of memory")
        return known[size]

    monkeypatch.setattr(tuning, "_rate", rate)
    return asked


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({512: 10.0, 1024: 20.0, 2048: 15.0}, 1024),
        ({512: 10.0, 1024: 20.0, 2048: 30.0}, 2048),
        ({512: 29.9, 1024: 20.0, 2048: 30.0}, 512),  # about as fast, with half the memory
        ({512: 10.0, 1024: 20.0}, 1024),  # the next does not fit
        ({512: 10.0}, 1024),  # nothing to compare with: the default
        ({}, 1024),
    ],
)
def test_the_fastest_is_chosen(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, known: dict[int, float], expected: int
) -> None:
    rates(monkeypatch, known)
    assert size_for(encoder_of(tiny_model)) == expected


def test_it_is_really_measured_and_the_states_stay(tiny_model: Path, cache: Path) -> None:
    encoder = encoder_of(tiny_model)
    rows = random_rows([40] * (MANY // 40 + 1))
    states = encoder.encode(rows, LAYERS)
    [kept] = (cache / "batches").glob("*.json")
    size = json.loads(kept.read_text())["batch_tokens"]
    assert size in tuning._CPU_SIZES
    assert f"batches of up to {size:,} tokens" in states.execution
    assert_equal_states(states.values[:9], full_states(tiny_model, rows[:9]))


def test_a_model_whose_batches_drag_is_not_measured(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    encoder = encoder_of(tiny_model)
    forward = encoder.runtime.forward
    call = type(forward).__call__
    monkeypatch.setattr(type(forward), "__call__", lambda *args: (ran.append(1), call(*args))[1])
    monkeypatch.setattr(tuning, "_LONGEST", 0.0)
    assert size_for(encoder) == tuning._CPU_DEFAULT
    assert len(ran) == 1, "one batch, no more"


def test_it_is_measured_once_for_all_processes(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    asked = rates(monkeypatch, {512: 10.0, 1024: 9.0, 2048: 8.0})
    assert size_for(encoder_of(tiny_model)) == 512
    assert asked == [512, 1024, 2048]
    assert size_for(encoder_of(tiny_model)) == 512
    assert size_for(encoder_of(tiny_model), tokens=10) == 512, "small jobs make the same batches"
    assert len(asked) == 3
    assert size_for(encoder_of(tiny_model, 2)) == 512
    assert len(asked) == 6, "fewer blocks are another model"
    assert len(list((cache / "batches").glob("*.json"))) == 2


def test_processes_wait_for_the_one_that_measures(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    asked: list[int] = []

    def rate(_loaded: object, _forward: object, size: int) -> float:
        asked.append(size)
        begun.set()
        assert go.wait(20)
        return 1.0 / size

    monkeypatch.setattr(tuning, "_rate", rate)
    found: list[int] = []
    encoders = [encoder_of(tiny_model) for _ in range(2)]
    first, second = (threading.Thread(target=lambda e=e: found.append(size_for(e))) for e in encoders)  # type: ignore[misc]
    first.start()
    assert begun.wait(20)
    second.start()
    go.set()
    first.join(20)
    second.join(20)
    assert found == [512, 512]
    assert asked == list(tuning._CPU_SIZES)


def test_small_jobs_and_those_without_a_cache_take_the_default(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    asked = rates(monkeypatch, {512: 10.0, 1024: 9.0})
    assert size_for(encoder_of(tiny_model), MANY - 1) == tuning._CPU_DEFAULT
    cache.write_text("a file where the directory should be")
    assert size_for(encoder_of(tiny_model)) == tuning._CPU_DEFAULT
    assert asked == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"batch_tokens": "9"}', '{"batch_tokens": 0}'])
def test_a_broken_measurement_is_made_again(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, text: str
) -> None:
    asked = rates(monkeypatch, {512: 10.0, 1024: 20.0})
    size_for(encoder_of(tiny_model))
    [kept] = (cache / "batches").glob("*.json")
    kept.write_text(text)
    assert size_for(encoder_of(tiny_model)) == 1024
    assert len(asked) == 6


def test_a_batch_takes_no_more_than_half_of_what_is_free(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_token = 4 * (8 * SIZES["hidden_size"] + 3 * SIZES["intermediate_size"])
    monkeypatch.setattr(tuning, "free_bytes", lambda _: 2 * 100 * a_token * tuning_threads())
    assert size_for(encoder_of(tiny_model), tokens=10) == 100
    asked = rates(monkeypatch, {})
    assert size_for(encoder_of(tiny_model)) == 100
    assert asked == [], "no size fits"


def tuning_threads() -> int:
    import torch

    return torch.get_num_threads()


def test_what_the_user_says_is_not_measured(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> int:
        raise AssertionError

    monkeypatch.setattr("larf_curate.encoding.encoder.batch_tokens_for", never)
    encoder = encoder_of(tiny_model, batch_tokens=77)
    assert "batches of up to 77 tokens" in encoder.encode(random_rows(), LAYERS).execution
