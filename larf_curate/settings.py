"""YAML files whose faults are told with their line, and keys that the command line overrides."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from .errors import RecipeError

Model = TypeVar("Model", bound=BaseModel)
Places = dict[tuple[Hashable, ...], str]
"""Where each key was written: "recipe.yaml, line 4", or the override that set it."""


def parse(text: str, name: str) -> tuple[dict[str, Any], Places]:
    """The values, and where each key is.

    Raises:
        RecipeError: it is not YAML, not a mapping, or has a key twice.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        places: Places = {}
        if node is not None:
            _note(node, (), places, name)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        raise RecipeError(
            f"{where}: not YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{name}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{name}: not a mapping of keys")
    return values, places


def _note(node: yaml.Node, path: tuple[Hashable, ...], places: Places, name: str) -> None:
    """Lines of all keys; PyYAML would take the last of two that are equal."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, key.value)
            line = key.start_mark.line + 1
            if below in places and key.value != "<<":
                raise RecipeError(f"{name}, line {line}: {key.value} is there twice; first: {places[below]}")
            places[below] = f"{name}, line {line}"
            _note(value, below, places, name)


def override(values: dict[str, Any], places: Places, said: str, exclusive: Iterable[Iterable[str]] = ()) -> None:
    """Set `section.key=value`. Of keys that exclude each other (with their path), the new one replaces the old."""
    path, equals, text = said.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {said}: write it as section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"--set {said}: the value is not YAML") from None
    section: Any = values
    for key in keys[:-1]:
        section = section.setdefault(key, {}) if isinstance(section, dict) else None
    if not isinstance(section, dict):
        raise RecipeError(f"--set {said}: {'.'.join(keys[:-1])} holds no keys")
    for group in exclusive:
        for other in group if ".".join(keys) in group else ():
            section.pop(other.rpartition(".")[2], None)
    section[keys[-1]] = value
    for length in range(1, len(keys) + 1):
        places.setdefault(tuple(keys[:length]), f"--set {said}")
    places[tuple(keys)] = f"--set {said}"


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
    path = tuple(part for part in fault["loc"] if isinstance(part, str) and part not in ("int", "list[int]"))
    key = ".".join(map(str, path))
    known = [path[:length] for length in range(len(path), 0, -1) if path[:length] in places]
    where = places[known[0]] if known else name
    words = (
        _extra(model, path) if fault["type"] == "extra_forbidden" else _FAULTS.get(fault["type"], _other)(fault, key)
    )
    return f"{where}: {words}"


def unknown(what: str, given: str, known: Iterable[str]) -> str:
    """The same words for everything that has no such name."""
    listed = list(known)
    near = difflib.get_close_matches(given, listed, 1, 0.5)
    return (
        f"unknown {what} {given!r};" + (f" did you mean {near[0]!r}?" if near else "") + f" known: {', '.join(listed)}"
    )


def _extra(model: type[BaseModel], path: tuple[str, ...]) -> str:
    section: Any = model
    for part in path[:-1]:
        section = section.model_fields[part].annotation
    return unknown("key", path[-1], [field.alias or name for name, field in section.model_fields.items()])


def _own(fault: Mapping[str, Any], key: str) -> str:
    return f"{key}: {fault['ctx']['error']}"


def _other(fault: Mapping[str, Any], key: str) -> str:
    words = fault["msg"].replace("Input should be", "must be").replace(" (dict or instance", " (").split(" (")[0]
    given = fault["input"]
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    return f"{key} {words}{shown}"


_FAULTS: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "value_error": _own,
    "missing": lambda _, key: f"{key} is missing",
    "model_type": lambda _, key: f"{key} must be a mapping of keys",
}
