"""Attention of conversations that lie end to end behind a beginning that all of them share.

transformers hands query, key and value of one long sequence to `attend` through its attention interface. Each
conversation sees the beginning and itself. Rows of near-equal length are laid side by side for it, padded by their own
last token; what a pad sees is dropped, and no row sees a pad, for pads come last and attention is causal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import kernels
from .packs import How, Pack, Segment, get_pack

if TYPE_CHECKING:
    import torch

NAME = "larf_packed"
"""What transformers' configs call this attention."""

_UNKNOWN = ("s_aux", "position_bias", "cache", "block_mask")  # attention of other kinds; not ours to compute
_QUERIES = 64  # at once, about, on a CPU: their scores stay in its cache, and keys that they cannot see are left out
_QUERIES_OF_ACCELERATORS = 512  # their scores are the largest tensor there is
_LONG = 768  # tokens from which torch's fused kernel is the faster on a CPU


def attend(
    module: object,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: object,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed batch as transformers asks for it, and wants it: [1, tokens, heads, size].

    Query is [1, heads, tokens, size], key and value [1, fewer heads, tokens, size].
    """
    if odd := [name for name in _UNKNOWN if others.get(name) is not None]:
        raise NotImplementedError(f"attention with {odd[0]}")
    how = How(query.shape[3] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    pack = get_pack()
    pack.asked[module] = how
    key, value = pack.made or pack.hold(key[0].transpose(0, 1), value[0].transpose(0, 1))
    return answer(pack, query[0].transpose(0, 1), key, value, how)[None], None


def answer(pack: Pack, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: How) -> torch.Tensor:
    """The values that each query [tokens, heads, size] finds: [tokens, heads, size]."""
    trimmed = pack.made is not None
    loops = None if trimmed or query.shape[2] != value.shape[2] else _loops(pack, query, how)
    if loops is not None:
        pack.compiled = True
        return loops.attend(query, key, value, pack.last + 1, pack.segments[0].before, how.scale)
    # Heads that share keys together: [tokens, key heads, query heads of each, size]
    query = query.reshape(len(query), key.shape[1], -1, query.shape[2])
    out = query.new_empty(*query.shape[:3], value.shape[2])
    key, value = key.transpose(0, 1), value.transpose(0, 1)
    for segment in pack.segments:
        keys, values = (_seen(x, segment) for x in (key, value))
        if trimmed:
            rows = slice(segment.first, segment.first + segment.count)
            _last_tokens(query[rows], keys, values, segment, how, out[rows])
        elif how.softcap is None and _fused_pays(segment, how.window, query.device):
            out[segment.start : segment.stop] = _fused(query, keys, values, segment, how)
        else:
            _by_chunks(query, keys, values, segment, how, pack, out[segment.start : segment.stop])
    return out.flatten(1, 2)


def _loops(pack: Pack, query: torch.Tensor, how: How) -> kernels.Loops | None:
    """The compiled loops, where nothing but the order of tokens hides a key from a query."""
    all_seen = how.window is None or all(part.before + part.length <= how.window for part in pack.segments)
    if how.softcap is not None or not all_seen:
        return None
    return kernels.suiting(query, query.shape[2], any_precision=True)


def _seen(states: torch.Tensor, segment: Segment) -> torch.Tensor:
    """Keys or values [heads, tokens, size] to those that each row sees, [heads, rows, tokens, size]."""
    return states.index_select(1, segment.seen).view(len(states), segment.count, -1, states.shape[2])


def _fused_pays(segment: Segment, window: int | None, device: torch.device) -> bool:
    """Whether torch's own kernel is the faster: it asks for the beginning with every row, as its mask is a square."""
    seen = segment.before + segment.length
    if window is not None and seen > window:
        return False
    return segment.before <= segment.length and (device.type != "cpu" or seen >= _LONG)


def _side_by_side(query: torch.Tensor, segment: Segment) -> torch.Tensor:
    """The queries of a segment's own tokens, [rows, tokens, ...]."""
    at = segment.asking
    own = query[segment.start : segment.stop] if at is None else query.index_select(0, at)
    return own.reshape(segment.count, segment.length, *query.shape[1:])


def _fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segment: Segment, how: How) -> torch.Tensor:
    """By torch's kernel; what it is asked for the beginning's sake (the first token, many times) is dropped."""
    import torch

    own = _side_by_side(query, segment)  # [rows, tokens, key heads, query heads of each, size]
    asked = torch.cat([own[:, :1].expand(-1, segment.before, -1, -1, -1), own], dim=1).flatten(2, 3).transpose(1, 2)
    keys, values = (x.transpose(0, 1) for x in (key, value))
    groups = query.shape[2]
    if query.device.type != "cpu":  # not all of an accelerator's kernels know that heads can share keys
        keys, values = (x.repeat_interleave(groups, dim=1) for x in (keys, values))
    found = torch.nn.functional.scaled_dot_product_attention(
        asked, keys, values, is_causal=True, scale=how.scale, enable_gqa=keys.shape[1] < asked.shape[1]
    )
    found = found[:, :, segment.before :].transpose(1, 2).reshape(-1, *query.shape[1:3], value.shape[3])
    return found if segment.real is None else found.index_select(0, segment.real)


