"""Which block is safety-sensitive? The authors' search without its faults, beside two quicker looks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ...answering.judges import Judge, by_wording, judge_all
from ...answering.scaling import scaled
from ...cache import cache_directory
from ...encoding.encoder import Encoder
from ...encoding.runtime import Runtime
from ...errors import ModelError, OutputError, Unscorable
from ...models.devices import find_device
from ...models.loading import LoadedModel, load_model
from ...models.options import FitOptions, ModelOptions
from ...progress import progress as show_progress
from ...progress import say
from ...rows.prompt_columns import request_column
from ...rows.wording import settled
from ..references import ReferenceSet, packaged_rows
from .locators import angle_gap, separation
from .profile import SCALES, VERSION, Decisions, LayerProfile, amplitudes, analyse

if TYPE_CHECKING:
    from ...answering.generating import Answerer

_UNSCALED = "unscaled"
_LOCATORS = {"angle gap (degrees)": angle_gap, "separation of references (d)": separation}


def over_rejection_prompts() -> list[str]:
    """The packaged prompts: harmless, every one of them, and harmful to the ear; written for this project."""
    return [row["prompt"] for row in packaged_rows("over_rejection.jsonl")]


def read_prompts(path: str | Path) -> list[str]:
    """Prompts of a user's own: a JSONL file with `prompt` (or `instruction`, `question`), or plain lines.

    Raises:
        ModelError: the file cannot be read, or a line has no prompt; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"prompts {path} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            found.append(line.strip())
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ModelError(f"{path}, line {number}: {error}") from error
        column = request_column(row)
        text = None if column is None else row[column]
        if not isinstance(text, str) or not text:
            raise ModelError(f"{path}, line {number}: no `prompt`")
        found.append(text)
    return found


def find_safety_layers(
    model: str | Path,
    *,
    prompts: Sequence[str] | str | Path | None = None,
    blocks: Sequence[int] | None = None,
    scales: Sequence[float] = SCALES,
    max_new_tokens: int = 32,
    judge: Judge = by_wording,
    references: ReferenceSet | None = None,
    resume: str | Path | None = None,
    **options: Unpack[FitOptions],
) -> LayerProfile:
    """Scale one block after the other, count how many harmless prompts the model refuses then, and compare.

    A block whose scaling up makes the model refuse more and scaling down less is where refusing is decided. Answers
    are greedy. What has been answered is kept under the cache directory and never asked twice, so that a search that
    was interrupted goes on, and one that was done is read; with a judge of the user's own only where `resume` says so.

    >>> # Not run by doctest: a search generates thousands of answers.
    >>> profile = find_safety_layers("demo-aligned")  # doctest: +SKIP
    >>> profile.best  # doctest: +SKIP
    9

    Args:
        model: as for `LARFScorer.fit`: `demo-aligned`, a Hub id, a local directory, a GGUF file, or a PEFT adapter.
        prompts: harmless ones that sound harmful, or a file of them; the packaged 128 by default. Fewer widen the
            intervals, since the standard error of a count among n is up to sqrt(n) / 2.
        blocks: those to scale; all by default.
        scales: factors of a block's linear weights, in pairs 1 - a and 1 + a.
        max_new_tokens: of each answer.
        judge: whether an answer refuses; any function of prompt and answer.
        references: for the two quicker looks; the packaged ones by default.
        resume: a file that keeps what has been answered.
        **options: how the model is loaded and run; see `ModelOptions`.

    Raises:
        ModelError: the model cannot be used, has no such block, or the prompts or scales cannot be.
    """
    amplitudes(scales)
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens must be positive, not {max_new_tokens}")
    asked = read_prompts(prompts) if isinstance(prompts, str | Path) else list(prompts or over_rejection_prompts())
    asked = list(dict.fromkeys(asked))
    if len(asked) < 2:
        raise ModelError(f"a search needs prompts, and {len(asked)} can show nothing; 100 or more are advisable")
    config = ModelOptions.of(model, **options)
    loaded = load_model(config, None, find_device(config.device))
    chosen = sorted(set(range(loaded.total_blocks) if blocks is None else blocks))
    if wrong := [block for block in chosen if not 0 <= block < loaded.total_blocks]:
        raise ModelError(f"layer {wrong[0]} is out of range: {config.model} has blocks 0 to {loaded.total_blocks - 1}")
    encoder = Encoder(config, Runtime(loaded))
    search = _Search(encoder, asked, max_new_tokens, judge, resume)
    located = search.locate(references or ReferenceSet.packaged())
    found, unscaled = search.run(chosen, tuple(scales))
    profiles, p_value, best = analyse(found, scales, chosen)
    return LayerProfile(
        model=config.model,
        version=loaded.version,
        total_blocks=loaded.total_blocks,
        dtype=loaded.dtype_name,
        prompts=len(asked),
        digest=_digest(asked),
        judge=_name(judge),
        max_new_tokens=max_new_tokens,
        scales=tuple(scales),
        unscaled=sum(unscaled),
        blocks=profiles,
        p_value=p_value,
        best=best,
        locators=located,
        decisions={
            str(block): {f"{scale:g}": _bits(found[at, number]) for number, scale in enumerate(scales)}
            for at, block in enumerate(chosen)
        },
    )


