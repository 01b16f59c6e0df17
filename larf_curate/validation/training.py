"""Supervised fine-tuning of one arm, by trl and peft: LoRA on all projections of the blocks, or all weights."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..encoding.directions import block_layers
from ..encoding.memory import is_out_of_memory
from ..errors import LarfError, MissingExtraError, ModelError, one_line
from ..models.blocks import find_blocks
from ..models.loading import LoadedModel
from ..progress import quiet
from .adapting import is_transposed, lora_config
from .processes import processes
from .settings import TrainingSettings
from .training_progress import progress_callback
from .training_rows import TrainingRow

if TYPE_CHECKING:
    from torch import Tensor

Adjust = Callable[[str, "Tensor", "Tensor | None"], "Tensor"]
"""What a remedy makes of the change of one weight. It is called with the layer's name in `block_layers` and the change,
[outputs, inputs]: as left @ right where an adapter was trained, as the left alone (and None) where the weights were.
Where all weights were trained, it is called for those of no such layer too (embeddings, norms, head), under their names
in the model. It returns what replaces the left."""

_TOKENS_AT_ONCE = {"cuda": 16_384, "mps": 4_096, "cpu": 1_024}  # of the rows that run together, with their padding


@dataclass(frozen=True, eq=False)
class TrainedAdapter:
    """An adapter after a training, before any remedy has changed it: the same training need not be done twice.

    Attributes:
        weights: the weights of its parameters, by their names in the model.
        loss: mean over the steps, in nats a token.
        steps: how many there were.
    """

    weights: Mapping[str, Tensor]
    loss: float
    steps: int


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model, and how the training went.

    Attributes:
        loaded: the model, its adapter merged unless its weights are quantised.
        loss: mean over the steps, in nats a token.
        steps: how many there were.
        adapter: as it was trained; None where all weights were.
    """

    loaded: LoadedModel
    loss: float
    steps: int
    adapter: TrainedAdapter | None = None


def require_training_packages() -> None:
    """Find out before any work that a package is missing.

    Raises:
        MissingExtraError: trl, peft or accelerate is not installed.
    """
    for package in ("trl", "peft", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "validate", "training")


