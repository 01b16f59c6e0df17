"""Training shows its progress as all of this package's long work does."""

from __future__ import annotations

from typing import Any

from ..progress import progress


def progress_callback(label: str) -> Any:
    """A callback for transformers' trainer: steps done, rate and time left, on a terminal or in a log."""
    from transformers import TrainerCallback

    class Shown(TrainerCallback):  # type: ignore[misc,unused-ignore]
        """Steps done and time left, shown as all of this package's long work is."""

        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            self._bar = progress(state.max_steps, label, unit="step")
            self._update = self._bar.__enter__()

        def on_step_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
            self._update(1)

        def on_train_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
            self._bar.__exit__(None, None, None)

    return Shown()