class _Search:
    """Asks all prompts for each block and scale, and keeps what has been decided."""

    def __init__(
        self, encoder: Encoder, prompts: list[str], tokens: int, judge: Judge, resume: str | Path | None
    ) -> None:
        self.encoder = encoder
        self.loaded: LoadedModel = encoder.loaded
        self.prompts, self.tokens, self.judge = prompts, tokens, judge
        ids = []
        for number, prompt in enumerate(prompts, 1):
            try:
                ids.append(encoder.renderer.render_prompt(prompt))
            except Unscorable as error:
                raise ModelError(f"prompt {number} ({prompt[:40]!r}) cannot be asked: {error.issue.words}") from error
        self.ids = ids
        self.packaged = judge is by_wording
        described = [VERSION, self.loaded.version, self.loaded.dtype_name, tokens, _name(judge), _digest(prompts)]
        described.append(encoder.renderer.template_digest)
        self.key = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
        self.file = _Ledger(self._place(resume), self.key)

    def _place(self, resume: str | Path | None) -> Path | None:
        if resume is not None:
            return Path(resume)
        return cache_directory() / "layers" / f"{self.key}.jsonl" if self.packaged else None

    def locate(self, references: ReferenceSet) -> dict[str, list[float]]:
        """What the quicker looks say, by their name."""
        found = {}
        for name, locator in _LOCATORS.items():
            key = f"{name}, {references.digest}"
            if key not in self.file.located:
                say(f"layers: a quick look first: {name} ...")
                self.file.add_locator(key, locator(self.encoder, references))
            found[name] = self.file.located[key]
        return found

    def run(self, blocks: Sequence[int], scales: tuple[float, ...]) -> tuple[Decisions, list[bool]]:
        """Decisions [blocks, scales, prompts], and those of the unscaled model."""
        wanted = [(_UNSCALED, 1.0)] + [(str(block), scale) for block in blocks for scale in scales]
        missing = [item for item in wanted if item not in self.file.known]
        if missing:
            self._ask(missing)
        known = self.file.known
        found = np.array([[known[str(block), scale] for scale in scales] for block in blocks], dtype=bool)
        return found.reshape(len(blocks), len(scales), len(self.prompts)), known[_UNSCALED, 1.0]

    def _ask(self, missing: list[tuple[str, float]]) -> None:
        from ...answering.generating import Answerer

        answerer = Answerer(self.loaded, self.ids, self.tokens)
        if not answerer.reuse:
            say("layers: this architecture is searched without shortcuts, one prompt at a time; it will take long")
        with show_progress(len(missing) * len(self.prompts), "layers", unit="answer") as update:
            for name, scale in missing:
                if name == _UNSCALED:
                    decided = self._decide(answerer, None)
                else:
                    with scaled(self.loaded.blocks[int(name)], scale):
                        decided = self._decide(answerer, int(name))
                self.file.add(name, scale, decided)
                update(len(self.prompts))

    def _decide(self, answerer: Answerer, block: int | None) -> list[bool]:
        def enough(_number: int, answer: list[int]) -> bool:
            return settled(answerer.text(answer)) is not None

        # What another judge would say of half an answer nobody knows.
        answers = answerer.answers(block, enough if self.packaged else None)
        return judge_all(self.judge, self.prompts, [answerer.text(answer) for answer in answers])


class _Ledger:
    """What has been decided, one JSON line for each block and scale (and each quicker look), appended as it comes."""

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key = path, key
        self.known: dict[tuple[str, float], list[bool]] = {}
        self.located: dict[str, list[float]] = {}
        if path is None or not path.is_file():
            return
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"{path} cannot be read: {error}") from error
        for line in lines:
            try:
                row = json.loads(line)
                if row["search"] == key and "locator" in row:
                    self.located[row["locator"]] = [float(value) for value in row["values"]]
                elif row["search"] == key:
                    self.known[row["block"], row["scale"]] = [mark == "1" for mark in row["refused"]]
            except (ValueError, KeyError, TypeError):  # the last line of a search that was killed
                continue

    def add(self, block: str, scale: float, refused: list[bool]) -> None:
        self.known[block, scale] = refused
        self._write({"block": block, "scale": scale, "refused": _bits(refused)})

    def add_locator(self, name: str, values: list[float]) -> None:
        self.located[name] = values
        self._write({"locator": name, "values": values})

    def _write(self, row: dict[str, Any]) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(
                    "\n" + json.dumps({"search": self.key, **row})
                )  # the newline first: the line before may have been cut off
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror or error}") from error


def _bits(refused: Sequence[bool] | np.ndarray[Any, Any]) -> str:
    return "".join("1" if mark else "0" for mark in refused)


def _digest(prompts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(prompts).encode()).hexdigest()


def _name(judge: Judge) -> str:
    if judge is by_wording:
        return "wording"
    return repr(judge) if not hasattr(judge, "__name__") else str(judge.__name__)


def safety_layer(
    model: str | Path, *, references: ReferenceSet | None = None, **options: Unpack[FitOptions]
) -> tuple[int, LayerProfile]:
    """The search as `layer="auto"` runs it: packaged prompts, all blocks; once a model, then out of the cache.

    Raises:
        ModelError: no block stands out, so that the layer has to be chosen by hand.
    """
    profile = find_safety_layers(model, references=references, **options)
    if profile.best is None:
        raise ModelError(
            f"layer 'auto' of {model}: {profile.verdict()}; choose a layer by hand (`larf-curate layers {model}` shows "
            "all figures), or search with prompts of your own"
        )
    say(f"layer auto: {profile.verdict()}")
    return profile.best, profile
