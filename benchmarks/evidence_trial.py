"""The model, rows and requests of `evidence.py`: what is trained, and what is asked."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from larf_curate import LarfError, LARFScorer
from larf_curate.answering.prompts import harmful_requests, over_rejection_prompts
from larf_curate.encoding.encoder import get_encoder
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.rows.formats import columns_of, resolve_format
from larf_curate.rows.trained_tokens import TrainedTokens, trained_tokens
from larf_curate.rows.turns import Conversation
from larf_curate.rows.wording import refuses
from larf_curate.scoring.margin import find_refusals, opening_odds
from larf_curate.validation.remedies.forget_filter import least_forgotten, safe_answers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "recipes" / "demo_aligned"))

ROWS = 64  # of an arm
HELD_BACK = 48  # rows that usefulness is measured on
REMOVED = 0.2  # the share of the rows that a filter takes out
LAYER = 16  # of LARF and of the subspace formula
SAFETY_BLOCKS = range(7, 12)  # the best block of the search, 9, and two on each side
EPOCHS, BATCH, LEARNING_RATE, WARM_UP = 3, 8, 4e-4, 0.1
ANSWER_TOKENS = 24
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Answered:
    """What a model said.

    Attributes:
        odds: for each request, the log-odds that its answer begins with a refusal's first token.
        texts: the answers.
    """

    odds: list[float]
    texts: list[str]

    @property
    def refused(self) -> list[bool]:
        """For each answer, whether it refuses, by its wording."""
        return [refuses(text) for text in self.texts]


class Trial:
    """One model, the rows that it is trained on, the requests that it is asked, and the scores of the rows."""

    def __init__(self, file: Path) -> None:
        self.encoder = get_encoder(ModelOptions("demo-aligned"), None)
        self.loaded = self.encoder.loaded
        self.model: Any = self.loaded.model
        self.untrained = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        cpu = torch.device("cpu")
        self.unaligned = dict(load_model(ModelOptions("demo"), None, cpu).model.named_parameters())
        self.refusals = find_refusals(self.encoder, harmful_requests())
        self.harmful = [self.encoder.renderer.render_prompt(text) for text in held_out_requests()]
        self.harmless = [self.encoder.renderer.render_prompt(text) for text in over_rejection_prompts()[:48]]
        self._read(file)
        order = np.random.default_rng(7).permutation(len(self.rows)).tolist()
        self.held_back, self.pool = order[:HELD_BACK], order[HELD_BACK:]
        self._score()

    def _read(self, file: Path) -> None:
        """Keep rows of 4 to 192 trained tokens, so that an arm of them takes minutes."""
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        row_format = resolve_format("auto", columns_of(lines))
        self.rows: list[TrainedTokens] = []
        self.conversations: list[Conversation] = []
        self.lines: list[Mapping[str, Any]] = []
        for line in lines:
            try:
                conversation = row_format.convert(line)
                tokens = trained_tokens(self.encoder.renderer, conversation)
            except LarfError:
                continue
            if 4 <= tokens.count <= 192 and len(tokens.ids) <= 320:
                self.rows.append(tokens)
                self.conversations.append(conversation)
                self.lines.append(line)
        self.lengths = np.array([row.count for row in self.rows])

    def _score(self) -> None:
        influence = LARFScorer.fit("demo-aligned", formula="influence").annotate(self.lines)
        assert influence.summed is not None
        larf = LARFScorer.fit("demo-aligned", LAYER).score(self.lines)
        subspace = LARFScorer.fit("demo-aligned", LAYER, formula="subspace").score(self.lines)
        self.scores = {
            "influence per token": influence.score.astype(float),
            "influence summed": influence.summed.astype(float),
            f"LARF block {LAYER}": larf.astype(float),
            f"subspace block {LAYER}": subspace.astype(float),
        }

    def matched(self, rows: Sequence[int], seed: int) -> list[int]:
        """For each row another one out of the four that are nearest in trained tokens, none twice."""
        draw = np.random.default_rng(200 + seed)
        free = set(range(len(self.rows))) - set(rows)
        chosen = []
        for row in draw.permutation(rows):
            nearest = sorted(free, key=lambda other: (abs(int(self.lengths[other] - self.lengths[row])), draw.random()))
            chosen.append(int(draw.choice(nearest[:4])))
            free.discard(chosen[-1])
        return chosen

    def drawn(self, seed: int, without: Collection[int] = ()) -> list[int]:
        """Rows at random out of those that are not held back; a seed draws the same ones whatever is left out."""
        order = np.random.default_rng(300 + seed).permutation(self.pool).tolist()
        return [row for row in order if row not in without][:ROWS]

    def first_fifth(self, scores: np.ndarray) -> set[int]:
        """What a filter takes out of the rows that are not held back."""
        return set(sorted(self.pool, key=lambda row: -scores[row])[: round(REMOVED * len(self.pool))])

    def train(self, rows: Sequence[TrainedTokens], seed: int, frozen: Collection[int] = ()) -> Any:
        """A LoRA adapter on all projections, but for those of frozen blocks."""
        torch.manual_seed(seed)
        tuned = get_peft_model(
            self.model, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=PROJECTIONS)
        )
        for name, weight in tuned.named_parameters():
            if any(f"layers.{block}." in name for block in frozen):
                weight.requires_grad_(False)
        return self.train_on(tuned, rows, seed)

    def train_on(self, tuned: Any, rows: Sequence[TrainedTokens], seed: int) -> Any:
        """Go on with an adapter; rows of like length share a step."""
        tuned.train()
        draw = random.Random(seed)
        optimizer = torch.optim.AdamW(
            [w for w in tuned.parameters() if w.requires_grad], lr=LEARNING_RATE, weight_decay=0
        )
        step, warm_up = 0, max(1, WARM_UP * (EPOCHS * len(rows) // BATCH))
        for _ in range(EPOCHS):
            order = list(rows)
            draw.shuffle(order)
            quarter = 4 * BATCH
            near = [sorted(order[i : i + quarter], key=lambda row: len(row.ids)) for i in range(0, len(order), quarter)]
            order = [row for part in near for row in part]
            batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
            draw.shuffle(batches)
            for batch in batches:
                step += 1
                for group in optimizer.param_groups:
                    group["lr"] = LEARNING_RATE * min(1, step / warm_up)
                with torch.autocast("cpu", torch.bfloat16):
                    loss = tuned(**padded(batch), use_cache=False).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        return tuned.eval()

    @torch.inference_mode()
    def ask(self, model: Any, requests: Sequence[Sequence[int]]) -> Answered:
        """Greedy answers of a few tokens, which show whether a request is refused."""
        tokenizer = self.loaded.tokenizer
        odds: list[float] = []
        texts: list[str] = []
        for start in range(0, len(requests), 20):
            part = requests[start : start + 20]
            width = max(map(len, part))
            pad = tokenizer.pad_token_id or 0
            answers = model.generate(
                input_ids=torch.tensor([[pad] * (width - len(ids)) + list(ids) for ids in part]),
                attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in part]),
                max_new_tokens=ANSWER_TOKENS,
                do_sample=False,
                pad_token_id=pad,
                return_dict_in_generate=True,
                output_logits=True,
            )
            odds += opening_odds(answers.logits[0].double(), self.refusals).tolist()
            texts += [tokenizer.decode(ids[width:], skip_special_tokens=True) for ids in answers.sequences]
        return Answered(odds, texts)

    @torch.inference_mode()
    def losses(self, model: Any, rows: Sequence[int]) -> list[float]:
        """The mean loss of each row's trained tokens."""
        found = []
        for row in (self.rows[number] for number in rows):
            ids, trained = torch.tensor([row.ids]), torch.tensor(row.trained)[1:]
            found.append(float(cross_entropy(model(input_ids=ids).logits[0, :-1][trained], ids[0, 1:][trained])))
        return found

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        """Put the model's own weights back in the end, whatever was done to them."""
        try:
            yield
        finally:
            if hasattr(self.model, "unload"):
                self.model = self.model.unload()
            with torch.no_grad():
                for name, weight in self.model.named_parameters():
                    weight.copy_(self.untrained[name])
                    weight.requires_grad_(False)

    @cached_property
    def forgotten(self) -> set[int]:
        """The fifth that ForgetFilter takes out: trained on all rows, then on refusals, their loss rose most."""
        renderer = self.encoder.renderer
        refusals = [
            trained_tokens(
                renderer, Conversation(({"role": "user", "content": asked}, {"role": "assistant", "content": said}), ())
            )
            for asked, said in safe_answers()
        ]
        with self.as_it_was():
            self.model = self.train([self.rows[row] for row in self.pool], 0)
            before = self.losses(self.model, self.pool)
            after = self.losses(self.train_on(self.model, refusals, 0), self.pool)
        stay = least_forgotten(before, after, round(REMOVED * len(self.pool)))
        return set(self.pool) - {self.pool[place] for place in stay}


def padded(rows: Sequence[TrainedTokens]) -> dict[str, torch.Tensor]:
    """Token ids, attention mask and labels of a batch, filled up on the right."""
    width = max(len(row.ids) for row in rows)
    labels = [[token if trained else -100 for token, trained in zip(row.ids, row.trained, strict=True)] for row in rows]
    return {
        "input_ids": torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows]),
        "labels": torch.tensor([[*row, *[-100] * (width - len(row))] for row in labels]),
    }


def held_out_requests() -> list[str]:
    """120 harmful requests that no part of this project was made with: not the model, not a score.

    Of the acts that were held out of the model's training, each in the second of its wordings, which is of a form that
    was held out too; the held-back references' requests; and those of `evidence_requests.txt`.
    """
    from rows import held_out_rows

    texts = [row.prompt for row in held_out_rows() if row.kind == "harmful"]
    own = (HERE / "evidence_requests.txt").read_text(encoding="utf-8").splitlines()
    return texts[1:84:2] + texts[84:] + own
