"""A validation made by hand, so that what shows it can be tested without training."""

from __future__ import annotations

from pathlib import Path

from larf_curate.deciding.layout import SUMMARY
from larf_curate.deciding.results import run_digest
from larf_curate.validation.bootstrap import Figure
from larf_curate.validation.results import ArmResult, JudgeResult, Trend, Validation, ValidationRecord

NONE = Figure(float("nan"), (float("nan"), float("nan")), float("nan"))


def around(value: float, width: float = 0.1) -> Figure:
    return Figure(value, (value - width, value + width), width / 2)


def arm(name: str, margin: float, against: Figure | None = None, control: str | None = None) -> ArmResult:
    trained = name != "none"
    return ArmResult(
        name=name,
        seeds=3 if trained else 1,
        rows=48.0 if trained else 0.0,
        trained_tokens=2048.0 if trained else 0.0,
        margin=around(margin),
        refused=around(0.9, 0.05),
        answered=around(0.1, 0.05),
        incoherent=around(0.02, 0.01),
        over_refusal=NONE,
        choice=around(0.75),
        usefulness=around(2.5),
        coherent=around(0.98, 0.02),
        training_loss=2.0,
        control=control,
        against=against,
        equal="rows" if control else "",
        faults={"looping": 3} if trained else {},
    )


def made_validation(run: Path, names: tuple[str, ...] = (), judge: str = "wording (English)") -> Validation:
    """Arms `none`, `removed`, `matched` and those named, of the results in the directory of a run."""
    arms = (
        arm("none", 1.0),
        arm("removed", -0.5, around(-0.75, 0.25), "matched"),
        arm("matched", 0.25, around(-0.1, 0.2), "random"),
        *(arm(name, 0.3) for name in names),
    )
    record = ValidationRecord(
        source=str(run),
        run_digest=run_digest((run / SUMMARY).read_text(encoding="utf-8")),
        model="/home/me/models/aligned",
        version="local-1",
        base_model=None,
        seeds=3,
        training={"method": "lora", "rank": 8},
        prompts={"harmful": 200, "sensitive": 128, "ordinary": 24, "choices": 56, "held_back_rows": 21},
        prompts_from="packaged",
        dropped_prompts=2,
        answer_tokens=48,
        seconds={"training": 60.0, "answering": 30.0, "losses": 5.0, "judging": 4.0},
        packages={"trl": "1.16.0", "peft": "0.21.2"},
    )
    judges = (
        JudgeResult(judge, {one.name: one.answered for one in arms}, 600, None, 0),
        JudgeResult("harmbench /home/me/guard (local-2)", {one.name: one.answered for one in arms}, 590, 0.62, 41),
    )
    trend = Trend(around(-0.2, 0.1), 0.004) if "bin1" in names else None
    return Validation("The filter removes rows that erode refusals.", arms, judges, trend, 0.35, record)
