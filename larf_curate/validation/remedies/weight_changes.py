"""Remedies that change weights: pure functions of matrices, [outputs, inputs] each, as torch has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SAFE_LORA_SIMILARITY = 0.35
"""Changes that are less like their own projection than this are projected. It is what reproductions of the paper's
results on Llama 2 take, where it projects 7 of 64 layers; the authors' code takes by default the 10 least like it."""
LOX_RANK, LOX_STRENGTH = 6, 1.25
"""The paper's for Llama 2 7B. The rank is the smallest that alone gives the aligned model's refusals: 3 or 6 there."""
MERGED_SHARE = 0.5
"""The paper chooses among 0.2, 0.4, 0.6 and 0.8 by the performance on the task, and finds 0.5 to 0.6 best."""


def safe_lora(
    left: Tensor, right: Tensor | None, aligned: Tensor, unaligned: Tensor, similarity: float = SAFE_LORA_SIMILARITY
) -> Tensor:
    """Safe LoRA (arXiv 2405.16833): a layer's change, projected onto the subspace that alignment has written to.

    With V = aligned - unaligned the projection is C = V V' / |V| (Frobenius norm): not the orthogonal projection
    V (V'V)^-1 V', but the quicker one that the paper puts in its place and that the authors' code computes. It also
    scales the change. A layer is projected where the cosine of its change and C times its change is at most
    `similarity`; others stay as they are.

    Args:
        left, right: the change is left @ right; with `right` None it is `left`.
        aligned, unaligned: the layer's weights in the model that is trained, and in the one before its alignment.
        similarity: the cosine up to which a layer is projected.

    Returns:
        What replaces `left`.
    """
    import torch

    exact = torch.promote_types(left.dtype, torch.float32)
    change, factor = left.to(exact), None if right is None else right.to(exact)
    # Never C itself, which is as large as the outputs squared.
    direction = aligned.to(exact) - unaligned.to(exact)
    norm = torch.linalg.matrix_norm(direction)
    if not norm > 0:
        return left
    projected = direction @ (direction.T @ change) / norm
    lengths = (_inner(change, change, factor) * _inner(projected, projected, factor)).sqrt()
    cosine = _inner(projected, change, factor) / lengths.clamp(min=1e-30)
    return projected.to(left.dtype) if cosine <= similarity else left


def _inner(first: Tensor, second: Tensor, right: Tensor | None) -> Tensor:
    """The inner product of first @ right and second @ right as vectors."""
    product = first.T @ second
    return product.trace() if right is None else (product * (right @ right.T)).sum()


def lox(aligned: Tensor, unaligned: Tensor, rank: int = LOX_RANK, strength: float = LOX_STRENGTH) -> Tensor:
    """LoX (arXiv 2506.15606): the weights with what alignment changed most carried further, before any training.

    Args:
        aligned, unaligned: weights of one parameter, [..., outputs, inputs], or transposed, which gives the same.
        rank: how many of the largest singular directions of the change count.
        strength: how far they are carried on, in units of the change.

    Returns:
        aligned + strength * U U' (aligned - unaligned), with U the first `rank` left singular vectors of the change:
        that is the change cut to this rank.
    """
    import torch

    exact = torch.promote_types(aligned.dtype, torch.float32)
    change = aligned.to(exact) - unaligned.to(exact)
    if not change.any():
        return aligned
    left, _, _ = torch.linalg.svd(change, full_matrices=False)
    left = left[..., :rank]
    extrapolated: Tensor = aligned.to(exact) + strength * (left @ (left.mT @ change))
    return extrapolated.to(aligned.dtype)


def merged(change: Tensor, share: float = MERGED_SHARE) -> Tensor:
    """Merging before and after tuning (arXiv 2412.19512), linearly: of a weight's change, this share is kept.

    (1 - share) times the model before training plus share times the model after it is the model before plus
    share times the change.
    """
    return share * change
