"""Blocks of Llama and its relatives (Mistral, Qwen 2 and 3, SmolLM) with fused steps: fewer passes over memory.

A block adds what attention and the gated MLP compute to the residual stream. Its own code makes a new tensor at every
step; on a CPU, these passes over memory cost a fifth of the time beside the matrix products. Here the products add to
the stream in place, activation and gate share a tensor, and rotary positions and norms take half the passes. The
weights are the block's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import kernels
from .attention import attend
from .packed_batch import AttentionOptions, Step, running_packed_batch

if TYPE_CHECKING:
    import torch
    from torch import nn

_BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj"}


def fused_blocks(blocks: Iterable[nn.Module], options: Mapping[Any, AttentionOptions]) -> list[FusedBlock]:
    """Fused versions of all blocks; an empty list where one of them has another structure than Llama's.

    The caller has to compare their states with the model's own: names may stand for other formulas (Gemma's norms).

    Args:
        blocks: the model's blocks, from the first on.
        options: what each attention module asks for.
    """
    fused = []
    for block in blocks:
        if not _has_llama_structure(block) or block.self_attn not in options:
            return []
        fused.append(FusedBlock(block, options[block.self_attn]))
    return fused


def _has_llama_structure(block: nn.Module) -> bool:
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


class FusedBlock:
    """Replaces a block's `forward` within a packed pass. It overwrites its input states.

    Args:
        block: the block whose weights are used.
        options: the options of its attention.
    """

    def __init__(self, block: Any, options: AttentionOptions) -> None:
        from torch import nn

        self.block, self.options = block, options
        self.silu = isinstance(block.mlp.act_fn, nn.SiLU) or type(block.mlp.act_fn).__name__ == "SiLUActivation"

    def __call__(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **_: Any
    ) -> torch.Tensor:
        """States [1, tokens, hidden size] after the block.

        Args:
            hidden_states: the states before the block, [1, tokens, hidden size].
            position_embeddings: cosines and sines, each [1, tokens, head size].
        """
        import torch

        stream = hidden_states[0]
        attention, mlp, batch = self.block.self_attn, self.block.mlp, running_packed_batch()
        cosines, sines = (x[0] for x in position_embeddings)
        normed = _rms_norm(stream, self.block.input_layernorm)
        if batch.step is Step.LAST_TOKENS:
            assert batch.last_keys_values is not None
            key, value = batch.last_keys_values
        else:
            keys = _heads(attention.k_proj(normed), attention, "k_norm")
            values = _heads(attention.v_proj(normed), attention, "")
            key, value = batch.with_prefix(attention, _rotated(keys, cosines, sines), values)
        queries = _rotated(_heads(attention.q_proj(normed), attention, "q_norm"), cosines, sines)
        _add_product(stream, attend(batch, queries, key, value, self.options).flatten(1, 2), attention.o_proj)
        normed = _rms_norm(stream, self.block.post_attention_layernorm)
        gate, up = mlp.gate_proj(normed), mlp.up_proj(normed)
        compiled = kernels.kernels_for(gate, gate.shape[1]) if self.silu else None
        if compiled is not None:
            gated = compiled.silu_mul_(gate, up)
        else:
            gated = (torch.nn.functional.silu(gate, inplace=True) if self.silu else mlp.act_fn(gate)).mul_(up)
        _add_product(stream, gated, mlp.down_proj)
        return hidden_states


def _rms_norm(states: torch.Tensor, norm: Any) -> torch.Tensor:
    """Root mean square normalisation, arXiv 1910.07467."""
    import torch

    if states.dtype != torch.float32 or states.device.type != "cpu":
        return torch.nn.functional.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)
    compiled = kernels.kernels_for(states, states.shape[-1])
    if compiled is not None:
        return compiled.rms_norm(states, norm.weight, norm.variance_epsilon)
    length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    scale = length.square_().div_(states.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    normed: torch.Tensor = (states * scale).mul_(norm.weight)
    return normed


def _heads(states: torch.Tensor, attention: Any, norm: str) -> torch.Tensor:
    """[tokens, heads * head size] to [tokens, heads, head size], normalised where the model does so (Qwen 3)."""
    states = states.view(len(states), -1, attention.head_dim)
    return _rms_norm(states, getattr(attention, norm)) if norm and hasattr(attention, norm) else states


def _rotated(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotary positions, arXiv 2104.09864, with the halves of a head as the two coordinates.

    Args:
        states: [tokens, heads, head size]; may be overwritten.
        cosines, sines: [tokens, head size].
    """
    half = states.shape[2] // 2
    compiled = kernels.kernels_for(states, half) if cosines.shape[1] == states.shape[2] else None
    if compiled is not None and cosines.dtype == states.dtype:
        return compiled.rotate_(states.contiguous(), cosines, sines)
    cosines, sines = cosines[:, None], sines[:, None]
    rotated = states * cosines
    rotated[..., :half].addcmul_(states[..., half:], sines[..., :half], value=-1)
    rotated[..., half:].addcmul_(states[..., :half], sines[..., half:])
    return rotated


def _add_product(stream: torch.Tensor, states: torch.Tensor, linear: nn.Linear) -> None:
    """Add what a linear layer computes of the states to the stream, in place."""
    if linear._forward_hooks:  # a step along a direction in the weights (`directions`)
        stream.add_(linear(states))
        return
    stream.addmm_(states, linear.weight.t())
    if linear.bias is not None:
        stream.add_(linear.bias)
