"""The options of a model and of how it runs: each is declared here, and nowhere else.

`LARFScorer.fit`, `find_safety_layers`, the command line, recipes, fitted scorers, the digest by which scored shards are
found again and docs/commands.md all derive from `ModelOptions`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast, get_args, get_origin, get_type_hints

from ..errors import ModelError, unknown_name
from ..rows.rendering import Overflow
from .chat_templates import template_text

T = TypeVar("T")
DType = Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"]


@dataclass(frozen=True)
class About:
    """What is declared of an option beside its name, type and default.

    Attributes:
        help: one or two sentences, for the command line and the docs.
        changes_scores: whether scores may differ with it. If not, a published recipe leaves it out, and scored shards
            are found again whatever it is (but not on another `device`, which decides what precision `auto` is).
        changes_model: whether another value needs another model in memory.
        run_option: whether it may be given again where a fitted scorer is loaded; see `RunOptions`.
        run_help: what it means there, if not the same.
        minimum: the smallest number that it may be.
        flag: its name on the command line, if that differs.
        in_recipe: whether a recipe may hold it. What lets others' code run comes from the user's own command or call.
    """

    help: str
    changes_scores: bool = True
    changes_model: bool = True
    run_option: bool = False
    run_help: str = ""
    minimum: int | None = None
    flag: str = ""
    in_recipe: bool = True


def about(text: str, **facts: Any) -> dict[str, About]:
    """The metadata of a field that is an option: its help, and other attributes of `About`."""
    return {"about": About(text, **facts)}


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """How a conversation becomes token ids and states: what a fitted scorer keeps, since its scores depend on it.

    Raises:
        ModelError: the value of an option is of another type, out of range, or none of those that there are.
    """

    dtype: DType = field(
        default="auto",
        metadata=about(
            "auto is bfloat16 on CUDA, else float32. int8 and nf4 quantise the linear layers to 8 and 4 bits, for "
            "models that do not fit in memory; the rest is as with auto.",
            run_option=True,
            run_help="Another precision than the scorer was fitted in.",
        ),
    )
    max_tokens: int = field(
        default=4096, metadata=about("Longer conversations are cut in the middle.", changes_model=False, minimum=16)
    )
    overflow: Overflow = field(
        default="truncate",
        metadata=about("What happens to longer ones: cut, or left unscorable.", changes_model=False),
    )
    chat_template: str | None = field(
        default=None,
        metadata=about(
            "Chat template in place of the model's own, which it replaces: Jinja text, a file of it, a model "
            "directory, or a Hub id. A model without one needs it."
        ),
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.name in OPTIONS:
                OPTIONS[entry.name].check(getattr(self, entry.name))


@dataclass(frozen=True, kw_only=True)
class ModelOptions(EncodingOptions):
    """Which model is loaded, and how it runs.

    >>> ModelOptions("demo", max_tokens=8)
    Traceback (most recent call last):
        ...
    larf_curate.errors.ModelError: max_tokens must be at least 16, not 8
    """

    model: str = field(
        kw_only=False,
        metadata=about(
            "demo, demo-aligned, a Hub id, a model directory, a GGUF file, or a PEFT adapter (directory or Hub id).",
            run_option=True,
            run_help="Where the scorer's model is on this machine.",
        ),
    )
    revision: str | None = field(default=None, metadata=about("Branch, tag or commit of a Hub id."))
    base: str | None = field(
        default=None,
        metadata=about(
            "The base model of an adapter, where it is not what the adapter names: directory or Hub id, with @revision "
            "if need be. @revision alone is the named one at that branch, tag or commit.",
            run_option=True,
            run_help="Where the base model of the scorer's adapter is on this machine.",
        ),
    )
    device: str | None = field(
        default=None,
        metadata=about(
            "torch device; if not given CUDA, MPS or the CPU, the first that is there.",
            changes_scores=False,
            run_option=True,
        ),
    )
    batch_tokens: int | None = field(
        default=None,
        metadata=about(
            "Tokens of one batch, with its padding; measured if not given.",
            changes_scores=False,
            changes_model=False,
            run_option=True,
            minimum=1,
        ),
    )
    trust_remote_code: bool = field(
        default=False,
        metadata=about(
            "Run code that comes with the model. Never kept in a fitted scorer or a recipe.",
            run_option=True,
            in_recipe=False,
        ),
    )

    @classmethod
    def of(cls, model: str | Path, **options: Unpack[FitOptions]) -> ModelOptions:
        """From what a user writes: the model as a path too, and the chat template by any of its names.

        Raises:
            TypeError: there is no such option.
            ModelError: a value is wrong, or there is no such chat template.
        """
        _refuse_unknown(options, FIT_OPTIONS)
        checked = cls(str(model) if isinstance(model, Path) else model, **options)
        return replace(checked, chat_template=template_text(checked.chat_template))

    def not_kept(self) -> RunOptions:
        """Those that a fitted scorer does not keep, but that it goes on with in the process that fitted it."""
        return check_run_options({name: getattr(self, name) for name in UNKEPT_OPTIONS})

    def loading_key(self) -> ModelOptions:
        """With defaults for all that does not change what is loaded: equal if two can share one model in memory."""
        return replace(self, **{o.name: o.default for o in OPTIONS.values() if not o.about.changes_model})

    def __repr__(self) -> str:
        """Short: options at their defaults are left out, and a chat template is cut."""
        changed = {name: getattr(self, name) for name, option in FIT_OPTIONS.items()}
        changed = {name: value for name, value in changed.items() if value != OPTIONS[name].default}
        return f"ModelOptions({', '.join([repr(self.model), *(f'{n}={reprlib.repr(v)}' for n, v in changed.items())])})"


@dataclass(frozen=True)
class Option:
    """One option: a field of `ModelOptions`, or of another dataclass whose fields are declared by `about`.

    Attributes:
        name: its name as an argument, and in a recipe.
        type: its type as declared: a `Literal`, `bool`, `int` or `str`, or one of these or None.
        default: None where there is none, or where something is found out.
        required: whether it has to be given.
        about: everything else.
    """

    name: str
    type: Any
    default: Any
    required: bool
    about: About

    @property
    def flag(self) -> str:
        """As the command line has it."""
        return self.about.flag or f"--{self.name.replace('_', '-')}"

    @property
    def kind(self) -> Any:
        """The type without None."""
        either = get_args(self.type)
        return either[0] if type(None) in either else self.type

    def check(self, value: object) -> None:
        """Refuse a wrong value.

        Raises:
            ModelError: names the option, what it may be, and the value.
        """
        if value is None and self.kind is not self.type:
            return
        wanted = ""
        if get_origin(self.kind) is Literal:
            choices = get_args(self.kind)
            wanted = "" if value in choices else f"{', '.join(choices[:-1])} or {choices[-1]}"
        elif not isinstance(value, self.kind) or (self.kind is int and isinstance(value, bool)):
            wanted = {bool: "True or False", int: "a whole number", str: "text"}[self.kind]
        elif isinstance(value, int) and self.about.minimum is not None and value < self.about.minimum:
            wanted = f"at least {self.about.minimum}"
        elif isinstance(value, str) and not value.strip():
            wanted = "text that is not blank"
        if wanted:
            raise ModelError(f"{self.name} must be {wanted}, not {value!r}")


def declared(settings: type[Any]) -> dict[str, Option]:
    """The options that the fields of a dataclass are, by name."""
    types = get_type_hints(settings)
    return {
        entry.name: Option(
            entry.name,
            types[entry.name],
            None if entry.default is MISSING else entry.default,
            entry.default is MISSING,
            entry.metadata["about"],
        )
        for entry in fields(settings)
    }


# Written out, since a type checker cannot derive them; tests/models/test_options.py holds them to the declaration -----


class _FitOrRun(TypedDict, total=False):
    base: str | None
    device: str | None
    batch_tokens: int | None
    trust_remote_code: bool


class FitOptions(_FitOrRun, total=False):
    """The options of `LARFScorer.fit` and `find_safety_layers`: all of `ModelOptions` but the model."""

    revision: str | None
    dtype: DType
    max_tokens: int
    overflow: Overflow
    chat_template: str | None


class RunOptions(_FitOrRun, total=False):
    """The options that may be given again where a fitted scorer is loaded; one that is None stays as it was fitted.

    `model` is where the same weights are on this machine; for the others see `ModelOptions`.
    """

    model: str | None
    dtype: DType | None


OPTIONS: Mapping[str, Option] = declared(ModelOptions)
FIT_OPTIONS: Mapping[str, Option] = {name: option for name, option in OPTIONS.items() if name != "model"}
RUN_OPTIONS: Mapping[str, Option] = {name: option for name, option in OPTIONS.items() if option.about.run_option}
UNKEPT_OPTIONS = tuple(sorted(set(RUN_OPTIONS) - {"model"} - {kept.name for kept in fields(EncodingOptions)}))
"""Run options that a fitted scorer knows nothing of."""


def with_meanings(settings: type[T]) -> type[T]:
    """Put the meaning of each option into the docstring of a dataclass: it is written once, beside the declaration."""
    meanings = "".join(f"\n        {option.name}: {option.about.help}" for option in declared(settings).values())
    settings.__doc__ = f"{settings.__doc__}\n    Attributes:{meanings}\n    "
    return settings


with_meanings(ModelOptions)


def _refuse_unknown(options: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(unknown_name("model option", unknown[0], known))


def check_run_options(options: Mapping[str, object]) -> RunOptions:
    """The options that are neither None nor False, checked and sorted by name: they are part of a scorer's hash.

    >>> check_run_options({"device": None, "batch_tokens": 4096})
    {'batch_tokens': 4096}

    Raises:
        TypeError: there is no such option.
        ModelError: a value is wrong.
    """
    _refuse_unknown(options, RUN_OPTIONS)
    chosen = {name: value for name, value in sorted(options.items()) if value is not None and value is not False}
    for name, value in chosen.items():
        RUN_OPTIONS[name].check(value)
    return cast("RunOptions", chosen)
