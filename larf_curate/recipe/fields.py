"""What sections of a recipe are made of: strict keys, and keys that are made from a declaration elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from ..models.options import OPTIONS, Option, declared


class Section(BaseModel):
    """A mapping of keys: no others than those declared, and no value turned into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_by_name=False)


AnySection = TypeVar("AnySection", bound=BaseModel)


def _require_text(value: str) -> str:
    """Refuse blank text, which would otherwise count as a missing value."""
    if "\0" in value:
        raise ValueError("must not hold a NUL")
    if not value.strip():
        raise ValueError("must not be blank")
    return value


Text = Annotated[str, AfterValidator(_require_text)]


def declared_field(kind: Any, default: Any, minimum: int | None = None) -> tuple[Any, Any]:
    """The type and default of a key, as `pydantic.create_model` takes them.

    Args:
        kind: the type that the declaration gives: `str`, `str | None`, `int`, a `Literal` and the like.
        default: the value of a key that is left out.
        minimum: the smallest number allowed.
    """
    if kind in (str, str | None):
        return (Text if kind is str else Text | None), default
    return (Annotated[kind, Field(ge=minimum)] if minimum is not None else kind), default


def with_model_options(section: type[AnySection]) -> type[AnySection]:
    """Add a key for each option of a model that a recipe may hold, and that the section does not declare itself.

    An option that may be given again where a fitted scorer is loaded is None if it is left out: a fit then takes the
    option's default, and a fitted scorer stays as it is.
    """
    keys: dict[str, Any] = {}
    for option in OPTIONS.values():
        if option.name in section.model_fields or not option.about.in_recipe:
            continue
        left_out = option.about.run_option and option.kind is not bool
        kind, default = (option.kind | None, None) if left_out else (option.type, option.default)
        keys[option.name] = declared_field(kind, default, option.about.minimum)
    return create_model(
        section.__name__, __base__=section, __module__=section.__module__, __doc__=section.__doc__, **keys
    )


def with_settings(*settings: type[Any]) -> Callable[[type[AnySection]], type[AnySection]]:
    """Add a key for each field of dataclasses whose fields are options."""

    def decorated(section: type[AnySection]) -> type[AnySection]:
        keys: dict[str, Any] = {
            option.name: _setting_field(option) for one in settings for option in declared(one).values()
        }
        return create_model(
            section.__name__, __base__=section, __module__=section.__module__, __doc__=section.__doc__, **keys
        )

    return decorated


def _setting_field(option: Option) -> tuple[Any, Any]:
    """A list holds texts, and what may be a file or a list is a file."""
    if get_origin(option.type) is Sequence:
        return list[Text], Field(default_factory=lambda: list(option.default))
    kind = str | None if Path in get_args(option.type) else option.type
    return declared_field(kind, option.default, option.about.minimum)
