"""A fitted scorer on disk and on the Hub: one JSON file and one safetensors file, never a pickle, never the model."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_bytes
from ..encoding.directions import WeightDirection
from ..errors import OutputError, ScorerError
from ..hub import hub_errors, why_not_asked
from ..json_fields import parse_json, read_limited
from .artifact_checks import check_tensors
from .separation import check_claims
from .spec import ScorerSpec

CONFIG, TENSORS = "larf_scorer.json", "larf_scorer.safetensors"
_DIGEST = "tensors_sha256"
_LONGEST_CONFIG = 64 << 20

Tensors = dict[str, NDArray[np.float32]]


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
    """The content of both files by name, the tensors first."""
    from safetensors.numpy import save

    states = save(tensors)
    fields = {**spec.json_fields(), _DIGEST: hashlib.sha256(states).hexdigest()}
    return {TENSORS: states, CONFIG: (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()}


def read_artifact(name: str | Path, revision: str | None = None) -> tuple[ScorerSpec, Tensors]:
    """Read a scorer from a local directory, or from the Hub where there is none.

    Raises:
        ScorerError: it is not there, not readable, or not a scorer.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    home = _find(name, revision)
    try:
        spec, digest = _read_spec(home, str(name))
        content = (home / TENSORS).read_bytes()
        tensors = load(content)
    except FileNotFoundError as error:
        raise ScorerError(
            f"{name} is not a fitted scorer: {Path(str(error.filename)).name} is not there; make one with `larf-curate "
            "fit`"
        ) from error
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise ScorerError(
            f"{name} is not a fitted scorer ({CONFIG} and {TENSORS}): {error}; make one with `larf-curate fit`"
        ) from error
    if digest != hashlib.sha256(content).hexdigest():
        raise ScorerError(f"{name} is damaged: {CONFIG} and {TENSORS} are of two different scorers; fit it again")
    if not _fit_together(spec, tensors):
        raise ScorerError(f"{name} is damaged: {TENSORS} does not hold what {CONFIG} describes")
    try:
        check_tensors(tensors, None if spec.references is None else spec.references.pairs)
        check_claims(spec, tensors)
    except ValueError as error:
        raise ScorerError(f"{name} is no scorer that was fitted by larf-curate: {error}") from error
    return spec, tensors


def _fit_together(spec: ScorerSpec, tensors: Tensors) -> bool:
    """Whether the tensors are those that a scorer like this has: states of references, factors, or losses."""
    if "check" not in tensors:
        return False
    if spec.other is not None:
        return "other_check" in tensors and tensors["other_check"].shape == tensors["check"].shape
    if spec.margin is not None:
        try:
            factors = WeightDirection.of_tensors(tensors).factors.values()
        except KeyError:
            return False
        return bool(factors) and all(
            each.right is not None
            and each.left.ndim == each.right.ndim == 2
            and each.left.shape[1] == len(each.right) <= spec.rank
            for each in factors
        )
    states = (len(spec.layers), spec.hidden_size)
    count = tensors["unsafe"].shape[:1] if "unsafe" in tensors else (0,)
    wanted = {"unsafe": (*count, *states), "safe": (*count, *states), "check": states}
    return all(name in tensors and tensors[name].shape == shape for name, shape in wanted.items())


def _read_spec(home: Path, name: str) -> tuple[ScorerSpec, object]:
    """What the JSON file holds, and the digest of the tensors that it belongs to."""
    try:
        fields = parse_json(read_limited(home / CONFIG, _LONGEST_CONFIG))
    except ValueError as error:
        raise ScorerError(f"{name} is not a fitted scorer: {error}") from error
    if not isinstance(fields, dict):
        raise ScorerError(f"{name} is not a fitted scorer: {CONFIG} holds no object")
    digest = fields.pop(_DIGEST, None)
    return ScorerSpec.from_json(json.dumps(fields), name), digest


def read_spec(directory: Path) -> ScorerSpec:
    """Read what a scorer in a local directory says of itself, without its tensors.

    Raises:
        ScorerError: there is none, or it was made by another version.
    """
    try:
        return _read_spec(directory, str(directory))[0]
    except (OSError, UnicodeDecodeError) as error:
        raise ScorerError(f"{directory} is not a fitted scorer: {error}") from error


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
    from huggingface_hub.errors import HFValidationError

    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise ScorerError(f"there is no scorer at {name}; make one with `larf-curate fit MODEL --layer N --out {name}`")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG, TENSORS]))
    except hub_errors() as error:
        if getattr(error, "response", None) is None and not isinstance(error, HFValidationError):
            raise ScorerError(
                f"scorer {name} is no local directory; {why_not_asked()}, and the cache does not hold it"
            ) from error
        raise ScorerError(
            f"scorer {name} is neither a local directory nor a repository on the Hub that this token may read"
        ) from error
