"""The score card: a dataset's README that a careful reader can trust, whatever its rows and columns hold."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from ..cache import register
from ..errors import PublishError, one_line
from ..inert import code_span, fenced, markdown
from ..safe_yaml import load_yaml
from ..scoring.excerpts import Excerpt, signed
from .drawing import Plot
from .files_before import data_files_of
from .formula_words import formula_words
from .report import Report
from .validation_words import validation_in_words
from .words import (
    describe_audit,
    describe_confounds,
    describe_cut,
    describe_part,
    describe_rule,
    describe_search,
    describe_unscored,
)

BEGIN = "<!-- larf-curate:begin: this part is rewritten at every push; write your own above or below it -->"
END = "<!-- larf-curate:end -->"
HOME = "larf"  # the directory in the repository that is ours
CITATION = """@misc{li2025larf,
  title = {Layer-Aware Representation Filtering: Purifying Finetuning Data to Preserve LLM Safety Alignment},
  author = {Hao Li and Lijun Li and Zhenghao Lu and Xianyi Wei and Rui Li and Jing Shao and Lei Sha},
  year = {2025},
  eprint = {2507.18631},
  archivePrefix = {arXiv},
}"""
_TAGS = ("larf", "larf-curate", "safety", "data-curation")
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
_SIZES |= {100_000_000: "10M<n<100M", 1_000_000_000: "100M<n<1B"}
# As in huggingface_hub.repocard: front matter is the first block between two lines of three dashes.
_FRONT = re.compile(r"^\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|$)", re.DOTALL)
_CARRIED_OVER = ("license", "license_name", "license_link", "language", "task_categories")
_PLAIN = re.compile(r"[A-Za-z0-9][\w.:/+-]{0,200}")

Metadata = Mapping[str, Any]
"""The YAML at the top of a card. It may be a stranger's: any keys, with any values."""


@dataclass(frozen=True)
class DataConfig:
    """One configuration of the dataset: its name, the outcome whose rows it loads, and the splits that these have."""

    name: str
    outcome: str
    splits: tuple[str, ...] = ("train",)

    def metadata(self) -> Metadata:
        files = [{"split": split, "path": path} for split, path in self.paths().items()]
        return {"config_name": self.name, "data_files": files}

    def paths(self) -> dict[str, str]:
        """The pattern of the files of each split, in the repository."""
        if self.splits == ("train",):
            return {"train": f"{HOME}/{self.outcome}/*.parquet"}
        return {split: f"{HOME}/{self.outcome}/{split}-*.parquet" for split in self.splits}


@dataclass(frozen=True)
class CardRequest:
    """What a card is made of.

    Attributes:
        repo: namespace/name.
        report: fit to be published, see `Report.without_directories`.
        plots: the pictures in `larf/plots/`.
        recipe: text of the recipe, None where there is none.
        outcomes: which rows are published, kept ones first.
        source: Hub id of the dataset that was filtered, and the metadata of its card; None, {} where there is none.
        examples: removed rows to show.
        scorer: whether the fitted scorer is published too, in `larf/scorer/`.
        splits: the splits of each outcome; `train` for one that is not named.
    """

    repo: str
    report: Report
    plots: Sequence[Plot]
    recipe: str | None
    outcomes: Sequence[str]
    source: str | None = None
    source_metadata: Metadata = field(default_factory=dict)
    examples: Sequence[Excerpt] = ()
    scorer: bool = False
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def render_card(request: CardRequest, existing: str | None = None, paths: Collection[str] = ()) -> str:
    """The README's text; an `existing` one keeps its own sections, metadata and configs.

    Args:
        request: what it is made of.
        existing: the README that is there.
        paths: the paths of all files that are there. Data files that no config names get a config, and stay the
            default.

    Raises:
        PublishError: the existing card's metadata cannot be read.
    """
    metadata, body = split_card(existing or "")
    metadata = _with_config_of_files(metadata, paths)
    configs = _configs(metadata, request)
    merged = _merge_metadata(metadata, request, configs, ours=existing is None or BEGIN in existing)
    part = f"{BEGIN}\n\n{_part(request, configs, by_name=_all_parquet(metadata))}\n\n{END}"
    start, stop = body.find(BEGIN), body.rfind(END)
    if 0 <= start < stop:
        body = body[:start] + part + body[stop + len(END) :]
    elif body.strip():
        body = body.rstrip("\n") + "\n\n" + part + "\n"
    else:
        body = f"# {markdown(request.repo.split('/')[-1])}\n\n{part}\n"
    front = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{front}---\n\n{body.lstrip()}"


