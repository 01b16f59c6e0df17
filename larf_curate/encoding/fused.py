"""The blocks of Llama and its relatives (Mistral, Qwen 2 and 3, SmolLM), without a copy too many.

A block adds to the residual stream what attention and the gated MLP find there. Its own code makes a new tensor of
every step; on a CPU these passes over memory cost a fifth of the time beside the matrix products. Here the products add
to the stream in place, activation and gate share a tensor, rotation and norms take half the passes. The weights are
the block's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import kernels
from .attention import answer
from .packs import How, get_pack

if TYPE_CHECKING:
    import torch
    from torch import nn

_BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj"}


def lean_blocks(blocks: Iterable[nn.Module], asked: Mapping[Any, How]) -> list[LeanBlock]:
    """The same blocks made lean; none where one of them is made otherwise than Llama's.

    Whether their numbers agree is for the caller to try: equal names may stand for other sums (Gemma's norms).

    Args:
        blocks: of the model, from the first.
        asked: how each attention module asks for its attention.
    """
    lean = []
    for block in blocks:
        if not _is_llamas(block) or block.self_attn not in asked:
            return []
        lean.append(LeanBlock(block, asked[block.self_attn]))
    return lean


def _is_llamas(block: nn.Module) -> bool:
    from torch import nn

    children = dict(block.named_children())
    if set(children) != _BLOCK:
        return False
    attention, mlp = (dict(children[name].named_children()) for name in ("self_attn", "mlp"))
    if set(attention) - {"q_norm", "k_norm"} != _ATTENTION or set(mlp) - {"act_fn"} != _MLP:
        return False
    norms = [children["input_layernorm"], children["post_attention_layernorm"]]
    norms += [attention[name] for name in ("q_norm", "k_norm") if name in attention]
    products = [attention[name] for name in _ATTENTION] + [mlp[name] for name in _MLP]
    plain = all(type(module) is nn.Linear for module in products)  # neither quantised nor adapted
    return plain and all(hasattr(norm, "variance_epsilon") and hasattr(norm, "weight") for norm in norms)


class LeanBlock:
    """Stands in for a block's `forward` within a packed pass. It writes to the states that it is given.

    Args:
        block: whose weights these are.
        how: its attention.
    """

    def __init__(self, block: Any, how: How) -> None:
        from torch import nn

        self.block, self.how = block, how
        self.swish = isinstance(block.mlp.act_fn, nn.SiLU) or type(block.mlp.act_fn).__name__ == "SiLUActivation"

    def __call__(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **_: Any
    ) -> torch.Tensor:
        """States [1, tokens, hidden size] after the block; cosines and sines [1, tokens, head size]."""
        import torch

        stream = hidden_states[0]
        attention, mlp, pack = self.block.self_attn, self.block.mlp, get_pack()
        cosines, sines = (x[0] for x in position_embeddings)
        normed = _normed(stream, self.block.input_layernorm)
        if pack.made is None:
            keys = _heads(attention.k_proj(normed), attention, "k_norm")
            values = _heads(attention.v_proj(normed), attention, "")
            key, value = pack.hold(_rotated(keys, cosines, sines), values)
        else:
            key, value = pack.made
        queries = _rotated(_heads(attention.q_proj(normed), attention, "q_norm"), cosines, sines)
        _add(stream, answer(pack, queries, key, value, self.how).flatten(1, 2), attention.o_proj)
        normed = _normed(stream, self.block.post_attention_layernorm)
        gate, up = mlp.gate_proj(normed), mlp.up_proj(normed)
        loops = kernels.suiting(gate, gate.shape[1]) if self.swish else None
        if loops is not None:
            gated = loops.gate_(gate, up)
        else:
            gated = (torch.nn.functional.silu(gate, inplace=True) if self.swish else mlp.act_fn(gate)).mul_(up)
        _add(stream, gated, mlp.down_proj)
        return hidden_states


def _normed(states: torch.Tensor, norm: Any) -> torch.Tensor:
    """Root mean square normalisation, arXiv 1910.07467."""
    import torch

    if states.dtype != torch.float32 or states.device.type != "cpu":
        return torch.nn.functional.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)
    loops = kernels.suiting(states, states.shape[-1])
    if loops is not None:
        return loops.normed(states, norm.weight, norm.variance_epsilon)
    length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    scale = length.square_().div_(states.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    normed: torch.Tensor = (states * scale).mul_(norm.weight)
    return normed


def _heads(states: torch.Tensor, attention: Any, norm: str) -> torch.Tensor:
    """[tokens, heads * size] to [tokens, heads, size], normalised where the model does so (Qwen 3)."""
    states = states.view(len(states), -1, attention.head_dim)
    return _normed(states, getattr(attention, norm)) if norm and hasattr(attention, norm) else states


def _rotated(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotary positions, arXiv 2104.09864, with the halves of a head as the two coordinates.

    States [tokens, heads, size], which may be written to; cosines and sines [tokens, size].
    """
    half = states.shape[2] // 2
    loops = kernels.suiting(states, half) if cosines.shape[1] == states.shape[2] else None
    if loops is not None and cosines.dtype == states.dtype:
        return loops.rotate_(states.contiguous(), cosines, sines)
    cosines, sines = cosines[:, None], sines[:, None]
    rotated = states * cosines
    rotated[..., :half].addcmul_(states[..., half:], sines[..., :half], value=-1)
    rotated[..., half:].addcmul_(states[..., :half], sines[..., half:])
    return rotated


def _add(stream: torch.Tensor, states: torch.Tensor, product: nn.Linear) -> None:
    """The stream plus what the product makes of the states, in place."""
    stream.addmm_(states, product.weight.t())
    if product.bias is not None:
        stream.add_(product.bias)
