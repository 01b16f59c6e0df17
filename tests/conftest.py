"""Models and scorers that tests share: tiny random ones built from a config, and the embedded demo model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog while seven wizards judge the boxing match.",
    "Sure, here is how to bake bread: mix flour, water, salt and yeast; wait; bake it hot.",
    "I'm sorry, but I can't help with that. As an AI, I don't have access to the data you need.",
    '1. First item\n2. Second item\n- a bullet\n{"name": "search", "arguments": {"q": 1}}',
    "system user assistant tool question answer instruction response output input",
]


def make_tokenizer(directory: Path, template: str | None = CHATML) -> None:
    """A byte-level BPE trained on a few sentences: any text has tokens, and no network is needed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=special[0], eos_token=special[2], pad_token=special[0]
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)


SIZES = {
    "vocab_size": 512,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 512,
}


WIDE = {**SIZES, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
"""Multiples of the 64 weights that share a scale in nf4."""


def make_model(directory: Path, config: object | None = None, template: str | None = CHATML, seed: int = 0) -> Path:
    """A random model of the config's architecture (Llama by default), saved with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config or LlamaConfig(**SIZES), dtype=torch.float32)
    for parameter in model.parameters():  # norms too, so that a final norm applied by accident shows
        torch.nn.init.normal_(parameter, mean=0.0 if parameter.ndim > 1 else 1.0, std=0.2)
    model.save_pretrained(directory)
    make_tokenizer(directory, template)
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random 5-block Llama of hidden size 48."""
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in sizes that can be quantised to 4 bits; skips where bitsandbytes is not installed."""
    pytest.importorskip("bitsandbytes", reason="8 and 4 bits need larf-curate[quant]")
    from transformers import LlamaConfig

    return make_model(tmp_path_factory.mktemp("wide"), LlamaConfig(**WIDE))


@pytest.fixture(scope="session")
def references_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short pairs in one JSONL file, so that fitting a tiny model takes no time."""
    import json

    path = tmp_path_factory.mktemp("references") / "pairs.jsonl"
    topics = ["a lock", "a bank", "a rumour", "a letter", "a badge", "a diploma", "a vote", "a camera"]
    rows = [
        {
            "request": f"How do I fake {topic}?",
            "unsafe": f"Sure, plan {topic} well and do it.",
            "safe": f"I can't help fake {topic} at all.",
        }
        for topic in topics
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def tiny_scorer(tiny_model: Path, references_file: Path):
    """A scorer fitted on the tiny model at blocks 1 and 3."""
    from larf_curate import LARFScorer

    return LARFScorer.fit(str(tiny_model), [1, 3], references=references_file)


@pytest.fixture(scope="session")
def demo_scorer():
    """The packaged references on the embedded demo model at the recommended block: about a minute, once."""
    from larf_curate import LARFScorer
    from larf_curate.cli import DEMO_LAYER

    return LARFScorer.fit("demo", DEMO_LAYER)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A Hub on loopback. Run its client in a subprocess: the client reads its settings when it is imported."""
    from loopback_hub import serve

    with serve() as server:
        yield server


@pytest.fixture
def hub_environment(hub, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The environment of a client of `hub`, with an empty cache; `token=None` for none."""

    def environment(token: str | None = "hf_good") -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        extra = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        return {**plain, **extra, **({"HF_TOKEN": token} if token else {})}

    return environment


@pytest.fixture
def make_run(tmp_path: Path):
    """See `made_runs.run_maker`."""
    from made_runs import run_maker

    return run_maker(tmp_path)


@pytest.fixture
def plain_run(make_run):
    from made_runs import sample_rows

    return make_run(*sample_rows())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest last: whatever else is wrong shows first."""
    items.sort(key=lambda item: item.name == "test_the_demo")
