"""The Hub's client: which errors it raises."""

from __future__ import annotations


def hub_errors() -> tuple[type[Exception], ...]:
    """Everything the Hub's client raises where the Hub, the network or the name is at fault."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined] # its documented way to the client's own errors

    return (httpx.HTTPError, HFValidationError, OSError)
