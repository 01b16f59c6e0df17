"""What a library raises on a file that cannot be read becomes one line that names the file."""

from __future__ import annotations

import contextlib
import lzma
import zlib
from collections.abc import Iterator

import pyarrow as pa

from ..errors import DataError, one_line

_UNREADABLE = (
    pa.ArrowInvalid,
    pa.ArrowNotImplementedError,
    OSError,
    UnicodeDecodeError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
)


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn errors of Arrow, of the file system and of decoding into a `DataError` that begins with `name`.

    Raises:
        DataError: something in the block raised one of these errors.
    """
    try:
        yield
    except _UNREADABLE as error:
        why = getattr(error, "strerror", None) or one_line(error)  # without a number, and the name once
        raise DataError(f"{name} cannot be read: {why}") from error
