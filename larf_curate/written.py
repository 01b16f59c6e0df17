"""Which files were written here: nothing else is ever replaced or deleted.

A directory of results keeps a record of them: a file in the directory itself, so that it goes where the directory goes.
A name is recorded before a file of that name is written, so that a process that is killed in between leaves no file
that the record does not name. Elsewhere, a file is known by what it holds.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from .atomic import write_text
from .errors import OutputError

RECORD = ".larf_written.json"
_LEFT_BY_SYSTEMS = frozenset((".DS_Store", "Thumbs.db"))
"""Files that file managers leave in every directory that they show. They may be deleted."""


def recorded(directory: Path) -> frozenset[str]:
    """The names of the files that were written to a directory, relative to it; none where no record can be read."""
    try:
        handle = os.open(directory / RECORD, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, encoding="utf-8") as file:
            names = json.load(file)
    except (OSError, ValueError, RecursionError):
        return frozenset()
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_below(name) for name in names):
        return frozenset()
    return frozenset(names)


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return str(path) == name and not path.is_absolute() and ".." not in path.parts and name != "."


def claim(directory: Path, names: Iterable[str]) -> None:
    """Record names under which files are about to be written or replaced.

    Args:
        directory: the directory, which is made if it does not exist.
        names: relative to it.

    Raises:
        OutputError: under one of the names lies something that was not written here, or a link leads elsewhere.
    """
    before, wanted = recorded(directory), sorted(set(names))
    for name in wanted:
        if (odd := first_link(directory, name)) is not None:
            raise OutputError(f"{directory / odd} is a link or no plain file: nothing is written through it")
        if name not in before and os.path.lexists(directory / name):
            raise OutputError(
                f"{directory / name} was not written by larf-curate and is not replaced: move it elsewhere"
            )
    if not before.issuperset(wanted):
        _write(directory, before.union(wanted))


def refuse_other(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Refuse to replace a file that was not written here. What lies there may be missing or empty.

    Args:
        path: where a file is about to be written.
        is_ours: whether a file is an earlier one of the same kind, by what it holds.

    Raises:
        OutputError: something else lies there.
    """
    try:
        status = path.stat()
    except OSError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{path} cannot be written: it is no plain file")
    if status.st_size and not is_ours(path):
        raise OutputError(
            f"{path} is there, was not written by larf-curate, and is not replaced: move it, or choose another name"
        )


def claim_file(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """The same for a file that, if it goes into a directory of results, goes with them when they are replaced.

    There its name is recorded, and it is replaced if it was. Arguments and errors as of `refuse_other`.
    """
    target = path.resolve()
    home = next((parent for parent in target.parents if (parent / RECORD).is_file()), None)
    if home is None:
        refuse_other(path, is_ours)
    else:
        claim(home, [target.relative_to(home).as_posix()])


def forget_missing(directory: Path, keep: Iterable[str] = ()) -> None:
    """Take names out of the record under which there is no file any more, but for those to `keep`."""
    before = recorded(directory)
    there = {name for name in before if name in keep or (directory / name).is_file()}
    if there != before:
        _write(directory, there)


def _write(directory: Path, names: Iterable[str]) -> None:
    write_text(directory / RECORD, json.dumps(sorted(names), indent=0, ensure_ascii=False) + "\n")


def record_all(directory: Path) -> None:
    """Record all files of a directory that was made and filled just now."""
    _write(directory, (name for name, _ in _entries(directory, "")))


def refuse_foreign(directory: Path, names: Iterable[str] = ("",)) -> None:
    """Refuse to replace a directory, or some names in it, if anything there was not written here.

    Args:
        directory: the directory to replace; it need not exist.
        names: directories and files in it; by default, all of it.

    Raises:
        OutputError: something there was written by somebody else, or is a link.
    """
    ours = recorded(directory)
    parents = {str(parent) for name in ours for parent in PurePosixPath(name).parents}
    foreign = []
    for name in names:
        for entry, status in _entries(directory, name, directories=True):
            if stat.S_ISDIR(status.st_mode):
                known = entry in parents or entry == name
            else:
                known = stat.S_ISREG(status.st_mode) and (entry in ours or Path(entry).name in _LEFT_BY_SYSTEMS)
            if not known and entry != RECORD:
                foreign.append(entry)
    if foreign:
        others = f" and {len(foreign) - 1} more" if foreign[1:] else ""
        raise OutputError(
            f"{directory} holds files that larf-curate did not write ({sorted(foreign)[0]}{others}), and they are not "
            "deleted: move them elsewhere, or choose another directory"
        )


def _entries(directory: Path, name: str, *, directories: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """What lies under a name in a directory, links not followed: names relative to the directory, and their status."""
    path = directory / name if name else directory
    try:
        status = path.lstat()
    except OSError:
        return
    if not stat.S_ISDIR(status.st_mode):
        yield name, status
        return
    if name and directories:
        yield name, status
    for entry in sorted(entry.name for entry in path.iterdir()):
        yield from _entries(directory, f"{name}/{entry}" if name else entry, directories=directories)


def first_link(directory: Path, name: str) -> str | None:
    """The first part of a path in a directory that is neither a plain file nor a directory; None where none is."""
    parts = PurePosixPath(name).parts
    for count in range(1, len(parts) + 1):
        part = "/".join(parts[:count])
        try:
            mode = (directory / part).lstat().st_mode
        except OSError:
            return None
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            return part
    return None


def links_below(directory: Path, names: Iterable[str]) -> Iterator[str]:
    """What is neither a plain file nor a directory under some names in a directory, however deep."""
    entries = (entry for name in names for entry in _entries(directory, name))
    return (name for name, status in entries if not stat.S_ISREG(status.st_mode))


def refuse_strangers(directory: Path, names: Iterable[str], shallow: Iterable[str] = ()) -> None:
    """Refuse links and other users' files under some names in a directory: these could read or redirect results.

    Root's files are accepted. Owners are compared with the owner of a file that is made there now, since some file
    systems map users.

    Args:
        directory: has to be there.
        names: directories and files in it, looked at with all that is below them.
        shallow: names that are looked at without what is below them.

    Raises:
        OutputError: there are some, or nothing can be written there.
    """
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            ours = (0, os.fstat(probe.fileno()).st_uid)
    except OSError as error:
        raise OutputError(f"{directory} cannot be written: {error.strerror or error}") from error
    present = [entry for name in names for entry in _entries(directory, name, directories=True)]
    present += [entry for name in shallow for entry in itertools.islice(_entries(directory, name, directories=True), 1)]
    for entry, status in present:
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            raise OutputError(f"{directory / entry} is a link or no plain file: choose another directory")
        if status.st_uid not in ours:
            raise OutputError(f"{directory / entry} belongs to another user: choose another directory")
