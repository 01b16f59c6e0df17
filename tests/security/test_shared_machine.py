"""Whoever shares the machine reads no more than the umask lets them, and gets no library of theirs loaded here."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from larf_curate.atomic import new_directory, write_private, write_text
from larf_curate.cache import cache_directory, read_cached
from larf_curate.encoding import kernels
from larf_curate.encoding.private_library import load_private
from larf_curate.errors import OutputError
from larf_curate.scoring.layer_search.ledger import Ledger

pytestmark = pytest.mark.process  # the compiler's
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.mark.parametrize(
    ("umask", "modes"), [(0o077, (0o700, 0o600)), (0o022, (0o755, 0o644)), (0o027, (0o750, 0o640))]
)
def test_the_umask_is_respected(tmp_path: Path, umask: int, modes: tuple[int, int]) -> None:
    before = os.umask(umask)
    try:
        with new_directory(tmp_path / "directory") as scratch:
            during = mode(scratch)
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (during, mode(tmp_path / "file")) == modes
    assert mode(tmp_path / "directory") == modes[0]
    assert {path.name for path in tmp_path.iterdir()} == {"directory", "file"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of compiled kernels, which is not there yet."""
    monkeypatch.setenv("LARF_CURATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LARF_CURATE_COMPILE", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    kernels.load.cache_clear()
    yield tmp_path / "cache" / "kernels"
    kernels.load.cache_clear()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of compiled kernels of a first run, under a umask that lets others do everything."""
    cache = tmp_path_factory.mktemp("first")
    before = os.umask(0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LARF_CURATE_CACHE", str(cache))
            for name in ("LARF_CURATE_COMPILE", "CXX"):
                patch.delenv(name, raising=False)
            assert load_anew() is not None
    finally:
        os.umask(before)
    return cache / "kernels"


@pytest.fixture
def library(home: Path, compiled: Path) -> Path:
    """The library of a first run, at a path that this process has loaded nothing from: what it has, it keeps."""
    shutil.copytree(compiled, home)
    (file,) = home.iterdir()
    return file


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that is there once the planted library has been loaded."""
    return tmp_path / "ran"


@pytest.fixture
def planted(tmp_path: Path, ran: Path) -> bytes:
    """A library that leaves a mark as soon as it is loaded."""
    source = tmp_path / "planted.cpp"
    source.write_text(
        "#include <cstdio>\n"
        f'__attribute__((constructor)) static void run() {{ std::fclose(std::fopen("{ran}", "w")); }}\n'
    )
    library = tmp_path / "planted.so"
    subprocess.run(["c++", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return library.read_bytes()


def load_anew() -> kernels.Kernels | None:
    kernels.load.cache_clear()
    return kernels.load()


class Built:
    """Builds by copying what was compiled once, and counts how often."""

    def __init__(self, library: Path) -> None:
        self.library, self.times = library, 0

    def __call__(self, path: Path) -> None:
        self.times += 1
        shutil.copyfile(self.library, path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@needs_compiler
def test_the_planted_library_would_leave_its_mark(planted: bytes, tmp_path: Path, ran: Path) -> None:
    ctypes.CDLL(str(tmp_path / "planted.so"))
    assert ran.exists()


@needs_compiler
def test_directory_and_library_are_the_user_s_alone(compiled: Path) -> None:
    (library,) = compiled.iterdir()
    assert (mode(compiled), mode(library)) == (0o700, 0o600)


@needs_compiler
def test_a_library_that_was_replaced_is_compiled_anew(
    home: Path, compiled: Path, library: Path, planted: bytes, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, built = subprocess.run, Built(next(compiled.iterdir()))

    def compile_by_copying(command: list[str], **options: Any) -> object:
        return built(Path(command[-1])) if "-o" in command else run(command, **options)

    monkeypatch.setattr(subprocess, "run", compile_by_copying)
    library.write_bytes(planted)
    assert load_anew() is not None
    assert built.times == 1
    assert not ran.exists()
    assert planted not in [path.read_bytes() for path in home.iterdir()]


@needs_compiler
@pytest.mark.parametrize("kind", ["cut", "link", "writable by all", "directory open"])
def test_a_library_that_others_may_have_written_is_not_loaded(
    home: Path, compiled: Path, library: Path, kind: str, tmp_path: Path
) -> None:
    whole, built = library.read_bytes(), Built(next(compiled.iterdir()))
    if kind == "cut":
        library.write_bytes(whole[:100])
    elif kind == "link":
        (tmp_path / "elsewhere.so").write_bytes(whole)
        library.unlink()
        library.symlink_to(tmp_path / "elsewhere.so")
    elif kind == "writable by all":
        library.chmod(0o666)
    else:
        home.chmod(0o777)
    name = library.name.partition("-")[0]
    load_private(home, name, built)
    assert (built.times, mode(home)) == (1, 0o700)
    (again,) = home.iterdir()
    assert not again.is_symlink()
    assert mode(again) == 0o600
    load_private(home, name, built)
    assert built.times == 1


@needs_compiler
@pytest.mark.parametrize("kind", ["link", "another's"])
def test_a_directory_of_somebody_else_is_not_used(
    home: Path, compiled: Path, library: Path, planted: bytes, ran: Path, kind: str, tmp_path: Path
) -> None:
    built = Built(next(compiled.iterdir()))
    library.unlink()
    name = library.name.partition("-")[0]
    library.with_name(f"{name}-{hashlib.sha256(planted).hexdigest()}.so").write_bytes(planted)
    if kind == "link":
        home.rename(tmp_path / "theirs")
        home.symlink_to(tmp_path / "theirs")
    else:
        if os.geteuid() != 0:
            pytest.skip("only root can give a directory away")
        os.chown(home, 12345, 12345)
    load_private(home, name, built)
    assert built.times == 1
    assert not ran.exists()
    assert [path.read_bytes() for path in home.iterdir()] == [planted]


# The rest of the cache ------------------------------------------------------------------------------------------------


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LARF_CURATE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_nobody_else_can_write_to_the_usual_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LARF_CURATE_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "larf_curate").mkdir()
    for before, after in ((0o777, 0o755), (0o770, 0o750), (0o700, 0o700)):
        (tmp_path / "larf_curate").chmod(before)
        assert mode(cache_directory()) == after


def test_a_directory_that_is_named_keeps_its_mode(cache_home: Path) -> None:
    cache_home.chmod(0o777)
    assert mode(cache_directory()) == 0o777


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a directory away")
def test_the_cache_of_another_user_is_refused(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(cache_home, 12345, 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(OutputError, match="belongs to another user: set LARF_CURATE_CACHE"):
        cache_directory()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache_directory() == cache_home


def test_the_default_cache_is_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LARF_CURATE_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not there"))
    assert cache_directory() == tmp_path / "not there" / "larf_curate"
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a directory away")
def test_a_shared_home_of_the_hub_gives_each_user_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LARF_CURATE_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "shared"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert cache_directory() == tmp_path / "shared" / "larf_curate"
    (tmp_path / "shared" / "larf_curate").mkdir(parents=True)
    os.chown(tmp_path / "shared" / "larf_curate", 12345, 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert cache_directory() == tmp_path / "mine" / "larf_curate"


def test_a_file_of_the_cache_is_read_only_if_nobody_else_can_have_written_it(cache_home: Path) -> None:
    path = cache_home / "kept"
    before = os.umask(0)
    try:
        write_private(path, b"content")
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    assert read_cached(path) == b"content"
    assert read_cached(path, 3) is None, "longer than anything that was written"
    assert read_cached(cache_home / "other") is None
    assert read_cached(cache_home) is None
    for bits in (0o620, 0o602, 0o666):
        path.chmod(bits)
        assert read_cached(path) is None
    path.chmod(0o644)
    assert read_cached(path) == b"content"
    (cache_home / "link").symlink_to(path)
    assert read_cached(cache_home / "link") is None
    os.mkfifo(cache_home / "pipe", 0o600)
    assert read_cached(cache_home / "pipe") is None, "and nobody waits for a writer"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_read(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_private(cache_home / "kept", b"content")
    os.chown(cache_home / "kept", 12345, 12345)
    assert read_cached(cache_home / "kept") is None
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert read_cached(cache_home / "kept") == b"content"


LINE = '{"search": "key", "block": "0", "scale": 1.0, "after": 0, "refused": "%s"}'
PLANTED: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "nested": lambda path: path.write_text("[" * 100_000),
    "another shape": lambda path: path.write_text(LINE % "1010"),
    "no marks": lambda path: path.write_text(LINE % "1x0"),
    "figures": lambda path: path.write_text('{"search": "key", "locator": "gap", "values": [1.0, NaN]}'),
    "others can write": lambda path: path.chmod(0o666),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_answers_of_a_search_that_others_may_have_planted_are_asked_again(cache_home: Path, kind: str) -> None:
    path = cache_home / "layers" / "key.jsonl"

    def opened() -> Ledger:
        return Ledger(path, "key", prompts=3, blocks=2, private=True)

    before = os.umask(0o002)
    try:
        opened().add_refusals("0", 1.0, [True, False, True])
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    assert opened().refusals == {("0", 1.0): [True, False, True]}
    PLANTED[kind](path)
    found = opened()
    assert (found.refusals, found.located) == ({}, {})
    found.add_refusals("0", 1.0, [False, False, True])
    assert opened().refusals == {("0", 1.0): [False, False, True]}


class Encoded:
    """What a cache of audits asks an encoder for: a model of one block with one layer."""

    def __init__(self) -> None:
        import torch

        block = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
        self.loaded = SimpleNamespace(version="v", dtype_name="float32", blocks=torch.nn.ModuleList([block]))
        self.renderer = SimpleNamespace(template_digest="t")


def an_audit() -> dict[str, Callable[[], Any]]:
    """What reads each kind of file in a cache of audits, in which there is one of each."""
    from larf_curate.encoding.directions import Factors, WeightDirection
    from larf_curate.scoring.margin import Refusals
    from larf_curate.validation.audit_cache import AuditCache, MarginDirection, MeasuredPart

    cache: Any = AuditCache(Encoded())  # type: ignore[arg-type]
    refusals = Refusals(((1, 2), (3,)), (True, False), (7,))
    direction = WeightDirection({"0.0": Factors(np.float32([[1], [0]]), np.float32([[0, 1, 0]]))})
    cache.write_refusals(["a", "b"], refusals)
    cache.write_step("key", 0.01)
    cache.write_part("key", MeasuredPart([[0.1, math.nan]] * 2, [[0.2, math.nan]] * 2, [[1.0, 2.0]] * 2, [None, None]))
    cache.write_direction(refusals, 4, MarginDirection(direction, 2.5, -1.5))
    return {
        "refusals": lambda: cache.read_refusals(["a", "b"]),
        "step": lambda: cache.read_step("key"),
        "rows": lambda: cache.read_part("key", 2),
        "direction": lambda: cache.read_direction(refusals, 4),
    }


@pytest.mark.parametrize("damage", ["cut off", "others can write", "another shape"])
def test_what_an_audit_keeps_is_measured_again_where_it_was_changed(cache_home: Path, damage: str) -> None:
    from safetensors.numpy import load_file, save_file

    readers = an_audit()
    assert all(read() is not None for read in readers.values())
    assert (readers["direction"]().slope, readers["direction"]().margin) == (2.5, -1.5)
    files = {name: next((cache_home / "audits").glob(f"{name}-*")) for name in readers}
    for name, path in files.items():
        assert mode(path) == 0o600
        if damage == "cut off":
            os.truncate(path, path.stat().st_size - 3)
        elif damage == "others can write":
            path.chmod(0o662)
        elif name == "direction":
            save_file({key: value[:1] for key, value in load_file(path).items()}, path)
        else:
            wrong = {"refusals": {"refused": [True]}, "step": {"step": 10.0}, "rows": {"means": [[0.1], [0.2]]}}[name]
            path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    assert [name for name, read in readers.items() if read() is not None] == []


def test_finished_arms_in_the_cache_are_read_only_if_they_are_ours(cache_home: Path) -> None:
    from larf_curate.validation.finished import FinishedArms
    from larf_curate.validation.measuring import Measured

    arms = FinishedArms(cache_home / "validations", private=True)
    arms.write("digest", Measured("random", 0, 1, 1, 0.5, (1.0,), (1.0,), ("a",), ("b",), ("c",), (1.0,)))
    assert arms.read("random", 0, "digest") is not None
    (path,) = (cache_home / "validations").iterdir()
    path.rename(path.with_name("removed-0.json"))
    assert arms.read("removed", 0, "digest") is None, "another arm's figures under this one's name"
    path.with_name("removed-0.json").rename(path)
    path.chmod(0o666)
    assert arms.read("random", 0, "digest") is None
    assert FinishedArms(cache_home / "validations").read("random", 0, "digest") is not None, "a user's own directory"
