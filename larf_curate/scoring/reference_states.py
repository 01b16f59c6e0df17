"""States of reference answers, kept between fits: what a model has read once is read from a file the next time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_private
from ..cache import cache_directory, read_cached
from ..encoding.encoder import Encoder, States
from ..errors import OutputError
from ..progress import detail
from ..rows.rendering import Rendered
from ..rows.turns import Conversation
from .formulas import normalise
from .model_check import CHECK, least_cosine, require_same_alone, tried_rows
from .references import ReferenceSet

_VERSION = 1  # raised when the same token ids come to give other states
MOST_BYTES = 256 * 2**20
"""States of all blocks are kept only where they take less."""
_LEAST_COSINE = 0.99999  # in float32, of two passes over one conversation: states that are merely similar are not used


def directories() -> list[Path]:
    """Where kept states are looked for: in the user's cache, then among those that come with the package."""
    return [cache_directory() / "references", Path(str(resources.files("larf_curate"))) / "data" / "reference_states"]


def conversations_of(references: ReferenceSet) -> dict[str, list[Conversation]]:
    """What is encoded of references, by what it is for, in one order: states that are kept are found by it again."""
    return {
        "unsafe": [pair.unsafe for pair in references.fitted],
        "safe": [pair.safe for pair in references.fitted],
        "held_unsafe": [pair.unsafe for pair in references.held_back],
        "held_safe": [pair.safe for pair in references.held_back],
        "check": [CHECK],
    }


def states_of_references(
    encoder: Encoder, rendered: Sequence[Rendered], layers: Sequence[int], progress: Callable[[int], object]
) -> States:
    """The states of references: read from a file where this model has encoded exactly them before, else encoded.

    One pass reads every block up to the highest, so the blocks below are kept too, and a later fit at one of them runs
    no reference again.

    Args:
        encoder: the encoder of the model.
        rendered: the references' conversations, and last the one by which a model is known again. That one, the
            shortest and the longest are always encoded: what a file holds counts only if it holds the same states.
        layers: blocks, in the order in which their states are wanted.
        progress: called with the number of conversations just done.

    Raises:
        ModelError: the state of a conversation depends on those that are encoded with it.
    """
    name = _name(encoder, rendered)
    shape = (len(rendered), encoder.loaded.hidden_size)
    kept = [_read(name, layer, shape) for layer in layers]
    stored = [states for states in kept if states is not None]
    if len(stored) == len(layers):
        values = np.stack(stored, axis=1)
        if _agrees(encoder, values, rendered, layers):
            progress(len(rendered))
            detail(f"states of references: {len(rendered) - 1} are read from files ({name})")
            return States(values, [item.issue for item in rendered], [item.tokens for item in rendered], "kept states")
    below = range(max(layers) + 1)
    every = tuple(below) if len(below) * shape[0] * shape[1] * 4 <= MOST_BYTES else tuple(layers)
    detail(f"states of references: {len(rendered) - 1} are encoded, since no files that fit are kept ({name})")
    states = encoder.states_of(rendered, every, progress)
    if not any(issue and issue.unscorable for issue in states.issues):
        require_same_alone(encoder, rendered, every, states.values)
        for place, layer in enumerate(every):
            _write(name, layer, states.values[:, place])
    # Contiguous: safetensors writes what lies in memory, not what the array means.
    wanted = np.ascontiguousarray(states.values[:, [every.index(layer) for layer in layers]])
    return States(wanted, states.issues, states.tokens, states.execution)


def _name(encoder: Encoder, rendered: Sequence[Rendered]) -> str:
    """A digest of all that decides the states: the model's version, its precision, and the token ids themselves.

    These follow from the references, the chat template and the options of rendering. A directory's version does not
    read all of its weights, so the times of their files stand beside it.
    """
    loaded = encoder.loaded
    digest = hashlib.sha256(f"{_VERSION}\0{loaded.version}\0{loaded.dtype_name}\0".encode())
    home = Path(encoder.model).expanduser()
    if loaded.version.startswith("local-") and home.exists():
        files = [home] if home.is_file() else sorted(path for path in home.iterdir() if path.is_file())
        digest.update("\0".join(f"{file.name}:{file.stat().st_mtime_ns}" for file in files).encode())
    for item in rendered:
        digest.update(len(item.ids).to_bytes(4, "little") + np.asarray(item.ids, "<i4").tobytes())
    return digest.hexdigest()[:32]


def _file(home: Path, name: str, layer: int) -> Path:
    return home / name / f"block-{layer}.safetensors"


def _read(name: str, layer: int, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    cached, shipped = directories()[0], directories()[1:]
    contents = [read_cached(_file(cached, name, layer), 2 * MOST_BYTES)]
    contents += [path.read_bytes() for path in (_file(home, name, layer) for home in shipped) if path.is_file()]
    for content in contents:
        try:
            states = load(content or b"")["states"]
        except (SafetensorError, KeyError):
            continue  # missing, or cut off, which counts as missing
        if states.shape == shape and states.dtype == np.float32 and np.isfinite(states).all():
            return states
    return None


def _write(name: str, layer: int, states: NDArray[np.float32]) -> None:
    from safetensors.numpy import save

    try:
        write_private(_file(directories()[0], name, layer), save({"states": np.ascontiguousarray(states)}))
    except OutputError:
        pass  # a home that cannot be written: the next fit takes as long as this one


def _agrees(encoder: Encoder, kept: NDArray[np.float32], rendered: Sequence[Rendered], layers: Sequence[int]) -> bool:
    """Whether the model gives the same states for some conversations now as it did when the states were kept.

    Args:
        encoder: the encoder of the model.
        kept: float32 [conversations, layers, hidden size].
        rendered: the conversations.
        layers: the blocks.

    Raises:
        ModelError: here the state of a conversation depends on those that are encoded with it.
    """
    chosen = tried_rows(rendered)
    some = [rendered[number] for number in chosen]
    states = encoder.states_of(some, layers).values
    require_same_alone(encoder, some, layers, states)
    cosines = (normalise(states) * normalise(kept[chosen])).sum(axis=-1)
    loaded = encoder.loaded
    exact = loaded.dtype_name == "float32"
    return bool((cosines >= (_LEAST_COSINE if exact else least_cosine(loaded.dtype_name, loaded))).all())
