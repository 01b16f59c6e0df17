"""YAML that a stranger may have written: read in bounded time and memory, into plain values."""

from __future__ import annotations

from typing import Any

import yaml

LONGEST = 1 << 18
"""Characters of a text."""
_LARGEST = 4 << 20
"""The most values and characters of a document once its aliases are expanded."""

_DEEPEST = 100

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled one is ten times as fast


def load_yaml(text: str) -> Any:
    r"""The value of a YAML text, of the kinds that `yaml.safe_load` knows.

    Raises:
        yaml.YAMLError: it is no YAML.
        ValueError: it is too long, nested too deep, or its aliases expand to far more than it holds.

    >>> load_yaml("a: &x [1, 2]\nb: *x")
    {'a': [1, 2], 'b': [1, 2]}
    """
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST:,} characters")
    _require_shallow(text)
    node = yaml.compose(text, Loader=_Loader)
    if node is not None:
        _require_small(node, {})
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - either of the two is a safe loader


def _require_shallow(text: str) -> None:
    """Refuse deep nesting before a recursive function reads the text: the compiled loader would crash.

    Raises:
        yaml.YAMLError: it is no YAML. ValueError: it is nested too deep.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError("it is nested too deep")


def _require_small(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values and characters a node stands for, every alias counted where it stands.

    Raises:
        ValueError: too many, or it holds itself.
    """
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("an alias in it refers to the value that contains it")
        return known[id(node)]
    known[id(node)] = 0  # as long as it is being counted
    size = 1
    if isinstance(node, yaml.MappingNode):
        size += sum(_require_small(part, known) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_require_small(part, known) for part in node.value)
    else:
        size += len(node.value)
    if size > _LARGEST:
        raise ValueError("its aliases expand to far more than it holds")
    known[id(node)] = size
    return size
