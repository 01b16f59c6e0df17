"""Options on the command line that are declared elsewhere: those of a model, and the settings of a validation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from ..models.options import FIT_OPTIONS, RUN_OPTIONS, Option, declared

Command = Callable[..., None]


def with_fit_options(command: Command) -> Command:
    """Give a command all options of a model but its name, in place of its `**options`."""
    return _with_parameters(command, [_fit_parameter(option) for option in FIT_OPTIONS.values()])


def with_run_options(command: Command) -> Command:
    """Give a command the options with which a fitted scorer is loaded, in place of its `**options`."""
    return _with_parameters(command, [_run_parameter(option) for option in RUN_OPTIONS.values()])


def with_settings(*settings: type[Any]) -> Callable[[Command], Command]:
    """Give a command the fields of dataclasses whose fields are options, and all options of a model but its name."""
    options = [option for one in settings for option in declared(one).values()]

    def decorated(command: Command) -> Command:
        own = [_setting_parameter(option) for option in options]
        return _with_parameters(command, [*own, *map(_fit_parameter, FIT_OPTIONS.values())])

    return decorated


def settings_of(settings: type[Any], options: dict[str, Any]) -> Any:
    """A dataclass out of the options of a command, which are taken out of `options`; lists are written with commas."""
    given = {option.name: (option, options.pop(option.name)) for option in declared(settings).values()}
    return settings(
        **{name: names_of(value or "") if _is_list(option) else value for name, (option, value) in given.items()}
    )


def names_of(text: str) -> list[str]:
    """The names that a user writes with commas.

    >>> names_of("removed, matched,")
    ['removed', 'matched']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def _is_list(option: Option) -> bool:
    return get_origin(option.type) is Sequence


def _setting_parameter(option: Option) -> inspect.Parameter:
    """A list is text with commas, and what may be a file or a list is a file."""
    text = option.about.help
    if _is_list(option):
        return _parameter(option, str | None, ", ".join(option.default) or None, f"With commas: {text}")
    return _parameter(option, Path | None if Path in get_args(option.type) else option.type, option.default, text)


def _with_parameters(command: Command, parameters: list[inspect.Parameter]) -> Command:
    """The same command with a signature that says what its `**options` are: typer reads nothing else."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    everything = [*(one for one in own if one.kind is not one.VAR_KEYWORD), *parameters]

    @functools.wraps(command)
    def spelled_out(*arguments: Any, **options: Any) -> None:
        command(*arguments, **options)

    spelled_out.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined] # inspect reads it first
    spelled_out.__annotations__ = {one.name: one.annotation for one in everything}
    return spelled_out


def _fit_parameter(option: Option) -> inspect.Parameter:
    return _parameter(option, option.type, option.default, option.about.help)


def _run_parameter(option: Option) -> inspect.Parameter:
    """One that is left out stays as it was fitted."""
    text = option.about.run_help or option.about.help
    if option.kind is bool:
        return _parameter(option, bool, False, text)
    return _parameter(option, option.kind | None, None, text)


def _parameter(option: Option, kind: Any, default: Any, text: str) -> inspect.Parameter:
    flag = typer.Option(option.flag, help=text, min=option.about.minimum)  # of a bool: no --no-... beside it
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, flag]
    )