def split_card(text: str) -> tuple[Metadata, str]:
    """Metadata and body of a card.

    Raises:
        PublishError: the text between the dashes is no YAML mapping.
    """
    text = text.removeprefix("\ufeff")  # a byte order mark, before which no dashes would be found
    front = _FRONT.match(text)
    if front is None:
        return {}, text
    try:
        metadata = load_yaml(front[1]) or {}
        if not isinstance(metadata, dict):
            raise TypeError("no mapping")
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = one_line(error)[:200]
        raise PublishError(f"the metadata of the repository's README.md cannot be read ({reason}): mend it") from None
    return metadata, text[front.end() :]


# Metadata -------------------------------------------------------------------------------------------------------------


def _configs(metadata: Metadata, request: CardRequest) -> list[DataConfig]:
    """Our configs, one an outcome. Others keep their names: if one is taken, ours is called larf_..."""
    foreign = [config for config in _as_list(metadata.get("configs")) if not _is_ours(config)]
    taken = {config.get("config_name") for config in foreign if isinstance(config, dict)}
    infos = [info for info in _as_list(metadata.get("dataset_info")) if isinstance(info, dict)]
    taken |= {info.get("config_name", "default") for info in infos}
    has_default = any(isinstance(config, dict) and config.get("default") for config in foreign)
    configs = []
    for outcome in request.outcomes:
        name = "default" if outcome == "kept" else outcome
        if name in taken or (outcome == "kept" and has_default):
            name = f"larf_{outcome}"
        configs.append(DataConfig(name, outcome, request.splits.get(outcome, ("train",))))
    return configs


def _with_config_of_files(metadata: Metadata, paths: Collection[str]) -> Metadata:
    """The metadata, with a config for the data of a repository that declares none: what it loads stays what it was."""
    if _as_list(metadata.get("configs")):
        return metadata
    files = data_files_of(path for path in paths if not path.startswith(f"{HOME}/"))
    if not files:
        return metadata
    return {**metadata, "configs": [{"config_name": "default", "data_files": files}]}


def _is_ours(config: Any) -> bool:
    files = config.get("data_files") if isinstance(config, dict) else None
    return any(isinstance(entry, dict) and str(entry.get("path")).startswith(f"{HOME}/") for entry in _as_list(files))


def _all_parquet(metadata: Metadata) -> bool:
    """Whether our configs can be loaded by name: `datasets` reads all configs of a repository in one format."""
    configs = [config for config in _as_list(metadata.get("configs")) if isinstance(config, dict)]
    files = [entry for config in configs for entry in _as_list(config.get("data_files"))]
    paths = [path for entry in files for path in _as_list(entry.get("path") if isinstance(entry, dict) else entry)]
    return all(PurePosixPath(str(path)).suffix in ("", ".parquet") for path in paths)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _merge_metadata(existing: Metadata, request: CardRequest, configs: Sequence[DataConfig], *, ours: bool) -> Metadata:
    """The existing keys as they are, and ours. A licence is carried over from the source, never invented."""
    merged = dict(existing)
    for key in _CARRIED_OVER:
        value = request.source_metadata.get(key)
        values = _as_list(value)
        if key not in merged and values and all(isinstance(one, str) and _PLAIN.fullmatch(one) for one in values):
            merged[key] = value
    merged["tags"] = list(dict.fromkeys([*_as_list(existing.get("tags")), *_TAGS]))
    if request.source is not None:
        merged["source_datasets"] = list(dict.fromkeys([*_as_list(existing.get("source_datasets")), request.source]))
    if ours or "size_categories" not in existing:
        kept = request.report.rows.kept
        merged["size_categories"] = [next((name for most, name in _SIZES.items() if kept < most), "n>1B")]
    merged["configs"] = [config for config in _as_list(existing.get("configs")) if not _is_ours(config)]
    merged["configs"] += [config.metadata() for config in configs]
    return merged


