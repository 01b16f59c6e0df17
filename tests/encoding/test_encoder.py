"""States equal those of transformers' own full forward pass, whatever the batch, the memory and the process."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.models import SIZES, make_model, make_tokenizer

from larf_curate.encoding.encoder import Encoder, States, get_encoder
from larf_curate.encoding.packing import PackedPass
from larf_curate.encoding.padding import PaddedPass
from larf_curate.encoding.runtime import Runtime, unload_models
from larf_curate.errors import Issue, ModelError
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions
from larf_curate.rows.rendering import Renderer
from larf_curate.rows.turns import Conversation

BLOCKS = SIZES["num_hidden_layers"]
LAYERS = list(range(BLOCKS))
CPU = torch.device("cpu")
WINDOW = 6  # far shorter than the longest row, so that a sliding block mistaken for a full one shows
FULL, SLIDING = "full_attention", "sliding_attention"
MIXED = [SLIDING, SLIDING, FULL, SLIDING, FULL]
GPT_NEOX = {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "head_dim")}


def gemma3_with_vision() -> transformers.PretrainedConfig:
    """As many vision blocks as text blocks, so that the one cannot be told from the other by counting."""
    text = transformers.Gemma3TextConfig(**SIZES, sliding_window=WINDOW, layer_types=MIXED)
    vision = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=BLOCKS, num_attention_heads=2, image_size=28
    )
    return transformers.Gemma3Config(
        text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4, image_token_index=500
    )


ARCHITECTURES: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama3_rope": lambda: transformers.LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=WINDOW),
    "qwen2": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **SIZES, num_experts=BLOCKS, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, sliding_window=WINDOW),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(**SIZES, sliding_window=WINDOW, layer_types=MIXED),
    "gemma3_vision": gemma3_with_vision,
    "phi3": lambda: transformers.Phi3Config(**SIZES, pad_token_id=0, sliding_window=WINDOW),
    "olmo": lambda: transformers.OlmoConfig(**SIZES),
    "olmo2": lambda: transformers.Olmo2Config(**SIZES),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**GPT_NEOX),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=512, n_embd=48, n_layer=BLOCKS, n_head=4, n_positions=512),
}


def random_rows(lengths: Sequence[int] = (1, 2, 3, 7, 12, 12, 20, 40), seed: int = 0) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(3, 400) for _ in range(length)] for length in lengths]


def full_states(directory: Path, rows: Sequence[list[int]], auto: Any = transformers.AutoModelForCausalLM) -> Any:
    """[rows, blocks, hidden] of the uncut model: one row at a time, no padding, float32, no cutting.

    The last of transformers' hidden states has passed the final norm: that block's output comes from a hook.
    """
    model = auto.from_pretrained(directory, dtype=torch.float32).eval()
    decoder = model.get_decoder()
    blocks = next(getattr(decoder, name) for name in ("layers", "h") if hasattr(decoder, name))
    last: list[torch.Tensor] = []
    blocks[-1].register_forward_hook(lambda _m, _a, out: last.append(out[0] if isinstance(out, tuple) else out))
    states = []
    for row in rows:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states
        assert len(hidden) == len(blocks) + 1
        normed, plain = hidden[-1][0, -1], last.pop()[0, -1]
        assert (normed - plain).abs().max() > 0.1, "this final norm would not show if applied by accident"
        states.append(torch.stack([*(h[0, -1] for h in hidden[1:-1]), plain]))
    return torch.stack(states).numpy()


def assert_equal_states(actual: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-4 of the norm of each state: a score is made of normalised states and may be off by 1e-4."""
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    scale = np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=1e-4)


def encoder_of(
    directory: Path,
    highest: int = BLOCKS - 1,
    forward: Callable[[LoadedModel], PackedPass | PaddedPass] | None = None,
    **options: Any,
) -> Encoder:
    """An encoder on a model of its own; `forward` makes its pass, else the fastest that suits the model is found."""
    config = ModelOptions(str(directory), device="cpu", **options)
    loaded = load_model(config, highest, CPU)
    return Encoder(config, Runtime(loaded, forward(loaded) if forward else None))


