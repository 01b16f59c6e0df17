"""Answers with one block scaled are those of a scaled copy that answers one prompt at a time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.architectures import make_from
from support.models import SIZES, WIDE, make_model, make_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    Phi3Config,
    Qwen3MoeConfig,
)

from larf_curate.answering.generating import Answerer
from larf_curate.answering.scaling import RowFactors, scaled, scaled_by_row
from larf_curate.errors import ModelError
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions

BLOCKS = 3
SMALL = {**SIZES, "num_hidden_layers": BLOCKS}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SMALL),
    "gemma2": Gemma2Config(**SMALL, sliding_window=256, query_pre_attn_scalar=12),
    "gemma3": Gemma3TextConfig(**SMALL, sliding_window=256, query_pre_attn_scalar=12),
    "gemma3, short window": Gemma3TextConfig(**SMALL, sliding_window=16, query_pre_attn_scalar=12),
    "phi3": Phi3Config(**SMALL, pad_token_id=0),
    "gpt2": GPT2Config(vocab_size=512, n_embd=48, n_layer=BLOCKS, n_head=4, n_positions=512),
    "qwen3 moe": Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
    "mamba": MambaConfig(vocab_size=512, hidden_size=48, num_hidden_layers=5, state_size=8),  # fewer forget the prompt
}
WORDS = ("How do I kill time while seven wizards judge my quick brown fox at the lazy boxing match of bread").split()  # noqa: SIM905
PROMPTS = [f"{' '.join(WORDS[: 3 + n])}{'?' * (n % 3)}" for n in (0, 4, 7, 11)]
TOKENS = 5
PLAIN = ("mamba", "gemma3, short window")
"""Their shortcuts would not be exact: a state that is no list of keys and values, a window narrower than a prompt."""


EDGES = ("llama", "gemma2", "gemma3, short window", "qwen3 moe")
"""Asked with their first and last block scaled too: one for each way to answer, and one whose blocks are not alike."""
SCALED = [
    (name, block, scale)
    for name in CONFIGS
    for block, scale in ((None, 1.0), (0, 0.7), (1, 1.3), (2, 0.8))
    if block in (None, 1) or name in EDGES
]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> LoadedModel:
    """For all tests that leave it as it is."""
    return load_model(ModelOptions(str(tiny_model), device="cpu"), None, torch.device("cpu"))


@pytest.fixture(scope="module")
def architecture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """The name of an architecture, and a random model of it: its directory, and transformers' own."""
    home = tmp_path_factory.mktemp("model")
    return request.param, home, make_from(CONFIGS[request.param], home)


@pytest.fixture(scope="module")
def loaded(architecture: tuple[str, Path, Any]) -> LoadedModel:
    return load_model(ModelOptions(str(architecture[1]), device="cpu"), None, torch.device("cpu"))


@pytest.fixture(scope="module")
def answerer(loaded: LoadedModel) -> Answerer:
    """One for all blocks and factors, as in a search."""
    return Answerer(loaded, prompt_ids(loaded.tokenizer), TOKENS)


def prompt_ids(tokenizer: Any) -> list[list[int]]:
    turns = [
        [{"role": "system", "content": "You are a fox."}, {"role": "user", "content": prompt}] for prompt in PROMPTS
    ]
    return [tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False) for turn in turns]


def assert_plain_answers(
    plain_model: Any, block: int | None, scale: float, ids: list[list[int]], answers: list[list[int]], ends: set[int]
) -> None:
    """That each answer is the plain way's: of a copy of the model, its weights multiplied, for one prompt at a time.

    Each token is the likeliest behind all before it, up to one that ends the answer. One pass over a prompt and its
    answer says so, with no keys and values kept from one token to the next.
    """
    model = copy.deepcopy(plain_model)
    if block is not None:
        count = model.config.num_hidden_layers
        blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count)
        for name, parameter in blocks[block].named_parameters():
            if parameter.ndim >= 2 and "mlp.gate.weight" not in name:
                parameter.data.mul_(scale)
    for prompt, answer in zip(ids, answers, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 :]
        greedy = logits.argmax(-1).tolist()
        ended = next((at for at, token in enumerate(greedy) if token in ends), TOKENS)
        assert answer == greedy[: min(ended, TOKENS)]


