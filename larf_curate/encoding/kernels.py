"""Compiled kernels for the CPU: attention, norms, rotary positions and the MLP's gate, from `kernels.cpp`.

torch makes a tensor of every step and passes over memory again for the next; a kernel keeps what it works on in the
core's cache and takes half the time. The source is compiled once for a machine, and the library kept in the user's
cache. Kernels need a C++ compiler, are compared with torch when they are loaded, and are not used where they differ.
All of them compute in float32, and give the same bits on any number of threads.
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

from ..cache import cache_directory, register
from ..errors import OutputError
from .private_library import load_private

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_COMPILER_SECONDS = 120  # a compiler that takes longer hangs
_INT64, _POINTER = ctypes.c_int64, ctypes.c_void_p


class Kernels:
    """The functions of a compiled library. Get them from `kernels_for`, which knows whether they can be used.

    Args:
        library: compiled from `kernels.cpp`.

    Attributes:
        simd_width: floats in a vector register; sizes have to be multiples of it.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        library.larf_attend.argtypes = [*[_POINTER] * 5, *[_INT64] * 5, ctypes.c_float, _INT64, _INT64]
        library.larf_rms_norm.argtypes = [*[_POINTER] * 3, _INT64, ctypes.c_float, _INT64, _INT64]
        library.larf_rotate.argtypes = [*[_POINTER] * 3, *[_INT64] * 4]
        library.larf_silu_mul.argtypes = [*[_POINTER] * 2, *[_INT64] * 3]
        self.simd_width: int = library.larf_simd_width()
        self._library = library

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, prefix: int, scale: float
    ) -> torch.Tensor:
        """softmax(scale query key') value: each row attends causally to itself, behind a prefix that all rows see.

        Computed in float32 whatever the precision of the query, in which the result comes.

        Args:
            query: rows end to end, [tokens, heads, head size].
            key, value: keys and values of the prefix and the rows, [prefix + tokens, key heads, head size].
            ends: where each row ends in the tokens, int64 [rows].
            prefix: tokens of the prefix.
            scale: factor of the products.

        Returns:
            [tokens, heads, head size].

        Raises:
            MemoryError: no room for the scores of a few queries.
        """
        import torch

        precision = query.dtype
        query, key, value = (x.float().contiguous() for x in (query, key, value))
        ends, out = ends.contiguous(), torch.empty_like(query)
        (rows, (heads, size), key_heads) = len(ends), query.shape[1:], key.shape[1]
        pointers = [x.data_ptr() for x in (query, key, value, out, ends)]
        sizes = rows, prefix, heads, key_heads, size, scale
        run = self._library.larf_attend
        if any(_in_parts(rows * key_heads, lambda first, stop: run(*pointers, *sizes, first, stop))):
            raise MemoryError("attention")
        return out.to(precision)

    def rms_norm(self, states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Root mean square normalisation of float32 [..., size]."""
        import torch

        states, weight = states.contiguous(), weight.float().contiguous()
        out, size = torch.empty_like(states), states.shape[-1]
        pointers = states.data_ptr(), weight.data_ptr(), out.data_ptr()
        run = self._library.larf_rms_norm
        _in_parts(states.numel() // size, lambda first, stop: run(*pointers, size, epsilon, first, stop))
        return out

    def rotate_(self, states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
        """Rotary positions of contiguous float32 [tokens, heads, size], in place; cosines and sines [tokens, size]."""
        cosines, sines = cosines.float().contiguous(), sines.float().contiguous()
        pointers = states.data_ptr(), cosines.data_ptr(), sines.data_ptr()
        tokens, *sizes = states.shape
        _in_parts(tokens, lambda first, stop: self._library.larf_rotate(*pointers, *sizes, first, stop))
        return states

    def silu_mul_(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up, written to the gate: contiguous float32 [rows, size]."""
        up = up.float().contiguous()
        pointers, (rows, size) = (gate.data_ptr(), up.data_ptr()), gate.shape
        _in_parts(rows, lambda first, stop: self._library.larf_silu_mul(*pointers, size, first, stop))
        return gate

    def agree_with_torch(self) -> bool:
        """Whether all of them compute what torch computes, on random numbers."""
        import torch

        half, draw = self.simd_width, torch.Generator().manual_seed(0)
        prefix, own, size = 5, 70, 2 * half
        query = torch.randn(prefix + own, 4, size, generator=draw)
        key, value = torch.randn(2, prefix + own, 2, size, generator=draw)
        queries, keys, values = (x.transpose(0, 1)[None] for x in (query, key, value))
        whole = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        up, (cosines, sines) = query[:, 0], query[:, 1:3].unbind(1)
        swapped = torch.cat([-key[..., half:], key[..., :half]], dim=-1)
        attended = self.attend(query[prefix:], key, value, torch.tensor([own]), prefix, size**-0.5)
        pairs = (
            (attended, whole[0, :, prefix:].transpose(0, 1)),
            (self.rms_norm(query, up[0], 1e-5), torch.nn.functional.rms_norm(query, (size,), up[0], 1e-5)),
            (self.rotate_(key.clone(), cosines, sines), key * cosines[:, None] + swapped * sines[:, None]),
            (self.silu_mul_(key[:, 0].clone(), up), torch.nn.functional.silu(key[:, 0]) * up),
        )
        return all(torch.allclose(ours, torchs, rtol=0, atol=1e-5) for ours, torchs in pairs)


def kernels_for(states: torch.Tensor, size: int, *, any_precision: bool = False) -> Kernels | None:
    """The compiled kernels if they support these states, else None.

    They do on a CPU, in float32, where `size` is a multiple of the SIMD width.

    Args:
        states: what the kernel is to read.
        size: floats that it reads side by side.
        any_precision: take states of other precisions too, for a kernel that converts them: only attention saves more
            time than that costs.
    """
    import torch

    if states.device.type != "cpu" or not (any_precision or states.dtype == torch.float32):
        return None
    kernels = load()
    return kernels if kernels is not None and size > 0 and size % kernels.simd_width == 0 else None


@functools.cache
def load() -> Kernels | None:
    """This process's compiled kernels; None with `LARF_CURATE_COMPILE=0`, or if they cannot be compiled or loaded."""
    return None if os.environ.get("LARF_CURATE_COMPILE") == "0" else compiled(SOURCE)


register(load.cache_clear)


def compiled(source: Path, processor: str | None = None) -> Kernels | None:
    """Kernels compiled from a source, or found in the user's cache; None without a compiler, or if they are wrong.

    Args:
        source: C++ as in `kernels.cpp`.
        processor: the processor that the code is compiled for; this machine's by default.
    """
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        kernels = Kernels(_library(source, compiler, processor or _processor()))
        return kernels if kernels.agree_with_torch() else None
    except (OSError, OutputError, AttributeError, subprocess.SubprocessError):
        return None


def _compiler() -> str | None:
    chosen = os.environ.get("CXX")
    return shutil.which(chosen) if chosen else next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def _library(source: Path, compiler: str, processor: str) -> ctypes.CDLL:
    """The shared library of this source, compiler and processor; compiled if it is not in the cache."""
    command = [compiler, "--version"]
    version = subprocess.run(command, capture_output=True, check=True, timeout=_COMPILER_SECONDS).stdout
    identity = repr((source.read_bytes(), compiler, version, _FLAGS, processor))

    def build(path: Path) -> None:
        command = [compiler, *_FLAGS, "-fPIC", "-shared", str(source), "-o", str(path)]
        subprocess.run(command, capture_output=True, check=True, timeout=_COMPILER_SECONDS)

    return load_private(cache_directory() / "kernels", hashlib.sha256(identity.encode()).hexdigest()[:24], build)


def _processor() -> str:
    """What code is compiled for here: machines may share a home, and do not have the same instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
    return f"{platform.system()} {platform.machine()} {flags}"


def _in_parts(count: int, run: Callable[[int, int], Result]) -> list[Result]:
    """What `run(first, stop)` returns for each part of `count` pieces of work: one part for each of torch's threads."""
    import torch

    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        return [run(0, count)]
    starts = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads, "larf-kernel") as pool:
        return list(pool.map(run, starts[:-1], starts[1:]))
