"""Find the safety-sensitive block: scale each block up and down, and count the refusals of harmless prompts.

This is the search of the authors of LARF, with fixed prompts, intervals and a test against chance; two cheaper methods
("locators") are computed beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from ...answering.judges import Judge, by_wording, judge_all, require_english
from ...answering.prompts import over_rejection_prompts, read_prompts
from ...answering.scaling import scaled
from ...cache import cache_directory
from ...digests import digest_of_texts
from ...encoding.encoder import Encoder
from ...encoding.runtime import Runtime
from ...errors import ModelError, Unscorable
from ...models.devices import find_device
from ...models.loading import LoadedModel, load_model
from ...models.options import FitOptions, ModelOptions
from ...progress import progress as show_progress
from ...progress import say
from ...rows.wording import settled
from ..references import ReferenceSet
from .ledger import Ledger, marks
from .locators import angle_gap, separation
from .profile import SCALES, VERSION, Decisions, LayerProfile, amplitudes, analyse

if TYPE_CHECKING:
    from ...answering.generating import Answerer

_UNSCALED = "unscaled"
_LOCATORS = {"angle gap (degrees)": angle_gap, "separation of references (d)": separation}


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
    progress: bool = True,
    **options: Unpack[FitOptions],
) -> LayerProfile:
    """Scale one block after the other, count how many harmless prompts the model refuses then, and compare.

    If a model refuses more with a block scaled up, and less with it scaled down, refusing is decided in that block.
    Answers are greedy. What has been answered is kept in a file under the cache directory: a search that was
    interrupted goes on, and one that was finished is not run again. With a judge of your own this needs `resume`.

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
        references: for the locators; the packaged ones by default.
        resume: a file that keeps what has been answered.
        progress: show how far it is; False for silence.
        **options: how the model is loaded and run; see `ModelOptions`.

    Raises:
        ModelError: the model cannot be used, has no such block, or the scales cannot be.
        PromptsError: a file of prompts cannot be read, or a line of it has none.
        ReferencesError: too few of the references can be encoded. OutputError: the file cannot be read or written.
    """
    amplitudes(scales)
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens must be positive, not {max_new_tokens}")
    asked = read_prompts(prompts) if isinstance(prompts, str | Path) else list(prompts or over_rejection_prompts())
    asked = list(dict.fromkeys(asked))
    if len(asked) < 2:
        raise ModelError(f"a search needs prompts, and {len(asked)} can show nothing; 100 or more are advisable")
    require_english(judge, asked)
    config = ModelOptions.of(model, **options)
    loaded = load_model(config, None, find_device(config.device))
    chosen = sorted(set(range(loaded.total_blocks) if blocks is None else blocks))
    if wrong := [block for block in chosen if not 0 <= block < loaded.total_blocks]:
        raise ModelError(f"layer {wrong[0]} is out of range: {config.model} has blocks 0 to {loaded.total_blocks - 1}")
    encoder = Encoder(config, Runtime(loaded))
    search = _Search(encoder, asked, max_new_tokens, judge, resume, progress)
    located = search.locate(references or ReferenceSet.packaged())
    decisions, unscaled = search.run(chosen, tuple(scales))
    profiles, p_value, best = analyse(decisions, scales, chosen)
    return LayerProfile(
        model=config.model,
        version=loaded.version,
        total_blocks=loaded.total_blocks,
        dtype=loaded.dtype_name,
        prompts=len(asked),
        digest=digest_of_texts(asked),
        judge=_name(judge),
        max_new_tokens=max_new_tokens,
        scales=tuple(scales),
        unscaled=sum(unscaled),
        blocks=profiles,
        p_value=p_value,
        best=best,
        locators=located,
        decisions={
            str(block): {f"{scale:g}": marks(decisions[at, number]) for number, scale in enumerate(scales)}
            for at, block in enumerate(chosen)
        },
    )


class _Search:
    """Asks all prompts for each block and scale, and keeps in a ledger which were refused."""

    def __init__(
        self,
        encoder: Encoder,
        prompts: list[str],
        max_new_tokens: int,
        judge: Judge,
        resume: str | Path | None,
        progress: bool,
    ) -> None:
        self.encoder = encoder
        self.loaded: LoadedModel = encoder.loaded
        self.prompts, self.max_new_tokens, self.judge, self.progress = prompts, max_new_tokens, judge, progress
        self.prompt_ids = []
        for number, prompt in enumerate(prompts, 1):
            try:
                self.prompt_ids.append(encoder.renderer.render_prompt(prompt))
            except Unscorable as error:
                raise ModelError(f"prompt {number} ({prompt[:40]!r}) cannot be asked: {error.issue.words}") from error
        depends_on = [VERSION, self.loaded.version, self.loaded.dtype_name, max_new_tokens, _name(judge)]
        depends_on += [digest_of_texts(prompts), encoder.renderer.template_digest]
        key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32]
        path = None if resume is None else Path(resume)
        if path is None and judge is by_wording:
            path = cache_directory() / "layers" / f"{key}.jsonl"
        sizes = {"prompts": len(prompts), "blocks": len(self.loaded.blocks)}
        self.ledger = Ledger(path, key, **sizes, private=resume is None)

    def _say(self, line: str) -> None:
        if self.progress:
            say(line)

    def locate(self, references: ReferenceSet) -> dict[str, list[float]]:
        """The figures of each locator for every block, by the locator's name."""
        located = {}
        for name, locator in _LOCATORS.items():
            key = f"{name}, {references.digest}"
            if key not in self.ledger.located:
                self._say(f"layers: a quick look first: {name} ...")
                self.ledger.add_locator(key, locator(self.encoder, references, progress=self.progress))
            located[name] = self.ledger.located[key]
        return located

    def run(self, blocks: Sequence[int], scales: tuple[float, ...]) -> tuple[Decisions, list[bool]]:
        """Decisions [blocks, scales, prompts], and those of the unscaled model [prompts]; True where refused."""
        refusals = self.ledger.refusals
        wanted = [(_UNSCALED, 1.0)] + [(str(block), scale) for block in blocks for scale in scales]
        if missing := [item for item in wanted if item not in refusals]:
            self._ask(missing)
        decisions = np.array([[refusals[str(block), scale] for scale in scales] for block in blocks], dtype=bool)
        return decisions.reshape(len(blocks), len(scales), len(self.prompts)), refusals[_UNSCALED, 1.0]

    def _ask(self, missing: list[tuple[str, float]]) -> None:
        from ...answering.generating import Answerer

        answerer = Answerer(self.loaded, self.prompt_ids, self.max_new_tokens)
        if not answerer.reuse:
            self._say(
                "layers: this architecture is searched without shortcuts, one prompt at a time; it will take long"
            )
        total = len(missing) * len(self.prompts)
        with show_progress(total, "layers", unit="answer", show=self.progress) as update:
            for block, scale in missing:
                if block == _UNSCALED:
                    refused = self._refused(answerer, None)
                else:
                    with scaled(self.loaded.blocks[int(block)], scale):
                        refused = self._refused(answerer, int(block))
                self.ledger.add_refusals(block, scale, refused)
                update(len(self.prompts))

    def _refused(self, answerer: Answerer, block: int | None) -> list[bool]:
        """Whether the answer to each prompt refuses, while one block, or none, is scaled."""

        def is_settled(_number: int, answer: list[int]) -> bool:
            return settled(answerer.text(answer)) is not None

        # Only the packaged judge can tell from the first words what it will say of the whole answer.
        answers = answerer.answers(block, is_settled if self.judge is by_wording else None)
        return judge_all(self.judge, self.prompts, [answerer.text(answer) for answer in answers])


def _name(judge: Judge) -> str:
    if judge is by_wording:
        return "wording"
    return repr(judge) if not hasattr(judge, "__name__") else str(judge.__name__)


def safety_layer(
    model: str | Path,
    *,
    references: ReferenceSet | None = None,
    progress: bool = True,
    **options: Unpack[FitOptions],
) -> tuple[int, LayerProfile]:
    """The search as `layer="auto"` runs it: packaged prompts, all blocks; once for a model, then out of the cache.

    Raises:
        ModelError: no block stands out, so that the layer has to be chosen by hand.
    """
    profile = find_safety_layers(model, references=references, progress=progress, **options)
    if profile.best is None:
        raise ModelError(
            f"layer 'auto' of {model}: {profile.verdict()}; choose a layer by hand (`larf-curate layers {model}` shows "
            "all figures), or search with prompts of your own"
        )
    if progress:
        say(f"layer auto: {profile.verdict()}")
    return profile.best, profile
