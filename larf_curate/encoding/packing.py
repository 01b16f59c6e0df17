"""The fast forward pass: no pads, a shared prefix once, and in the highest block the last tokens alone.

The rows of a batch lie end to end in one sequence, behind the tokens that all of them begin with (the chat template's
system turn), whose keys and values are computed once for all batches. Everything in a model but attention works on
single tokens and gives the same for tokens in any order; attention is ours (`attention`), and transformers calls it
through its attention interface. What is read at the top of the blocks is a `Readout`.

An architecture whose attention does not go through that interface would mix rows: `trial` compares the states.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .attention import ATTENTION_NAME, packed_attention
from .batching import Batch, Row, plan_packed_batches
from .fused import FusedBlock
from .hooks import replaced_forward, running
from .limits import Limits
from .memory import to_device
from .packed_batch import AttentionOptions, PackedBatch, PackingSettings, PrefixCache
from .readout import LastTokenStates, Readout

if TYPE_CHECKING:
    import torch

    from ..models.loading import LoadedModel


class PackedPass:
    """Runs batches of rows through the blocks of a model, in any number of threads.

    While it reads, it holds keys and values of the shared prefix of the last batch.

    Args:
        loaded: the model; the caller holds its lock.
        fused: blocks to run in place of its own (`fused_blocks`); none by default.
        settings: how batches are made and attention is computed.

    Attributes:
        limits: how long rows and batches may be; none are known by default.
    """

    limits = Limits()

    def __init__(
        self, loaded: LoadedModel, fused: Sequence[FusedBlock] = (), settings: PackingSettings | None = None
    ) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        if ATTENTION_NAME not in ALL_ATTENTION_FUNCTIONS:
            ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, packed_attention)
        self.loaded = loaded
        self.settings = settings or PackingSettings()
        self._fused = dict(zip(loaded.blocks, fused, strict=False))
        self._used_kernels = False
        self._readout: Readout | None = None
        self._prefix: tuple[list[int], PrefixCache] = ([], {})
        self._computing_prefix = threading.Lock()
        configs = {id(module.config): module.config for module in loaded.model.modules() if hasattr(module, "config")}
        self._configs = [config for config in configs.values() if hasattr(config, "_attn_implementation_internal")]

    @property
    def name(self) -> str:
        """Of this way to run a model."""
        return "packed, fused blocks" if self._fused else "packed"

    @property
    def shortcuts(self) -> tuple[str, ...]:
        """How it saves time, in words; with compiled kernels, where they took part since `reading` began."""
        more = (("fused blocks", bool(self._fused)), ("compiled kernels", self._used_kernels))
        return "equal rows once", "no padding", "shared prefixes once", *(word for word, used in more if used)

    @property
    def threaded(self) -> bool:
        """Whether several batches may run at the same time: not where unknown code may keep something between them."""
        known = type(self.loaded.model).__module__.startswith("transformers.")
        return known and self.loaded.quantised is None and self.loaded.device.type == "cpu"

    def plan(self, rows: Sequence[Row], batch_tokens: int) -> list[Batch]:
        """Batches of these rows, in the order to run them."""
        assert self._readout is not None, "plan within `reading`"
        limits = [self._readout.longest_prefix(row) for row in rows]
        batch_tokens = min(batch_tokens, self.limits.packed or batch_tokens)
        return plan_packed_batches(rows, batch_tokens, prefix_overhead=self.settings.prefix_overhead, limits=limits)

    def tokens(self, rows: Sequence[Row], prefix: int) -> int:
        """How many tokens run for these rows."""
        return sum(len(row) - prefix for row in rows)

    @contextlib.contextmanager
    def reading(self, readout: Readout) -> Iterator[None]:
        """While it lasts, a call of the pass gives what the readout reads."""
        self._readout, self._used_kernels = readout, False
        self._computing_prefix = threading.Lock()  # a fresh one: a fork may have copied the last while it was held
        before = [config._attn_implementation_internal for config in self._configs]
        with contextlib.ExitStack() as stack:
            stack.callback(self._forget_prefix)
            stack.callback(self._set_attention, before)
            self._set_attention([ATTENTION_NAME] * len(before))
            for block, fused in self._fused.items():
                stack.enter_context(replaced_forward(block, fused))
            stack.enter_context(readout.installed(self.loaded.blocks, packed=True))
            yield

    def __call__(self, rows: Sequence[Row], prefix: int) -> torch.Tensor:
        """Run one batch.

        Args:
            rows: token ids; fastest where rows of similar length follow each other.
            prefix: how many first tokens they share.

        Returns:
            What the readout reads, [rows, ...].
        """
        assert self._readout is not None, "call it within `reading`"
        lengths = [len(row) - prefix for row in rows]
        batch = self._batch(lengths, prefix, self._prefix_cache(list(rows[0][:prefix])))
        batch.rows, batch.starts = rows, [end - len(row) for end, row in zip(accumulate(lengths), rows, strict=True)]
        self._run(batch, [row[prefix:] for row in rows], prefix)
        return self._readout.result(batch)

    def attention_options(self) -> dict[Any, AttentionOptions]:
        """What each attention module asks for, as seen in a pass over one row."""
        with self.reading(LastTokenStates([len(self.loaded.blocks) - 1])):
            batch = self._batch([2], 0, {})
            self._run(batch, [[0, 0]], 0)
        return batch.attention_options

    def _batch(
        self, lengths: Sequence[int], prefix: int, cache: PrefixCache, *, is_prefix: bool = False
    ) -> PackedBatch:
        device = self.loaded.device
        return PackedBatch.of(lengths, prefix, cache, device, is_prefix=is_prefix, settings=self.settings)

    def _prefix_cache(self, prefix: list[int]) -> PrefixCache:
        """Keys and values of a prefix. One thread computes them, while the others wait."""
        if not prefix:
            return {}
        with self._computing_prefix:
            if prefix != self._prefix[0]:
                self._forget_prefix()  # the last one goes before memory is asked for the next
                batch = self._batch([len(prefix)], 0, {}, is_prefix=True)
                self._run(batch, [prefix], 0)
                self._prefix = (prefix, batch.keys_values)
            return self._prefix[1]

    def _forget_prefix(self) -> None:
        self._prefix = ([], {})

    def _run(self, batch: PackedBatch, rows: Sequence[Row], prefix: int) -> None:
        """Run the tokens of the rows, which follow `prefix` others, through the blocks."""
        import torch

        tokens = [token for row in rows for token in row]
        positions = [place for row in rows for place in range(prefix, prefix + len(row))]
        ids, places = (to_device(torch.tensor([numbers]), self.loaded.device) for numbers in (tokens, positions))
        with torch.inference_mode(), running(batch):
            self.loaded.model(input_ids=ids, position_ids=places, use_cache=False)
        self._used_kernels |= batch.used_kernels

    def _set_attention(self, names: Sequence[str]) -> None:
        for config, name in zip(self._configs, names, strict=True):
            config._attn_implementation_internal = name