@pytest.mark.parametrize(("architecture", "block", "scale"), SCALED, indirect=["architecture"])
@pytest.mark.slow
def test_answers_are_those_of_the_plain_way(
    architecture: tuple[str, Path, Any],
    loaded: LoadedModel,
    answerer: Answerer,
    block: int | None,
    scale: float,
) -> None:
    name, home, plain_model = architecture
    ids = prompt_ids(loaded.tokenizer)
    assert answerer.reuse == (name not in PLAIN)
    assert answerer.by_row == (name not in (*PLAIN, "qwen3 moe")), "experts see tokens of all rows in one heap"
    # The end of a turn in the template, and of a text as the architecture has it.
    ends = {loaded.tokenizer.convert_tokens_to_ids("<|im_end|>"), AutoConfig.from_pretrained(home).eos_token_id}
    if block is None:
        answers = answerer.answers()
        assert_plain_answers(plain_model, None, 1.0, ids, answers, ends)
        assert len({tuple(row) for row in answers}) > 1, "prompts that all get one answer would prove nothing"
    else:
        asked, other = [[(number, factor) for number in range(len(ids))] for factor in (scale, 1.2)]
        answers = answerer.scaled_answers(block, asked)
        assert_plain_answers(plain_model, block, scale, ids, answers, ends)
        if answerer.reuse:  # the same beside answers with another factor
            both = answerer.scaled_answers(block, [pair for pairs in zip(other, asked, strict=True) for pair in pairs])
            assert both[1::2] == answers
            assert_plain_answers(plain_model, block, 1.2, ids, both[::2], ends)


@pytest.mark.parametrize("adapter", [False, True], ids=["no adapter", "adapter"])
@pytest.mark.parametrize("dtype", ["int8", "nf4"])
@pytest.mark.slow
def test_quantised_layers_are_scaled_like_the_weights_they_stand_for(
    wide_model: Path, tmp_path: Path, dtype: Any, adapter: bool
) -> None:
    """Beside them an adapter has two factors, whose product is to be scaled once."""
    home = wide_model
    if adapter:
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(wide_model, dtype=torch.float32), config)
        adapted.save_pretrained(home := tmp_path)
    loaded = load_model(ModelOptions(str(home), dtype=dtype), None, torch.device("cpu"))
    block = loaded.blocks[2]
    layers = {name: getattr(block.mlp, name) for name in ("up_proj", "down_proj")} | {"q_proj": block.self_attn.q_proj}
    states = {name: torch.randn(3, layer.in_features) for name, layer in layers.items()}
    before = {name: parameter.clone() for name, parameter in block.named_parameters()}
    with torch.inference_mode():
        plain = {name: layer(states[name]) for name, layer in layers.items()}
        with scaled(block, 1.3):
            for name, layer in layers.items():
                torch.testing.assert_close(layer(states[name]), plain[name] * 1.3)
        for name, layer in layers.items():
            torch.testing.assert_close(layer(states[name]), plain[name])
    assert all(torch.equal(parameter, before[name]) for name, parameter in block.named_parameters())
    answerer = Answerer(loaded, prompt_ids(loaded.tokenizer)[:2], TOKENS)
    unscaled = answerer.answers()
    halved = [(number, 0.5) for number in range(len(unscaled))]
    assert answerer.by_row
    by_row = answerer.scaled_answers(2, halved)
    assert by_row != unscaled
    assert answerer.answers() == unscaled
    answerer.by_row = False
    assert answerer.scaled_answers(2, halved) == by_row


def test_a_bias_is_not_scaled_with_quantised_weights(wide_model: Path, tmp_path: Path) -> None:
    make_model(tmp_path, LlamaConfig(**WIDE, attention_bias=True))
    loaded = load_model(ModelOptions(str(tmp_path), dtype="nf4"), 1, torch.device("cpu"))
    layer = loaded.blocks[1].self_attn.q_proj
    states = torch.randn(3, layer.in_features)
    with torch.inference_mode():
        product = layer(states) - layer.bias
        with scaled(loaded.blocks[1], 0.8):
            torch.testing.assert_close(layer(states), product * 0.8 + layer.bias)


@pytest.mark.parametrize("name", ["router", "mlp.gate"])
def test_the_router_of_a_mixture_of_experts_is_not_scaled(name: str) -> None:
    """Which experts run would change with it, and by more than the experts do."""
    block, states = torch.nn.Module(), torch.randn(2, 3, 4)
    block.up_proj, block.mlp = torch.nn.Linear(4, 4), torch.nn.Module()
    block.get_submodule(name.rpartition(".")[0]).add_module(name.rpartition(".")[2], torch.nn.Linear(4, 2))
    layers = [block.up_proj, block.get_submodule(name)]
    plain = [layer(states) for layer in layers]
    bias, factors = block.up_proj.bias, RowFactors()
    factors.values = torch.tensor([1.5, 1.5])
    for scaling in (scaled(block, 1.5), scaled_by_row(block, factors)):
        with scaling:
            torch.testing.assert_close(layers[0](states), (plain[0] - bias) * 1.5 + bias)
            torch.testing.assert_close(layers[1](states), plain[1])


