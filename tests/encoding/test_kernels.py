"""Compiled kernels against torch's own functions, and how the library gets by without a compiler."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from larf_curate.encoding import kernels

pytestmark = pytest.mark.process  # the compiler's
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.fixture
def quick_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a compiler that does not optimise, which takes most of its time: the last level counts."""
    monkeypatch.setenv("LARF_CURATE_CACHE", str(tmp_path / "cache"))
    quick = tmp_path / "c++"
    quick.write_text(f'#!/bin/sh\nexec {shutil.which("c++")} "$@" -O0\n')
    quick.chmod(0o755)
    monkeypatch.setenv("CXX", str(quick))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels are looked for anew. Those of the tests' common cache are as good as new ones."""
    monkeypatch.delenv("LARF_CURATE_COMPILE", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    forget()
    yield
    forget()


def forget() -> None:
    kernels.load.cache_clear()


def compiled() -> kernels.Kernels:
    found = kernels.load()
    assert found is not None
    return found


def random_rows(lengths: list[int], prefix: int, heads: int, key_heads: int, size: int) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(sum(lengths))
    tokens = sum(lengths)
    query = torch.randn(tokens, heads, size, generator=draw)
    key, value = (torch.randn(prefix + tokens, key_heads, size, generator=draw) for _ in range(2))
    return query, key, value, torch.tensor(lengths).cumsum(0)


@needs_compiler
@pytest.mark.parametrize(
    ("lengths", "prefix", "heads", "key_heads", "size"),
    [
        ([1], 0, 1, 1, 16),
        ([1, 2, 3, 16, 17], 0, 4, 2, 48),
        ([63, 64, 65, 200], 24, 9, 3, 64),
        ([5, 5], 130, 8, 1, 80),
        ([40, 1], 64, 100, 2, 32),
        ([900], 1, 2, 2, 128),
    ],
)
def test_every_row_attends_as_in_torch_by_itself(
    lengths: list[int], prefix: int, heads: int, key_heads: int, size: int
) -> None:
    query, key, value, ends = random_rows(lengths, prefix, heads, key_heads, size)
    assert kernels.kernels_for(query, size) is not None
    found = compiled().attend(query, key, value, ends, prefix, 0.2)
    for start, end in zip([0, *ends.tolist()], ends.tolist(), strict=False):
        own = [torch.cat([x[:prefix], x[prefix + start : prefix + end]]).double() for x in (key, value)]
        scores = torch.einsum(
            "qhd,khd->hqk", query[start:end].double(), own[0].repeat_interleave(heads // key_heads, 1)
        )
        unseen = torch.ones(scores.shape[1:], dtype=torch.bool).triu(prefix + 1)
        weights = (scores * 0.2).masked_fill(unseen, float("-inf")).softmax(-1)
        wanted = torch.einsum("hqk,khd->qhd", weights, own[1].repeat_interleave(heads // key_heads, 1))
        torch.testing.assert_close(found[start:end].double(), wanted, rtol=0, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 3])
def test_norms_rotation_and_gate(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    draw = torch.Generator().manual_seed(0)
    states, weight = torch.randn(7, 3, 64, generator=draw) * 5, torch.randn(64, generator=draw)
    wanted = torch.nn.functional.rms_norm(states.double(), (64,), weight.double(), 1e-5)
    torch.testing.assert_close(compiled().rms_norm(states, weight, 1e-5).double(), wanted, rtol=1e-6, atol=1e-6)
    halved = weight.bfloat16()
    assert torch.equal(compiled().rms_norm(states, halved, 1e-5), compiled().rms_norm(states, halved.float(), 1e-5))

    cosines, sines = torch.randn(2, 7, 64, generator=draw)
    halves = torch.cat([-states[..., 32:], states[..., :32]], dim=-1)
    wanted = states * cosines[:, None] + halves * sines[:, None]
    torch.testing.assert_close(compiled().rotate_(states.clone(), cosines, sines), wanted, rtol=1e-6, atol=1e-5)

    gate, up = torch.randn(2, 7, 192, generator=draw) * 30
    gate[0, :4] = torch.tensor([float("nan"), 1e4, -1e4, 0.0])
    wanted = torch.nn.functional.silu(gate.double()) * up.double()
    found = compiled().silu_mul_(gate, up)
    assert found is gate
    torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=1e-30, equal_nan=True)


@needs_compiler
def test_large_scores_and_views_of_other_tensors() -> None:
    query, key, value, ends = random_rows([30, 7], 9, 4, 2, 32)
    views = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (query * 40, key, value)]
    found = compiled().attend(*views, ends, 9, 1.0)  # type: ignore[misc]
    assert torch.equal(found, compiled().attend(query * 40, key, value, ends, 9, 1.0))
    keys, values = (torch.cat([x[:9], x[39:]]).repeat_interleave(2, 1).transpose(0, 1)[None] for x in (key, value))
    last = (query * 40)[-1][None, :, None]
    wanted = torch.nn.functional.scaled_dot_product_attention(last, keys, values, scale=1.0)[0, :, 0]
    torch.testing.assert_close(found[-1], wanted, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_half_the_precision_is_lost_in_what_is_given_alone() -> None:
    query, key, value, ends = random_rows([30, 7], 9, 4, 2, 32)
    rounded = [x.bfloat16() for x in (query, key, value)]
    found = compiled().attend(*rounded, ends, 9, 0.2)  # type: ignore[misc]
    assert found.dtype == torch.bfloat16
    exact = compiled().attend(*(x.float() for x in rounded), ends, 9, 0.2)  # type: ignore[misc]
    assert torch.equal(found, exact.bfloat16())


@needs_compiler
def test_what_is_not_finite_stays_in_its_row_and_is_seen_there() -> None:
    query, key, value, ends = random_rows([20, 30], 4, 2, 2, 32)
    clean = compiled().attend(query, key, value, ends, 4, 0.2)
    key[4 + 10] = float("nan")
    found = compiled().attend(query, key, value, ends, 4, 0.2)
    assert torch.isnan(found[10:20]).all()
    assert torch.equal(found[:10], clean[:10])
    assert torch.equal(found[20:], clean[20:])


@needs_compiler
def test_the_same_bits_on_any_number_of_threads() -> None:
    query, key, value, ends = random_rows([50, 41, 7], 12, 6, 3, 64)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(compiled().attend(query, key, value, ends, 12, 0.2))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_compiler
def test_it_is_built_once(tmp_path: Path, quick_compiler: None) -> None:
    assert kernels.load() is not None
    (built,) = (tmp_path / "cache" / "kernels").iterdir()
    written = built.stat().st_mtime_ns
    forget()
    assert kernels.load() is not None
    assert [path.stat().st_mtime_ns for path in built.parent.iterdir()] == [written]
    assert kernels.compiled(kernels.SOURCE, processor="another") is not None
    assert len(list(built.parent.iterdir())) == 2, "code for another processor lies beside it"


@needs_compiler
def test_states_of_another_kind_are_not_taken() -> None:
    query = torch.randn(3, 2, 32)
    assert kernels.kernels_for(query, 32) is not None
    assert kernels.kernels_for(query.half(), 32) is None
    assert kernels.kernels_for(query.half(), 32, any_precision=True) is not None
    assert kernels.kernels_for(query, 31) is None
    assert kernels.kernels_for(query, 0) is None


@pytest.mark.parametrize(
    ("name", "value"), [("LARF_CURATE_COMPILE", "0"), ("CXX", "no-such-compiler"), ("CXX", "false")]
)
def test_without_a_compiler_torch_attends(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert kernels.load() is None
    assert kernels.kernels_for(torch.randn(3, 2, 32), 32) is None


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("1.0f / 24", "1.0f / 20"),
        ("sum / size + epsilon", "sum / size + 1"),
        ("x * load(cosine + d) - y", "x * load(cosine + d) + y"),
        ("1.0f + exponential(-x)", "1.0f + exponential(x)"),
    ],
)
def test_kernels_that_differ_from_torch_are_not_used(
    tmp_path: Path, quick_compiler: None, right: str, wrong: str
) -> None:
    """Those of the same compiler that do not differ are used: `test_it_is_built_once`."""
    source = tmp_path / "kernels.cpp"
    text = kernels.SOURCE.read_text(encoding="utf-8")
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong), encoding="utf-8")
    assert kernels.compiled(source) is None


def test_a_cache_that_cannot_be_written_costs_speed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LARF_CURATE_CACHE", str(tmp_path / "file"))
    assert kernels.load() is None