def is_packed(encoder: Encoder) -> bool:
    return isinstance(encoder.runtime.forward, PackedPass)


def has_lean_blocks(encoder: Encoder) -> bool:
    return "lean blocks" in encoder.runtime.forward.shortcuts


def hooks_left(encoder: Encoder) -> int:
    return sum(len(block._forward_hooks) for block in encoder.loaded.blocks)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A tiny random model, and the states its full forward pass gives the `random_rows`."""
    directory = tmp_path_factory.mktemp(request.param)
    auto = transformers.AutoModelForCausalLM
    if request.param == "gemma3_vision":
        auto = transformers.AutoModelForImageTextToText
    save_random(directory, ARCHITECTURES[request.param](), auto)
    return directory, full_states(directory, random_rows(), auto)


def save_random(directory: Path, config: transformers.PretrainedConfig, auto: Any) -> None:
    """As `make_model`, for any head."""
    if auto is transformers.AutoModelForCausalLM:
        make_model(directory, config)
        return
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.0 if parameter.ndim > 1 else 1.0, std=0.2)
    model.save_pretrained(directory)
    make_tokenizer(directory)


@pytest.fixture(scope="module")
def llama_states(tiny_model: Path) -> np.ndarray:
    return full_states(tiny_model, random_rows())


@pytest.fixture(params=["lean", "packed", "padded"])
def llama(request: pytest.FixtureRequest, tiny_model: Path) -> Encoder:
    """All ways of running a batch, tried already."""
    encoder = encoder_of(tiny_model, forward={"lean": None, "packed": PackedPass, "padded": PaddedPass}[request.param])
    encoder.encode(random_rows([5]), [0])
    assert has_lean_blocks(encoder) == (request.param == "lean")
    return encoder


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    unload_models()
    yield
    unload_models()


# Parity -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("highest", [0, 2, BLOCKS - 1])
def test_states_equal_the_full_forward_pass(architecture: tuple[Path, np.ndarray], highest: int) -> None:
    directory, expected = architecture
    layers = list(range(highest + 1))
    encoder = encoder_of(directory, highest, batch_tokens=64)
    states = encoder.encode(random_rows(), layers)
    assert_equal_states(states.values, expected[:, layers])
    assert states.issues == [None] * len(expected)
    assert len(encoder.loaded.blocks) == highest + 1
    assert encoder.loaded.total_blocks == BLOCKS
    assert encoder.loaded.hidden_size == SIZES["hidden_size"]


@pytest.mark.parametrize("layers", [[3], [4, 1], [0, 0, 2]], ids=str)
def test_layers_come_in_the_order_asked_for(llama: Encoder, llama_states: np.ndarray, layers: list[int]) -> None:
    assert_equal_states(llama.encode(random_rows(), layers).values, llama_states[:, layers])


@pytest.mark.parametrize("batch_tokens", [None, 1, 7, 24, 100, 100_000])
@pytest.mark.parametrize("order", [1, -1], ids=["forward", "reversed"])
def test_batches_and_order_do_not_show(
    tiny_model: Path, llama_states: np.ndarray, batch_tokens: int | None, order: int
) -> None:
    encoder = encoder_of(tiny_model, batch_tokens=batch_tokens)
    assert_equal_states(encoder.encode(random_rows()[::order], LAYERS).values, llama_states[::order])


def test_no_rows_give_no_states(llama: Encoder) -> None:
    states = llama.encode([], [1, 2])
    assert states.values.shape == (0, 2, SIZES["hidden_size"])
    assert states.issues == []


def test_batches_stay_within_their_tokens_and_duplicates_run_once(tiny_model: Path, llama_states: np.ndarray) -> None:
    encoder = encoder_of(tiny_model, forward=PaddedPass, batch_tokens=40)  # test_packing.py has the other way
    shapes: list[tuple[int, ...]] = []
    encoder.loaded.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    rows, done = random_rows(), []
    states = encoder.encode(rows + rows[::-1] + rows, [2], progress=done.append)
    assert_equal_states(states.values, np.concatenate([llama_states, llama_states[::-1], llama_states])[:, [2]])
    assert sum(count for count, _ in shapes) == len(rows)
    assert all(count * length <= 40 for count, length in shapes)
    assert sum(done) == 3 * len(rows)


def test_blocks_above_the_highest_layer_asked_for_do_not_run(llama: Encoder) -> None:
    ran: list[int] = []
    for i, block in enumerate(llama.loaded.blocks):
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    llama.encode(random_rows([5]), [1, 2])
    assert ran == [0, 1, 2, 2][: 4 if is_packed(llama) else 3]  # packed, the highest makes its keys and values first


def test_bfloat16_runs_on_the_cpu(tiny_model: Path, llama_states: np.ndarray) -> None:
    encoder = encoder_of(tiny_model, dtype="bfloat16")
    states = encoder.encode(random_rows(), LAYERS).values
    assert encoder.loaded.dtype_name == "bfloat16"
    assert states.dtype == np.float32
    cosine = (states * llama_states).sum(-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(llama_states, axis=-1)
    assert cosine.min() > 0.99
    assert np.abs(states - llama_states).max() > 1e-3  # it was bfloat16 indeed


# Conversations ------------------------------------------------------------------------------------------------------


def conversation(answer: str) -> Conversation:
    return Conversation(({"role": "user", "content": "Say it."}, {"role": "assistant", "content": answer}))


def test_conversations_are_rendered_and_those_that_cannot_be_say_why(tiny_model: Path) -> None:
    encoder = encoder_of(tiny_model, max_tokens=40)
    whole, cut, unusable = conversation("Yes."), conversation("Yes. " * 50), conversation("\ud800")
    done: list[int] = []
    states = encoder.states_of([unusable, whole, Issue.NO_ASSISTANT, cut], LAYERS, done.append)
    assert states.issues == [Issue.WRONG_TYPE, None, Issue.NO_ASSISTANT, Issue.TRUNCATED]
    rendered = [encoder.renderer.render(item) for item in (whole, cut)]
    assert states.tokens == [None, rendered[0].tokens, None, rendered[1].tokens]
    assert rendered[1].tokens > 40
    assert np.isnan(states.values[[0, 2]]).all()
    assert_equal_states(states.values[[1, 3]], full_states(tiny_model, [item.ids for item in rendered]))
    assert sum(done) == 4


def test_what_was_rendered_before_is_not_rendered_again(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(tiny_model)
    rendered = encoder.render(conversation("Yes."))
    expected = encoder.states_of([conversation("Yes.")], [2])
    monkeypatch.setattr(Renderer, "render", None)
    states = encoder.states_of([rendered], [2])
    assert np.array_equal(states.values, expected.values)
    assert states.tokens == expected.tokens


def test_a_state_that_cannot_be_used_is_an_issue_of_its_conversation(tiny_model: Path) -> None:
    encoder = encoder_of(tiny_model)
    limit_memory(encoder, 30, MemoryError)
    states = encoder.states_of([conversation("Yes."), conversation("Yes. " * 50)], [2])
    assert states.issues == [None, Issue.OUT_OF_MEMORY]


def test_prompts_have_the_state_at_which_their_answer_begins(tiny_model: Path) -> None:
    encoder = encoder_of(tiny_model)
    states = encoder.states_of_prompts(["Why?", "\ud800", "How?"], LAYERS)
    assert states.issues == [None, Issue.WRONG_TYPE, None]
    ids = [
        encoder.loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        for prompt in ("Why?", "How?")
    ]
    assert_equal_states(states.values[[0, 2]], full_states(tiny_model, ids))


# Out of memory ------------------------------------------------------------------------------------------------------

ERRORS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 9000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "mps": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB, max allowed: 18.13 GB)."),
    "python": MemoryError,
}


def limit_memory(encoder: Encoder, tokens: int, error: Callable[[], BaseException]) -> list[int]:
    """Batches of more than `tokens` fail in block 2; returns the sizes of the batches tried, as they come."""
    tried: list[int] = []

    def hook(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        rows, length = args[0].shape[:2]
        tried.append(rows * length)
        if rows * length > tokens:
            raise error()

    encoder.loaded.blocks[2].register_forward_pre_hook(hook)
    return tried


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("tokens", [40, 90])
def test_a_batch_that_does_not_fit_is_halved(
    llama: Encoder, llama_states: np.ndarray, tokens: int, error: Callable[[], BaseException]
) -> None:
    tried, done = limit_memory(llama, tokens, error), []
    states = llama.encode(random_rows(), LAYERS, progress=done.append)
    assert max(tried) > tokens
    assert_equal_states(states.values, llama_states)
    assert states.issues == [None] * len(llama_states)
    assert sum(done) == len(llama_states)
    assert hooks_left(llama) == 0


def test_what_did_not_fit_is_remembered(llama: Encoder) -> None:
    tried = limit_memory(llama, 40, ERRORS["cpu"])
    llama.encode(random_rows(), [4])
    assert max(tried) > 40
    tried.clear()
    llama.encode(random_rows(seed=1), [4])
    assert len(tried) > 1
    assert max(tried) <= 40, "the second time, no batch fails"


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_row_too_big_alone_is_unscorable_alone(
    llama: Encoder, llama_states: np.ndarray, error: Callable[[], BaseException]
) -> None:
    limit_memory(llama, 39, error)  # the last of the rows has 40 tokens
    rows = random_rows()
    states = llama.encode([rows[-1], *rows], LAYERS)
    assert_equal_states(states.values[1:-1], llama_states[:-1])
    assert np.isnan(states.values[[0, -1]]).all()
    assert states.issues == [Issue.OUT_OF_MEMORY, *[None] * (len(rows) - 1), Issue.OUT_OF_MEMORY]


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 cannot be multiplied"), KeyboardInterrupt("Ctrl-C")])
def test_other_errors_are_not_swallowed_and_leave_no_hook(
    llama: Encoder, llama_states: np.ndarray, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    handle = llama.loaded.blocks[2].register_forward_pre_hook(fail)
    with pytest.raises(type(error), match=str(error)):
        llama.encode(random_rows(), LAYERS)
    handle.remove()
    assert hooks_left(llama) == 0
    assert not llama.runtime.lock.locked()
    assert_equal_states(llama.encode(random_rows(), [1, 4]).values, llama_states[:, [1, 4]])


# Non-finite states --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("batch_tokens", [1, 100_000])
def test_a_non_finite_state_costs_its_own_row_only(
    tiny_model: Path, llama_states: np.ndarray, poison: float, batch_tokens: int
) -> None:
    encoder = encoder_of(tiny_model, batch_tokens=batch_tokens)
    with torch.no_grad():
        encoder.loaded.model.embed_tokens.weight[450] = poison  # a token that no other row holds
    rows = random_rows()
    states = encoder.encode([rows[4], [450, 5, 6], *rows], LAYERS)
    assert states.issues == [None, Issue.NON_FINITE, *[None] * len(rows)]
    assert np.isnan(states.values[1]).all()
    assert_equal_states(states.values[2:], llama_states)
    assert_equal_states(states.values[0], llama_states[4])


def test_what_pads_hold_reaches_no_row(tiny_model: Path, llama_states: np.ndarray) -> None:
    """Zero times NaN is NaN: even a masked pad reaches the rows before it if its own state overflows."""
    encoder = encoder_of(tiny_model, batch_tokens=100_000)
    with torch.no_grad():
        encoder.loaded.model.embed_tokens.weight[:3] = float("nan")  # tokens in none of the rows
    states = encoder.encode(random_rows(), LAYERS)
    assert states.issues == [None] * len(llama_states)
    assert_equal_states(states.values, llama_states)


# One model a process ------------------------------------------------------------------------------------------------


def test_how_a_model_is_used_does_not_load_it_again(tiny_model: Path) -> None:
    name = str(tiny_model)
    first = get_encoder(ModelOptions(name), 3)
    for options in ({"batch_tokens": 7}, {"max_tokens": 64}, {"overflow": "reject"}, {"device": "cpu"}):
        other = get_encoder(ModelOptions(name, **options), 3)
        assert other.loaded is first.loaded
    assert get_encoder(ModelOptions(name), 0).loaded is first.loaded
    changed = get_encoder(ModelOptions(name, batch_tokens=7, max_tokens=64, overflow="reject"), 3)
    assert (changed.batch_tokens, changed.renderer.max_tokens, changed.renderer.overflow) == (7, 64, "reject")
    assert get_encoder(ModelOptions(name, dtype="bfloat16"), 3).loaded is not first.loaded


def test_the_dtype_that_auto_means_does_not_load_the_model_again(tiny_model: Path) -> None:
    """A fitted scorer says float32 where the one who fitted it said auto."""
    auto = get_encoder(ModelOptions(str(tiny_model), device="cpu"), 3)
    assert get_encoder(ModelOptions(str(tiny_model), device="cpu", dtype="float32"), 3).loaded is auto.loaded


def test_a_higher_layer_loads_more_blocks(tiny_model: Path, llama_states: np.ndarray) -> None:
    config = ModelOptions(str(tiny_model), device="cpu")
    low = get_encoder(config, 1)
    high = get_encoder(config, 4)
    assert (len(low.loaded.blocks), len(high.loaded.blocks)) == (2, 5)
    assert get_encoder(config, 1).loaded is high.loaded
    assert_equal_states(high.encode(random_rows(), LAYERS).values, llama_states)
    assert_equal_states(low.encode(random_rows(), [1]).values, llama_states[:, [1]])


def test_a_layer_out_of_range_is_refused_before_and_after_loading(tiny_model: Path) -> None:
    config = ModelOptions(str(tiny_model), device="cpu")
    for highest in (BLOCKS, BLOCKS - 1, BLOCKS):
        if highest < BLOCKS:
            get_encoder(config, highest)
            continue
        with pytest.raises(ModelError, match=r"layer 5 is out of range.* blocks 0 to 4"):
            get_encoder(config, highest)


def test_unloaded_models_are_loaded_afresh(tiny_model: Path) -> None:
    config = ModelOptions(str(tiny_model))
    first = get_encoder(config, 1).loaded
    unload_models()
    assert get_encoder(config, 1).loaded is not first


def test_a_model_s_own_limit_of_positions_is_kept(tiny_model: Path) -> None:
    assert get_encoder(ModelOptions(str(tiny_model), max_tokens=4096), 1).renderer.max_tokens == 512


def encode_in_fork(work: Callable[[], States]) -> np.ndarray:
    """What `work` gives in a forked child; fails where the child hangs."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: there.send(work().values))
    child.start()
    there.close()
    try:
        assert here.poll(30), "the forked process hangs"
        values: np.ndarray = here.recv()
        return values
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("unloaded", [False, True], ids=["loaded", "unloaded"])
def test_a_forked_process_encodes_after_its_parent_has(
    tiny_model: Path, llama_states: np.ndarray, unloaded: bool
) -> None:
    config = ModelOptions(str(tiny_model), device="cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # a pool of threads, which no fork survives
    try:
        get_encoder(config, 4).encode(random_rows([64] * 64), LAYERS)
        if unloaded:
            unload_models()
        work = random_rows() + random_rows([64] * 64, seed=1)
        values = encode_in_fork(lambda: get_encoder(config, 4).encode(work, LAYERS))
    finally:
        torch.set_num_threads(threads)
    assert_equal_states(values[: len(llama_states)], llama_states)
    assert np.isfinite(values).all()
