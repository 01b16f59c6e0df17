"""What scoring would take, estimated before it starts: blocks, memory, time."""

from __future__ import annotations

from dataclasses import dataclass

from ..encoding.threads import limited_threads
from ..engines.datatrove_rows import row_text
from ..models.devices import find_device, find_dtype, matrix_rate, settle_dtype
from ..models.options import DType, ModelOptions
from ..models.shape import Shape, shape_of
from ..rows.formats import resolve_format
from ..sources.json_values import rows_of
from ..sources.tables import Source

_SPOTS, _ROWS = 8, 32
_CHARACTERS_PER_TOKEN = 4
_QUANTISED = {"int8": 1.0, "nf4": 0.52}  # bytes a weight, with the scales of its rows or blocks
_SHARE = 0.6  # of the matrix rate; what batches of real rows reach on the machines measured


@dataclass(frozen=True)
class ScoringWork:
    """Rows to score, and with what.

    Attributes:
        source, format: where a few rows are looked at, and how they become conversations.
        rows: how many are to be scored.
        model: which, in what precision and on what device.
        layers: blocks that are read; empty where a search is to find one, or losses are read: both run them all.
        passes: forward passes over each row.
        workers: tasks at a time, each with its own model.
        threads: CPU threads of one worker; 0 for all.
    """

    source: Source
    format: str
    rows: int
    model: ModelOptions
    layers: tuple[int, ...]
    passes: int = 1
    workers: int = 1
    threads: int = 0


@dataclass(frozen=True)
class ScoringEstimate:
    """What scoring some rows takes; all of it is approximate but the blocks.

    Attributes:
        blocks, total_blocks: how many are loaded, of how many.
        parameters: how many parameters are loaded.
        bytes: how many bytes their weights take in each worker.
        tokens: how many tokens the rows have.
        operations: floating-point operations for them (2 a parameter of a block, token and pass).
        rate: operations a second that one worker reaches on this machine, measured now.
        seconds: how long it takes with all workers, if their machines are like this one.
    """

    blocks: int
    total_blocks: int
    parameters: int
    bytes: int
    tokens: int
    operations: float
    rate: float
    seconds: float
    device: str
    dtype: str


def estimate(work: ScoringWork) -> ScoringEstimate:
    """Look at a few rows, at the model's config and at this machine; nothing of the model's weights is read.

    Raises:
        CustomCodeError: only code that comes with the model knows its shape; it is not run, whatever the options say.
        ModelError: the model is unknown, or has no such block.
    """
    model = work.model
    device = find_device(model.device)
    dtype = find_dtype(model.dtype, device)
    last = max(work.layers, default=None)
    shape = shape_of(model.model, model.revision, last, model.base)
    tokens = int(_tokens_per_row(work.source, work.format) * work.rows)
    operations = 2.0 * shape.block_parameters * tokens * work.passes
    with limited_threads(work.threads):  # as a worker computes
        rate = _SHARE * matrix_rate(device, dtype)
    return ScoringEstimate(
        blocks=shape.total_blocks if last is None else last + 1,
        total_blocks=shape.total_blocks,
        parameters=shape.parameters,
        bytes=_bytes(shape, model.dtype, dtype.itemsize),
        tokens=tokens,
        operations=operations,
        rate=rate,
        seconds=operations / rate / max(1, work.workers),
        device=str(device),
        dtype=settle_dtype(model.dtype, device),
    )


def _bytes(shape: Shape, dtype: DType, bytes_per_weight: int) -> int:
    """Of the weights; those that are not quantised take `bytes_per_weight` each."""
    linear = shape.linear_parameters if dtype in _QUANTISED else 0
    return round((shape.parameters - linear) * bytes_per_weight + linear * _QUANTISED.get(dtype, 0))


def _tokens_per_row(source: Source, format: str) -> float:  # noqa: A002 - the word users know
    """About how many, from the characters of a few rows here and there."""
    row_format = resolve_format(format, source.schema.names)
    characters = seen = 0
    for spot in range(_SPOTS):
        start = spot * source.rows // _SPOTS
        for table in source.tables(_ROWS, start, min(start + _ROWS, source.rows)):
            for row in rows_of(table, row_format.columns(source.schema.names)):
                characters += len(row_text(row, format))
                seen += 1
    return characters / max(1, seen) / _CHARACTERS_PER_TOKEN
