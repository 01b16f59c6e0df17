"""YAML files whose faults are told with their line, and keys that the command line overrides."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import RecipeError, one_line

Model = TypeVar("Model", bound=BaseModel)
Places = dict[tuple[Hashable, ...], str]
"""Where each key was written: "recipe.yaml, line 4", or the override that set it."""


def parse(text: str, name: str) -> tuple[dict[str, Any], Places]:
    """The values, and where each key is.

    Raises:
        RecipeError: it is not YAML, not a mapping, or has a key twice.
    """
    places: Places = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{where}: not YAML: {why}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # dates and tags that its constructors refuse
        raise RecipeError(f"{name}: not YAML: {one_line(error)}") from None
    if node is not None:
        _note(node, (), places, name, set())
    if not isinstance(values, dict):
        raise RecipeError(f"{name}: not a mapping of keys")
    return values, places


def _note(node: yaml.Node, path: tuple[Hashable, ...], places: Places, name: str, seen: set[int]) -> None:
    """Lines of all keys; PyYAML would take the last of two that are equal."""
    if isinstance(node, yaml.MappingNode) and id(node) not in seen:  # an alias is the node that it stands for
        seen.add(id(node))
        for key, value in node.value:
            below = (*path, key.value)
            line = key.start_mark.line + 1
            if below in places and key.value != "<<":
                raise RecipeError(f"{name}, line {line}: {key.value} is there twice; first: {places[below]}")
            places[below] = f"{name}, line {line}"
            _note(value, below, places, name, seen)


def override(
    values: dict[str, Any], places: Places, said: str, replaces: Mapping[str, Iterable[str]] | None = None
) -> None:
    """Set `section.key=value`. `replaces` says which keys of its section go when it comes, because they exclude it.

    Raises:
        RecipeError: it is not written so.
    """
    path, equals, text = said.partition("=")
    keys, label = path.strip().split("."), f"--set {path.strip()}"  # the value stays untold: it may be a secret
    if not equals or not all(keys):
        raise RecipeError("--set: write it as section.key=value")
    try:
        value = yaml.safe_load(text)
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
        del places[place]  # the file says nothing of what it is now
    places[tuple(keys)] = label


def validated(model: type[Model], values: dict[str, Any], places: Places, name: str) -> Model:
    """The values as `model`.

    Raises:
        RecipeError: names places, keys and fixes of the first few faults.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        told = [_told(model, fault, places, name) for fault in error.errors(include_url=False)]
        raise RecipeError("; ".join(dict.fromkeys(told[:3])) + (" ..." if len(told) > 3 else "")) from None


def _told(model: type[BaseModel], fault: Mapping[str, Any], places: Places, name: str) -> str:
    """One fault in words. The value is not repeated where the key is unknown: it may be a secret."""
    path = tuple(part for part in fault["loc"] if isinstance(part, str))
    error = fault.get("ctx", {}).get("error")
    if isinstance(error, KeyFaultError):
        path = (*path, error.key)
    key = ".".join(path)
    known = [path[:length] for length in range(len(path), 0, -1) if path[:length] in places]
    where = places[known[0]] if known else name
    words = (
        _extra(model, path) if fault["type"] == "extra_forbidden" else _FAULTS.get(fault["type"], _other)(fault, key)
    )
    return f"{where}: {words}"


class KeyFaultError(ValueError):
    """What a section's own check finds: `key` of it is wrong, `message` says why; the fault is told with its line."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def unknown(what: str, given: str, known: Iterable[str]) -> str:
    """The same words for everything that has no such name."""
    listed = list(known)
    near = difflib.get_close_matches(given, listed, 1, 0.6)
    return (
        f"unknown {what} {given!r};" + (f" did you mean {near[0]!r}?" if near else "") + f" known: {', '.join(listed)}"
    )


def _extra(model: type[BaseModel], path: tuple[str, ...]) -> str:
    section: Any = model
    for part in path[:-1]:
        section = section.model_fields[part].annotation
        kinds = [kind for kind in get_args(section) if kind is not type(None)]  # of a section that may be left out
        section = kinds[0] if kinds else section
    return unknown("key", path[-1], [field.alias or name for name, field in section.model_fields.items()])


def plain(fault: Mapping[str, Any]) -> str:
    """What pydantic says of a value, so that it follows the value's name."""
    return str(fault["msg"]).replace("Input should be", "must be")


def _own(fault: Mapping[str, Any], key: str) -> str:
    return f"{key}: {fault['ctx']['error']}"


def _other(fault: Mapping[str, Any], key: str) -> str:
    words = plain(fault).replace(" (dict or instance", " (").split(" (")[0]
    given = fault["input"]
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    return f"{key} {words}{shown}"


_FAULTS: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "value_error": _own,
    "missing": lambda _, key: f"{key} is missing",
    "model_type": lambda _, key: f"{key} must be a mapping of keys",
}
