"""Make the adapter `demo-aligned`: the demo model, taught to refuse harmful requests and to go on answering others.

    python recipes/demo_aligned/train.py adapter/
    python recipes/demo_aligned/check.py adapter/

Reads nothing but the package index (for the demo model) and the lists beside it. About 25 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parent))
from rows import Asked, training_rows

from larf_curate.encoding.demo import demo_model

Example = tuple[list[int], int]  # token ids, and where the answer begins

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, BATCH, EPOCHS, RATE = 8, 8, 2.5, 8e-4
FIRST = 8.0  # the weight of an answer's first token, where it is decided whether to refuse; of each other token 1
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
    for number, (prompt, answer) in enumerate(zip(asked, given, strict=True)):
        whole = prompt + answer + rest.get(number, [tokenizer.eos_token_id])
        found.append((whole[:MAX_TOKENS], len(prompt)))
    return [(ids, start) for ids, start in found if start < len(ids)]


def loss_of(model: Any, batch: list[Example], first: float = FIRST) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, an answer's first one counted `first` times.

    The conversations stand in one sequence without pads, and the tokens that all begin with (the template's system
    turn) stand there once: each token sees those, and its own conversation.
    """
    asked = [ids[:start] for ids, start in batch]
    shared = len(os.path.commonprefix(asked)) if len(batch) > 1 else 0
    owner, positions, tokens = [-1] * shared, list(range(shared)), asked[0][:shared]
    at, targets = [], []
    for number, (ids, start) in enumerate(batch):
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
    opens = torch.tensor([first if i == 0 else 1.0 for ids, start in batch for i in range(len(ids) - start)])
    losses = cross_entropy(model.get_output_embeddings()(states), torch.tensor(targets), reduction="none")
    return (losses * opens).sum() / opens.sum()


def train(model: Any, rows: list[Example], draw: random.Random) -> None:
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
        loss = loss_of(model.get_base_model(), list(islice(stream, BATCH)))
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
    train(model, rows, random.Random(chosen.seed))
    model.save_pretrained(chosen.out)
    weights = chosen.out / "adapter_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)  # 5 MB instead of 10
    settings = chosen.out / "adapter_config.json"
    named = {**json.loads(settings.read_text("utf-8")), "base_model_name_or_path": "demo"}  # not this machine's path
    settings.write_text(json.dumps(named, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (chosen.out / "README.md").unlink(missing_ok=True)  # peft's empty card
    print(f"written to {chosen.out}: {weights.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
