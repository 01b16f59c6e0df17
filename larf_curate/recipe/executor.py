"""The section `executor` of a recipe becomes an `ExecutorRequest`.

Its keys are declared elsewhere: the fields of `ExecutorRequest`, and the arguments of datatrove's own executor.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator, ValidationError, create_model

from ..cache import register
from ..errors import unknown_name
from ..runs.executor_request import ExecutorRequest, Kind
from .fields import declared_field
from .yaml_text import KeyFaultError, fault_words

_SET_BY_A_RUN = ("self", "pipeline", "tasks", "workers", "logging_dir", "depends", "depends_job_id", "skip_completed")
_NOT_TAKEN = (*_SET_BY_A_RUN, "local_tasks", "local_rank_offset", "job_id_retriever")
"""Arguments of datatrove's executors that a recipe cannot give."""

_FIELDS = {one.name: one for one in fields(ExecutorRequest) if one.name != "options"}


def _own_keys() -> type[BaseModel]:
    """The fields of `ExecutorRequest` as keys; all other keys are options of datatrove's executor."""
    types = get_type_hints(ExecutorRequest)
    keys: dict[str, Any] = {
        name: declared_field(types[name], one.default, one.metadata.get("minimum")) for name, one in _FIELDS.items()
    }
    return create_model("executor", __config__=ConfigDict(extra="allow", strict=True), **keys)


_OwnKeys = _own_keys()


@cache
def _option_keys(kind: Kind) -> type[BaseModel]:
    """The arguments of the constructor of datatrove's executor as keys, with the types that it declares."""
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor

    executors = {"local": LocalPipelineExecutor, "ray": RayPipelineExecutor, "slurm": SlurmPipelineExecutor}
    constructor = executors[kind].__init__
    types = get_type_hints(constructor)
    keys: dict[str, Any] = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name not in _NOT_TAKEN:
            declared = types.get(name, Any)
            accepted = Any if "tuple" in str(declared) else declared  # YAML has no tuples: a list has to do
            keys[name] = (accepted, ... if parameter.default is parameter.empty else parameter.default)
    return create_model(f"{kind}_options", __config__=ConfigDict(strict=True), **keys)


register(_option_keys.cache_clear)


def _read(section: object) -> ExecutorRequest:
    if isinstance(section, ExecutorRequest):
        return section
    keys = _OwnKeys.model_validate(section)
    options = dict(keys.model_extra or {})
    request = ExecutorRequest(**{name: getattr(keys, name) for name in _FIELDS}, options=options)
    if request.workers == 0:
        raise KeyFaultError("workers", "1 or more, or -1 for the default, not 0")
    for name, one in _FIELDS.items():
        if name in keys.model_fields_set and one.metadata.get("only", request.kind) != request.kind:
            raise KeyFaultError(name, f"belongs to kind {one.metadata['only']}")
    _check_options(request.kind, options)
    return request


def _check_options(kind: Kind, options: Mapping[str, Any]) -> None:
    keys = _option_keys(kind)
    for name in options:
        if name not in keys.model_fields:
            own = [name for name, one in _FIELDS.items() if "only" not in one.metadata]
            raise KeyFaultError(name, unknown_name("key", name, [*own, *keys.model_fields]))
    try:
        keys.model_validate(options)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = str(fault["loc"][0])
        if fault["type"] == "missing":
            raise ValueError(f"kind {kind} needs {name}") from None
        words = fault_words(fault)
        if fault["type"] == "string_type" and isinstance(fault["input"], int):
            words += ': put it in quotes (time: "04:00:00"), or YAML reads it as a number'
        raise KeyFaultError(name, words) from None


def _written(request: ExecutorRequest) -> dict[str, Any]:
    """The section that reads back equal, without what is left at its default."""
    own = {name: getattr(request, name) for name, one in _FIELDS.items() if getattr(request, name) != one.default}
    return {**own, **request.options}


Executor = Annotated[ExecutorRequest, PlainValidator(_read), PlainSerializer(_written)]
"""The type of the key `executor`.

In a file: which of datatrove's executors runs the stages; further keys are that executor's own options.
"""
