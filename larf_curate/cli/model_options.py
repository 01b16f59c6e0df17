"""The options of a model on the command line, each made from its declaration in `models/options.py`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..models.options import FIT_OPTIONS, RUN_OPTIONS, Option

Command = Callable[..., None]


def with_fit_options(command: Command) -> Command:
    """Give a command all options of a model but its name, in place of its `**options`."""
    return _with_parameters(command, [_fit_parameter(option) for option in FIT_OPTIONS.values()])


def with_run_options(command: Command) -> Command:
    """Give a command the options with which a fitted scorer is loaded, in place of its `**options`."""
    return _with_parameters(command, [_run_parameter(option) for option in RUN_OPTIONS.values()])


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
