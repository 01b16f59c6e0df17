"""YAML whose faults are reported with their line, and keys that the command line overrides."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import RecipeError, one_line, unknown_name
from ..safe_yaml import load_yaml

_LONGEST_FAULT = 500  # characters

Model = TypeVar("Model", bound=BaseModel)
Places = dict[tuple[Hashable, ...], str]
"""By the path of each key, where it was written: "recipe.yaml, line 4", or the override that set it."""


def parse(text: str, name: str) -> tuple[dict[str, Any], Places]:
    """Read YAML: the values, and where each key was written.

    Args:
        text: the YAML.
        name: the name of the file, for errors.

    Raises:
        RecipeError: it is not YAML, not a mapping, or has a key twice.
    """
    places: Places = {}
    try:
        values = load_yaml(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        if mark and "\t" in "".join(text.splitlines()[mark.line : mark.line + 1])[: mark.column + 1]:
            why = "a tab: indent with blanks, YAML allows no tabs there"
        raise RecipeError(f"{where}: not YAML: {why}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # dates and tags that its constructors refuse
        raise RecipeError(f"{name}: not YAML: {one_line(error)}") from None
    if node is not None:
        _record_lines(node, (), places, name, set())
    if not isinstance(values, dict):
        raise RecipeError(f"{name}: not a mapping of keys")
    return values, places


def _record_lines(node: yaml.Node, path: tuple[Hashable, ...], places: Places, name: str, seen: set[int]) -> None:
    """Record the line of every key in `places`; a key that is there twice is refused, where PyYAML takes the last."""
    if isinstance(node, yaml.MappingNode) and id(node) not in seen:  # an alias is the node that it stands for
        seen.add(id(node))
        for key, value in node.value:
            below = (*path, key.value)
            line = key.start_mark.line + 1
            if below in places and key.value != "<<":
                raise RecipeError(f"{name}, line {line}: {key.value} is there twice; first: {places[below]}")
            places[below] = f"{name}, line {line}"
            _record_lines(value, below, places, name, seen)


def override(
    values: dict[str, Any], places: Places, assignment: str, replaces: Mapping[str, Iterable[str]] | None = None
) -> None:
    """Set one key, as `--set` does.

    Args:
        values: the values of the recipe, which are changed.
        places: the places of its keys, which are changed.
        assignment: `section.key=value`, with a YAML value.
        replaces: for a key, the other keys of its section that cannot stand beside it, and are removed when it is set.

    Raises:
        RecipeError: the assignment is not written like that.
    """
    path, equals, text = assignment.partition("=")
    keys, label = path.strip().split("."), f"--set {path.strip()}"  # without the value: it may be a secret
    if not equals or not all(keys):
        raise RecipeError("--set: write it as section.key=value")
    try:
        value = load_yaml(text)
    except (yaml.YAMLError, ValueError, KeyError, TypeError, RecursionError):
        raise RecipeError(f"{label}: the value is not YAML") from None
    section: Any = values
    for key in keys[:-1]:
        below = section.get(key) if isinstance(section, dict) else ""
        if not isinstance(below, dict | None):
            raise RecipeError(f"{label}: {'.'.join(keys[:-1])} holds no keys")
        section[key] = dict(below or {})  # a copy: an anchor may share it with another section
        section = section[key]
    for other in (replaces or {}).get(".".join(keys), ()):
        section.pop(other, None)
    section[keys[-1]] = value
    for length in range(1, len(keys)):
        places.setdefault(tuple(keys[:length]), label)
    for place in [place for place in places if place[: len(keys)] == tuple(keys)]:
        del places[place]  # what the file has there is overridden
    places[tuple(keys)] = label


def validated(model: type[Model], values: dict[str, Any], places: Places, name: str) -> Model:
    """Return the values as a `model`.

    Raises:
        RecipeError: names line, key and fix of the first few faults.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False)[:100]
        lines = [_describe(model, fault, places, name)[:_LONGEST_FAULT] for fault in faults]
        raise RecipeError("; ".join(dict.fromkeys(lines[:3])) + (" ..." if len(lines) > 3 else "")) from None


def _describe(model: type[BaseModel], fault: Mapping[str, Any], places: Places, name: str) -> str:
    """One fault in words, without the value of an unknown key: it may be a secret."""
    path = tuple(part for part in fault["loc"] if isinstance(part, str))
    error = fault.get("ctx", {}).get("error")
    if isinstance(error, KeyFaultError):
        path = (*path, error.key)
    key = ".".join(path)
    written = [path[:length] for length in range(len(path), 0, -1) if path[:length] in places]
    place = places[written[0]] if written else name
    if fault["type"] == "extra_forbidden":
        return f"{place}: {_unknown_key(model, path)}"
    return f"{place}: {_IN_WORDS.get(fault['type'], _wrong_value)(fault, key)}"


class KeyFaultError(ValueError):
    """Raised by a section's own check: its `key` is wrong, `message` says why. The fault is reported with its line."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _unknown_key(model: type[BaseModel], path: tuple[str, ...]) -> str:
    section: Any = model
    for part in path[:-1]:
        fields = section.model_fields
        section = next(field for name, field in fields.items() if part in (name, field.alias)).annotation
        kinds = [kind for kind in get_args(section) if kind is not type(None)]
        section = kinds[0] if kinds else section  # of a section that may be left out, None is the other kind
    return unknown_name("key", path[-1], [field.alias or name for name, field in section.model_fields.items()])


def fault_words(fault: Mapping[str, Any]) -> str:
    """What pydantic says of a wrong value, in words that can follow the value's name."""
    return str(fault["msg"]).replace("Input should be", "must be")


def _failed_check(fault: Mapping[str, Any], key: str) -> str:
    return f"{key}: {fault['ctx']['error']}"


def _wrong_value(fault: Mapping[str, Any], key: str) -> str:
    words = fault_words(fault).replace(" (dict or instance", " (").split(" (")[0]
    value = fault["input"]
    shown = f", not {value!r}" if isinstance(value, str | int | float | bool) else ""
    return f"{key} {words}{shown}"


_IN_WORDS: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "value_error": _failed_check,
    "missing": lambda _, key: f"{key} is missing",
    "model_type": lambda _, key: f"{key} must be a mapping of keys",
}
