"""What a block does beside its products, compiled for this machine's CPU: `kernels.cpp`, built once, kept in the cache.

torch makes a tensor of every step and passes over it; the compiled loops keep what they work on in the core's cache and
take half the time. They need a C++ compiler, are checked against torch when they are loaded, and left out where they
differ. All of them compute in float32, and give the same bits on any number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..atomic import scratch_path
from ..cache import cache_directory, register
from ..errors import OutputError

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

_SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_SECONDS = 120  # a compiler that takes longer hangs
_COUNT, _AT = ctypes.c_int64, ctypes.c_void_p


class Loops:
    """What was compiled, to be had from `suiting`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        library.larf_attend.argtypes = [*[_AT] * 5, *[_COUNT] * 5, ctypes.c_float, _COUNT, _COUNT]
        library.larf_norm.argtypes = [*[_AT] * 3, _COUNT, ctypes.c_float, _COUNT, _COUNT]
        library.larf_rotate.argtypes = [*[_AT] * 3, *[_COUNT] * 4]
        library.larf_gate.argtypes = [*[_AT] * 2, *[_COUNT] * 3]
        self.lanes: int = library.larf_lanes()
        self._library = library

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, before: int, scale: float
    ) -> torch.Tensor:
        """softmax(scale query key') value, each row causally behind `before` tokens that all rows see.

        Computed in float32, whatever the precision of the query, in which the result comes.

        Args:
            query: [tokens, heads, size], the rows end to end.
            key, value: [before + tokens, fewer heads, size].
            ends: where each row ends in the tokens, int64 [rows].

        Raises:
            MemoryError: no room for the scores of a few queries.
        """
        import torch

        precision = query.dtype
        query, key, value = (x.float().contiguous() for x in (query, key, value))
        ends, out = ends.contiguous(), torch.empty_like(query)
        (rows, (heads, size), kept) = len(ends), query.shape[1:], key.shape[1]
        places = [x.data_ptr() for x in (query, key, value, out, ends)]
        sizes = rows, before, heads, kept, size, scale
        if any(_spread(rows * kept, lambda first, stop: self._library.larf_attend(*places, *sizes, first, stop))):
            raise MemoryError("attention")
        return out.to(precision)

    def normed(self, states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Root mean square normalisation of float32 [..., size]."""
        import torch

        states, weight = states.contiguous(), weight.float().contiguous()
        out, size = torch.empty_like(states), states.shape[-1]
        places = states.data_ptr(), weight.data_ptr(), out.data_ptr()
        _spread(
            states.numel() // size, lambda first, stop: self._library.larf_norm(*places, size, epsilon, first, stop)
        )
        return out

    def rotate_(self, states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
        """Rotary positions of contiguous float32 [tokens, heads, size], in place; cosines and sines [tokens, size]."""
        cosines, sines = cosines.float().contiguous(), sines.float().contiguous()
        places = states.data_ptr(), cosines.data_ptr(), sines.data_ptr()
        tokens, *sizes = states.shape
        _spread(tokens, lambda first, stop: self._library.larf_rotate(*places, *sizes, first, stop))
        return states

    def gate_(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """SiLU of the contiguous float32 gate [rows, size] times `up`, in place."""
        up = up.float().contiguous()
        places, (rows, size) = (gate.data_ptr(), up.data_ptr()), gate.shape
        _spread(rows, lambda first, stop: self._library.larf_gate(*places, size, first, stop))
        return gate

    def agree(self) -> bool:
        """Whether they find what torch finds."""
        import torch

        lanes, draw = self.lanes, torch.Generator().manual_seed(0)
        before, own, size = 5, 70, 2 * lanes
        query = torch.randn(before + own, 4, size, generator=draw)
        key, value = torch.randn(2, before + own, 2, size, generator=draw)
        asked, keys, values = (x.transpose(0, 1)[None] for x in (query, key, value))
        whole = torch.nn.functional.scaled_dot_product_attention(asked, keys, values, is_causal=True, enable_gqa=True)
        up, (cosines, sines) = query[:, 0], query[:, 1:3].unbind(1)
        halves = torch.cat([-key[..., lanes:], key[..., :lanes]], dim=-1)
        answers = self.attend(query[before:], key, value, torch.tensor([own]), before, size**-0.5)
        pairs = (
            (answers, whole[0, :, before:].transpose(0, 1)),
            (self.normed(query, up[0], 1e-5), torch.nn.functional.rms_norm(query, (size,), up[0], 1e-5)),
            (self.rotate_(key.clone(), cosines, sines), key * cosines[:, None] + halves * sines[:, None]),
            (self.gate_(key[:, 0].clone(), up), torch.nn.functional.silu(key[:, 0]) * up),
        )
        return all(torch.allclose(found, wanted, rtol=0, atol=1e-5) for found, wanted in pairs)


def suiting(states: torch.Tensor, size: int, *, any_precision: bool = False) -> Loops | None:
    """The compiled loops, where they are there and take such states, in steps of `size`.

    `any_precision`: of float32 made of them too, which pays in attention alone.
    """
    import torch

    if states.device.type != "cpu" or not (any_precision or states.dtype == torch.float32):
        return None
    loops = load()
    return loops if loops is not None and size > 0 and size % loops.lanes == 0 else None


@functools.cache
def load() -> Loops | None:
    """The compiled loops; None without a compiler, with `LARF_CURATE_COMPILE=0`, or where they differ from torch."""
    if os.environ.get("LARF_CURATE_COMPILE") == "0":
        return None
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        loops = Loops(ctypes.CDLL(str(_built(compiler))))
        return loops if loops.agree() else None
    except (OSError, OutputError, AttributeError, subprocess.SubprocessError):
        return None


register(load.cache_clear)


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def _built(compiler: str) -> Path:
    """The shared library of this source, compiler and processor; made if it is not there."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=_SECONDS).stdout
    source = _SOURCE.read_bytes()
    made_of = repr((source, compiler, version, _FLAGS, _processor()))
    place = cache_directory() / "kernels" / f"{hashlib.sha256(made_of.encode()).hexdigest()[:24]}.so"
    if not place.is_file():
        with scratch_path(place, directory=False) as scratch:
            command = [compiler, *_FLAGS, "-fPIC", "-shared", str(_SOURCE), "-o", str(scratch)]
            subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS)
            scratch.replace(place)
    return place


def _processor() -> str:
    """What the code is compiled for: a home that machines share must not hand one the instructions of another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
    return f"{platform.system()} {platform.machine()} {flags}"


def _spread(count: int, run: Callable[[int, int], Result]) -> list[Result]:
    """What `run` gives for the parts of so many pieces of work, one for each of torch's threads."""
    import torch

    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        return [run(0, count)]
    starts = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads, "larf-kernel") as pool:
        return list(pool.map(run, starts[:-1], starts[1:]))
