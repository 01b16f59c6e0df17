"""A fitted scorer on disk and on the Hub: one JSON file and one safetensors file, never a pickle, never the model."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_bytes
from ..errors import OutputError, ScorerError
from ..hub import hub_errors
from ..models.demo import NAME as DEMO
from ..models.locating import commit_of
from ..models.options import EncodingOptions, ModelOptions, RunOptions
from .formulas import VERSION, Formula
from .layer_search.profile import LayerProfile

CONFIG, TENSORS = "larf_scorer.json", "larf_scorer.safetensors"
FORMAT_VERSION = 1
_DIGEST = "tensors_sha256"

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ScorerSpec(EncodingOptions):
    """All of a fitted scorer that is not an array.

    It keeps the `EncodingOptions` that it was fitted with: dtype, max_tokens, overflow, chat_template.

    Attributes:
        model, version: the model's name and the commit (or digest) of its weights.
        layers: blocks read; `blocks` is how many the model has.
        formula, formula_version, top_k, rank: how states become a score.
        template_digest: sha256 of the chat template that was used, the user's own or the tokenizer's.
        references: name, digest, counts, linter figures and findings.
        separation: AUC of the score on pairs it was not fitted on, their number, and how they were chosen.
        quantiles: of the scores of the unsafe and safe references at 0, 5, 25, 50, 75, 95 and 100%.
        search: the figures of the search that found the layer (`LayerProfile`); None where it was given.
    """

    model: str
    version: str
    layers: tuple[int, ...]
    blocks: int
    hidden_size: int
    formula: Formula
    top_k: int | None
    rank: int
    template_digest: str
    references: Mapping[str, Any]
    separation: Mapping[str, Any]
    quantiles: Mapping[str, list[float]]
    packages: Mapping[str, str]
    search: Mapping[str, Any] | None = None
    formula_version: int = VERSION
    format_version: int = FORMAT_VERSION

    @property
    def commit(self) -> str | None:
        """The Hub's commit of the model, or of the adapter if there is one; None where `version` is a local digest."""
        return commit_of(self.version) if self.model != DEMO else None

    def model_options(self, run: RunOptions) -> ModelOptions:
        """How to load the model again: as it was fitted, but for the options that are given now."""
        kept = {option.name: getattr(self, option.name) for option in fields(EncodingOptions)}
        moved = "model" in run
        where = {"model": self.model, "revision": None if moved else self.commit}
        return ModelOptions(**{**kept, **where, **run})

    def summary(self) -> str:
        """A few lines: model, layers, formula, separation, and what the linter found."""
        found = self.separation
        layers = ", ".join(map(str, self.layers))
        auc = "not measured" if found["auc"] is None else f"AUC {found['auc']:.3f} on {found['pairs']} pairs"
        lines = [
            f"{self.model} ({self.version[:24]}), layer {layers} of 0..{self.blocks - 1}, formula {self.formula}"
            + (f", top_k {self.top_k}" if self.top_k else ""),
            f"references: {self.references['name']}, {self.references['pairs']} pairs fitted",
            f"separation of unseen pairs: {auc} ({found['method']})",
        ]
        if self.search is not None:
            lines.insert(1, f"layer found by search: {LayerProfile.of(self.search).verdict()}")
        return "\n".join(lines + [f"linter: {finding}" for finding in self.references["findings"]])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> ScorerSpec:
        """Read what `to_json` wrote; `where` names it in errors.

        Raises:
            ScorerError: it is something else, or of another version.
        """
        try:
            fields = json.loads(text)
            fields.pop(_DIGEST, None)
            if fields["format_version"] != FORMAT_VERSION or fields["formula_version"] != VERSION:
                raise ScorerError(
                    f"{where} was written by another version (format {fields['format_version']}, formula "
                    f"{fields['formula_version']}; this one reads {FORMAT_VERSION} and {VERSION}): fit it again"
                )
            for number in ("blocks", "hidden_size", "rank"):
                if type(fields[number]) is not int:
                    raise TypeError(f"{number} is {fields[number]!r}")
            return cls(**{**fields, "layers": tuple(map(int, fields["layers"]))})
        except ScorerError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ScorerError(f"{where} is not a fitted scorer: {error}") from error


