"""Whoever shares the machine reads no more than the umask lets them, and gets no library of theirs loaded here."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from larf_curate.atomic import new_directory, write_text
from larf_curate.cache import cache_directory
from larf_curate.encoding import kernels
from larf_curate.encoding.private_library import load_private
from larf_curate.errors import OutputError

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
    """The directory of compiled kernels of a first run."""
    cache = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LARF_CURATE_CACHE", str(cache))
        for name in ("LARF_CURATE_COMPILE", "CXX"):
            patch.delenv(name, raising=False)
        assert load_anew() is not None
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
def test_directory_and_library_are_the_user_s_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        assert load_anew() is not None
    finally:
        os.umask(before)
    (library,) = home.iterdir()
    assert (mode(home), mode(library)) == (0o700, 0o600)


@needs_compiler
def test_a_library_that_was_replaced_is_compiled_anew(home: Path, library: Path, planted: bytes, ran: Path) -> None:
    library.write_bytes(planted)
    assert load_anew() is not None
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
