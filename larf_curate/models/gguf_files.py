"""GGUF files read once: transformers parses one anew for its configuration, its tokenizer and its weights."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import threading
from collections.abc import Iterator
from typing import Any

_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Within it, a GGUF file is parsed once, and the table of its weights' names is made once.

    transformers parses the whole file, a vocabulary of many thousand tokens too, whenever it wants something out of it,
    and makes the table again for each module of the model: for the demo model that is two thirds of all the time. What
    it reads stays the same. It asks the package `gguf` for both at each call, so they are replaced there meanwhile.
    """
    if importlib.util.find_spec("gguf") is None:  # whoever loads the file says so
        yield
        return
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):  # type: ignore[misc,unused-ignore]
        """Holds the file's bytes as a plain array: each of a million small slices of a memmap is a memmap again."""

        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = np.asarray(mapped)  # the same mapping of the file, not a copy

    with _ONE_AT_A_TIME:
        reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
        gguf.GGUFReader, gguf.get_tensor_name_map = functools.cache(Reader), functools.cache(names)
        try:
            yield
        finally:
            gguf.GGUFReader, gguf.get_tensor_name_map = reader, names
