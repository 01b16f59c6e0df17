"""Models that several tests share are as they were when the next test begins: see `support.states.shared_encoder`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.states import forget_hooks, forget_shared_models


@pytest.fixture(autouse=True)
def _no_hooks_are_left() -> Iterator[None]:
    yield
    forget_hooks()


@pytest.fixture(autouse=True, scope="module")
def _no_models_are_left() -> Iterator[None]:
    yield
    forget_shared_models()
