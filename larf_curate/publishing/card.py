"""The score card: a dataset's README that a careful reader can trust, whatever its rows and columns hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from ..deciding.excerpts import Excerpt
from ..errors import PublishError
from ..inert import fenced, markdown
from .report import Report
from .words import caption, describe_confounds, describe_rule, describe_search, describe_unscored, groups_by_column

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
_TAKEN_OVER = ("license", "license_name", "license_link", "language", "task_categories")
_PLAIN = re.compile(r"[A-Za-z0-9][\w.:/+-]{0,200}")


@dataclass(frozen=True)
class CardRequest:
    """What a card is made of.

    Attributes:
        repo: namespace/name.
        report: see `Report`; paths of this machine are taken out by whoever asks.
        plots: names of the pictures in `larf/plots/`.
        recipe: text of the recipe, None where there is none.
        outcomes: which rows are published, kept ones first.
        source: Hub id of the dataset that was filtered, and the metadata of its card; None, {} where there is none.
        examples: removed rows to show.
    """

    repo: str
    report: Report
    plots: Sequence[str]
    recipe: str | None
    outcomes: Sequence[str]
    source: str | None = None
    source_metadata: Mapping[str, Any] = field(default_factory=dict)
    examples: Sequence[Excerpt] = ()


def render_card(request: CardRequest, existing: str | None = None) -> str:
    """The README's text; an `existing` one keeps its own sections, metadata and configs.

    Raises:
        PublishError: the existing card's metadata cannot be read.
    """
    metadata, body = split_card(existing or "")
    configs = _configs(metadata, request.outcomes)
    merged = _metadata(metadata, request, configs, ours=existing is None or BEGIN in existing)
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


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Metadata and body of a card.

    Raises:
        PublishError: what stands between the dashes is no YAML mapping.
    """
    found = _FRONT.match(text)
    if found is None:
        return {}, text
    try:
        metadata = yaml.safe_load(found[1]) or {}
        if not isinstance(metadata, dict):
            raise TypeError("no mapping")
    except (yaml.YAMLError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise PublishError(f"the metadata of the repository's README.md cannot be read ({said}): mend it") from None
    return metadata, text[found.end() :]


# Metadata -------------------------------------------------------------------------------------------------------------


def _configs(metadata: Mapping[str, Any], outcomes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Our configs by outcome. Others keep their names: where one is taken, ours is called larf_..."""
    foreign = [config for config in _listed(metadata.get("configs")) if not _is_ours(config)]
    taken = {config.get("config_name") for config in foreign if isinstance(config, dict)}
    infos = [info for info in _listed(metadata.get("dataset_info")) if isinstance(info, dict)]
    taken |= {info.get("config_name", "default") for info in infos}
    chosen = any(isinstance(config, dict) and config.get("default") for config in foreign)
    made = {}
    for outcome in outcomes:
        name = "default" if outcome == "kept" else outcome
        if name in taken or (outcome == "kept" and chosen):
            name = f"larf_{outcome}"
        made[outcome] = {
            "config_name": name,
            "data_files": [{"split": "train", "path": f"{HOME}/{outcome}/*.parquet"}],
        }
    return made


def _is_ours(config: Any) -> bool:
    files = config.get("data_files") if isinstance(config, dict) else None
    return any(isinstance(one, dict) and str(one.get("path")).startswith(f"{HOME}/") for one in _listed(files))


def _all_parquet(metadata: Mapping[str, Any]) -> bool:
    """Whether our configs can be loaded by name: `datasets` reads all configs of a repository in one format."""
    configs = [config for config in _listed(metadata.get("configs")) if isinstance(config, dict)]
    files = [one for config in configs for one in _listed(config.get("data_files"))]
    paths = [path for one in files for path in _listed(one.get("path") if isinstance(one, dict) else one)]
    return all(PurePosixPath(str(path)).suffix in ("", ".parquet") for path in paths)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _metadata(
    existing: Mapping[str, Any], request: CardRequest, configs: Mapping[str, Any], *, ours: bool
) -> dict[str, Any]:
    """The existing keys as they are; ours beside them. A licence is carried over from the source, never invented."""
    merged = dict(existing)
    for key in _TAKEN_OVER:
        value = request.source_metadata.get(key)
        values = _listed(value)
        if key not in merged and values and all(isinstance(one, str) and _PLAIN.fullmatch(one) for one in values):
            merged[key] = value
    merged["tags"] = list(dict.fromkeys([*_listed(existing.get("tags")), *_TAGS]))
    if request.source is not None:
        merged["source_datasets"] = list(dict.fromkeys([*_listed(existing.get("source_datasets")), request.source]))
    if ours or "size_categories" not in existing:
        kept = request.report.rows["kept"]
        merged["size_categories"] = [next((name for most, name in _SIZES.items() if kept < most), "n>1B")]
    merged["configs"] = [config for config in _listed(existing.get("configs")) if not _is_ours(config)]
    merged["configs"] += configs.values()
    return merged


# Text -----------------------------------------------------------------------------------------------------------------


def _inert(value: Any) -> Any:
    """Whatever a template prints is made inert, unless one of our own filters has."""
    return value if isinstance(value, Markup | int | float) else markdown(str(value))


def _own(text: str) -> Markup:
    """Our own words and numbers, in which nothing comes from the data."""
    return Markup(text)  # noqa: S704


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(  # noqa: S701 - HTML is not what it makes; `finalize` escapes for Markdown
        finalize=_inert, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": lambda value: _own(f"{value:,.0f}"),
        "percent": lambda value: _own(f"{value:.1%}"),
        "score": lambda value: _own(f"{value:+.5f}"),
        "figure": lambda value, column: _own(f"{value:,.0f}" if column == "larf_tokens" else f"{value:+.5f}"),
        "text": markdown,
        "path": _own,
        "code": fenced,
    }
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(text)


def _part(request: CardRequest, configs: Mapping[str, Mapping[str, Any]], *, by_name: bool) -> str:
    report = request.report
    groups = groups_by_column(report)
    return (
        _template("card.md.jinja")
        .render(
            report=report,
            rows=report.rows,
            issues=report.issues,
            source={**(report.source or {}), **({"name": request.source} if request.source else {})},
            scorer=report.scorer,
            search=[_own(line) for line in describe_search(report.scorer or {})],
            threshold=report.threshold,
            rule=_own(describe_rule(report.threshold or {})),
            unscored=_own(describe_unscored(report)),
            share=lambda count: _own(f"{count / max(1, report.rows['rows']):.1%}"),
            plots=[(f"{HOME}/plots/{name}", caption(name, list(groups))) for name in request.plots],
            quantiles=report.quantiles,
            names=[_own(name) for name in next((points for points in report.quantiles.values() if points), {})],
            form=report.form,
            groups=groups,
            confounds=[_own(line) for line in describe_confounds(report)],
            sample=report.sample,
            examples=request.examples,
            loading=_loading(request.repo, configs, by_name=by_name),
            recipe=request.recipe,
            version=report.run["packages"].get("larf-curate"),
            citation=CITATION,
        )
        .strip()
    )


def _loading(repo: str, configs: Mapping[str, Mapping[str, Any]], *, by_name: bool) -> str:
    lines = ["from datasets import load_dataset", ""]
    for outcome, config in configs.items():
        if by_name:
            what = [repo] if config["config_name"] == "default" else [repo, config["config_name"]]
            said = ", ".join(f'"{name}"' for name in what)
        else:
            said = f'"parquet", data_files="hf://datasets/{repo}/{HOME}/{outcome}/*.parquet"'
        lines.append(f'{outcome} = load_dataset({said}, split="train")')
    return "\n".join(lines)
