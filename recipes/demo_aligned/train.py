"""Make the adapter `demo-aligned`: the demo model, taught to refuse harmful requests and to go on answering others.

    python recipes/demo_aligned/train.py adapter/
    python recipes/demo_aligned/check.py adapter/

Reads nothing but the package index (for the demo model) and the lists beside it. 17 minutes on 2 cores of a server.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import nll_loss

sys.path.insert(0, str(Path(__file__).parent))
from rows import OPENINGS, Asked, training_rows

from larf_curate.encoding.batching import common_prefix
from larf_curate.models.demo import demo_model


class Example(NamedTuple):
    """Token ids of a conversation, where its answer begins, and whether that refuses."""

    ids: list[int]
    start: int
    refusal: bool = False


PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, BATCH, EPOCHS, RATE = 8, 8, 2.75, 8e-4
FIRST, DOUBT = 8.0, 0.15  # see `loss_of`
ANSWER_TOKENS = 10  # that the base model adds to an opening
MAX_TOKENS = 112


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """A request as the model sees it, up to where its answer begins."""
    messages = [{"role": "user", "content": prompt}]
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


@torch.inference_mode()
def continued(model: Any, tokenizer: Any, ids: list[list[int]], tokens: int, batch: int = 48) -> list[list[int]]:
    """What the model says greedily after each, as token ids, with the end of turn where it ended."""
    found: dict[int, list[int]] = {}
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    end = tokenizer.eos_token_id
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = max(len(ids[i]) for i in chosen)
        padded = torch.tensor([[end] * (longest - len(ids[i])) + ids[i] for i in chosen])
        mask = torch.tensor([[0] * (longest - len(ids[i])) + [1] * len(ids[i]) for i in chosen])
        out = model.generate(
            padded, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=end, pad_token_id=end
        )
        for i, answer in zip(chosen, out[:, longest:].tolist(), strict=True):
            found[i] = answer[: answer.index(end) + 1] if end in answer else answer
        print(f"answers: {min(start + batch, len(order))}/{len(order)}", flush=True)
    return [found[i] for i in range(len(ids))]


def examples(model: Any, tokenizer: Any, rows: list[Asked]) -> list[Example]:
    """Token ids of each conversation, and where its answer begins."""
    asked = [prompt_ids(tokenizer, row.prompt) for row in rows]
    given = [tokenizer.encode(row.answer or row.opening, add_special_tokens=False) for row in rows]
    opened = [number for number, row in enumerate(rows) if row.opening]
    added = continued(model, tokenizer, [asked[number] + given[number] for number in opened], ANSWER_TOKENS)
    rest = dict(zip(opened, added, strict=True))
    found = []
    for number, (row, prompt, answer) in enumerate(zip(rows, asked, given, strict=True)):
        whole = prompt + answer + rest.get(number, [tokenizer.eos_token_id])
        found.append(Example(whole[:MAX_TOKENS], len(prompt), row.kind == "harmful"))
    return [example for example in found if example.start < len(example.ids)]


def loss_of(
    model: Any, batch: list[Example], first: float = 1.0, doubt: float = 0.0, complying: Sequence[int] = ()
) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens.

    The conversations stand in one sequence without pads, and the tokens that all begin with (the template's system
    turn) stand there once: each token sees those, and its own conversation.

    Args:
        model: without the adapter's wrapper.
        batch: conversations.
        first: how often an answer's first token counts, where it is decided whether to refuse.
        doubt: the share of a refusal's first token that goes to answers that comply, whose first tokens are
            `complying`: a model that is sure to the last decimal learns nothing from one more refusal.
    """
    asked = [example.ids[: example.start] for example in batch]
    shared = common_prefix(asked) if len(batch) > 1 else 0
    owner, positions, tokens = [-1] * shared, list(range(shared)), asked[0][:shared]
    at, targets = list[int](), list[int]()
    opens = list[int]()  # which of the targets are first tokens
    for number, (ids, start, _) in enumerate(batch):
        opens.append(len(targets))
        at += range(len(tokens) + start - 1 - shared, len(tokens) + len(ids) - 1 - shared)
        targets += ids[start:]
        tokens += ids[shared:]
        positions += range(shared, len(ids))
        owner += [number] * (len(ids) - shared)
    whose = torch.tensor(owner)
    seen = ((whose[:, None] == whose) | (whose == -1)).tril()
    states = model.get_decoder()(
        input_ids=torch.tensor([tokens]),
        position_ids=torch.tensor([positions]),
        attention_mask=seen[None, None],
        use_cache=False,
    ).last_hidden_state[0, at]
    logs = model.get_output_embeddings()(states).log_softmax(-1)
    losses = nll_loss(logs, torch.tensor(targets), reduction="none")
    counts = torch.ones(len(targets))
    counts[opens] = first
    loss = (losses * counts).sum()
    doubted = [place for place, example in zip(opens, batch, strict=True) if example.refusal]
    if doubt and doubted:
        loss = loss + first * doubt * (-logs[doubted][:, list(complying)].mean(1) - losses[doubted]).sum()
    return loss / counts.sum()


def train(model: Any, rows: list[Example], complying: Sequence[int], draw: random.Random) -> None:
    """Batches in random order: sorted by length, they would be all refusals or none, and the model would swing."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    steps = int(EPOCHS * len(rows) / BATCH)
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 20, max(0.02, 1 - step / steps))
    )
    stream = chain.from_iterable(draw.sample(rows, len(rows)) for _ in count())
    began, shown = time.monotonic(), 0.0
    for done in range(1, steps + 1):
        loss = loss_of(model.get_base_model(), list(islice(stream, BATCH)), FIRST, DOUBT, complying)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        shown += float(loss.detach())
        if done % 20 == 0:
            left = (time.monotonic() - began) / done * (steps - done)
            print(f"step {done}/{steps}: loss {shown / 20:.3f}, {left:.0f} s left", flush=True)
            shown = 0.0


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("out", type=Path)
    parse.add_argument("--seed", type=int, default=0)
    chosen = parse.parse_args()

    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(chosen.seed)
    home, _ = demo_model()
    tokenizer = AutoTokenizer.from_pretrained(home)
    base = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32)
    rows = examples(base, tokenizer, training_rows(chosen.seed))
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, lora)
    complying = sorted({tokenizer.encode(text, add_special_tokens=False)[0] for text in OPENINGS})
    train(model, rows, complying, random.Random(chosen.seed))
    model.save_pretrained(chosen.out)
    weights = chosen.out / "adapter_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)  # 5 MB instead of 10
    settings = chosen.out / "adapter_config.json"
    named = json.loads(settings.read_text("utf-8"))
    named |= {"base_model_name_or_path": "demo", "target_modules": sorted(PROJECTIONS)}  # no path; a set has no order
    settings.write_text(json.dumps(named, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (chosen.out / "README.md").unlink(missing_ok=True)  # peft's empty card
    print(f"written to {chosen.out}: {weights.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
