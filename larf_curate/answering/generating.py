"""Prompts become greedy answers, again and again, with one block changed: what lies below it is computed once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transformers.cache_utils import Cache, DynamicLayer

from ..encoding.batching import common_prefix
from ..errors import ModelError
from ..models.loading import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor, nn

Stop = Callable[[int, list[int]], bool]

_SHRINK = 0.75  # rows that have ended are carried along until so few are left: taking them out copies the cache
_PROBES = 4


class Answerer:
    """Greedy answers of a loaded model (with its head) to fixed prompts, while its owner changes one block at a time.

    Three things are computed once for all changes: the prompts' states below the changed block, their keys and values
    there, and, for every change, the prefix that all prompts share. Decoding runs all prompts together, and a prompt
    drops out as soon as `stop` has seen enough. None of it changes an answer beyond float error; whether that holds
    for this architecture is measured at the start on a few prompts, and where it does not, prompts run one by one
    through the model's own `generate`.

    Memory: keys and values of all prompts twice, and the input of every block (float32, 128 prompts of 50 tokens on
    SmolLM2-135M: 0.9 GB).

    Attributes:
        reuse: whether the shortcuts are on.
    """

    def __init__(self, loaded: LoadedModel, prompts: Sequence[list[int]], max_new_tokens: int = 32) -> None:
        import torch

        self.loaded, self.max_new_tokens = loaded, max_new_tokens
        self._prompts = [list(prompt) for prompt in prompts]
        self._end = _ends(loaded)
        shared = common_prefix(self._prompts)
        own = [prompt[shared:] for prompt in self._prompts]
        width = max(map(len, own))
        pads = torch.tensor([width - len(row) for row in own])
        padded = torch.tensor([[0] * (width - len(row)) + row for row in own])
        self._shared, self._width = shared, width
        self._prefix = torch.tensor([self._prompts[0][:shared]], device=loaded.device)
        self._own = padded.to(loaded.device)
        real = torch.arange(width)[None, :] >= pads[:, None]
        ahead = torch.ones(len(own), shared, dtype=torch.long)
        after = torch.ones(len(own), max_new_tokens, dtype=torch.long)
        self._mask = torch.cat([ahead, real.long(), after], dim=1).to(loaded.device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self.reuse = self._can_reuse()

    def answers(self, block: int | None = None, stop: Stop | None = None) -> list[list[int]]:
        """Token ids of each prompt's answer, without the token that ends it.

        Args:
            block: the block that differs now from what it was at the start; None where none does.
            stop: called with a prompt's number and its answer so far; True ends that answer.
        """
        import torch

        with torch.inference_mode():
            if not self.reuse:
                return [self._plain(number, stop) for number in range(len(self._prompts))]
            cache, logits = self._read(block or 0)
            return self._decode(cache, logits, stop)

    def text(self, answer: list[int]) -> str:
        """What an answer's token ids say; the text of a beginning is the beginning of the whole's."""
        decoded: str = self.loaded.tokenizer.decode(
            answer, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    # Without shortcuts ------------------------------------------------------------------------------------------------

    def _plain(self, number: int, stop: Stop | None) -> list[int]:
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        prompt = self._prompts[number]

        class Enough(StoppingCriteria):  # type: ignore[misc,unused-ignore]
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
            stopping_criteria=StoppingCriteriaList([Enough()]),
        )
        answer = out[0, len(prompt) :].tolist()
        return next((answer[:at] for at, token in enumerate(answer) if token in self._end), answer)

    # With them --------------------------------------------------------------------------------------------------------

    def _can_reuse(self) -> bool:
        """Whether the next token's logits through all shortcuts, with a block changed, are those of the plain pass."""
        import torch

        blocks = self.loaded.blocks
        middle = len(blocks) // 2
        window = getattr(self.loaded.model.config.get_text_config(decoder=True), "sliding_window", None)
        if window and self._mask.shape[1] > window:
            return False  # a window counts places in the cache, and there are pads between the prefix and the prompts
        try:
            with torch.inference_mode():
                self._store()
                with scaled(blocks[middle], 1.25):
                    _, logits = self._read(middle)
                    for number in range(0, len(self._prompts), -(-len(self._prompts) // _PROBES)):
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

    def _store(self) -> None:
        """One pass of the unchanged model: the input of every block, and the keys and values that it makes."""
        prefix = self._new_prefix()
        self._prefix_inputs = (
            self._inputs(lambda: self._forward(self._prefix, prefix, None, None)) if self._shared else []
        )
        cache = self._new_cache()
        for number in range(len(self.loaded.blocks)):
            self._lay_prefix(cache, prefix, number)
        self._own_inputs = self._inputs(lambda: self._run_own(cache))
        length = self._shared + self._width
        self._kept = [
            (layer.keys[:, :, :length].clone(), layer.values[:, :, :length].clone()) for layer in cache.layers
        ]

    def _inputs(self, run: Callable[[], object]) -> list[Tensor]:
        found: list[Tensor] = []
        handles = [
            block.register_forward_pre_hook(lambda _module, args: found.append(args[0])) for block in self.loaded.blocks
        ]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _read(self, first: int) -> tuple[Cache, Tensor]:
        """The cache after all prompts, and the logits [prompts, vocabulary] of what follows; from block `first` on."""
        cache, prefix = self._new_cache(), self._new_prefix()
        with self._starting_at(first) as feed:
            if self._shared:
                feed(self._prefix_inputs[first])
                self._forward(self._prefix, prefix, None, None)
            for number, layer in enumerate(cache.layers):
                if number < first:
                    layer.lay(*self._kept[number])
                    layer.length = self._shared  # the masks are made for what the blocks that run have seen
                else:
                    self._lay_prefix(cache, prefix, number)
            feed(self._own_inputs[first])
            logits = self._run_own(cache)
        for layer in cache.layers[:first]:
            layer.length = self._shared + self._width
        return cache, logits

    def _run_own(self, cache: Cache) -> Tensor:
        end = self._shared + self._width
        return self._forward(self._own, cache, self._mask[:, :end], self._positions[:, self._shared : end])

    def _decode(self, cache: Cache, logits: Tensor, stop: Stop | None) -> list[list[int]]:
        import torch

        found: list[list[int]] = [[] for _ in self._prompts]
        rows, open_ = list(range(len(found))), set(range(len(found)))
        mask, positions = self._mask, self._positions
        for step in range(self.max_new_tokens):
            following = logits.argmax(-1)
            for row, token in zip(rows, following.tolist(), strict=True):
                if row not in open_:
                    continue
                if token in self._end:
                    open_.discard(row)
                    continue
                found[row].append(token)
                if stop is not None and stop(row, found[row]):
                    open_.discard(row)
            if not open_ or step == self.max_new_tokens - 1:
                break
            if len(open_) <= _SHRINK * len(rows):
                left = torch.tensor([at for at, row in enumerate(rows) if row in open_], device=following.device)
                rows = [rows[at] for at in left.tolist()]
                following, mask, positions = following[left], mask[left], positions[left]
                cache.reorder_cache(left)
            at = self._shared + self._width + step
            logits = self._forward(following[:, None], cache, mask[:, : at + 1], positions[:, at : at + 1])
        return found

    def _forward(self, ids: Tensor, cache: Cache, mask: Tensor | None, positions: Tensor | None) -> Tensor:
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
        """While it lasts, the blocks below `first` do nothing, and `first` is given what it was fed instead."""
        from torch import nn

        class Idle(nn.Module):
            def forward(self, states: Tensor, *_args: object, **_kwargs: object) -> Tensor:
                return states

        blocks, fed = self.loaded.blocks, list[Any]([None])
        below = list(blocks[:first])

        def feed(states: Tensor) -> None:
            fed[0] = states

        handle = blocks[first].register_forward_pre_hook(lambda _module, args: (fed[0], *args[1:]))
        try:
            for number in range(first):
                blocks[number] = Idle()
            yield feed
        finally:
            handle.remove()
            for number, block in enumerate(below):
                blocks[number] = block

    def _new_prefix(self) -> Cache:
        return Cache(layers=[DynamicLayer() for _ in self.loaded.blocks])

    def _new_cache(self) -> Cache:
        capacity = self._shared + self._width + self.max_new_tokens
        return Cache(layers=[_Shelf(capacity) for _ in self.loaded.blocks])

    def _lay_prefix(self, cache: Cache, prefix: Cache, number: int) -> None:
        if self._shared:
            rows = len(self._prompts)
            made = prefix.layers[number]
            cache.layers[number].lay(made.keys.expand(rows, -1, -1, -1), made.values.expand(rows, -1, -1, -1))


class _Shelf(DynamicLayer):  # type: ignore[misc,unused-ignore]
    """Keys and values of one block in a buffer of fixed size: a new token is written, not joined by copying all."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.length = capacity, 0

    def lay(self, keys: Tensor, values: Tensor) -> None:
        """Begin with these, [rows, heads, tokens, size]."""
        self._buffers = [keys.new_empty((*x.shape[:2], self.capacity, x.shape[3])) for x in (keys, values)]
        self.length, self.is_initialized = 0, True
        self.update(keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lay(key_states, value_states)
        else:
            end = self.length + key_states.shape[2]
            for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
                buffer[:, :, self.length : end] = new
            self.length = end
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._buffers = [buffer.index_select(0, beam_idx) for buffer in self._buffers]


@contextlib.contextmanager
def scaled(block: nn.Module, factor: float) -> Iterator[None]:
    """While it lasts, the block's linear weights (fused ones too) are `factor` times what they were.

    Biases and norms stay, as in the authors' search; so does the router of a mixture of experts. The weights
    themselves are never written: each parameter points to a scaled copy and back, so that they are the same bytes
    afterwards whatever happens in between, Ctrl-C included. Where a layer's weights are quantised, or an adapter lies
    beside them, what the layer gives is scaled instead, which is the same.

    Raises:
        ModelError: the block has no linear weights that are known as such.
    """
    whole = {
        name: module
        for name, module in block.named_modules()
        if hasattr(module, "base_layer") or getattr(getattr(module, "weight", None), "itemsize", 2) == 1
    }
    within = tuple(f"{name}." for name in whole)
    layers = [module for name, module in whole.items() if not name.startswith(within)]
    chosen = [
        parameter
        for name, parameter in block.named_parameters()
        if parameter.ndim >= 2
        and not name.endswith(("router.weight", "mlp.gate.weight"))
        and not name.startswith(within)
    ]
    if not chosen and not layers:
        raise ModelError(f"{type(block).__name__} keeps its linear weights in a form that the search cannot scale")
    own = [parameter.data for parameter in chosen]

    def scale(layer: Any, _args: object, output: Tensor) -> Tensor:
        return output * factor if layer.bias is None else output * factor + layer.bias * (1 - factor)

    handles = [layer.register_forward_hook(scale) for layer in layers]
    try:
        for parameter, weights in zip(chosen, own, strict=True):
            parameter.data = weights * factor
        yield
    finally:
        for handle in handles:
            handle.remove()
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                for parameter, weights in zip(chosen, own, strict=True):
                    parameter.data = weights
                break
            except KeyboardInterrupt as error:  # a second Ctrl-C, right here
                interrupted = error
        if interrupted is not None:
            raise interrupted


def _ends(loaded: LoadedModel) -> set[int]:
    """The tokens that end an answer."""
    config = getattr(loaded.model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return {int(token) for token in (*listed, loaded.tokenizer.eos_token_id) if token is not None}
