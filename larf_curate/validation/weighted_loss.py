"""trl's trainer, with a weight for the loss of every token."""

from __future__ import annotations

from typing import Any

from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


class WeightedCollator:
    """Pads rows as trl does, and their tokens' weights with zeros."""

    def __init__(self, pad_token_id: int) -> None:
        self._plain = DataCollatorForLanguageModeling(pad_token_id=pad_token_id)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch: `input_ids`, `attention_mask`, `labels` and `token_weights`, each [rows, longest]."""
        import torch

        batch: dict[str, Any] = self._plain(
            [{name: value for name, value in row.items() if name != "token_weights"} for row in rows]
        )
        longest = batch["input_ids"].shape[1]
        padded = [row["token_weights"] + [0.0] * (longest - len(row["token_weights"])) for row in rows]
        return {**batch, "token_weights": torch.tensor(padded)}


class WeightedTrainer(SFTTrainer):  # type: ignore[misc,unused-ignore]
    """trl's `SFTTrainer`; the loss of a step is the sum of weight times loss over its trained tokens, by their number.

    So a row of weight 0.5 pulls half as hard as it would, and rows of weight 1 train exactly as in trl.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See `SFTTrainer.compute_loss`."""
        weights = inputs.pop("token_weights")
        trained = inputs["labels"] != -100
        if bool((weights[trained] == 1).all()):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        import torch

        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        losses = -outputs.log_probs  # [rows, tokens - 1], zero where no loss is taken
        count = trained[:, 1:].sum() if num_items_in_batch is None else num_items_in_batch
        loss = (losses * weights[:, 1:].to(losses.dtype)).sum() / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the tokens of all processes are counted, gradients averaged
        return (loss, outputs) if return_outputs else loss
