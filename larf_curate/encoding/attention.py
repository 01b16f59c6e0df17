"""Attention in a packed batch: rows lie end to end, and each sees the shared prefix and its own tokens before.

transformers calls `packed_attention` with query, key and value of the whole sequence, through its attention interface.
Rows of similar length (a `Segment`) are computed together, padded by their own last token. Results of pads are dropped,
and no row sees a pad: pads come last, and attention is causal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import kernels
from .packed_batch import AttentionOptions, PackedBatch, Segment, Step, running_packed_batch

if TYPE_CHECKING:
    import torch

ATTENTION_NAME = "larf_packed"
"""The name of this attention in the configs of transformers."""

_UNSUPPORTED = ("s_aux", "position_bias", "cache", "block_mask")  # arguments of attention that computes something else


def packed_attention(
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
    """Attention of the packed batch that runs in this thread, with the signature that transformers asks for.

    Args:
        module: the attention module of a block.
        query: [1, heads, tokens, head size].
        key, value: [1, key heads, tokens, head size].
        scaling, sliding_window, softcap: see `AttentionOptions`.
        **others: what else transformers passes on.

    Returns:
        [1, tokens, heads, head size], and None for the weights.

    Raises:
        NotImplementedError: the model asks for attention that computes something else.
    """
    if unsupported := [name for name in _UNSUPPORTED if others.get(name) is not None]:
        raise NotImplementedError(f"attention with {unsupported[0]}")
    options = AttentionOptions(query.shape[3] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    batch = running_packed_batch()
    batch.attention_options[module] = options
    if batch.step is Step.LAST_TOKENS:
        assert batch.last_keys_values is not None
        key, value = batch.last_keys_values
    else:
        key, value = batch.with_prefix(module, key[0].transpose(0, 1), value[0].transpose(0, 1))
    return attend(batch, query[0].transpose(0, 1), key, value, options)[None], None


def attend(
    batch: PackedBatch, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: AttentionOptions
) -> torch.Tensor:
    """Causal attention of each row behind the shared prefix.

    Args:
        batch: where the rows lie.
        query: the queries of all tokens, or of the last ones in the step LAST_TOKENS, [tokens, heads, head size].
        key, value: keys and values of the prefix and all tokens, [prefix + tokens, key heads, head size].
        options: the options of the block.

    Returns:
        [tokens, heads, head size of the values].
    """
    last_alone = batch.step is Step.LAST_TOKENS
    if not last_alone and query.shape[2] == value.shape[2]:
        compiled = _compiled_kernels(batch, query, options)
        if compiled is not None:
            batch.used_kernels = True
            ends, prefix = batch.last_tokens + 1, batch.segments[0].prefix
            return compiled.attend(query, key, value, ends, prefix, options.scale)
    # Query heads that share a key head go together: [tokens, key heads, query heads of each, head size]
    query = query.reshape(len(query), key.shape[1], -1, query.shape[2])
    out = query.new_empty(*query.shape[:3], value.shape[2])
    key, value = key.transpose(0, 1), value.transpose(0, 1)
    for segment in batch.segments:
        keys, values = (_seen_by_rows(x, segment) for x in (key, value))
        if last_alone:
            rows = slice(segment.first_row, segment.first_row + segment.rows)
            _attend_from_last_tokens(query[rows], keys, values, segment, options, out[rows])
        elif options.softcap is None and _sdpa_is_faster(segment, options, query.device, batch.settings.sdpa_tokens):
            out[segment.start : segment.stop] = _attend_by_sdpa(query, keys, values, segment, options)
        else:
            _attend_in_chunks(query, keys, values, segment, options, batch, out[segment.start : segment.stop])
    return out.flatten(1, 2)


def _compiled_kernels(batch: PackedBatch, query: torch.Tensor, options: AttentionOptions) -> kernels.Kernels | None:
    """The compiled kernels if this attention is causal and nothing else, and they can be used; else None."""
    window = options.window
    within_window = window is None or all(part.prefix + part.length <= window for part in batch.segments)
    if options.softcap is not None or not within_window:
        return None
    return kernels.kernels_for(query, query.shape[2], any_precision=True)


def _seen_by_rows(states: torch.Tensor, segment: Segment) -> torch.Tensor:
    """Keys or values [key heads, tokens, size] of what each row sees, [key heads, rows, prefix + length, size]."""
    return states.index_select(1, segment.keys).view(len(states), segment.rows, -1, states.shape[2])


def _sdpa_is_faster(segment: Segment, options: AttentionOptions, device: torch.device, sdpa_tokens: int) -> bool:
    """Whether torch's kernel is faster. Its causal mask is a square, so the prefix is computed again for every row."""
    seen = segment.prefix + segment.length
    if options.window is not None and seen > options.window:
        return False
    return segment.prefix <= segment.length and (device.type != "cpu" or seen >= sdpa_tokens)


def _padded_rows(query: torch.Tensor, segment: Segment) -> torch.Tensor:
    """The queries of a segment's rows, [rows, length, ...]."""
    index = segment.queries
    own = query[segment.start : segment.stop] if index is None else query.index_select(0, index)
    return own.reshape(segment.rows, segment.length, *query.shape[1:])


