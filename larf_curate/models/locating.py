"""Where the files of a model are: on the Hub, in a local directory, in a GGUF file, in a PEFT adapter and its base."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError, ModelError
from ..hub import hub_errors, why_not_asked
from . import demo

_ADAPTER = "adapter_config.json"
_GIVE_BASE = "say where the base is by base= (--base)"
_NO_PART = {"", ".md", ".log", ".csv", ".jsonl", ".png", ".jpg", ".pdf", ".pt", ".pth"}
_OF_TRAINING = {
    "training_args.bin",
    "trainer_state.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
}
_END, _PLACE, _PLACES = 1 << 16, 1 << 12, 64
"""Of a file's content a digest reads this many bytes at each end, and so many at so many places between."""
_ADAPTER_FILES = ["adapter_*", "tokenizer*", "special_tokens_map.json", "chat_template.*", "vocab*", "merges.txt"]


@dataclass(frozen=True)
class ModelFiles:
    """Where the files of a model are.

    Attributes:
        path: local directory or Hub id, as `from_pretrained` takes it.
        version: commit of the Hub, or a digest of local files; an adapter's follows its base's after a plus sign.
        arguments: `revision`, `gguf_file`: further arguments of `from_pretrained`.
        adapter: local directory of a PEFT adapter on top.
    """

    path: str
    version: str
    arguments: dict[str, Any] = field(default_factory=dict)
    adapter: Path | None = None


def locate(model: str, revision: str | None = None, base: str | None = None) -> ModelFiles:
    """Find a model by whatever name a user gives it.

    Args:
        model: `demo`, `demo-aligned`, a Hub id (`owner/name`, or `owner/name/file.gguf`), a local directory or GGUF
            file, or the directory or Hub id of a PEFT adapter.
        revision: branch, tag or commit of a Hub id.
        base: where an adapter's base model is; see `ModelOptions`.

    Raises:
        ModelError: there is no such model, or this token may not read it; or it is no adapter, and `base` is given.
        MissingExtraError: it is an adapter, and peft is not installed.
    """
    source = _found(model, revision, base)
    if base is not None and source.adapter is None:
        raise ModelError(f"{model} is not an adapter, so it has no base model: leave base= (--base) out")
    return source


def is_adapter(model: str, base: str | None = None) -> bool:
    """Whether a model is a PEFT adapter, which has a base model. Arguments and errors as of `locate`."""
    return _found(model, None, base).adapter is not None


def _found(model: str, revision: str | None, base: str | None) -> ModelFiles:
    if model == demo.NAME:
        home, version = demo.demo_model()
        return ModelFiles(home, version, {} if version.startswith("gguf-") else {"revision": version})
    if model == demo.ALIGNED:
        return _adapter_source(demo.ADAPTER, local_version(demo.ADAPTER), base)
    path = Path(model).expanduser()
    if revision is not None and path.exists():
        raise ModelError(f"{model} is a local path, which has no revisions: leave revision= (--revision) out")
    if path.is_file() and path.suffix == ".gguf":
        return ModelFiles(str(path.parent), local_version(path), {"gguf_file": path.name})
    if path.is_dir():
        return _directory_source(path, local_version(path), base)
    if path.exists() or model.startswith(("/", ".", "~")) or model.count("/") > 2:
        what = "is not a model directory or a .gguf file" if path.exists() else "does not exist"
        raise ModelError(f"model {model} {what}")
    return _hub_source(model, revision, base)


def _directory_source(path: Path, version: str, base: str | None) -> ModelFiles:
    if (path / _ADAPTER).is_file():
        return _adapter_source(path, version, base)
    if (path / "config.json").is_file():
        return ModelFiles(str(path), version)
    files = list(path.glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"{path} is a directory without config.json, {_ADAPTER} or one .gguf file")
    return ModelFiles(str(path), version, {"gguf_file": files[0].name})


def _hub_source(model: str, revision: str | None, base: str | None) -> ModelFiles:
    from huggingface_hub import HfApi, snapshot_download

    owner, *rest = model.split("/", 2)
    name = "/".join([owner, *rest[:1]])
    gguf = rest[1] if len(rest) == 2 else ""  # owner/repo/file.gguf
    branch = revision or "main"
    try:
        info = HfApi().model_info(name, revision=revision)
        files = {sibling.rfilename for sibling in info.siblings or ()}
        # One small file by the branch's name, so that the cache knows offline which commit the branch was.
        snapshot_download(name, revision=branch, allow_patterns=["config.json", _ADAPTER])
    except hub_errors() as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404) or isinstance(error, ValueError):
            raise ModelError(
                f"model {model!r} is neither a local path, nor `demo` or `demo-aligned`, nor a repository on the Hub "
                f"that this token may read at {branch!r} (gated models need `hf auth login` and an accepted licence)"
            ) from error
        return _cached_source(name, branch, gguf, base)
    version = str(info.sha)
    if _ADAPTER in files and not gguf:
        home = Path(snapshot_download(name, revision=version, allow_patterns=_ADAPTER_FILES))
        return _adapter_source(home, version, base, name)
    return ModelFiles(name, version, {"revision": version, **({"gguf_file": gguf} if gguf else {})})


