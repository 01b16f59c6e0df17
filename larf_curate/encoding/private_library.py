"""A shared library in the user's cache that is loaded only if nobody else can have written it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..atomic import scratch_path
from ..cache import only_ours


def load_private(directory: Path, name: str, build: Callable[[Path], object]) -> ctypes.CDLL:
    """A shared library out of a directory of the cache; it is built if it is missing or was changed.

    The file is called `NAME-DIGEST.so`, after the SHA-256 digest of its content, which is compared before it is loaded.
    The directory has to be the user's own (or root's) and writable by nobody else, or nothing in it is looked at: the
    library is then built in a new directory, and gone once it is loaded.

    Args:
        directory: the directory. It is made with mode 0700 if it does not exist; one of the user's is given that mode.
        name: the library's name, derived from everything that its code depends on.
        build: writes the library to a path.

    Raises:
        OSError: there is no room, or the library cannot be loaded.
        OutputError: it cannot be written.
    """
    with _opened(directory) as handle:
        if handle is not None:
            file = _intact(handle, name) or _built(directory, name, build)
            # By the directory that was checked, whatever its path names by now.
            held = Path(f"/proc/self/fd/{handle}") / file
            return ctypes.CDLL(str(held if held.exists() else directory / file))
    with tempfile.TemporaryDirectory(prefix="larf-kernels-") as scratch:
        return ctypes.CDLL(str(Path(scratch) / _built(Path(scratch), name, build)))


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int | None]:
    """A handle of the directory; None if others could have written what lies in it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # a link, a file, or another's
        yield None
        return
    try:
        yield handle if _made_private(handle) else None
    finally:
        os.close(handle)


def _made_private(handle: int) -> bool:
    """Close our own directory to all others, without the libraries if others may have put them there.

    Returns:
        Whether the directory can be used.
    """
    status = os.fstat(handle)
    if status.st_uid != os.geteuid():
        return only_ours(status)
    os.fchmod(handle, 0o700)
    if not only_ours(status):
        for file in os.listdir(handle):
            if file.endswith(".so"):
                os.unlink(file, dir_fd=handle)
    return True


def _intact(handle: int, name: str) -> str | None:
    """The name of a library that is a plain file of ours with the digest that it is called after."""
    for file in sorted(os.listdir(handle)):
        if not file.startswith(f"{name}-") or not file.endswith(".so"):
            continue
        with contextlib.suppress(OSError):
            opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
            with os.fdopen(opened, "rb") as library:
                status = os.fstat(opened)
                ours = stat.S_ISREG(status.st_mode) and only_ours(status)
                if ours and file == _called(name, hashlib.file_digest(library, "sha256").hexdigest()):
                    return file
        with contextlib.suppress(OSError):
            os.unlink(file, dir_fd=handle)
    return None


def _built(directory: Path, name: str, build: Callable[[Path], object]) -> str:
    """Build a library, and give it the name that holds its digest."""
    with scratch_path(directory / name, directory=False) as scratch:
        build(scratch)
        scratch.chmod(0o600)
        with scratch.open("rb") as library:
            file = _called(name, hashlib.file_digest(library, "sha256").hexdigest())
        scratch.replace(directory / file)
    return file


def _called(name: str, digest: str) -> str:
    return f"{name}-{digest}.so"
