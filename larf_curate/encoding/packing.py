"""One forward pass at the floor: no pads, a common beginning once, in the highest block the last tokens alone.

The conversations of a batch lie end to end in one sequence, behind the tokens that all of them begin with (the chat
template's system turn). Everything but attention works on single tokens and does not notice; attention is ours
(`attention`), handed to transformers through its attention interface. The batches that follow keep the beginning's keys
and values. The highest block makes keys and values of all tokens, then runs on the last ones only.

An architecture whose attention does not go through that interface would mix conversations. `can_pack` finds that out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .attention import NAME, How, Layout, Made, attend, set_layout
from .batching import Batch, Row, plan_packs
from .lean import LeanBlock, lean_blocks
from .memory import moved
from .padding import Enough, PaddedPass

if TYPE_CHECKING:
    import torch

    from .loading import LoadedModel

_PROBED_WINDOW = 512  # tokens; wider sliding windows are not tried on every model that is loaded


class PackedPass:
    """Runs batches of conversations through the blocks of a loaded model.

    It holds keys and values of the beginning that its last batch had. Make one for each list of rows.

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
        self._beginning: list[int] = []
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.asked: dict[Any, How] = {}
        configs = {id(module.config): module.config for module in loaded.model.modules() if hasattr(module, "config")}
        self._configs = [config for config in configs.values() if hasattr(config, "_attn_implementation_internal")]

    @property
    def shortcuts(self) -> tuple[str, ...]:
        """What is left out beside a plain pass, in words."""
        first = ("blocks up to the layer alone", "equal rows once", "no padding", "common beginnings once")
        return (*first, "last tokens alone in the last block", *(["lean blocks"] if self._lean else []))

    def plan(self, rows: Sequence[Row], batch_tokens: int) -> list[Batch]:
        return plan_packs(rows, batch_tokens)

    def tokens(self, rows: Sequence[Row], shared: int) -> int:
        """How many tokens run for these rows, at most."""
        return shared + sum(len(row) - shared for row in rows)

    def __call__(self, rows: Sequence[Row], shared: int, layers: Sequence[int]) -> torch.Tensor:
        """States float32 [rows, layers, hidden size] after each of `layers`, at the last token of each row.

        All rows begin with the same `shared` tokens. `layers` are the same in every call. Rows of near-equal length
        are fastest side by side.
        """
        import torch

        loaded = self.loaded
        beginning = list(rows[0][:shared])
        if beginning != self._beginning:
            self._known = {}  # that of another family of rows goes before memory is asked for more
        layout = Layout.of([len(row) - shared for row in rows], shared, self._known, loaded.device)
        tokens, positions = ([], []) if self._known else (beginning, list(range(shared)))
        for row in rows:
            tokens += row[shared:]
            positions += range(shared, len(row))
        ids, places = (moved(torch.tensor([listed]), loaded.device) for listed in (tokens, positions))
        highest = max(layers)
        kept: dict[int, torch.Tensor] = {}

        def keep(layer: int) -> Callable[..., None]:
            def hook(_module: object, _args: object, output: Any) -> None:
                states = (output[0] if isinstance(output, tuple) else output)[0]
                kept[layer] = (states if layer == highest else states[layout.last]).float()
                if layer == highest:
                    raise Enough

            return hook

        with contextlib.ExitStack() as stack:
            stack.enter_context(self._attending(layout))
            for layer in set(layers):
                stack.callback(loaded.blocks[layer].register_forward_hook(keep(layer)).remove)
            trim = loaded.blocks[highest].register_forward_pre_hook(_trimmer(layout), with_kwargs=True)
            stack.callback(trim.remove)
            stack.enter_context(torch.inference_mode())
            with contextlib.suppress(Enough):
                loaded.model(input_ids=ids, position_ids=places, use_cache=False)
        self.asked = layout.asked
        self._beginning, self._known = list(rows[0][:shared]), self._known or layout.learnt
        return torch.stack([kept[layer] for layer in layers], dim=1)

    @contextlib.contextmanager
    def _attending(self, layout: Layout) -> Iterator[None]:
        before = [config._attn_implementation_internal for config in self._configs]
        set_layout(layout)
        try:
            for config in self._configs:
                config._attn_implementation_internal = NAME
            for block, lean in self._lean.items():
                block.forward = lean
            yield
        finally:
            set_layout(None)
            for block in self._lean:
                del block.forward
            for config, name in zip(self._configs, before, strict=True):
                config._attn_implementation_internal = name


def fastest_pass(loaded: LoadedModel) -> PackedPass | PaddedPass:
    """The pass that suits the model best and gives the states of the plain one; found out once for each model."""
    if loaded.packs is None:
        loaded.packs = _agrees(loaded, ())
    if not loaded.packs:
        return PaddedPass(loaded)
    if loaded.lean is None:
        lean = lean_blocks(loaded.blocks, _asked(loaded))
        loaded.lean = lean if lean and _agrees(loaded, lean) else []
    return PackedPass(loaded, loaded.lean)


def _asked(loaded: LoadedModel) -> dict[Any, How]:
    """How each module asks for its attention: seen in a pass over one row."""
    packed = PackedPass(loaded)
    packed([[0, 0]], 0, [len(loaded.blocks) - 1])
    return packed.asked


def _agrees(loaded: LoadedModel, lean: Sequence[LeanBlock]) -> bool:
    """Whether the packed pass gives the states of the plain one, on a few rows with a common beginning."""
    decoder = loaded.model.config.get_text_config(decoder=True)
    draw = np.random.default_rng(0)
    window = getattr(decoder, "sliding_window", None) or 0
    lengths = [1, 2, 9, 9, 20] + ([window + 8] if 0 < window <= _PROBED_WINDOW else [])
    vocabulary = range(min(3, decoder.vocab_size - 1), min(400, decoder.vocab_size))
    shared, *own = ([int(token) for token in draw.choice(vocabulary, length)] for length in [5, *lengths])
    rows, layers = [shared + row for row in own], sorted({0, len(loaded.blocks) - 1})
    try:
        # Twice: the second batch finds the beginning's keys and values.
        packed = PackedPass(loaded, lean)
        found = np.concatenate([packed(part, len(shared), layers).cpu().numpy() for part in (rows[3:], rows)])
        wanted = PaddedPass(loaded)(rows, 0, layers).cpu().numpy()
    except Exception:  # an architecture with attention or blocks of its own kind may fail anywhere in there
        return False
    wanted = np.concatenate([wanted[3:], wanted])
    error = np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    return bool((error < (1e-4 if loaded.dtype_name == "float32" else 3e-2)).all())


def _trimmer(layout: Layout) -> Callable[..., Any]:
    """Before the highest block runs: its keys and values are made, and its input is cut to the last tokens."""

    def trim(block: Any, args: Any, kwargs: Any) -> Any:
        if layout.making:
            return None
        layout.making = True
        try:
            block(*args, **kwargs)
        except Made:
            pass
        finally:
            layout.making = False
        size = (args[0] if args else kwargs["hidden_states"]).shape[1]
        return _cut(args, size, layout.last), _cut(kwargs, size, layout.last)

    return trim


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
