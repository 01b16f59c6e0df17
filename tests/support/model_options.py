"""Values of every option of a model, for tests of what passes them on."""

from __future__ import annotations

from typing import Any

VALUES: dict[str, Any] = {
    "model": "elsewhere",
    "revision": "v2",
    "base": "acme/base@v3",
    "dtype": "bfloat16",
    "device": "cpu",
    "max_tokens": 99,
    "overflow": "reject",
    "batch_tokens": 77,
    "chat_template": "{{ messages }}",
    "trust_remote_code": True,
}
"""For each option a value that is not its default."""
