"""One forward pass at the floor: no pads, a common beginning once, in the highest block the last tokens alone.

The conversations of a batch lie end to end in one sequence, behind the tokens that all of them begin with (the chat
template's system turn), whose keys and values are made once for all batches. Everything but attention works on single
tokens and does not notice; attention is ours (`attention`), handed to transformers through its attention interface. The
highest block makes keys and values of all tokens, then runs on the last ones only.

An architecture whose attention does not go through that interface mixes conversations. `fastest_pass` finds that out.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .attention import NAME, attend
from .batching import Batch, Row, plan_packs
from .fused import LeanBlock, lean_blocks
from .memory import moved
from .packs import How, Known, Made, Pack, get_pack, set_pack
from .padding import Enough, PaddedPass

if TYPE_CHECKING:
    import torch

    from ..models.loading import LoadedModel

_PROBED_WINDOW = 512  # tokens; wider sliding windows are not tried on every model that is loaded


class PackedPass:
    """Runs batches of conversations through the blocks of a loaded model, in any number of threads.

    While it is at work, it holds keys and values of the beginning that its last batch had.

    Args:
        loaded: the model; whoever calls holds its lock.
        lean: blocks to run in place of its own, by their number (`lean`).
    """

    def __init__(self, loaded: LoadedModel, lean: Sequence[LeanBlock] = ()) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        if NAME not in ALL_ATTENTION_FUNCTIONS:
            ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
        self.loaded = loaded
        self._lean = dict(zip(loaded.blocks, lean, strict=False))
        self._compiled = False
        self._layers: Sequence[int] = ()
        self._beginning: tuple[list[int], Known] = ([], {})
        self._learning = threading.Lock()
        configs = {id(module.config): module.config for module in loaded.model.modules() if hasattr(module, "config")}
        self._configs = [config for config in configs.values() if hasattr(config, "_attn_implementation_internal")]

    @property
    def shortcuts(self) -> tuple[str, ...]:
        """What is left out beside a plain pass, in words."""
        first = ("blocks up to the layer alone", "equal rows once", "no padding", "common beginnings once")
        return (*first, *(["lean blocks"] if self._lean else []), "last tokens alone in the last block")

    @property
    def shortcuts_seen(self) -> tuple[str, ...]:
        """More of them, which show when batches run."""
        return ("compiled loops",) if self._compiled else ()

    @property
    def in_threads(self) -> bool:
        """Whether batches may run side by side: not where code that we do not know may keep something between them."""
        own = type(self.loaded.model).__module__.startswith("transformers.")
        return own and self.loaded.quantised is None and self.loaded.device.type == "cpu"

    def plan(self, rows: Sequence[Row], batch_tokens: int) -> list[Batch]:
        return plan_packs(rows, batch_tokens)

    def tokens(self, rows: Sequence[Row], shared: int) -> int:
        """How many tokens run for these rows."""
        return sum(len(row) - shared for row in rows)

    @contextlib.contextmanager
    def at_work(self, layers: Sequence[int]) -> Iterator[None]:
        """Within, calls give the states after each of `layers`."""
        blocks, highest = self.loaded.blocks, max(layers)
        self._layers, self._compiled = layers, False
        before = [config._attn_implementation_internal for config in self._configs]
        with contextlib.ExitStack() as stack:
            stack.callback(self._forget_beginning)
            stack.callback(self._set_attention, before)
            self._set_attention([NAME] * len(before))
            for block, lean in self._lean.items():
                stack.callback(delattr, block, "forward")
                block.forward = lean
            for layer in set(layers):
                stack.callback(blocks[layer].register_forward_hook(_keeper(layer, layer == highest)).remove)
            stack.callback(blocks[highest].register_forward_pre_hook(_trim, with_kwargs=True).remove)
            yield

    def __call__(self, rows: Sequence[Row], shared: int) -> torch.Tensor:
        """States float32 [rows, layers, hidden size] at the last token of each row.

        All rows begin with the same `shared` tokens. Rows of near-equal length are fastest side by side.
        """
        import torch

        known = self._known(list(rows[0][:shared]))
        pack = Pack.of([len(row) - shared for row in rows], shared, known, self.loaded.device)
        self._run(pack, [row[shared:] for row in rows], shared)
        return torch.stack([pack.states[layer] for layer in self._layers], dim=1)

    def asked(self) -> dict[Any, How]:
        """How each module asks for its attention: seen in a pass over one row."""
        with self.at_work([len(self.loaded.blocks) - 1]):
            pack = Pack.of([2], 0, {}, self.loaded.device)
            self._run(pack, [[0, 0]], 0)
        return pack.asked

    def _known(self, beginning: list[int]) -> Known:
        """Keys and values of a beginning. One thread makes them; the other ones wait."""
        if not beginning:
            return {}
        with self._learning:
            if beginning != self._beginning[0]:
                self._beginning = ([], {})  # another family's goes before memory is asked for more
                pack = Pack.of([len(beginning)], 0, {}, self.loaded.device, learning=True)
                self._run(pack, [beginning], 0)
                self._beginning = (beginning, pack.learnt)
            return self._beginning[1]

    def _run(self, pack: Pack, rows: Sequence[Row], shared: int) -> None:
        """All tokens of the rows, which follow `shared` others, through the blocks."""
        import torch

        tokens = [token for row in rows for token in row]
        positions = [place for row in rows for place in range(shared, shared + len(row))]
        ids, places = (moved(torch.tensor([listed]), self.loaded.device) for listed in (tokens, positions))
        set_pack(pack)
        try:
            with torch.inference_mode(), contextlib.suppress(Enough):
                self.loaded.model(input_ids=ids, position_ids=places, use_cache=False)
        finally:
            set_pack(None)
        self._compiled |= pack.compiled

    def _forget_beginning(self) -> None:
        self._beginning = ([], {})

    def _set_attention(self, names: Sequence[str]) -> None:
        for config, name in zip(self._configs, names, strict=True):
            config._attn_implementation_internal = name


def fastest_pass(loaded: LoadedModel) -> PackedPass | PaddedPass:
    """The fastest pass that gives the states of the plain one with this model, as measured on a few rows."""
    packed = PackedPass(loaded)
    if not _agrees(loaded, packed):
        return PaddedPass(loaded)
    lean = lean_blocks(loaded.blocks, packed.asked())
    fused = PackedPass(loaded, lean)
    return fused if lean and _agrees(loaded, fused) else packed


def _agrees(loaded: LoadedModel, packed: PackedPass) -> bool:
    """Whether the packed pass gives the states of the plain one, on a few rows with a common beginning."""
    decoder = loaded.model.config.get_text_config(decoder=True)
    draw = np.random.default_rng(0)
    window = getattr(decoder, "sliding_window", None) or 0
    lengths = [1, 2, 9, 9, 20] + ([window + 8] if 0 < window <= _PROBED_WINDOW else [])
    vocabulary = range(min(3, decoder.vocab_size - 1), min(400, decoder.vocab_size))
    shared, *own = ([int(token) for token in draw.choice(vocabulary, length)] for length in [5, *lengths])
    rows, layers = [shared + row for row in own], sorted({0, len(loaded.blocks) - 1})
    padded = PaddedPass(loaded)
    try:
        with packed.at_work(layers):
            found = packed(rows, len(shared)).cpu().numpy()
        with padded.at_work(layers):
            wanted = padded(rows, 0).cpu().numpy()
    except Exception:  # an architecture with attention or blocks of its own kind may fail anywhere in there
        return False
    error = np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    return bool((error < (1e-4 if loaded.dtype_name == "float32" else 3e-2)).all())


def _keeper(layer: int, highest: bool) -> Callable[..., None]:
    """After a block: the states of the last tokens are kept; after the highest, it is enough."""

    def keep(_module: object, _args: object, output: Any) -> None:
        pack = get_pack()
        states = (output[0] if isinstance(output, tuple) else output)[0]
        pack.states[layer] = (states if highest else states[pack.last]).float()
        if highest:
            raise Enough

    return keep


def _trim(block: Any, args: Any, kwargs: Any) -> Any:
    """Before the highest block runs: its keys and values are made, and its input is cut to the last tokens."""
    pack = get_pack()
    if pack.making:
        return None
    pack.making = True
    try:
        block(*args, **kwargs)
    except Made:
        pass
    finally:
        pack.making = False
    if pack.learning:
        raise Enough
    size = (args[0] if args else kwargs["hidden_states"]).shape[1]
    return _cut(args, size, pack.last), _cut(kwargs, size, pack.last)


def _cut(value: Any, size: int, at: torch.Tensor) -> Any:
    """The same with every tensor that has an entry for each of `size` tokens cut to those `at`."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.ndim > 1 and value.shape[1] == size:
            return value[:, at]
        return value[at] if value.ndim == 1 and len(value) == size else value
    if isinstance(value, dict):
        return {name: _cut(item, size, at) for name, item in value.items()}
    return type(value)(_cut(item, size, at) for item in value) if isinstance(value, tuple | list) else value
