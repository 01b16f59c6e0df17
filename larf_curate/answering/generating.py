"""Greedy answers to the same prompts again and again, with one block changed: what lies below it is computed once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..encoding.batching import common_prefix
from ..models.loading import LoadedModel
from .kv_cache import growing_cache, preallocated_cache
from .scaling import scaled

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.cache_utils import Cache

Stop = Callable[[int, list[int]], bool]

_COMPACT = 0.75  # rows that have ended run along until no more than this share is left: dropping them copies the cache
_TRIED_PROMPTS = 4


class Answerer:
    """Greedy answers of a loaded model (with its head) to fixed prompts, while its owner changes one block at a time.

    Three things are computed once for all changes: the prompts' states below the changed block, their keys and values
    there, and, for every change, the prefix that all prompts share. Decoding runs all prompts together, and a prompt
    drops out as soon as `stop` says so. None of it changes an answer beyond float error. That is tried for each model
    at the start, on a few prompts, and where it does not hold, prompts run one by one through the model's own
    `generate`.

    Memory: keys and values of all prompts twice, and the input of every block (float32, 128 prompts of 50 tokens on
    SmolLM2-135M: 0.9 GB).

    Args:
        loaded: the model, with all of its blocks and its head.
        prompts: token ids of each prompt.
        max_new_tokens: of an answer.

    Attributes:
        reuse: whether states, keys and values are reused.
    """

    def __init__(self, loaded: LoadedModel, prompts: Sequence[list[int]], max_new_tokens: int = 32) -> None:
        import torch

        self.loaded, self.max_new_tokens = loaded, max_new_tokens
        self._prompts = [list(prompt) for prompt in prompts]
        self._end_tokens = _end_tokens(loaded)
        prefix = common_prefix(self._prompts)
        own = [prompt[prefix:] for prompt in self._prompts]
        width = max(map(len, own))
        pads = torch.tensor([width - len(row) for row in own])
        padded = torch.tensor([[0] * (width - len(row)) + row for row in own])
        self._prefix, self._width = prefix, width  # tokens of the prefix, and of the longest prompt behind it
        self._prefix_ids = torch.tensor([self._prompts[0][:prefix]], device=loaded.device)
        self._own_ids = padded.to(loaded.device)  # padded on the left, so that all answers begin at the same place
        real = torch.arange(width)[None, :] >= pads[:, None]
        before = torch.ones(len(own), prefix, dtype=torch.long)
        after = torch.ones(len(own), max_new_tokens, dtype=torch.long)
        self._mask = torch.cat([before, real.long(), after], dim=1).to(loaded.device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self.reuse = self._reuse_is_exact()

    def answers(self, block: int | None = None, stop: Stop | None = None) -> list[list[int]]:
        """Token ids of each prompt's answer, without the token that ends it.

        Args:
            block: the block that differs now from what it was at the start; None where none does.
            stop: called with a prompt's number and its answer so far; True ends that answer.
        """
        import torch

        with torch.inference_mode():
            if not self.reuse:
                return [self._answer_alone(number, stop) for number in range(len(self._prompts))]
            cache, logits = self._read_prompts(block or 0)
            return self._decode(cache, logits, stop)

    def text(self, answer: list[int]) -> str:
        """The text of an answer's token ids. The text of its first tokens is a prefix of the whole text."""
        decoded: str = self.loaded.tokenizer.decode(
            answer, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    # Without reuse ----------------------------------------------------------------------------------------------------

    def _answer_alone(self, number: int, stop: Stop | None) -> list[int]:
        """The answer to one prompt by the model's own `generate`."""
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        prompt = self._prompts[number]

        class CallStop(StoppingCriteria):  # type: ignore[misc,unused-ignore]
            def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
                ended = stop is not None and stop(number, input_ids[0, len(prompt) :].tolist())
                return torch.tensor([ended], device=input_ids.device)

        ids = torch.tensor([prompt], device=self.loaded.device)
        out = self.loaded.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            repetition_penalty=1.0,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([CallStop()]),
        )
        answer = out[0, len(prompt) :].tolist()
        return next((answer[:at] for at, token in enumerate(answer) if token in self._end_tokens), answer)

    # With it ----------------------------------------------------------------------------------------------------------

    def _reuse_is_exact(self) -> bool:
        """Whether the next token's logits with all reuse, and a block changed, are those of a plain forward pass."""
        import torch

        blocks = self.loaded.blocks
        middle = len(blocks) // 2
        window = getattr(self.loaded.model.config.get_text_config(decoder=True), "sliding_window", None)
        if window and self._mask.shape[1] > window:
            return False  # a window counts places in the cache, and there are pads between the prefix and the prompts
        try:
            with torch.inference_mode():
                self._store_unchanged()
                with scaled(blocks[middle], 1.25):
                    _, logits = self._read_prompts(middle)
                    for number in range(0, len(self._prompts), -(-len(self._prompts) // _TRIED_PROMPTS)):
                        ids = torch.tensor([self._prompts[number]], device=self.loaded.device)
                        plain = (
                            self.loaded.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
                        )
                        error = (logits[number] - plain).abs().max() / plain.std().clamp(min=1e-6)
                        if not error < (1e-3 if self.loaded.dtype_name == "float32" else 0.2):
                            return False
        except Exception:  # an architecture with a cache or blocks of its own kind may fail anywhere in here
            return False
        return True

    def _store_unchanged(self) -> None:
        """Run the unchanged model, and store the input of every block and the keys and values it computes."""
        blocks = len(self.loaded.blocks)
        prefix_cache = growing_cache(blocks)
        self._prefix_inputs: list[Tensor] = []
        if self._prefix:
            self._prefix_inputs = self._block_inputs(lambda: self._forward(self._prefix_ids, prefix_cache, None, None))
        cache = self._empty_cache()
        for number in range(blocks):
            self._fill_with_prefix(cache, prefix_cache, number)
        self._own_inputs = self._block_inputs(lambda: self._run_own(cache))
        length = self._prefix + self._width
        self._keys_values = [
            (layer.keys[:, :, :length].clone(), layer.values[:, :, :length].clone()) for layer in cache.layers
        ]

    def _block_inputs(self, run: Callable[[], object]) -> list[Tensor]:
        """The input states of each block while `run` runs the model."""
        inputs: list[Tensor] = []
        handles = [
            block.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
            for block in self.loaded.blocks
        ]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        return inputs

    def _read_prompts(self, first: int) -> tuple[Cache, Tensor]:
        """Run the prompts through the blocks from `first` on.

        Returns:
            The cache after all prompts, and the logits [prompts, vocabulary] of the first tokens of their answers.
        """
        cache, prefix_cache = self._empty_cache(), growing_cache(len(self.loaded.blocks))
        with self._starting_at(first) as set_input:
            if self._prefix:
                set_input(self._prefix_inputs[first])
                self._forward(self._prefix_ids, prefix_cache, None, None)
            for number, layer in enumerate(cache.layers):
                if number < first:
                    layer.fill(*self._keys_values[number])
                    layer.length = self._prefix  # the masks are made for what the blocks that run have seen
                else:
                    self._fill_with_prefix(cache, prefix_cache, number)
            set_input(self._own_inputs[first])
            logits = self._run_own(cache)
        for layer in cache.layers[:first]:
            layer.length = self._prefix + self._width
        return cache, logits

    def _run_own(self, cache: Cache) -> Tensor:
        """Run the prompts behind their prefix, which is in the cache."""
        end = self._prefix + self._width
        return self._forward(self._own_ids, cache, self._mask[:, :end], self._positions[:, self._prefix : end])

    def _decode(self, cache: Cache, logits: Tensor, stop: Stop | None) -> list[list[int]]:
        """The answers, token by token, of all prompts together; those that have ended drop out by and by."""
        import torch

        answers: list[list[int]] = [[] for _ in self._prompts]
        rows, unfinished = list(range(len(answers))), set(range(len(answers)))
        mask, positions = self._mask, self._positions
        for step in range(self.max_new_tokens):
            next_tokens = logits.argmax(-1)
            for row, token in zip(rows, next_tokens.tolist(), strict=True):
                if row not in unfinished:
                    continue
                if token in self._end_tokens:
                    unfinished.discard(row)
                    continue
                answers[row].append(token)
                if stop is not None and stop(row, answers[row]):
                    unfinished.discard(row)
            if not unfinished or step == self.max_new_tokens - 1:
                break
            if len(unfinished) <= _COMPACT * len(rows):
                left = torch.tensor([at for at, row in enumerate(rows) if row in unfinished], device=mask.device)
                rows = [rows[at] for at in left.tolist()]
                next_tokens, mask, positions = next_tokens[left], mask[left], positions[left]
                cache.reorder_cache(left)
            at = self._prefix + self._width + step
            logits = self._forward(next_tokens[:, None], cache, mask[:, : at + 1], positions[:, at : at + 1])
        return answers

    def _forward(self, ids: Tensor, cache: Cache, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """Logits float32 [rows, vocabulary] of what follows the last token."""
        out = self.loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1].float()
        return logits

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

        blocks = self.loaded.blocks
        below = list(blocks[:first])
        states: Tensor | None = None

        def set_input(block_input: Tensor) -> None:
            nonlocal states
            states = block_input

        handle = blocks[first].register_forward_pre_hook(lambda _module, args: (states, *args[1:]))
        try:
            for number in range(first):
                blocks[number] = Idle()
            yield set_input
        finally:
            handle.remove()
            for number, block in enumerate(below):
                blocks[number] = block

    def _empty_cache(self) -> Cache:
        return preallocated_cache(len(self.loaded.blocks), self._prefix + self._width + self.max_new_tokens)

    def _fill_with_prefix(self, cache: Cache, prefix_cache: Cache, number: int) -> None:
        """Give every prompt the prefix's keys and values in one block."""
        if self._prefix:
            rows, of_prefix = len(self._prompts), prefix_cache.layers[number]
            keys, values = (x.expand(rows, -1, -1, -1) for x in (of_prefix.keys, of_prefix.values))
            cache.layers[number].fill(keys, values)


def _end_tokens(loaded: LoadedModel) -> set[int]:
    """The tokens that end an answer."""
    config = getattr(loaded.model, "generation_config", None)
    configured = getattr(config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in (*several, loaded.tokenizer.eos_token_id) if token is not None}
