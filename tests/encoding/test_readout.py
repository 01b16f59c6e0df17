"""What is read at the top of the blocks is one part of a pass: another readout reads something else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.states import BLOCKS, CPU, encoder_of

from larf_curate.encoding.hooks import RunningBatch, StopForward, output_states, running_batch
from larf_curate.encoding.jobs import run_rows
from larf_curate.encoding.packed_batch import PackedBatch, PackingSettings
from larf_curate.encoding.packing import PackedPass
from larf_curate.encoding.padding import PaddedPass

PREFIX = [7, 8, 9, 10, 11]
ROWS = [[*PREFIX, *own] for own in ([30], [31, 32], [33, 34, 35], list(range(50, 90)))]


class Norms:
    """The norms of the states of a row's last two tokens after the last block; no block is cut to last tokens."""

    def longest_prefix(self, row: Sequence[int]) -> int:
        return len(row) - 2

    @contextlib.contextmanager
    def installed(self, blocks: torch.nn.ModuleList, *, packed: bool) -> Iterator[None]:
        def hook(block: object, _args: object, output: Any) -> None:
            batch, states = running_batch(), output_states(block, output).flatten(0, 1)
            if not (isinstance(batch, PackedBatch) and batch.is_prefix):
                places = torch.stack([batch.last_tokens - 1, batch.last_tokens], dim=1)
                batch.kept[0] = states[places].norm(dim=-1)
            raise StopForward

        handle = blocks[-1].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def result(self, batch: RunningBatch) -> torch.Tensor:
        return batch.kept[0]

    def shortcuts(self, *, packed: bool) -> tuple[str, ...]:
        return ("the last block packed",) if packed else ()


@pytest.mark.parametrize("forward", [None, PackedPass, PaddedPass], ids=["fused", "packed", "padded"])
def test_a_pass_gives_what_its_readout_reads(tiny_model: Path, forward: Any) -> None:
    rows = ROWS[1:]  # each with two tokens behind the prefix
    encoder = encoder_of(tiny_model, forward=forward, settings=PackingSettings(prefix_overhead=0))
    done: list[int] = []
    results = run_rows(encoder.runtime, [*rows, rows[0]], Norms(), (2,), batch_tokens=20, progress=done.append)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval().to(CPU)
    last: list[torch.Tensor] = []
    plain.model.layers[BLOCKS - 1].register_forward_hook(lambda m, _a, output: last.append(output_states(m, output)))
    for row in rows:
        with torch.no_grad():
            plain(torch.tensor([row]))
    expected = np.stack([states[0, -2:].norm(dim=-1).numpy() for states in last])
    np.testing.assert_allclose(results.values, expected[[*range(len(rows)), 0]], rtol=1e-5)
    assert results.issues == [None] * (len(rows) + 1)
    assert sum(done) == len(rows) + 1
    assert not any(block._forward_hooks for block in encoder.loaded.blocks)
