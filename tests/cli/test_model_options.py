"""A command's options of a model: all of those declared, with their defaults, limits and help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Unpack, get_args, get_origin

import pytest
import typer
from support.model_options import VALUES
from typer.testing import CliRunner

from larf_curate.cli.model_options import with_fit_options, with_run_options
from larf_curate.models.options import FIT_OPTIONS, RUN_OPTIONS, FitOptions, Option, RunOptions

fit_app, run_app = typer.Typer(), typer.Typer()
received: dict[str, Any] = {}


@fit_app.command()
@with_fit_options
def fit(name: str, top: int = 3, **options: Unpack[FitOptions]) -> None:
    received.update(options, name=name, top=top)


@run_app.command()
@with_run_options
def score(name: str, **options: Unpack[RunOptions]) -> None:
    received.update(options, name=name)


def invoke(app: typer.Typer, *arguments: str) -> Any:
    received.clear()
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "300", "TERM": "dumb"})


def typed(option: Option) -> list[str]:
    return [option.flag] if option.kind is bool else [option.flag, str(VALUES[option.name])]


def test_what_is_left_out_is_the_default_of_a_fit() -> None:
    assert invoke(fit_app, "a").exit_code == 0
    assert received == {"name": "a", "top": 3, **{name: option.default for name, option in FIT_OPTIONS.items()}}


def test_what_is_left_out_is_not_given_to_a_fitted_scorer() -> None:
    assert invoke(run_app, "a").exit_code == 0
    assert received.pop("name") == "a"
    assert received == dict.fromkeys(RUN_OPTIONS) | {"trust_remote_code": False}


@pytest.mark.parametrize(("app", "options"), [(fit_app, FIT_OPTIONS), (run_app, RUN_OPTIONS)], ids=["fit", "run"])
def test_every_option_arrives_as_it_is_typed(app: typer.Typer, options: dict[str, Option]) -> None:
    result = invoke(app, "a", *(word for option in options.values() for word in typed(option)))
    assert result.exit_code == 0, result.output
    assert {name: received[name] for name in options} == {name: VALUES[name] for name in options}


def wrong_values() -> Iterator[tuple[str, str]]:
    for option in FIT_OPTIONS.values():
        if get_origin(option.kind) is Literal:
            yield option.flag, "".join(get_args(option.kind))
        elif option.about.minimum is not None:
            yield option.flag, str(option.about.minimum - 1)


@pytest.mark.parametrize(("flag", "value"), list(wrong_values()))
def test_a_value_that_cannot_be_is_wrong_usage(flag: str, value: str) -> None:
    result = invoke(fit_app, "a", flag, value)
    assert result.exit_code == 2
    assert flag in result.output
    assert received == {}


@pytest.mark.parametrize(("app", "options"), [(fit_app, FIT_OPTIONS), (run_app, RUN_OPTIONS)], ids=["fit", "run"])
def test_help_says_what_is_declared(app: typer.Typer, options: dict[str, Option]) -> None:
    # What --help prints, without the frame that a terminal's width breaks it into; tests/test_docs.py reads the frame.
    assert invoke(app, "--help").exit_code == 0
    parameters = typer.main.get_command(app).params
    said = {name: getattr(parameter, "help", None) for parameter in parameters for name in parameter.opts}
    for option in options.values():
        about = option.about
        assert said[option.flag] == (about.help if app is fit_app else about.run_help or about.help)
    assert "--no-trust-remote-code" not in {name for parameter in parameters for name in parameter.secondary_opts}
