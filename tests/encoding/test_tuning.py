"""The size of a batch is measured once, kept, and within what memory is free."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.models import SIZES
from support.states import LAYERS, assert_equal_states, full_states, random_rows, shared_encoder

from larf_curate.encoding import tuning
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.packing import PackedPass
from larf_curate.encoding.padding import PaddedPass
from larf_curate.encoding.threads import limited_threads
from larf_curate.encoding.tuning import CPU, TuningSettings, best_batch_tokens, measured_rate

MANY = CPU.job_tokens  # tokens for which a measurement pays


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "cache"
    monkeypatch.setenv("LARF_CURATE_CACHE", str(home))
    return home


class Rates:
    """Known rates, by size of the batch, in place of measured ones; other sizes do not fit in memory.

    `asked` has the sizes in the order in which they were asked for.
    """

    def __init__(self, known: dict[int, float]) -> None:
        self.known, self.asked = known, list[int]()

    def __call__(self, _loaded: object, _forward: object, size: int, _seconds: float) -> float:
        self.asked.append(size)
        if size not in self.known:
            raise RuntimeError("out of memory")
        return self.known[size]


def size_for(encoder: Encoder, measure: Callable[..., float | None], tokens: int = MANY, **options: Any) -> int:
    return best_batch_tokens(encoder.runtime, tokens, measure=measure, **options)


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
def test_the_fastest_is_chosen(tiny_model: Path, known: dict[int, float], expected: int) -> None:
    assert size_for(shared_encoder(tiny_model, forward=PaddedPass), Rates(known)) == expected


def test_it_is_really_measured_and_the_states_stay(tiny_model: Path, cache: Path) -> None:
    encoder = shared_encoder(tiny_model)
    rows = random_rows([40] * (MANY // 40 + 1))
    states = encoder.encode(rows, LAYERS)
    [kept] = (cache / "batches").glob("*.json")
    size = json.loads(kept.read_text())["batch_tokens"]
    assert size in CPU.sizes
    assert f"batches of up to {size:,} tokens" in states.execution
    assert_equal_states(states.values[:9], full_states(tiny_model, rows[:9]))


def test_a_model_that_takes_long_for_a_batch_is_not_measured(tiny_model: Path) -> None:
    encoder = shared_encoder(tiny_model)
    ran: list[int] = []
    encoder.loaded.model.register_forward_pre_hook(lambda *_: ran.append(1))
    settings = TuningSettings(CPU.sizes, default=700, batch_seconds=0.0)
    assert best_batch_tokens(encoder.runtime, MANY, settings=settings) == 700
    assert len(ran) == 2, "a shared prefix and one batch, no more"


def test_it_is_measured_once_for_all_processes(tiny_model: Path, cache: Path) -> None:
    rates = Rates({512: 10.0, 1024: 9.0, 2048: 8.0})
    assert size_for(shared_encoder(tiny_model, forward=PaddedPass), rates) == 512
    assert rates.asked == [512, 1024, 2048]
    assert size_for(shared_encoder(tiny_model, forward=PaddedPass), rates) == 512
    small = size_for(shared_encoder(tiny_model, forward=PaddedPass), rates, tokens=10)
    assert small == 512, "small jobs make the same batches"
    assert len(rates.asked) == 3
    assert size_for(shared_encoder(tiny_model, highest=2, forward=PaddedPass), rates) == 512
    assert len(rates.asked) == 6, "fewer blocks are another model"
    for number, other in enumerate(({"dtype": "bfloat16"}, {"forward": PackedPass}), 3):
        assert size_for(shared_encoder(tiny_model, **{"forward": PaddedPass, **other}), rates) == 512
        assert len(rates.asked) == 3 * number, "another precision, or another way to run it"
    assert len(list((cache / "batches").glob("*.json"))) == 4


@pytest.mark.process
def test_a_process_waits_for_the_one_that_measures(tiny_model: Path, tmp_path: Path) -> None:
    """Two processes: the second has begun, and measures nothing while the first does, nor afterwards."""
    log = tmp_path / "log"
    processes = multiprocessing.get_context("fork")
    measured = processes.Semaphore(0)
    runtime = shared_encoder(tiny_model, forward=PaddedPass).runtime

    def note(words: str) -> None:
        with log.open("a") as file:
            file.write(f"{words}\n")

    def measure(_loaded: object, _forward: object, size: int, _seconds: float) -> float:
        note(f"measures {size}")
        assert measured.acquire(timeout=60), "the test says when a measurement ends"
        return 1.0 / size

    def work() -> None:
        note("began")
        note(f"chose {best_batch_tokens(runtime, MANY, measure=measure)}")

    def noted() -> list[str]:
        return log.read_text().split("\n")[:-1] if log.exists() else []

    def wait_for(lines: list[str]) -> None:
        deadline = time.monotonic() + 60
        while noted() != lines:
            assert time.monotonic() < deadline, f"{noted()} instead of {lines}"
            time.sleep(0.01)

    first, second = (processes.Process(target=work, daemon=True) for _ in range(2))
    try:
        first.start()
        wait_for(["began", "measures 512"])
        second.start()
        begun = ["began", "measures 512", "began"]
        wait_for(begun)
        second.join(0.3)
        assert second.is_alive()
        assert noted() == begun, "it waits"
        for _ in CPU.sizes:
            measured.release()
        for process in (first, second):
            process.join(60)
            assert process.exitcode == 0
    finally:
        first.kill()
        second.kill()
    others = [f"measures {size}" for size in CPU.sizes[1:]]
    assert noted() == [*begun, *others, "chose 512", "chose 512"]


def test_small_jobs_and_those_without_a_cache_take_the_default(tiny_model: Path, cache: Path) -> None:
    rates = Rates({512: 10.0, 1024: 9.0})
    assert size_for(shared_encoder(tiny_model, forward=PaddedPass), rates, MANY - 1) == CPU.default
    cache.write_text("a file where the directory should be")
    assert size_for(shared_encoder(tiny_model, forward=PaddedPass), rates) == CPU.default
    assert rates.asked == []


NO_SIZES = ['"9"', "0", "true", "7", "99999999", "1e3"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 5000, *(f'{{"batch_tokens": {size}}}' for size in NO_SIZES)])
def test_a_broken_measurement_is_made_again(tiny_model: Path, cache: Path, text: str) -> None:
    rates = Rates({512: 10.0, 1024: 20.0})
    size_for(shared_encoder(tiny_model, forward=PaddedPass), rates)
    [kept] = (cache / "batches").glob("*.json")
    kept.write_text(text)
    assert size_for(shared_encoder(tiny_model, forward=PaddedPass), rates) == 1024
    assert len(rates.asked) == 6


def test_a_measurement_that_others_may_have_written_is_made_again(tiny_model: Path, cache: Path) -> None:
    rates = Rates({512: 10.0, 1024: 20.0})
    size_for(shared_encoder(tiny_model, forward=PaddedPass), rates)
    [kept] = (cache / "batches").glob("*.json")
    kept.write_text('{"batch_tokens": 512}')
    kept.chmod(0o666)
    assert size_for(shared_encoder(tiny_model, forward=PaddedPass), rates) == 1024
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("threads", [1, 2])
def test_all_batches_at_once_take_no_more_than_half_of_what_is_free(tiny_model: Path, threads: int) -> None:
    a_token = 4 * (8 * SIZES["hidden_size"] + 3 * SIZES["intermediate_size"])
    free = 2 * 100 * a_token * threads
    rates = Rates({})
    with limited_threads(threads):
        assert size_for(shared_encoder(tiny_model, forward=PaddedPass), rates, tokens=10, free_bytes=free) == 100
        assert size_for(shared_encoder(tiny_model, forward=PaddedPass), rates, free_bytes=free) == 100
    assert rates.asked == [], "no size fits"


def test_the_first_batch_is_a_warm_up(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = shared_encoder(tiny_model, forward=PaddedPass)
    times = iter([0.0, 9.0, 10.0, 14.0, 20.0, 22.0])  # three batches, which begin and end then
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert measured_rate(encoder.loaded, encoder.runtime.forward, 512, 60.0) == 256


def test_what_the_user_says_is_not_measured(tiny_model: Path, cache: Path) -> None:
    encoder = shared_encoder(tiny_model, batch_tokens=77)
    states = encoder.encode(random_rows([40] * (MANY // 40 + 1)), [0])
    assert "batches of up to 77 tokens" in states.execution
    assert not (cache / "batches").exists()