def train(
    loaded: LoadedModel,
    rows: Sequence[TrainingRow],
    settings: TrainingSettings,
    seed: int,
    *,
    frozen_blocks: Collection[int] = (),
    adjust: Adjust | None = None,
    known: TrainedAdapter | None = None,
    label: str = "training",
) -> Trained:
    """Train a model on some rows. The given model itself is changed.

    Args:
        loaded: the model with its head; see `load_model`.
        rows: what to train on.
        settings: how.
        seed: the seed of the adapter's first values and of the order of the rows.
        frozen_blocks: numbers of blocks whose weights stay as they are, bit for bit.
        adjust: what becomes of each layer's change afterwards.
        known: the adapter of the same training of the same model, which is taken over then.
        label: what is being done, for the progress bar.

    Raises:
        MissingExtraError: trl or peft is not installed.
        ModelError: trl or peft cannot train such a model, memory runs out, the loss becomes infinite, all weights of a
            quantised model are to be trained, the model is on another CUDA device than this process trains on, or the
            rows of a step cannot be shared out evenly among the processes that train together.
    """
    require_training_packages()
    import torch

    if settings.method == "full" and loaded.quantised:
        raise ModelError("training: quantised weights cannot be trained themselves: take method lora, or another dtype")
    together = processes()
    if loaded.device.type == "cuda" and (loaded.device.index or 0) != together.device:
        raise ModelError(
            f"training: transformers trains on CUDA device {together.device} here, not on {loaded.device}: show it "
            f"only that one (CUDA_VISIBLE_DEVICES={loaded.device.index})"
        )
    if settings.batch_rows % together.count:
        raise ModelError(
            f"training: {settings.batch_rows} rows a step cannot be shared out among {together.count} processes: take "
            "a multiple of that for batch_rows"
        )
    before = _weights_of(loaded) if adjust is not None and settings.method == "full" else {}
    try:
        trainer = _trainer(loaded, rows, settings, seed, frozen_blocks, label)
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapter = _trained(trainer, known, is_adapter=settings.method == "lora")
    except LarfError:
        raise
    except (AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        # The code of hundreds of architectures, of which trl and peft know most.
        if is_out_of_memory(error):
            raise ModelError(
                "training: out of memory; take fewer batch_rows, a smaller max_tokens, or dtype nf4 with method lora"
            ) from error
        name = type(loaded.model).__name__
        raise ModelError(
            f"training: trl and peft do not train {name} here: {type(error).__name__}: {one_line(error)}"
        ) from error
    finally:
        _undo_patches(loaded.model)
    if not adapter.loss < float("inf"):
        raise ModelError(f"training: the loss became {adapter.loss}; take a smaller learning rate")
    if adjust is not None:
        with torch.no_grad():
            _adjust(loaded, settings, before, adjust)
    finished = _finished(trainer.model, loaded, settings)
    return Trained(finished, adapter.loss, adapter.steps, adapter if adapter.weights else None)


def _trained(trainer: Any, known: TrainedAdapter | None, *, is_adapter: bool) -> TrainedAdapter:
    """Train, or take over what the same training has come to."""
    import torch

    if known is not None:
        with torch.no_grad():
            for name, weight in trainer.model.named_parameters():
                if name in known.weights:
                    weight.copy_(known.weights[name])
        return known
    loss = float(trainer.train().training_loss)
    parameters = trainer.model.named_parameters() if is_adapter else ()
    weights = {name: weight.detach().cpu().clone() for name, weight in parameters if weight.requires_grad}
    return TrainedAdapter(weights, loss, int(trainer.state.global_step))


def _trainer(
    loaded: LoadedModel,
    rows: Sequence[TrainingRow],
    settings: TrainingSettings,
    seed: int,
    frozen_blocks: Collection[int],
    label: str,
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig

    from .weighted_loss import WeightedCollator, WeightedTrainer

    if settings.method == "full":
        loaded.model.requires_grad_(True)
    device = loaded.device.type
    of_process = settings.batch_rows // processes().count  # rows of a step
    at_once = _rows_at_once(rows, of_process, _TOKENS_AT_ONCE.get(device, 4_096))
    # All weights are trained in float32, and computed with in bfloat16; see `load_for_training`.
    half = device == "cuda" and (loaded.dtype_name != "float32" or settings.method == "full")
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that transformers 5 and trl spell differently
        arguments = SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=of_process // at_once,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            # A warm-up begins with a step of rate 0: where that is the only one, nothing would be trained.
            warmup_steps=settings.warmup if settings.steps(len(rows)) > 1 else 0,
            lr_scheduler_type="linear",
            weight_decay=0.0,
            seed=seed,
            data_seed=seed,
            bf16=half,
            use_cpu=device == "cpu",
            gradient_checkpointing=device == "cuda",
            max_length=None,  # rows are cut already, and with them the marks of what is trained
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,  # it would count a loss that is no number as none, and so hide it
            report_to="none",
            disable_tqdm=True,
        )
    if device == "cuda":  # the model is on one device; trl refuses torch's DataParallel, which more would start
        arguments._n_gpu = 1
    data = Dataset.from_dict(
        {
            "input_ids": [list(row.ids) for row in rows],
            "labels": [row.labels for row in rows],
            "token_weights": [list(row.weights) for row in rows],
        }
    )
    tokenizer = loaded.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = WeightedTrainer(
            model=loaded.model,
            args=arguments,
            data_collator=WeightedCollator(0 if pad is None else int(pad)),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[progress_callback(label)],
            peft_config=lora_config(loaded, settings, frozen_blocks) if settings.method == "lora" else None,
        )
        for number in frozen_blocks:  # peft adds experts to the layers that it is given, in all blocks
            loaded.blocks[number].requires_grad_(False)
        trainer.remove_callback(PrinterCallback)  # which prints a dictionary on standard output
        return trainer


def _rows_at_once(rows: Sequence[TrainingRow], batch: int, tokens: int) -> int:
    """The largest divisor of a batch whose rows fit in `tokens`, all as long as the longest."""
    longest = max(len(row.ids) for row in rows)
    return max(size for size in range(1, batch + 1) if batch % size == 0 and (size == 1 or size * longest <= tokens))


def _undo_patches(model: Any) -> None:
    """Take trl's fused head out of the model again: answers and losses are measured on the model's own forward."""
    vars(model).pop("forward", None)


def _weights_of(loaded: LoadedModel) -> Mapping[str, Tensor]:
    return {path: weight.detach().clone() for path, weight in loaded.model.named_parameters()}


def _adjust(loaded: LoadedModel, settings: TrainingSettings, before: Mapping[str, Tensor], adjust: Adjust) -> None:
    """Let a remedy change what the training has changed."""
    from peft.tuners.lora import LoraLayer

    if settings.method == "full":
        layers = {id(layer.weight): name for name, layer in block_layers(loaded).items()}
        for path, weight in loaded.model.named_parameters():
            name = layers.get(id(weight))
            flip = name is not None and is_transposed(loaded)
            change = (weight - before[path]).float()
            changed = adjust(name or path, change.T if flip else change, None)
            weight.copy_(before[path] + (changed.T if flip else changed).to(weight.dtype))
        return
    for number, block in enumerate(loaded.blocks):
        for path, module in block.named_modules():
            if isinstance(module, LoraLayer):
                left = module.lora_B["default"].weight
                right = module.lora_A["default"].weight
                left.copy_(adjust(f"{number}.{path}", left.float(), right.float()).to(left.dtype))


def _finished(model: Any, loaded: LoadedModel, settings: TrainingSettings) -> LoadedModel:
    """The trained model in the form in which a model comes out of `load_model`."""
    if settings.method == "lora":
        model = model.get_base_model() if loaded.quantised else model.merge_and_unload()
    model = model.requires_grad_(False).eval()
    model.activation_checkpointing_disable()
    return replace(loaded, model=model, blocks=find_blocks(model, loaded.total_blocks))
