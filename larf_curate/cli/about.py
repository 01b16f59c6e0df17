"""The command that says what a bug report needs: versions, devices, settings, caches."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from .usage import Json

_PACKAGES = ("larf-curate", "torch", "transformers", "datasets", "datatrove", "huggingface-hub", "pyarrow", "numpy")
_OPTIONAL = ("accelerate", "bitsandbytes", "gguf", "peft", "ray", "trl")
_SETTINGS = (
    *("LARF_CURATE_CACHE", "LARF_CURATE_COMPILE", "LARF_CURATE_DEBUG", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT"),
    *("HF_HUB_DISABLE_PROGRESS_BARS", "NO_COLOR", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME"),
)


@dataclass(frozen=True)
class Environment:
    """What may matter when something goes wrong; no secret is in it.

    Attributes:
        python, system: their versions.
        packages: versions by name; None where one is not installed.
        devices: the devices on which a model can run.
        threads: how many torch uses on the CPU; 0 if it is not installed.
        kernels: whether compiled kernels are used on the CPU.
        settings: environment variables that are set, of those that matter here.
        hub_token: whether there is a token for the Hub.
        cache: directory of what is kept between runs.
        cached: bytes of each part of it.
    """

    python: str
    system: str
    packages: dict[str, str | None]
    devices: list[str]
    threads: int
    kernels: bool
    settings: dict[str, str]
    hub_token: bool
    cache: str
    cached: dict[str, int]


def env(
    caches: Annotated[
        bool, typer.Option("--caches", help="What is kept between runs, its size, and how to empty it.")
    ] = False,
    json: Json = False,
) -> None:
    """Show versions, devices, settings and caches: what a bug report needs."""
    from ..console import show_facts

    machine = environment()
    if json:
        print(dumps(asdict(machine), indent=2))
        return
    if not caches:
        facts = [("python", machine.python), ("system", machine.system)]
        facts += [(name, number or "not installed") for name, number in machine.packages.items()]
        facts += [("devices", ", ".join(machine.devices)), ("threads", str(machine.threads))]
        facts += [("compiled kernels", "in use" if machine.kernels else "not in use: torch's own operations are")]
        facts += list(machine.settings.items())
        facts += [("token for the Hub", "there is one" if machine.hub_token else "none")]
        facts += [("cache", f"{machine.cache} ({sum(machine.cached.values()) / 1e6:,.1f} MB)")]
        show_facts(facts)
        return
    meanings = {
        "batches": "measured sizes of batches",
        "kernels": "compiled kernels",
        "layers": "layer searches",
        "references": "states of references",
    }
    show_facts(
        [
            *((meanings.get(name, name), f"{size / 1e6:,.1f} MB") for name, size in sorted(machine.cached.items())),
            ("in all", f"{sum(machine.cached.values()) / 1e6:,.1f} MB in {machine.cache}"),
            ("empty it", f"rm -r {machine.cache}    # all of it is made again when it is needed"),
            ("models of the Hub", "hf cache ls, and hf cache prune"),
        ]
    )


def environment() -> Environment:
    """Look at this machine."""
    from huggingface_hub import get_token

    from ..cache import cache_directory
    from ..encoding.kernels import load

    home = cache_directory()
    try:
        import torch
    except ImportError:  # commands that run no model work without it
        devices, threads, kernels = ["none: no model can run without torch"], 0, False
    else:
        devices = [f"cuda:{at} ({torch.cuda.get_device_name(at)})" for at in range(torch.cuda.device_count())]
        devices += ["mps"] * torch.backends.mps.is_available()
        devices += [f"cpu ({platform.machine()}, {os.cpu_count()} cores)"]
        threads, kernels = torch.get_num_threads(), load() is not None
    return Environment(
        python=sys.version.split()[0],
        system=platform.platform(),
        packages={name: _version(name) for name in (*_PACKAGES, *_OPTIONAL)},
        devices=devices,
        threads=threads,
        kernels=kernels,
        settings={name: os.environ[name] for name in _SETTINGS if name in os.environ},
        hub_token=get_token() is not None,
        cache=str(home),
        cached={path.name: _size(path) for path in home.iterdir()} if home.is_dir() else {},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in [path, *path.rglob("*")] if file.is_file())
