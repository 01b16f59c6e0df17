"""What a model computes while it reads fixed prompts, kept by block: with one block changed, reading starts there."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..encoding.batching import common_prefix
from ..models.loading import LoadedModel
from .kv_cache import PreallocatedLayer, growing_cache, preallocated_cache
from .scaling import RowFactors

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.cache_utils import Cache

_READ_TOGETHER = 32  # rows of similar length: fewer of their tokens are padding


@dataclass(frozen=True)
class ReadPrompts:
    """A batch of prompts that were read, ready for their answers.

    Attributes:
        cache: keys and values, with room for the answers.
        logits: float32 [rows, vocabulary], of the first token of each answer.
        mask, positions: [rows, prompt and answer], of what is in the cache and of what will be.
        length: tokens of a prompt in the cache, padding included.
    """

    cache: Cache
    logits: Tensor
    mask: Tensor
    positions: Tensor
    length: int


class PromptStates:
    """States, keys and values of fixed prompts in a model as it is, by block.

    Args:
        loaded: the model, with all of its blocks and its head.
        prompts: token ids of each prompt.
        max_new_tokens: the most tokens of an answer, for which room is left.

    Attributes:
        lengths: tokens of each prompt behind the prefix that all of them share.
    """

    def __init__(self, loaded: LoadedModel, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
        import torch

        self._loaded, self._room = loaded, max_new_tokens
        self._shared = shared = common_prefix(prompts)  # tokens
        own = [prompt[shared:] for prompt in prompts]
        self.lengths = [len(row) for row in own]
        self._width = width = max(self.lengths)
        pads = torch.tensor([width - length for length in self.lengths])
        padded = torch.tensor([[0] * (width - len(row)) + row for row in own])
        self._prefix_ids = torch.tensor([prompts[0][:shared]], device=loaded.device)
        self._own_ids = padded.to(loaded.device)  # padded on the left, so that all answers begin at the same place
        real = torch.arange(width)[None, :] >= pads[:, None]
        before = torch.ones(len(own), shared, dtype=torch.long)
        after = torch.ones(len(own), max_new_tokens, dtype=torch.long)
        self._mask = torch.cat([before, real.long(), after], dim=1).to(loaded.device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._prefix_inputs: list[Tensor] = []
        self._own_inputs: list[Tensor] = []
        self._keys_values: list[tuple[Tensor, Tensor]] = []

    @property
    def tokens(self) -> int:
        """How many tokens the longest prompt and its answer have."""
        return self._shared + self._width + self._room

    @property
    def bytes_of_row(self) -> int:
        """Memory for the keys and values of one prompt and its answer, once `store` has run."""
        stored = sum(keys.nbytes + values.nbytes for keys, values in self._keys_values)
        return stored * self.tokens // (len(self.lengths) * (self._shared + self._width))

    def with_model(self, loaded: LoadedModel) -> PromptStates:
        """The same states, read by other modules with the same weights."""
        other = copy.copy(self)
        other._loaded = loaded
        return other

    def store(self) -> None:
        """Run the model as it is, and keep the input of every block and the keys and values that it computes."""
        blocks = len(self._loaded.blocks)
        prefix_cache = growing_cache(blocks)
        if self._shared:
            self._prefix_inputs = self._block_inputs(lambda: self.forward(self._prefix_ids, prefix_cache, None, None))
        cache = preallocated_cache(blocks, self._shared + self._width)
        rows = len(self.lengths)
        if self._shared:
            for layer, prefix in zip(cache.layers, prefix_cache.layers, strict=True):
                layer.fill(*(x.expand(rows, -1, -1, -1) for x in (prefix.keys, prefix.values)))
        end = self._shared + self._width
        self._own_inputs = self._block_inputs(
            lambda: self.forward(self._own_ids, cache, self._mask[:, :end], self._positions[:, self._shared : end])
        )
        self._keys_values = [(layer.keys, layer.values) for layer in cache.layers]

    def read(self, first: int, numbers: Sequence[int], factors: RowFactors | None = None) -> ReadPrompts:
        """Run prompts through the blocks from `first` on, which may differ from what it was when `store` ran.

        Args:
            first: the lowest block that is run; with 0 nothing that `store` has kept is needed.
            numbers: the numbers of the prompts, one for each row; a prompt may come several times. Prompts sorted by
                length take least time.
            factors: one for each row, where rows have factors of their own. Their values are the same afterwards.
        """
        import torch

        device = self._loaded.device
        by_row = torch.ones(len(numbers), device=device) if factors is None else factors.values
        distinct, which = torch.unique(by_row, return_inverse=True)
        factors = factors or RowFactors()
        rows = torch.tensor(list(numbers), device=device)
        width = max(self.lengths[number] for number in numbers)
        cache = preallocated_cache(len(self._loaded.blocks), self._shared + width + self._room)
        columns = self._columns(width)
        for layer, (keys, values) in zip(cache.layers[:first], self._keys_values, strict=False):
            layer.fill(keys[rows][:, :, columns], values[rows][:, :, columns])
        logits = []
        with self._starting_at(first) as set_input, self._contiguous_states():
            factors.values = distinct
            prefix = self._read_prefix(first, len(distinct), set_input)
            parts = [slice(start, start + _READ_TOGETHER) for start in range(0, len(numbers), _READ_TOGETHER)]
            caches = []
            for part in parts:
                factors.values = by_row[part]
                own, read = self._read_own(first, rows[part], which[part], prefix, set_input)
                logits.append(read)
                caches.append(own)
        factors.values = by_row
        for number in range(first, len(cache.layers)):
            cache.layers[number].fill(*self._joined([own.layers[number] for own in caches], width))
        mask, positions = (x[rows][:, self._columns(width, with_answer=True)] for x in (self._mask, self._positions))
        return ReadPrompts(cache, torch.cat(logits), mask, positions, self._shared + width)

    def forward(self, ids: Tensor, cache: Cache, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """Logits float32 [rows, vocabulary] of what follows the last token."""
        out = self._loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def _columns(self, width: int, *, with_answer: bool = False) -> list[int]:
        """Places of the prefix and of the last `width` tokens of prompts, and of answers; between them is padding."""
        end = self._shared + self._width
        return [*range(self._shared), *range(end - width, self.tokens if with_answer else end)]

    def _read_prefix(self, first: int, copies: int, set_input: Callable[[Tensor], None]) -> Cache:
        """Run the shared prefix, once for each factor."""
        cache = growing_cache(len(self._loaded.blocks))
        if self._shared:
            if first:
                set_input(self._prefix_inputs[first].expand(copies, -1, -1))
            self.forward(self._prefix_ids.expand(copies, -1), cache, None, None)
        return cache

    def _read_own(
        self, first: int, rows: Tensor, which: Tensor, prefix: Cache, set_input: Callable[[Tensor], None]
    ) -> tuple[Cache, Tensor]:
        """Run what a few prompts have of their own behind the prefix: their cache from `first` on, and the logits."""
        width = max(self.lengths[row] for row in rows.tolist())
        cache = preallocated_cache(len(self._loaded.blocks), self._shared + width)
        for number, layer in enumerate(cache.layers):
            if number < first:
                layer.length = self._shared  # masks are made for what the blocks that run have seen
            elif self._shared:
                layer.fill(prefix.layers[number].keys[which], prefix.layers[number].values[which])
        if first:
            set_input(self._own_inputs[first][rows, -width:])
        mask = self._mask[rows][:, self._columns(width)]
        positions = self._positions[rows, self._shared + self._width - width : self._shared + self._width]
        return cache, self.forward(self._own_ids[rows, -width:], cache, mask, positions)

    def _joined(self, layers: Sequence[PreallocatedLayer], width: int) -> list[Tensor]:
        """Keys and values of several batches with the same prefix as one batch, all padded to one width."""
        import torch

        shared, both = self._shared, []
        for of_layer in ([layer.keys for layer in layers], [layer.values for layer in layers]):
            padded = []
            for x in of_layer:
                pads = x.new_zeros((*x.shape[:2], shared + width - x.shape[2], x.shape[3]))
                padded.append(torch.cat([x[:, :, :shared], pads, x[:, :, shared:]], dim=2))
            both.append(torch.cat(padded))
        return both

    @contextlib.contextmanager
    def _contiguous_states(self) -> Iterator[None]:
        """While it lasts, the head gets its states copied into one piece of memory.

        The last states of prompts of several tokens lie apart in memory, and torch would multiply the head with each of
        them separately. In decoding there is one token for each row, and nothing to copy.
        """
        handle = self._loaded.model.get_output_embeddings().register_forward_pre_hook(
            lambda _module, args: (args[0].contiguous(), *args[1:])
        )
        try:
            yield
        finally:
            handle.remove()

    def _block_inputs(self, run: Callable[[], object]) -> list[Tensor]:
        """The input states of each block while `run` runs the model."""
        inputs: list[Tensor] = []
        handles = [
            block.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
            for block in self._loaded.blocks
        ]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        return inputs

    @contextlib.contextmanager
    def _starting_at(self, first: int) -> Iterator[Callable[[Tensor], None]]:
        """While it lasts, the blocks below `first` do nothing, and that one gets the input that was last set.

        Yields:
            A function that sets the input.
        """
        from torch import nn

        class Idle(nn.Module):
            def forward(self, states: Tensor, *_args: object, **_kwargs: object) -> Tensor:
                return states

        blocks = self._loaded.blocks
        below = list(blocks[:first])
        states: Tensor | None = None

        def set_input(block_input: Tensor) -> None:
            nonlocal states
            states = block_input

        handle = blocks[first].register_forward_pre_hook(
            lambda _module, args: None if states is None else (states, *args[1:])
        )
        try:
            for number in range(first):
                blocks[number] = Idle()
            yield set_input
        finally:
            handle.remove()
            for number, block in enumerate(below):
                blocks[number] = block
