"""A training of TTT layers or LoRA in Moshi as a summary: losses by step, against the base model.

What decides is the loss beyond the reach of attention. The base model heard the same spans once,
so that every difference is paired by span, and its interval is by speaker.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ttt.eval.training.history import Line, TrainingHistory, read_history
from ttt.eval.training.spans import SpanRow, difference_curve, mean_of, paired_differences
from ttt.moshi.training.validation.rows import (
    BASE,
    BASE_CURVE,
    CURVE,
    FAST_WEIGHT_CHANGE,
    GATE,
    TRAINED,
)

JOB = "train_ttt"
SUMMARY_FILE = "summary.json"
_SHOWN_BETWEEN = 2
"""Validations of which a curve is shown beside the first, the best and the last."""


def summarize_training(run: str) -> dict[str, Any]:
    """All that the page of a run shows; ready for JSON.

    Args:
        run: folder or URI, of a training that may still be going on.

    Raises:
        UserError: there is no training in Moshi that has saved a checkpoint.
    """
    history = read_history(run)
    plan, state = history.plan, history.state
    at = [line["step"] for line in history.validations]
    best, base = state["best_step"], _base(history)
    last = at[-1] if at and at[-1] > 0 else None
    return {
        "job": JOB,
        "run": run,
        "plan": plan,
        "provenance": history.provenance,
        "weights": plan["weights"],
        "window": history.window,
        "trained": plan["trained"],
        "step": state["step"],
        "total_steps": history.total_steps,
        "finished": state["step"] == history.total_steps,
        "skipped_steps": state["skipped"],
        "best_step": best,
        "last_step": last,
        "stages": _stages(history),
        "base": history.validations[0]["rows"][BASE] if at else None,
        "validations": [_validation(history, line, base) for line in history.validations],
        "curves": {
            "base": mean_of(base),
            **{str(step): mean_of(_heard(history, step)) for step in _shown(at, best)},
        },
        "difference_curve": difference_curve(base, _heard(history, best)) if best else None,
        "spans": {
            "base": base,
            "best": _heard(history, best) if best else [],
            "last": _heard(history, last) if last else [],
        },
        "steps": [
            {name: line[name] for name in ("step", "loss", "learning_rate", "grad_norm")}
            for line in history.steps
        ],
    }


def _base(history: TrainingHistory) -> list[SpanRow]:
    """The spans as the base model heard them, before the first step."""
    return [_row(line, BASE, BASE_CURVE) for line in history.spans.get(0, ())]


def _heard(history: TrainingHistory, step: int) -> list[SpanRow]:
    """The spans as what is trained heard them at a validation."""
    return [_row(line, TRAINED, CURVE) for line in history.spans[step]]


def _row(line: Line, losses: str, curve: str) -> SpanRow:
    known = {name: line[name] for name in ("chapter_id", "speaker", "frames")}
    return {**known, "losses": line[losses], "curve": line[curve]}


def _validation(history: TrainingHistory, line: Line, base: Sequence[SpanRow]) -> dict[str, Any]:
    step, rows = line["step"], line["rows"]
    return {
        "step": step,
        "losses": rows[TRAINED],
        "gate": rows.get(GATE, {}),
        "fast_weight_change": rows.get(FAST_WEIGHT_CHANGE, {}),
        "against_base": paired_differences(base, _heard(history, step)),
    }


def _shown(at: Sequence[int], best: int | None) -> list[int]:
    """The steps of the validations whose curves are shown: first, some, best and last."""
    if not at:
        return []
    parts = _SHOWN_BETWEEN + 1
    evenly = {at[(len(at) - 1) * part // parts] for part in range(parts + 1)}
    return sorted(evenly | ({best} if best is not None else set()))


def _stages(history: TrainingHistory) -> list[dict[str, Any]]:
    """Every stage with its first step, and the time that its steps took."""
    found, first = [], 1
    for stage in history.plan["stages"]:
        last = first + stage["steps"] - 1
        took = [line["step_seconds"] for line in history.steps if first <= line["step"] <= last]
        seconds = median(took) if took else None
        found.append({**stage, "first_step": first, "step_seconds": seconds})
        first = last + 1
    return found
