"""One forward pass at the floor: no pads, a common beginning once, in the last block the last tokens alone.

The conversations of a batch lie end to end in one sequence, behind the tokens that all of them begin with (the chat
template's system turn). Everything but attention works on single tokens and does not notice; attention is ours, handed
to transformers through its attention interface: each conversation sees the shared beginning and itself. The highest
block makes keys and values of all tokens, then runs on the last ones only.

An architecture whose attention does not go through that interface would mix conversations. `can_pack` finds that out.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .batching import common_prefix

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from .loading import LoadedModel

_NAME = "larf_packed"
_PROBED_WINDOW = 512  # tokens; wider sliding windows are not tried on every model that is loaded
_UNKNOWN = ("s_aux", "position_bias", "cache", "block_mask")  # attention of other kinds; not ours to compute


class _Made(Exception):  # noqa: N818 - ends the making of keys and values, nothing is wrong
    """The highest block's keys and values are there."""


class Enough(Exception):  # noqa: N818 - ends a forward pass, nothing is wrong
    """The highest block is done: what lies above it (the final norm) has nothing to add."""


@dataclass
class _Layout:
    """Where the tokens of a packed batch lie: `shared` first ones, then each run of `count` rows of `length` tokens."""

    shared: int
    runs: list[tuple[int, int, int]]  # start, count, length
    last: torch.Tensor  # of each row
    masks: dict[Any, torch.Tensor] = field(default_factory=dict)
    making: bool = False  # keys and values of the highest block are wanted, and nothing else
    made: tuple[torch.Tensor, torch.Tensor] | None = None


_current = threading.local()


class PackedPass:
    """Runs batches of conversations through the blocks of a loaded model.

    Args:
        loaded: the model; whoever calls holds its lock.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        if _NAME not in ALL_ATTENTION_FUNCTIONS:
            ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)
        self.loaded = loaded
        configs = {id(module.config): module.config for module in loaded.model.modules() if hasattr(module, "config")}
        self._configs = [config for config in configs.values() if hasattr(config, "_attn_implementation_internal")]

    def __call__(self, rows: Sequence[list[int]], layers: Sequence[int]) -> torch.Tensor:
        """States float32 [rows, layers, hidden size] after each of `layers`, at the last token of each row.

        Rows of equal length are fastest side by side.
        """
        import torch

        loaded = self.loaded
        shared = common_prefix(rows) if len(rows) > 1 else 0
        tokens, positions = list(rows[0][:shared]), list(range(shared))
        runs: list[tuple[int, int, int]] = []
        last = []
        for row in rows:
            length = len(row) - shared
            if runs and runs[-1][2] == length:
                start, count, _ = runs[-1]
                runs[-1] = (start, count + 1, length)
            else:
                runs.append((len(tokens), 1, length))
            tokens += row[shared:]
            positions += range(shared, len(row))
            last.append(len(tokens) - 1)
        layout = _Layout(shared, runs, torch.tensor(last, device=loaded.device))
        ids = torch.tensor([tokens], device=loaded.device)
        places = torch.tensor([positions], device=loaded.device)
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
        return torch.stack([kept[layer] for layer in layers], dim=1)

    @contextlib.contextmanager
    def _attending(self, layout: _Layout) -> Iterator[None]:
        before = [config._attn_implementation_internal for config in self._configs]
        _current.layout = layout
        try:
            for config in self._configs:
                config._attn_implementation_internal = _NAME
            yield
        finally:
            _current.layout = None
            for config, name in zip(self._configs, before, strict=True):
                config._attn_implementation_internal = name


def can_pack(loaded: LoadedModel, plain: Callable[[list[list[int]], list[int]], NDArray[np.float32]]) -> bool:
    """Whether the packed pass gives the states of the plain one, on a few rows with a common beginning."""
    if loaded.device.type != "cpu":
        return False  # many short rows would be many small kernels
    decoder = loaded.model.config.get_text_config(decoder=True)
    draw = np.random.default_rng(0)
    window = getattr(decoder, "sliding_window", None) or 0
    lengths = [1, 2, 9, 9, 20] + ([window + 8] if 0 < window <= _PROBED_WINDOW else [])
    vocabulary = range(min(3, decoder.vocab_size - 1), min(400, decoder.vocab_size))
    shared, *own = ([int(token) for token in draw.choice(vocabulary, length)] for length in [5, *lengths])
    rows, layers = [shared + row for row in own], sorted({0, len(loaded.blocks) - 1})
    try:
        found, wanted = PackedPass(loaded)(rows, layers).numpy(), plain(rows, layers)
    except Exception:  # an architecture with attention or blocks of its own kind may fail anywhere in there
        return False
    error = np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    return bool((error < (1e-4 if loaded.dtype_name == "float32" else 3e-2)).all())


def _trimmer(layout: _Layout) -> Callable[..., Any]:
    """Before the highest block runs: its keys and values are made, and its input is cut to the last tokens."""

    def trim(block: Any, args: Any, kwargs: Any) -> Any:
        if layout.making:
            return None
        layout.making = True
        try:
            block(*args, **kwargs)
        except _Made:
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


def _attend(
    _module: object,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: object,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed batch: query [1, heads, tokens, size], key and value [1, fewer heads, tokens, size]."""
    if odd := [name for name in _UNKNOWN if others.get(name) is not None]:
        raise NotImplementedError(f"attention with {odd[0]}")
    layout: _Layout = _current.layout
    if layout.making:
        layout.made = key, value
        raise _Made
    trimmed = layout.made is not None
    if layout.made is not None:
        key, value = layout.made
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    shared = layout.shared
    out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    how = _How(scaling, sliding_window, softcap)
    first_keys, first_values = key[:, :, :shared], value[:, :, :shared]
    row = 0
    for start, count, length in layout.runs:
        ends = slice(start, start + count * length)
        asking = slice(row, row + count) if trimmed else ends
        asked, keys, values = (_unpacked(x, at, count) for x, at in ((query, asking), (key, ends), (value, ends)))
        if shared:
            keys, values = _behind(first_keys, keys), _behind(first_values, values)
            if not trimmed:
                # The beginning asks with every row, and one answer is kept: a causal square beats a masked oblong.
                asked = _behind(query[:, :, :shared], asked)
        found = _dot(asked, keys, values, how, layout.masks).transpose(1, 2)
        out[0, asking] = found[:, found.shape[1] - (1 if trimmed else length) :].flatten(0, 1)
        if not trimmed and not row:
            out[0, :shared] = found[0, :shared]
        row += count
    return out, None