def _cached_source(name: str, branch: str, gguf: str, base: str | None) -> ModelFiles:
    """The cache's copy of a model, as a local directory: with the Hub out of reach, no part of loading waits for it."""
    from huggingface_hub import snapshot_download

    try:
        home = Path(snapshot_download(name, revision=branch, local_files_only=True))
    except hub_errors() as error:
        raise ModelError(
            f"{name} is no local path; {why_not_asked()}, and the cache does not hold this model"
        ) from error
    if gguf:
        return ModelFiles(str(home), home.name, {"gguf_file": gguf})
    return _directory_source(home, home.name, base)


def _adapter_source(home: Path, version: str, base: str | None, name: str | None = None) -> ModelFiles:
    """An adapter in `home` and its base model; `name` is the adapter's on the Hub."""
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", "peft", f"loading the adapter {name or home}")
    where, revision = _base_of(home, base)
    if where == name or (Path(where).is_dir() and Path(where).samefile(home)):
        raise ModelError(f"the adapter {name or home} names itself as its base model: {_GIVE_BASE}")
    try:
        source = locate(where, None if Path(where).exists() else revision)
    except MissingExtraError:
        raise
    except ModelError as error:
        raise ModelError(
            f"the base model of the adapter {name or home} cannot be used: {error}; {_GIVE_BASE}"
        ) from error
    if source.adapter is not None:
        raise ModelError(f"{name or home} is an adapter on the adapter {where}: merge that one into its base first")
    return replace(source, version=f"{source.version}+{version}", adapter=home)


def _base_of(home: Path, base: str | None) -> tuple[str, str | None]:
    """An adapter's base model and the revision of it: those given, or those that the adapter's config names."""
    given, _, revision = (base or "").rpartition("@") if "@" in (base or "") else (base or "", "", "")
    if given:
        return given, revision or None
    try:
        config = json.loads((home / _ADAPTER).read_text(encoding="utf-8"))
        named = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{home / _ADAPTER} does not name its base model ({error!r}): {_GIVE_BASE}") from error
    if not isinstance(named, str) or not named:
        raise ModelError(f"{home / _ADAPTER} does not name its base model, but {named!r}: {_GIVE_BASE}")
    if not Path(named).exists() and (home / named).is_dir():  # written in the adapter's own directory
        named = str(home / named)
    return named, revision or config.get("revision")


def code_of_its_own(model: str) -> str:
    """The message for a model that cannot be loaded without code that comes with it."""
    return (
        f"{model} comes with code of its own: read it, and if you trust it, pass trust_remote_code=True "
        "(--trust-remote-code)"
    )


def base_of(version: str) -> str | None:
    """The option `base` that pins an adapter's base model to the Hub's commit that it had; None if it had none."""
    first, plus, _ = version.partition("+")
    return f"@{first}" if plus and re.fullmatch(r"[0-9a-f]{40}", first) else None


def commit_of(version: str) -> str | None:
    """The Hub's commit of a model (of the adapter, where there is one), or None where its version is a local digest."""
    last = version.rpartition("+")[2]
    return last if re.fullmatch(r"[0-9a-f]{40}", last) else None


def local_version(path: Path) -> str:
    """A digest of local files that does not read gigabytes: of names, sizes, both ends, and places spread between them.

    Files that no loader reads do not count: a README may be written beside the weights. Two models with the same
    digest can differ only between those places; a fitted scorer's check of its model tells them apart.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file() and _is_read(p))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as data:
            digest.update(data.read(_END))
            if size > 2 * _END:
                for place in range(1, _PLACES):
                    data.seek(size * place // _PLACES)
                    digest.update(data.read(_PLACE))
            data.seek(max(0, size - _END))
            digest.update(data.read())
    return f"local-{digest.hexdigest()[:16]}"


def _is_read(file: Path) -> bool:
    """Whether a file of a model's directory may be part of the model: no text about it, no state of its training."""
    return file.name[0] != "." and file.suffix not in _NO_PART and file.name not in _OF_TRAINING