def _by_chunks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segment: Segment,
    how: How,
    pack: Pack,
    out: torch.Tensor,
) -> None:
    """A few tokens of all rows at a time, and the heads that share keys as one matrix; written to `out`."""
    import torch

    count, length, before = segment.count, segment.length, segment.before
    own = _side_by_side(query, segment).permute(2, 0, 3, 1, 4)  # [key heads, rows, query heads, tokens, size]
    found = out if segment.real is None else out.new_empty(count * length, *out.shape[1:])
    side_by_side = found.view(count, length, *out.shape[1:]).permute(2, 0, 3, 1, 4)
    key, value = key.flatten(0, 1), value.flatten(0, 1)  # [key heads * rows, tokens, size]
    parts = max(1, round(length / (_QUERIES if query.device.type == "cpu" else _QUERIES_OF_ACCELERATORS)))
    step = -(-length // parts)
    for start in range(0, length, step):
        stop = min(start + step, length)
        low = 0 if how.window is None else max(0, before + start - how.window + 1)
        seen = slice(low, before + stop)
        mask = _mask(stop - start, before + start - low, how.window, pack.masks, query)
        asked = own[:, :, :, start:stop]
        part = _softmaxed(asked.flatten(0, 1).flatten(1, 2), key[:, seen], value[:, seen], mask, how)
        side_by_side[:, :, :, start:stop] = part.view(*asked.shape[:-1], -1)
    if segment.real is not None:
        torch.index_select(found, 0, segment.real, out=out)


def _last_tokens(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segment: Segment, how: How, out: torch.Tensor
) -> None:
    """The last token of each row alone, query [rows, key heads, query heads of each, size]; written to `out`."""
    import torch

    place = torch.arange(key.shape[2], device=key.device)
    end = segment.before + segment.lengths[:, None]
    seen = place < end
    if how.window is not None:
        seen &= place >= end - how.window
    mask = _unseen(seen, query).repeat(len(key), 1)[:, None]  # [key heads * rows, 1, tokens]
    asked = query.transpose(0, 1)
    found = _softmaxed(asked.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), mask, how)
    out[:] = found.view(*asked.shape[:-1], -1).transpose(0, 1)


def _mask(
    asked: int, before: int, window: int | None, masks: dict[Any, torch.Tensor], like: torch.Tensor
) -> torch.Tensor:
    """What so many tokens, behind `before` others, must not see: [asked, the last keys], zero or minus infinity."""
    import torch

    reach = before + asked if window is None else window
    bites = before + asked > reach
    place = asked, before if bites else 0, reach if bites else None
    if place not in masks:
        keys = place[1] + asked
        back = torch.arange(keys - asked, keys)[:, None] - torch.arange(keys)[None, :]  # how far a key lies back
        seen = back >= 0
        if bites:
            seen &= back < reach
        masks[place] = _unseen(seen, like)
    return masks[place]


def _unseen(seen: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What to add to scores, of the kind of `like`: zero where a key is seen, else minus infinity."""
    return like.new_zeros(seen.shape).masked_fill_(~seen.to(like.device), float("-inf"))


def _softmaxed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, how: How
) -> torch.Tensor:
    """softmax(query key' + mask) value of [many, any, size]; the mask is that of the last keys."""
    import torch

    scale = how.scale if how.softcap is None else how.scale / how.softcap
    scores = torch.baddbmm(query.new_empty(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=scale)
    if how.softcap is not None:
        scores = scores.tanh_().mul_(how.softcap)
    by_head = scores.view(len(scores), -1, mask.shape[-2], scores.shape[2])
    by_head[..., -mask.shape[-1] :].add_(mask.unsqueeze(-3))
    if scores.dtype == torch.float32:
        return torch.bmm(torch.softmax(scores, -1), value)
    return torch.bmm(torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype), value)