# Text -----------------------------------------------------------------------------------------------------------------


def _inert(value: Any) -> Any:
    """Whatever a template prints is made inert, unless one of our own filters has."""
    return value if isinstance(value, Markup | int | float) else markdown(str(value))


def _own(text: str) -> Markup:
    """Our own words and numbers, in which nothing comes from the data."""
    return Markup(text)  # noqa: S704


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(  # noqa: S701 - HTML is not what it makes; `finalize` escapes for Markdown
        finalize=_inert, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": lambda value: _own(f"{value:,.0f}"),
        "percent": lambda value: _own(f"{value:.1%}"),
        "score": lambda value: _own(signed(value)),
        "figure": lambda value, column: _own(f"{value:,.0f}" if column.endswith("_tokens") else signed(value)),
        "text": markdown,
        "span": code_span,
        "path": _own,
        "own": _own,
        "code": fenced,
    }
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(text)


register(_template.cache_clear)


def _part(request: CardRequest, configs: Sequence[DataConfig], *, by_name: bool) -> str:
    """The part of the card that is rewritten at every push."""
    report = request.report
    rows, source, threshold = report.rows, report.source, report.threshold
    names = next((list(points) for points in report.quantiles.values() if points), [])
    return (
        _template("card.md.jinja")
        .render(
            rows=rows,
            issues=report.issues,
            source_name=request.source or (source.name if source else "a dataset"),
            source_format=source.format if source else None,
            scorer=report.scorer,
            formula=formula_words(report.scorer),
            search=[markdown(line, 1000) for line in describe_search(report.scorer.search if report.scorer else None)],
            threshold=threshold,
            rule=_own(describe_rule(threshold)),
            cut=_own(describe_cut(threshold)),
            cuts=[(split, _own(describe_part(part))) for split, part in threshold.by_split.items()],
            unscored=_own(describe_unscored(report)),
            share=lambda count: _own(f"{count / max(1, rows.total):.1%}"),
            plots=request.plots,
            quantiles=report.quantiles,
            names=[_own(name) for name in names],
            columns=report.names,
            conversations=report.conversations,
            groups=report.groups_by_column(),
            audit=report.audit,
            audit_lines=describe_audit(report.audit)[1:],
            confounds=[_own(line) for line in describe_confounds(report.confounds)],
            validation=validation_in_words(report.validation),
            sample=report.sample,
            examples=request.examples,
            loading=_loading(request.repo, configs, by_name=by_name),
            recipe=request.recipe,
            scorer_is_there=request.scorer,
            source_is_public=request.source is not None,
            version=report.run.packages.get("larf-curate"),
            citation=CITATION,
        )
        .strip()
    )


def _loading(repo: str, configs: Sequence[DataConfig], *, by_name: bool) -> str:
    """Python code that loads each config."""
    lines = ["from datasets import load_dataset", ""]
    for config in configs:
        alone = config.splits == ("train",)
        if by_name:
            names = [repo] if config.name == "default" else [repo, config.name]
            arguments = ", ".join(f'"{name}"' for name in names)
        else:
            paths = {split: f"hf://datasets/{repo}/{path}" for split, path in config.paths().items()}
            arguments = f'"parquet", data_files={json.dumps(paths["train"] if alone else paths)}'
        lines.append(f"{config.outcome} = load_dataset({arguments}" + (', split="train")' if alone else ")"))
    return "\n".join(lines)