def test_a_block_without_weights_that_are_known_is_not_searched() -> None:
    """Such as one of GPTQ's, whose codes are no parameters: all of its answers would be the unscaled model's."""
    with pytest.raises(ModelError, match="in a form that the search cannot scale"), scaled(torch.nn.LayerNorm(4), 1.1):
        pass


def test_an_answer_ends_when_it_has_been_seen_enough_of(tiny: LoadedModel) -> None:
    answerer = Answerer(tiny, prompt_ids(tiny.tokenizer), TOKENS)
    whole = answerer.answers()
    seen: list[int] = []

    def stop(number: int, answer: list[int]) -> bool:
        seen.append(number)
        return len(answer) == 1 + number % 5

    assert answerer.answers(stop) == [row[: 1 + n % 5] for n, row in enumerate(whole)]
    assert len(seen) == sum(min(len(row), 1 + n % 5) for n, row in enumerate(whole)), "nothing is decoded after its end"


@pytest.mark.parametrize("by_row", [True, False])
def test_answers_with_several_factors_end_each_at_its_own_place(tiny: LoadedModel, by_row: bool) -> None:
    """Those that are left move up in the batch, and keep their factors."""
    answerer = Answerer(tiny, prompt_ids(tiny.tokenizer), TOKENS)
    answerer.by_row = by_row
    asked = [(number, factor) for number in range(len(PROMPTS)) for factor in (0.4, 1.0, 2.5)]
    whole = answerer.scaled_answers(2, asked)
    assert len({tuple(whole[at]) for at in range(3)}) == 3, "factors that all give one answer would prove nothing"
    found = answerer.scaled_answers(2, asked, lambda place, answer: len(answer) == 1 + place % 5)
    assert found == [row[: 1 + n % 5] for n, row in enumerate(whole)]


def test_many_prompts_of_many_lengths_get_the_answers_that_a_few_get(tiny: LoadedModel) -> None:
    """They are read in parts, each padded to its own longest, and answered as one batch."""
    turns = [[{"role": "user", "content": f"Item {number}? " * (1 + number % 9)}] for number in range(36)]
    ids = tiny.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    answerer = Answerer(tiny, ids, TOKENS)
    asked = [(number, 0.5 + number % 3) for number in range(len(ids))]
    few = [answer for at in range(0, 36, 6) for answer in answerer.scaled_answers(3, asked[at : at + 6])]
    assert answerer.scaled_answers(3, asked) == few
    assert len({tuple(answer) for answer in few}) > 9, "prompts that all get one answer would prove nothing"


def test_a_window_that_an_answer_outgrows_is_known_from_the_config(tmp_path: Path) -> None:
    """Prompts alone are within it, so that trying their next tokens would not show it."""
    make_tokenizer(tmp_path)
    ids = prompt_ids(AutoTokenizer.from_pretrained(tmp_path))
    config = Gemma3TextConfig(**SIZES, sliding_window=max(map(len, ids)) + 1, query_pre_attn_scalar=12)
    loaded = load_model(ModelOptions(str(make_model(tmp_path, config))), None, torch.device("cpu"))
    answers = Answerer(loaded, ids, 8).answers()
    assert answers == Answerer(loaded, ids, 8, reuse=False).answers()


@pytest.mark.parametrize("reuse", [True, False])
def test_an_answer_ends_before_any_token_that_ends_one(tiny_model: Path, reuse: bool) -> None:
    """That is the tokenizer's, or one of those that the model's generation config names: Llama 3 has several."""
    loaded = load_model(ModelOptions(str(tiny_model), device="cpu"), None, torch.device("cpu"))
    ids = prompt_ids(loaded.tokenizer)[:3]
    whole = Answerer(loaded, ids, TOKENS, reuse=reuse).answers()
    first, second, third = whole[0][2], whole[1][1], whole[2][3]
    for configured, of_tokenizer in ((first, second), ([first, second], third), (None, third)):
        loaded.model.generation_config.eos_token_id, loaded.tokenizer.eos_token_id = configured, of_tokenizer
        ends = {of_tokenizer, *(configured if isinstance(configured, list) else [configured])}
        wanted = [row[: min([at for at, token in enumerate(row) if token in ends], default=TOKENS)] for row in whole]
        assert Answerer(loaded, ids, TOKENS, reuse=reuse).answers() == wanted
        assert wanted != whole