def _unpacked(states: torch.Tensor, at: slice, count: int) -> torch.Tensor:
    """[1, heads, tokens, size] to [rows, heads, tokens of a row, size]."""
    part = states[0, :, at]
    return part.reshape(part.shape[0], count, -1, part.shape[2]).transpose(0, 1)


def _behind(first: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The rows' tokens behind the one beginning that they share."""
    import torch

    return torch.cat([first.expand(len(rows), -1, -1, -1), rows], dim=2)


@dataclass(frozen=True)
class _How:
    """What else this block's attention does: scale, look back only so far, squash the scores."""

    scaling: float | None
    window: int | None
    softcap: float | None


def _dot(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: _How, masks: dict[Any, torch.Tensor]
) -> torch.Tensor:
    """Causal attention of all tokens of each row, or of its last one; [rows, heads, tokens, size]."""
    import torch

    asked, seen = query.shape[2], key.shape[2]  # all of them, or the last alone
    mask = None
    if how.window is not None and seen > how.window:
        place = asked, seen, how.window
        if place not in masks:
            back = torch.arange(seen - asked, seen)[:, None] - torch.arange(seen)[None, :]  # how far a key lies back
            masks[place] = ((back >= 0) & (back < how.window)).to(query.device)
        mask = masks[place]
    causal = mask is None and asked > 1
    if how.softcap is None:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=how.scaling
        )
    scale = how.scaling if how.scaling is not None else query.shape[3] ** -0.5
    scores = torch.tanh(query @ key.transpose(2, 3) * (scale / how.softcap)) * how.softcap
    if causal:
        mask = torch.ones(asked, seen, dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
