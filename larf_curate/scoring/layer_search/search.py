"""Find the safety-sensitive block: scale each block up and down, and count the refusals of harmless prompts.

This is the search of the authors of LARF, with fixed prompts, intervals and a test against chance; two cheaper methods
("locators") are computed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ...answering.judges import Judge, by_wording, require_english
from ...answering.prompts import over_rejection_prompts, read_prompts
from ...digests import digest_of_texts
from ...encoding.encoder import Encoder
from ...encoding.runtime import Runtime
from ...errors import ModelError
from ...models.devices import find_device
from ...models.loading import load_model
from ...models.options import FitOptions, ModelOptions
from ...progress import say
from ..references import ReferenceSet
from .asking import Asking
from .ledger import Ledger, marks
from .locators import angle_gap, separation
from .profile import ERROR_RATE, SCALES, LayerProfile, amplitudes
from .resampling import analyse

_LOCATORS = {"angle gap (degrees)": angle_gap, "separation of references (d)": separation}


def find_safety_layers(
    model: str | Path,
    *,
    prompts: Sequence[str] | str | Path | None = None,
    blocks: Sequence[int] | None = None,
    scales: Sequence[float] = SCALES,
    max_new_tokens: int = 32,
    judge: Judge = by_wording,
    error_rate: float = ERROR_RATE,
    references: ReferenceSet | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
    **options: Unpack[FitOptions],
) -> LayerProfile:
    """Scale one block after the other, count how many harmless prompts the model refuses then, and compare.

    If a model refuses more with a block scaled up, and less with it scaled down, refusing is decided in that block.
    Prompts are asked a part at a time, and a block that cannot come first any more is asked no further. Answers are
    greedy. What has been answered is kept in a file under the cache directory: a search that was
    interrupted goes on, and one that was finished is not run again. With a judge of your own this needs `resume`.

    >>> # Not run by doctest: a search generates thousands of answers.
    >>> profile = find_safety_layers("demo-aligned")  # doctest: +SKIP
    >>> profile.best  # doctest: +SKIP
    9

    Args:
        model: as for `LARFScorer.fit`: `demo-aligned`, a Hub id, a local directory, a GGUF file, or a PEFT adapter.
        prompts: harmless ones that sound harmful, or a file of them; the packaged 128 by default. Fewer widen the
            intervals, since the standard error of a count among n is up to sqrt(n) / 2.
        blocks: the blocks to scale; all by default.
        scales: factors of a block's linear weights, in pairs 1 - a and 1 + a.
        max_new_tokens: the most tokens of an answer.
        judge: whether an answer refuses; any function of prompt and answer.
        error_rate: probability (below 1) with which the block that all answers would put first may be dropped before
            all are given; see `elimination`. 0 asks every prompt of every block at every scale.
        references: the reference pairs for the locators; the packaged ones by default.
        resume: a file that keeps what has been answered.
        progress: show how far it is; False for silence.
        **options: how the model is loaded and run; see `ModelOptions`.

    Raises:
        ModelError: the model cannot be used, has no such block, or the scales cannot be.
        PromptsError: a file of prompts cannot be read, a line of it has none, or the chat template refuses one.
        ReferencesError: too few of the references can be encoded. OutputError: the file cannot be read or written.
    """
    amplitudes(scales)
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens must be positive, not {max_new_tokens}")
    if not 0 <= error_rate < 1:
        raise ModelError(f"an error rate is a probability of 0 or more and below 1, not {error_rate}")
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
    asking = Asking(encoder, asked, max_new_tokens, judge, resume, progress)
    located = _locate(encoder, references or ReferenceSet.packaged(), asking.ledger, progress)
    decisions, unscaled = asking.run(chosen, tuple(scales), error_rate)
    profiles, p_value, best = analyse(decisions, scales, chosen)
    return LayerProfile(
        model=config.model,
        version=loaded.version,
        total_blocks=loaded.total_blocks,
        dtype=loaded.dtype_name,
        prompts=len(asked),
        digest=digest_of_texts(asked),
        judge=asking.judge_name,
        max_new_tokens=max_new_tokens,
        scales=tuple(scales),
        error_rate=error_rate,
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


def _locate(encoder: Encoder, references: ReferenceSet, ledger: Ledger, progress: bool) -> dict[str, list[float]]:
    """The figures of each locator for every block, by the locator's name."""
    located = {}
    for name, locator in _LOCATORS.items():
        key = f"{name}, {references.digest}"
        if key not in ledger.located:
            if progress:
                say(f"layers: a quick look first: {name} ...")
            ledger.add_locator(key, locator(encoder, references, progress=progress))
        located[name] = ledger.located[key]
    return located


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
