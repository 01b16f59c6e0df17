"""Attention compiled for this machine's CPU where it has a C++ compiler: `kernels.cpp`, built once, kept in the cache.

torch makes tensors of the scores and passes over them a few times; the compiled loop keeps them in the core's cache and
takes half the time. It is checked against torch's own attention when it is loaded, and left out where it differs.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import scratch_path
from ..errors import OutputError
from .demo import cache_directory

if TYPE_CHECKING:
    import torch

_SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_SECONDS = 120  # a compiler that takes longer hangs
_COUNT, _AT = ctypes.c_int64, ctypes.c_void_p


def suits(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether the compiled loop is there and takes these heads [tokens, heads, size]."""
    import torch

    if query.device.type != "cpu" or query.dtype != torch.float32 or key.dtype != torch.float32:
        return False
    library = load()
    return library is not None and query.shape[2] == key.shape[2] and query.shape[2] % library.larf_lanes() == 0


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, before: int, scale: float
) -> torch.Tensor:
    """softmax(scale query key') value, each row causally behind `before` tokens that all rows see; float32.

    The same bits on any number of threads.

    Args:
        query: [tokens, heads, size], the rows end to end.
        key, value: [before + tokens, fewer heads, size].
        ends: where each row ends in the tokens, int64 [rows].

    Raises:
        MemoryError: no room for the scores of a few queries.
    """
    library = load()
    if library is None:
        raise RuntimeError("no compiled attention on this machine")
    return _attend(library, query, key, value, ends, before, scale)


@functools.cache
def load() -> ctypes.CDLL | None:
    """The compiled loops; None without a compiler, with `LARF_CURATE_COMPILE=0`, or where they differ from torch."""
    if os.environ.get("LARF_CURATE_COMPILE") == "0":
        return None
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        library = ctypes.CDLL(str(_built(compiler)))
        library.larf_attend.argtypes = [*[_AT] * 5, *[_COUNT] * 5, ctypes.c_float, _COUNT, _COUNT]
        return library if _agrees(library) else None
    except (OSError, OutputError, AttributeError, subprocess.SubprocessError):
        return None


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


def _attend(
    library: ctypes.CDLL,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    before: int,
    scale: float,
) -> torch.Tensor:
    import torch

    query, key, value, ends = (x.contiguous() for x in (query, key, value, ends))
    out = torch.empty_like(query)
    rows, heads, kept, size = len(ends), query.shape[1], key.shape[1], query.shape[2]
    places = [x.data_ptr() for x in (query, key, value, out, ends)]

    def run(part: Sequence[int]) -> int:
        failed: int = library.larf_attend(*places, rows, before, heads, kept, size, scale, part[0], part[-1] + 1)
        return failed

    units = range(rows * kept)
    threads = min(torch.get_num_threads(), len(units))
    parts = [units[len(units) * i // threads : len(units) * (i + 1) // threads] for i in range(threads)]
    if threads == 1:
        failed = run(parts[0])
    else:
        with ThreadPoolExecutor(threads, "larf-attention") as pool:
            failed = any(pool.map(run, parts))
    if failed:
        raise MemoryError("attention")
    return out


def _agrees(library: ctypes.CDLL) -> bool:
    """Whether it finds what torch's own attention finds, on a row behind a beginning."""
    import torch

    before, own, size = 5, 70, 2 * library.larf_lanes()
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(before + own, 4, size, generator=generator)
    key, value = (torch.randn(before + own, 2, size, generator=generator) for _ in range(2))
    asked, keys, values = (x.transpose(0, 1)[None] for x in (query, key, value))
    whole = torch.nn.functional.scaled_dot_product_attention(asked, keys, values, is_causal=True, enable_gqa=True)
    wanted = whole[0, :, before:].transpose(0, 1)
    found = _attend(library, query[before:], key, value, torch.tensor([own]), before, size**-0.5)
    return bool(torch.allclose(found, wanted, rtol=0, atol=1e-5))