def _attend_by_sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segment: Segment, options: AttentionOptions
) -> torch.Tensor:
    """By torch's `scaled_dot_product_attention`; in place of the prefix's queries stands each row's first, dropped."""
    import torch

    own = _padded_rows(query, segment)  # [rows, length, key heads, query heads of each, size]
    square = torch.cat([own[:, :1].expand(-1, segment.prefix, -1, -1, -1), own], dim=1).flatten(2, 3).transpose(1, 2)
    keys, values = (x.transpose(0, 1) for x in (key, value))
    groups = query.shape[2]
    if query.device.type != "cpu":  # not all of an accelerator's kernels know that heads can share keys
        keys, values = (x.repeat_interleave(groups, dim=1) for x in (keys, values))
    out = torch.nn.functional.scaled_dot_product_attention(
        square, keys, values, is_causal=True, scale=options.scale, enable_gqa=keys.shape[1] < square.shape[1]
    )
    out = out[:, :, segment.prefix :].transpose(1, 2).reshape(-1, *query.shape[1:3], value.shape[3])
    return out if segment.unpadded is None else out.index_select(0, segment.unpadded)


def _attend_in_chunks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segment: Segment,
    options: AttentionOptions,
    batch: PackedBatch,
    out: torch.Tensor,
) -> None:
    """A few tokens of all rows at a time, without the keys that none of them sees; written to `out`."""
    import torch

    rows, length, prefix, window = segment.rows, segment.length, segment.prefix, options.window
    own = _padded_rows(query, segment).permute(2, 0, 3, 1, 4)  # [key heads, rows, query heads of each, length, size]
    padded_out = out if segment.unpadded is None else out.new_empty(rows * length, *out.shape[1:])
    by_row = padded_out.view(rows, length, *out.shape[1:]).permute(2, 0, 3, 1, 4)
    key, value = key.flatten(0, 1), value.flatten(0, 1)  # [key heads * rows, prefix + length, size]
    settings = batch.settings
    chunk = settings.chunk_queries if query.device.type == "cpu" else settings.chunk_queries_accelerator
    step = -(-length // max(1, round(length / chunk)))
    for start in range(0, length, step):
        stop = min(start + step, length)
        lowest = 0 if window is None else max(0, prefix + start - window + 1)
        seen = slice(lowest, prefix + stop)
        mask = _causal_mask(stop - start, prefix + start - lowest, window, batch.masks, query)
        part = own[:, :, :, start:stop]
        attended = _softmax_attention(part.flatten(0, 1).flatten(1, 2), key[:, seen], value[:, seen], mask, options)
        by_row[:, :, :, start:stop] = attended.view(*part.shape[:-1], -1)
    if segment.unpadded is not None:
        torch.index_select(padded_out, 0, segment.unpadded, out=out)


def _attend_from_last_tokens(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segment: Segment,
    options: AttentionOptions,
    out: torch.Tensor,
) -> None:
    """One query for each row, its last token's, [rows, key heads, query heads of each, size]; written to `out`."""
    import torch

    place = torch.arange(key.shape[2], device=key.device)
    end = segment.prefix + segment.lengths[:, None]
    seen = place < end
    if options.window is not None:
        seen &= place >= end - options.window
    mask = _additive_mask(seen, query).repeat(len(key), 1)[:, None]  # [key heads * rows, 1, prefix + length]
    by_head = query.transpose(0, 1)
    attended = _softmax_attention(by_head.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), mask, options)
    out[:] = attended.view(*by_head.shape[:-1], -1).transpose(0, 1)


def _causal_mask(
    queries: int, before: int, window: int | None, masks: dict[tuple[int, int, int | None], torch.Tensor], like: Any
) -> torch.Tensor:
    """The mask of so many queries that follow `before` other tokens: [queries, the last keys], to be added to scores.

    Keys before the last ones, which every query sees, are left out of it.
    """
    import torch

    reach = before + queries if window is None else window
    window_matters = before + queries > reach
    shape = queries, before if window_matters else 0, reach if window_matters else None
    if shape not in masks:
        keys = shape[1] + queries
        distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)[None, :]
        seen = distance >= 0
        if window_matters:
            seen &= distance < reach
        masks[shape] = _additive_mask(seen, like)
    return masks[shape]


def _additive_mask(seen: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Zero where a key is seen, else minus infinity; with the precision and device of `like`."""
    return like.new_zeros(seen.shape).masked_fill_(~seen.to(like.device), float("-inf"))


def _softmax_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, options: AttentionOptions
) -> torch.Tensor:
    """softmax(scale query key' + mask) value, each [many, any, size]; the mask is that of the last keys."""
    import torch

    scale = options.scale if options.softcap is None else options.scale / options.softcap
    scores = torch.baddbmm(query.new_empty(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=scale)
    if options.softcap is not None:
        scores = scores.tanh_().mul_(options.softcap)
    by_head = scores.view(len(scores), -1, mask.shape[-2], scores.shape[2])
    by_head[..., -mask.shape[-1] :].add_(mask.unsqueeze(-3))
    if scores.dtype == torch.float32:
        return torch.bmm(torch.softmax(scores, -1), value)
    return torch.bmm(torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype), value)