@pytest.mark.parametrize("reuse", [True, False])
def test_answers_are_greedy_whatever_the_model_s_generation_config_asks_for(tiny: LoadedModel, reuse: bool) -> None:
    """Models are published with settings for chats: samples, penalties, beams."""
    ids = prompt_ids(tiny.tokenizer)[:2]
    whole = Answerer(tiny, ids, TOKENS, reuse=reuse).answers()
    likeliest = whole[0][0]
    for name, value in (
        ("do_sample", True),
        ("repetition_penalty", 50.0),
        ("num_beams", 3),
        ("no_repeat_ngram_size", 1),
        ("encoder_no_repeat_ngram_size", 1),
        ("suppress_tokens", [likeliest]),
        ("begin_suppress_tokens", [likeliest]),
        ("bad_words_ids", [[likeliest]]),
        ("forced_eos_token_id", 7),
        ("min_new_tokens", TOKENS),
        ("max_length", 3),
        ("return_dict_in_generate", True),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiny.model.generation_config, name, value)
            assert Answerer(tiny, ids, TOKENS, reuse=reuse).answers() == whole, name


def test_first_logits_come_in_the_order_of_the_prompts(tiny: LoadedModel) -> None:
    """Prompts are read sorted by length."""
    ids = prompt_ids(tiny.tokenizer)[::-1]
    seen: list[torch.Tensor] = []
    Answerer(tiny, ids, 1).answers(first_logits=seen.append)
    with torch.inference_mode():
        alone = [tiny.model(torch.tensor([prompt]), use_cache=False).logits[0, -1] for prompt in ids]
    torch.testing.assert_close(seen[0], torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_what_lies_below_a_block_is_not_run_again(tiny: LoadedModel) -> None:
    ids = prompt_ids(tiny.tokenizer)
    answerer = Answerer(tiny, ids, 1)  # one token comes out of reading the prompts alone
    rows: list[tuple[int, int]] = []
    hooks = [
        block.register_forward_hook(
            lambda _m, _a, out, number=number: rows.append((number, out.shape[0] * out.shape[1]))
        )
        for number, block in enumerate(tiny.blocks)
    ]
    answerer.scaled_answers(3, [(number, 1.1) for number in range(len(ids))])
    for hook in hooks:
        hook.remove()
    assert {number for number, _ in rows} == {3, 4}
    shared = len(ids[0]) - len(prompt_own(ids)[0])
    assert shared > 5
    own = len(ids) * max(map(len, prompt_own(ids)))
    assert sum(tokens for number, tokens in rows if number == 4) == shared + own, "the shared prefix is read once"


def prompt_own(ids: list[list[int]]) -> list[list[int]]:
    at = next(i for i in range(min(map(len, ids))) if len({row[i] for row in ids}) > 1)
    return [row[at:] for row in ids]


@pytest.mark.parametrize("how", ["no error", "error", "interrupted", "interrupted while restoring"])
def test_weights_are_the_same_bytes_afterwards(tiny: LoadedModel, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = copy.deepcopy(tiny.blocks[2])
    before = {name: parameter.clone() for name, parameter in block.named_parameters()}
    places = {name: parameter.data_ptr() for name, parameter in block.named_parameters()}
    raised = {"no error": None, "error": RuntimeError, "interrupted": KeyboardInterrupt}.get(how, KeyboardInterrupt)

    def work() -> None:
        with scaled(block, 1.3):
            for name, parameter in block.named_parameters():
                assert torch.equal(parameter, before[name] * (1.3 if parameter.ndim > 1 else 1.0)), name
            if how == "interrupted while restoring":
                import builtins

                once = iter([KeyboardInterrupt])
                real = zip

                def interrupting(*parts: Any, **options: Any) -> Any:
                    for fault in once:
                        raise fault
                    return real(*parts, **options)

                monkeypatch.setattr(builtins, "zip", interrupting)
            elif raised is not None:
                raise raised

    if raised is None:
        work()
    else:
        with pytest.raises(raised):
            work()
    for name, parameter in block.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.data_ptr() == places[name]
