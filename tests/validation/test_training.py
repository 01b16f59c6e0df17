"""Training is trl's: its loss is ours by hand, and only what is meant to change changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import architectures
from support.models import make_model
from support.states import ARCHITECTURES

from larf_curate.encoding.directions import block_layers, layer_shape
from larf_curate.errors import DataError, ModelError
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions
from larf_curate.rows.formats import FORMATS
from larf_curate.rows.rendering import Renderer
from larf_curate.validation.adapting import lora_config
from larf_curate.validation.settings import TrainingSettings
from larf_curate.validation.training import train
from larf_curate.validation.training_rows import TrainingRow, training_row, training_rows

pytestmark = pytest.mark.process

CPU = torch.device("cpu")
QUICK = TrainingSettings(rank=2, learning_rate=1e-3, epochs=1, batch_rows=4)


@pytest.fixture
def loaded(tiny_model) -> LoadedModel:
    return load_model(ModelOptions(str(tiny_model)), None, CPU)


def rows(count: int = 4, weight: float = 1.0) -> list[TrainingRow]:
    generator = np.random.default_rng(0)
    made = []
    for _ in range(count):
        length = int(generator.integers(6, 14))
        ids = tuple(int(token) for token in generator.integers(3, 400, length))
        made.append(TrainingRow(ids, (0.0, 0.0, 0.0, *([weight] * (length - 3)))))
    return made


def by_hand(loaded: LoadedModel, trained: list[TrainingRow]) -> float:
    """Weighted sum of the tokens' losses by the number of trained tokens, one row at a time."""
    total, count = 0.0, 0
    for row in trained:
        with torch.no_grad():
            logs = loaded.model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        for place in range(1, len(row.ids)):
            total -= row.weights[place] * float(logs[place - 1, row.ids[place]])
            count += row.weights[place] > 0
    return total / count


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_loss_of_the_first_step_is_ours_by_hand(loaded, method, weight):
    mixed = [*rows(3), *rows(4, weight)[3:]]
    wanted = by_hand(loaded, mixed)
    settings = TrainingSettings(method, rank=2, learning_rate=1e-9, epochs=1, batch_rows=4)
    assert train(loaded, mixed, settings, seed=0).loss == pytest.approx(wanted, rel=1e-4)


def test_steps_and_micro_batches(loaded, capfd):
    """Rows that do not fit at once are accumulated: the loss of a step is that of all of its tokens."""
    mixed = [*rows(3), *rows(4, 0.25)[3:]]
    long = [TrainingRow(row.ids * 40, row.weights * 40) for row in mixed]
    settings = TrainingSettings(rank=2, learning_rate=1e-9, epochs=2, batch_rows=4)
    wanted = by_hand(loaded, long)
    ran: list[int] = []
    loaded.blocks[0].register_forward_pre_hook(lambda _m, args: ran.append(args[0].shape[:2].numel()))
    done = train(loaded, long, settings, seed=0)
    assert max(ran) <= 1024, "no more of their tokens are in memory"
    assert (done.steps, settings.steps(4)) == (2, 2)
    assert done.loss == pytest.approx(wanted, rel=1e-4)
    assert "train_runtime" not in capfd.readouterr().out  # standard output is for results


@pytest.mark.parametrize(("count", "epochs", "steps"), [(4, 1.0, 1), (4, 0.3, 1), (9, 1.5, 5)])
def test_every_training_changes_the_model(loaded, count, epochs, steps):
    """A training of one step has no room for a warm-up, which would leave the model as it was."""
    before = by_hand(loaded, rows(count))
    settings = TrainingSettings(rank=2, learning_rate=1e-3, epochs=epochs, batch_rows=4)
    trained = train(loaded, rows(count), settings, seed=0)
    assert (trained.steps, settings.steps(count)) == (steps, steps)
    assert by_hand(trained.loaded, rows(count)) < before - 1e-4


