"""The layer search beside the plain way, in one run: seconds an answer, ratio, and whether the verdicts agree.

    python benchmarks/layers.py                          # demo-aligned, a part of the search on both sides
    python benchmarks/layers.py --blocks 0,7,14,21,29 --prompts 128 --plain 64

The plain way is the authors': a copy of the model with one block's weights multiplied, one prompt at a time, all 32
tokens, greedily. It runs on a sample, and is extrapolated to as many answers as ours gave; our time includes reading
the prompts once and all checks of the shortcuts.
"""

from __future__ import annotations

import argparse
import copy
import random
import time

import torch

from larf_curate.answering.generating import Answerer
from larf_curate.answering.prompts import over_rejection_prompts
from larf_curate.models.devices import find_device
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions
from larf_curate.rows.rendering import Renderer
from larf_curate.rows.wording import refuses, settled
from larf_curate.scoring.layer_search.elimination import look_sizes
from larf_curate.scoring.layer_search.profile import SCALES

TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo-aligned")
    parser.add_argument("--blocks", default="4,14,24")
    parser.add_argument("--prompts", type=int, default=110)
    parser.add_argument("--plain", type=int, default=36, help="answers of the plain way")
    options = parser.parse_args()
    config = ModelOptions(options.model)
    loaded = load_model(config, None, find_device(None))
    renderer = Renderer(loaded.tokenizer, 4096)
    ids = [renderer.render_prompt(prompt) for prompt in over_rejection_prompts()[: options.prompts]]
    blocks = [int(block) for block in options.blocks.split(",")]
    runs = [(block, scale) for block in blocks for scale in SCALES]

    began = time.perf_counter()
    answerer = Answerer(loaded, ids, TOKENS)
    ours: dict[tuple[int, float, int], bool] = {}

    def is_settled(_: int, answer: list[int]) -> bool:
        return settled(answerer.text(answer)) is not None

    size = look_sizes(len(ids))[0]  # as many prompts of a block as the search asks between two looks
    for block in blocks:
        for start in range(0, len(ids), size):
            asked = [(number, scale) for scale in SCALES for number in range(start, min(start + size, len(ids)))]
            for (number, scale), answer in zip(asked, answerer.scaled_answers(block, asked, is_settled), strict=True):
                ours[block, scale, number] = refuses(answerer.text(answer))
    reused = (time.perf_counter() - began) / (len(runs) * len(ids))

    draw, agree, spent = random.Random(0), 0, 0.0
    sample = [(run, draw.randrange(len(ids))) for run in draw.choices(runs, k=options.plain)]
    for (block, scale), number in sample:
        model = copy.deepcopy(loaded.model)
        for name, parameter in find(model, loaded, block).named_parameters():
            if name.endswith("proj.weight"):
                parameter.data.mul_(scale)
        began = time.perf_counter()  # the copy is not counted: it serves all prompts of a run
        row = torch.tensor([ids[number]], device=loaded.device)
        out = model.generate(
            row, attention_mask=torch.ones_like(row), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
        said = refuses(answerer.text(out[0, row.shape[1] :].tolist()))
        spent += time.perf_counter() - began
        agree += said == ours[block, scale, number]
    plain = spent / len(sample)
    whole = (len(SCALES) * loaded.total_blocks + 1) * len(ids)
    print(f"{'way':8}{'answers':>9}{'s/answer':>10}{'whole search':>14}")
    for name, count, seconds in (("plain", len(sample), plain), ("ours", len(runs) * len(ids), reused)):
        print(f"{name:8}{count:9}{seconds:10.4f}{seconds * whole / 60:10.0f} min")
    print(f"ours is {plain / reused:.1f} times as fast; {agree} of {len(sample)} verdicts agree")


def find(model: torch.nn.Module, loaded: LoadedModel, block: int) -> torch.nn.Module:
    """The copy's block of the same name."""
    name = next(name for name, module in loaded.model.named_modules() if module is loaded.blocks[block])
    return model.get_submodule(name)


if __name__ == "__main__":
    main()
