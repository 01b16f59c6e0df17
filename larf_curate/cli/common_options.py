"""What every command has: the options -h, -q and -v, and one way in which its help names values."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer
from typer.models import ArgumentInfo, OptionInfo

from ..progress import LOGGER

CONTEXT = {"help_option_names": ["-h", "--help"]}

_QUIET = typer.Option("-q", "--quiet", help="Print results and errors alone: no progress, no remarks.")
_VERBOSE = typer.Option("-v", "--verbose", help="Say more: what was loaded, and how long that took.")


def with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same command with `-q` and `-v`, and with help as `_name_value` says."""
    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])
        for name, option in (("quiet", _QUIET), ("verbose", _VERBOSE))
    ]

    @functools.wraps(command)
    def command_with_level(*arguments: Any, quiet: bool = False, verbose: bool = False, **options: Any) -> None:
        if quiet or verbose:
            LOGGER.setLevel(logging.WARNING if quiet else logging.DEBUG)
        command(*arguments, **options)

    parameters = [*signature.parameters.values(), *added]
    for parameter in parameters:
        _name_value(parameter)
    command_with_level.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # inspect reads it first
    command_with_level.__annotations__ = {one.name: one.annotation for one in parameters}
    return command_with_level


def _name_value(parameter: inspect.Parameter) -> None:
    """Let the help show an argument in capitals, and no type beside a flag, which takes no value."""
    kind, *declared = get_args(parameter.annotation)
    for one in declared:
        if isinstance(one, ArgumentInfo) and one.metavar is None:
            one.metavar = parameter.name.upper()
        elif isinstance(one, OptionInfo) and kind is bool:
            one.metavar = ""