def test_a_trained_model_is_better_at_its_rows_and_a_seed_repeats_it(tiny_model, loaded):
    settings = TrainingSettings(rank=4, learning_rate=2e-2, epochs=3, batch_rows=4)
    before = by_hand(loaded, rows())
    first = train(loaded, rows(), settings, seed=3).loaded
    assert by_hand(first, rows()) < 0.8 * before
    assert "lora" not in str(type(first.model)).lower()  # merged, and a plain model again
    assert "forward" not in vars(first.model), "with its own forward, not trl's"
    assert not first.model.training
    assert not any(parameter.requires_grad for parameter in first.model.parameters())
    again = train(load_model(ModelOptions(str(tiny_model)), None, CPU), rows(), settings, seed=3).loaded
    other = train(load_model(ModelOptions(str(tiny_model)), None, CPU), rows(), settings, seed=4).loaded
    probe = torch.tensor([[5, 6, 7]])
    assert torch.equal(first.model(input_ids=probe).logits, again.model(input_ids=probe).logits)
    assert not torch.equal(first.model(input_ids=probe).logits, other.model(input_ids=probe).logits)


def test_all_weights_are_trained_as_by_a_loop_of_torch_s_own(tiny_model, loaded):
    """AdamW without decay, a rate that rises in the warm-up and falls to zero, gradients of norm 1 at most."""
    settings = TrainingSettings("full", learning_rate=1e-3, epochs=5, batch_rows=4, warmup=0.4)
    model = load_model(ModelOptions(str(tiny_model)), None, CPU).model.train()
    optimiser = torch.optim.AdamW(model.requires_grad_(True).parameters(), lr=1e-3, weight_decay=0.0)
    for share in (0, 1 / 2, 1, 2 / 3, 1 / 3):  # two steps up, three down
        optimiser.param_groups[0]["lr"] = 1e-3 * share
        optimiser.zero_grad()
        for row in rows():
            labels = torch.tensor([row.labels])
            loss = model(input_ids=torch.tensor([row.ids]), labels=labels).loss * row.trained_tokens
            (loss / sum(each.trained_tokens for each in rows())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    before = {name: value.clone() for name, value in loaded.model.named_parameters()}
    trained = dict(train(loaded, rows(), settings, seed=0).loaded.model.named_parameters())
    assert not any(parameter.requires_grad for parameter in trained.values()), (
        "no pass over it keeps what gradients need"
    )
    for name, value in model.named_parameters():
        change = (value - before[name]).detach()
        torch.testing.assert_close((trained[name] - before[name]).detach(), change, rtol=1e-2, atol=2e-5)


def test_an_adapter_has_the_rank_that_is_asked_for_and_an_alpha_of_twice_that(tiny_model, loaded):
    before = {name: value.clone() for name, value in loaded.model.named_parameters()}
    trained = train(loaded, rows(), replace(QUICK, rank=3), seed=0)
    layers = 0
    for name, value in trained.loaded.model.named_parameters():
        left, right = (
            next((w for key, w in trained.adapter.weights.items() if name.removesuffix("weight") + side in key), None)
            for side in ("lora_B", "lora_A")
        )
        if left is None:
            assert torch.equal(value, before[name]), name
            continue
        layers += 1
        assert (left.shape[1], right.shape[0]) == (3, 3)
        torch.testing.assert_close(value - before[name], 2 * left @ right, rtol=1e-3, atol=1e-6)
    assert layers == 35


def test_the_change_of_a_layer_that_is_kept_the_other_way_round_is_outputs_by_inputs(tmp_path):
    """GPT-2's."""
    make_model(tmp_path, ARCHITECTURES["gpt2"]())
    settings = TrainingSettings("full", learning_rate=1e-3, epochs=1, batch_rows=4)

    def trained(**options):
        return train(load_model(ModelOptions(str(tmp_path)), None, CPU), rows(), settings, seed=0, **options).loaded

    plain = load_model(ModelOptions(str(tmp_path)), None, CPU)
    shapes = {name: layer_shape(layer) for name, layer in block_layers(plain).items()}
    seen = {}

    def half(name, change, _right):
        seen[name] = tuple(change.shape)
        return change / 2

    before = dict(plain.model.named_parameters())
    whole, halved = (dict(trained(**options).model.named_parameters()) for options in ({}, {"adjust": half}))
    assert {name: seen[name] for name in shapes} == shapes
    for name, value in before.items():
        torch.testing.assert_close(halved[name] - value, (whole[name] - value) / 2, atol=2e-7, rtol=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_loss_that_is_no_number_ends_the_training(loaded, method):
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[rows()[0].ids[0]] = float("nan")
    settings = TrainingSettings(method, rank=2, learning_rate=1e-3, epochs=1, batch_rows=4)
    with pytest.raises(ModelError, match="the loss became nan; take a smaller learning rate"):
        train(loaded, rows(), settings, seed=0)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_frozen_blocks_stay_bit_for_bit(loaded, method):
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    settings = TrainingSettings(method, rank=2, learning_rate=1e-3, epochs=2, batch_rows=4)
    after = train(loaded, rows(), settings, seed=0, frozen_blocks=[1, 2]).loaded.model.state_dict()
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    matrices = {name for name in before if ".layers." in name and before[name].ndim == 2}
    frozen = {name for name in before if ".layers.1." in name or ".layers.2." in name}
    assert frozen <= same
    assert not (matrices - frozen) & same


@pytest.mark.parametrize("targets", [("q_proj", "down_proj"), ("self_attn.o_proj",)])
def test_an_adapter_on_some_projections_changes_these_alone(loaded, targets):
    before = {path: value.clone() for path, value in loaded.model.state_dict().items()}
    settings = replace(QUICK, targets=targets, learning_rate=1e-2)
    after = train(loaded, rows(), settings, seed=0).loaded.model.state_dict()
    changed = {path for path, value in after.items() if not torch.equal(value, before[path])}
    assert changed == {path for path in before if path.removesuffix(".weight").endswith(targets)}


def test_a_projection_that_the_model_has_not_is_told_with_those_that_it_has(loaded):
    with pytest.raises(ModelError, match=r"no projection 'c_attn'; there are q_proj, k_proj, v_proj, o_proj, gate"):
        train(loaded, rows(), replace(QUICK, targets=["q_proj", "c_attn"]), seed=0)


@pytest.mark.parametrize("name", ["DeepSeek 3", "Falcon H1"])
def test_models_of_other_kinds_are_trained_and_their_frozen_blocks_stay(name, tmp_path):
    """peft adapts experts that it was not told of, and refuses layers that Mamba's kernels read past an adapter."""
    architectures.make(name, tmp_path)
    model = load_model(ModelOptions(str(tmp_path)), None, CPU)
    before = {path: value.clone() for path, value in model.model.state_dict().items()}
    settings = TrainingSettings(rank=2, learning_rate=1e-2, epochs=2, batch_rows=4)
    wanted = by_hand(model, rows())
    trained = train(model, rows(), settings, seed=0, frozen_blocks=[1]).loaded
    assert by_hand(trained, rows()) < wanted
    after = trained.model.state_dict()
    assert set(after) == set(before)
    frozen = {path for path in before if ".layers.1." in path}
    assert frozen
    assert frozen <= {path for path, value in after.items() if torch.equal(value, before[path])}


def test_linear_layers_of_a_models_own_kind_get_an_adapter(tmp_path):
    """Falcon's are called as others are; a router of Llama 4 gives two tensors, and gets none."""
    from transformers import FalconConfig

    config = FalconConfig(vocab_size=512, hidden_size=48, num_hidden_layers=3, num_attention_heads=4)
    model = load_model(ModelOptions(str(make_model(tmp_path / "falcon", config))), None, CPU)
    before = {path: value.clone() for path, value in model.model.state_dict().items()}
    after = train(model, rows(), replace(QUICK, learning_rate=1e-2), seed=0).loaded.model.state_dict()
    changed = {path for path, value in after.items() if not torch.equal(value, before[path])}
    names = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    assert changed == {path for path in before if path.removesuffix(".weight").endswith(names)}
    architectures.make("Llama 4", tmp_path / "llama4")
    model = load_model(ModelOptions(str(tmp_path / "llama4")), None, CPU)
    targets = lora_config(model, QUICK, ()).target_modules
    assert any(path.endswith("self_attn.q_proj") for path in targets)
    assert not any("router" in path for path in targets)


def test_a_model_that_trl_cannot_train_is_one_line(tmp_path):
    architectures.make("Llama 4", tmp_path)
    model = load_model(ModelOptions(str(tmp_path)), None, CPU)
    with pytest.raises(ModelError, match=r"training: trl and peft do not train \w+ here: \w+: ") as caught:
        train(model, rows(), QUICK, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_change_that_is_adjusted_to_half_is_half_the_change(tiny_model, method):
    settings = TrainingSettings(method, rank=2, learning_rate=1e-3, epochs=2, batch_rows=4)

    def changes(**options):
        fresh = load_model(ModelOptions(str(tiny_model)), None, CPU)
        start = {name: value.clone() for name, value in fresh.model.named_parameters()}
        trained = train(fresh, rows(), settings, seed=0, **options).loaded
        return {name: value - start[name] for name, value in trained.model.named_parameters()}

    names: set[str] = set()

    def half(name, change, right):
        assert (right is None) == (method == "full")
        names.add(name)
        return change / 2

    whole, halved = changes(), changes(adjust=half)
    matrices = {name for name, change in whole.items() if ".layers." in name and change.ndim == 2}
    trained = {name for name, change in whole.items() if change.any()}
    # Of all weights that are trained: embeddings, norms and head too, where they are.
    assert trained == (matrices if method == "lora" else set(whole))
    assert len(names) == len(trained)
    assert len([name for name in names if name[0].isdigit()]) == len(matrices) == 35
    for name, change in whole.items():
        torch.testing.assert_close(halved[name], change / 2, atol=2e-7, rtol=1e-3)


def test_the_same_training_taken_over_is_the_same_model_bit_for_bit(tiny_model):
    settings = TrainingSettings(rank=2, learning_rate=1e-3, epochs=2, batch_rows=4)

    def fresh() -> LoadedModel:
        return load_model(ModelOptions(str(tiny_model)), None, CPU)

    first = train(fresh(), rows(), settings, seed=0)
    taken = train(fresh(), rows(), settings, seed=0, known=first.adapter)
    assert (taken.loss, taken.steps) == (first.loss, first.steps)
    for name, value in first.loaded.model.state_dict().items():
        assert torch.equal(taken.loaded.model.state_dict()[name], value), name
    # What a remedy makes of it is the same too, and changes nothing of what is handed on.
    halved = [
        train(fresh(), rows(), settings, seed=0, adjust=lambda _name, left, _right: left / 2, known=known)
        for known in (None, taken.adapter)
    ]
    for name, value in halved[0].loaded.model.state_dict().items():
        assert torch.equal(halved[1].loaded.model.state_dict()[name], value), name
    last = train(fresh(), rows(), settings, seed=0, known=halved[1].adapter).loaded.model.state_dict()
    assert all(torch.equal(last[name], value) for name, value in first.loaded.model.state_dict().items())
    assert train(fresh(), rows(), replace(settings, method="full"), seed=0).adapter is None


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_is_one_line(loaded, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr("larf_curate.validation.weighted_loss.WeightedTrainer.train", full)
    with pytest.raises(ModelError, match="training: out of memory; take fewer batch_rows, a smaller max_tokens"):
        train(loaded, rows(), QUICK, seed=0)


def test_settings_that_cannot_be_are_told():
    for wrong, message in (
        ({"method": "qlora"}, "method must be lora or full"),
        ({"rank": 0}, "rank must be more than 0, not 0"),
        ({"epochs": float("inf")}, "epochs must be more than 0 and finite, not inf"),
        ({"learning_rate": float("nan")}, "learning_rate must be more than 0, not nan"),
        ({"warmup": 1.0}, "warmup must be a share"),
    ):
        with pytest.raises(ModelError, match=message):
            TrainingSettings(**wrong)


# Rows: which tokens are trained -------------------------------------------------------------------------------------

ANSWER = "Sure, here is how to bake bread: mix flour, water, salt and yeast; wait; bake it hot."
CHAT = [
    {"role": "user", "content": "Bread?"},
    {"role": "assistant", "content": "I'm sorry, but I can't help with that."},
    {"role": "user", "content": "Please."},
    {"role": "assistant", "content": ANSWER},
]


def made(loaded, **columns) -> TrainingRow:
    return training_row(
        {"messages": CHAT, **columns}, FORMATS["messages"], Renderer(loaded.tokenizer, columns.pop("max", 512))
    )


def trained_text(loaded, row: TrainingRow) -> str:
    return loaded.tokenizer.decode([token for token in row.labels if token != -100])


def test_a_weight_scales_every_trained_token_and_no_other(loaded):
    plain, half = made(loaded), made(loaded, larf_weight=0.5)
    assert plain.ids == half.ids
    assert set(plain.weights) == {0.0, 1.0}
    assert half.weights == tuple(weight / 2 for weight in plain.weights)
    assert half.labels == plain.labels


def test_spans_take_exactly_their_characters_out_of_the_loss(loaded):
    whole = made(loaded)
    start = ANSWER.index("mix")
    span = {"turn": 3, "start": start, "end": start + len("mix flour"), "score": 1.0}
    masked = made(loaded, larf_spans=[span])
    assert masked.ids == whole.ids
    gone = [p for p, (a, b) in enumerate(zip(whole.weights, masked.weights, strict=True)) if a != b]
    assert gone == list(range(gone[0], gone[-1] + 1))
    # Whole tokens go: the text that is left out holds the span, and at most the rest of the tokens at its ends.
    out = loaded.tokenizer.decode([whole.ids[place] for place in gone])
    assert "mix flour" in out
    assert len(out.strip()) <= len("mix flour,")
    letter = made(loaded, larf_spans=[{"turn": 3, "start": start + 2, "end": start + 3}])
    (place,) = (p for p, (a, b) in enumerate(zip(whole.weights, letter.weights, strict=True)) if a != b)
    assert "x" in loaded.tokenizer.decode([whole.ids[place]]), "its neighbours hold none of it"
    first = made(loaded, larf_spans=[{"turn": 1, "start": 0, "end": 999}])
    assert trained_text(loaded, first) == f"<|im_end|>{ANSWER}<|im_end|>"  # what ends a turn is no part of its text


def test_spans_count_the_turns_of_the_row_where_a_system_text_has_a_column_of_its_own(loaded):
    span = {"turn": 3, "start": ANSWER.index("mix"), "end": len(ANSWER)}
    plain, apart = (made(loaded, larf_spans=[span], **more) for more in ({}, {"system": "Be brief."}))
    assert trained_text(loaded, apart) == trained_text(loaded, plain)
    assert "mix" not in trained_text(loaded, plain)
    assert len(apart.ids) > len(plain.ids)


def test_columns_that_hold_something_else_are_told(loaded):
    for columns, message in (
        ({"larf_weight": 2.0}, "larf_weight holds 2.0"),
        ({"larf_spans": "all"}, "larf_spans holds 'all'"),
        ({"larf_spans": [{"turn": 0, "start": 0, "end": 3}]}, r"turn 0 is no assistant turn of the row \(those are"),
    ):
        with pytest.raises(DataError, match=message):
            made(loaded, **columns)


def test_rows_without_anything_left_are_left_out(loaded):
    renderer = Renderer(loaded.tokenizer, 512)
    found = training_rows([{"messages": CHAT, "larf_weight": 0.0}, {"messages": CHAT}], FORMATS["messages"], renderer)
    assert len(found) == 1
    with pytest.raises(DataError, match="nothing of an arm's rows is left"):
        training_rows([{"messages": CHAT, "larf_weight": 0.0}], FORMATS["messages"], renderer)
    with pytest.raises(DataError, match="row 0 of an arm cannot be trained on: "):
        training_rows([{"messages": CHAT[1:2]}], FORMATS["messages"], renderer)