def require_writable(directory: str | Path) -> None:
    """Find out before the long work, not after it, that a scorer cannot be written there.

    Raises:
        OutputError: the directory cannot be made or written.
    """
    home = Path(directory)
    there = home.exists()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
        if not there:
            home.rmdir()
    except OSError as error:
        raise OutputError(f"the scorer cannot be written to {directory}: {error.strerror or error}") from error


def write_artifact(directory: str | Path, spec: ScorerSpec, tensors: Tensors) -> None:
    """Write both files, each under a temporary name first.

    A reader sees the old scorer or the new one; between the two renames, or after a crash there, an error: the JSON
    holds the digest of the states it belongs to.

    Raises:
        OutputError: the directory cannot be written.
    """
    for name, content in artifact_files(spec, tensors).items():
        write_bytes(Path(directory) / name, content)


def artifact_files(spec: ScorerSpec, tensors: Tensors) -> dict[str, bytes]:
    """The content of both files by name, the states first."""
    from safetensors.numpy import save

    states = save(tensors)
    described = {**json.loads(spec.to_json()), _DIGEST: hashlib.sha256(states).hexdigest()}
    return {TENSORS: states, CONFIG: (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode()}


def read_artifact(name: str | Path, revision: str | None = None) -> tuple[ScorerSpec, Tensors]:
    """Read a scorer from a local directory, or from the Hub where there is none.

    Raises:
        ScorerError: it is not there, not readable, or not a scorer.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    home = _find(name, revision)
    try:
        text = (home / CONFIG).read_text(encoding="utf-8")
        spec = ScorerSpec.from_json(text, str(name))
        content = (home / TENSORS).read_bytes()
        tensors = load(content)
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise ScorerError(
            f"{name} is not a fitted scorer ({CONFIG} and {TENSORS}): {error}; make one with `larf-curate fit`"
        ) from error
    if json.loads(text).get(_DIGEST) != hashlib.sha256(content).hexdigest():
        raise ScorerError(f"{name} is damaged: {CONFIG} and {TENSORS} are of two different scorers; fit it again")
    states = (len(spec.layers), spec.hidden_size)
    pairs = tensors["unsafe"].shape[:1] if "unsafe" in tensors else (0,)
    wanted = {"unsafe": (*pairs, *states), "safe": (*pairs, *states), "check": states}
    wrong = [tensor for tensor, shape in wanted.items() if tensor not in tensors or tensors[tensor].shape != shape]
    if wrong or "harmless" not in tensors:
        raise ScorerError(f"{name} is damaged: {TENSORS} does not hold the states that {CONFIG} describes")
    return spec, tensors


def read_config(name: str | Path, revision: str | None = None) -> bytes:
    """The JSON of a scorer as it is; since it holds the digest of the states, it stands for the whole.

    Raises:
        ScorerError: there is no scorer of that name.
    """
    path = _find(name, revision) / CONFIG
    try:
        return path.read_bytes()
    except OSError as error:
        raise ScorerError(f"{name} is not a fitted scorer: {error.strerror or error}") from error


def _find(name: str | Path, revision: str | None) -> Path:
    """A local directory, or the cache's copy of one on the Hub."""
    home = Path(name)
    return home if home.is_dir() else _download(str(name), revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise ScorerError(f"there is no scorer at {name}; make one with `larf-curate fit MODEL --layer N --out {name}`")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG, TENSORS]))
    except hub_errors() as error:
        raise ScorerError(
            f"scorer {name} is neither a local directory nor a repository on the Hub that this token may read"
        ) from error
