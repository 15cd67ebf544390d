"""A training and its control: the same spans, heard by what both have trained, in pairs.

They are told apart by what is trained and at which rates. Base model, chapters, spans, steps and
schedule must be the same: a difference could come from any of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ttt import storage
from ttt.errors import UserError
from ttt.eval.differences import entries, side_names
from ttt.eval.training.spans import difference_curve, mean_of, paired_differences
from ttt.eval.training.summary import JOB, SUMMARY_FILE
from ttt.records import read_json

Summary = Mapping[str, Any]
MAY_DIFFER = ("ttt", "lora", "trained", "start_sha256", "optim.peak_rates")
"""Keys of a plan in which a control may differ: what is trained, where from, at which rates."""
_MOST_NAMED = 3


def read_training(run: str) -> Summary:
    """The summary of a finished training.

    Raises UserError where there is none, where the training is not finished, or has no validation.
    """
    uri = storage.join(run, SUMMARY_FILE)
    found = read_json(uri) if storage.exists(uri) else {}
    if found.get("job") != JOB:
        raise UserError(
            f"{run}: has no {SUMMARY_FILE} of a training in Moshi; name the run folder of a "
            "finished train_ttt, or let --report RUN write it there"
        )
    if not found["finished"]:
        raise UserError(
            f"{run}: this training stood at step {found['step']:,} of {found['total_steps']:,} "
            "when its summary was written; finish it with --resume, or renew the summary with "
            "--report RUN"
        )
    if not found["spans"]["best"]:
        raise UserError(
            f"{run}: this training has no validation, so there is nothing to compare; train with "
            "data.validation_share or data.validation_chapters set"
        )
    return found


def compare_trainings(run: Summary, control: Summary) -> dict[str, Any]:
    """The run minus its control, span by span; ready for JSON.

    Both are compared at the best step of each, which is what they export, and at the last.

    Raises:
        UserError: they differ in more than what is trained; it says in what.
    """
    _refuse_different(run, control)
    sides = (run, control)
    first, second = side_names(*((side["run"], trained_words(side)) for side in sides))
    counts = [sum(side["trained"].values()) for side in sides]
    spans, theirs = run["spans"], control["spans"]
    return {
        "job": JOB,
        "names": [first, second],
        "sides": [
            {
                name: side[name]
                for name in ("run", "trained", "best_step", "total_steps", "plan", "provenance")
            }
            for side in sides
        ],
        "weights": run["weights"],
        "window": run["window"],
        "more_parameters_percent": 100 * (counts[0] / counts[1] - 1),
        "differs": [
            {"setting": key, "first": mine, "second": its}
            for key, mine, its in _differences(run, control)
            if not key.startswith("trained.")
        ],
        "base": run["base"],
        "bases_apart": _bases_apart(run, control),
        "losses": {
            name: _at(side, side["best_step"])["losses"]
            for name, side in zip((first, second), sides, strict=True)
        },
        "against_base": {
            name: _at(side, side["best_step"])["against_base"]
            for name, side in zip((first, second), sides, strict=True)
        },
        "differences": {at: paired_differences(theirs[at], spans[at]) for at in ("best", "last")},
        "difference_curve": difference_curve(theirs["best"], spans["best"]),
        "curves": {
            "base": mean_of(spans["base"]),
            first: mean_of(spans["best"]),
            second: mean_of(theirs["best"]),
        },
        "spans": [
            {
                **{key: mine[key] for key in ("chapter_id", "speaker", "frames")},
                "base": base["losses"],
                "run": mine["losses"],
                "control": its["losses"],
            }
            for base, mine, its in zip(spans["base"], spans["best"], theirs["best"], strict=True)
        ],
    }


def trained_words(summary: Summary) -> str:
    """What a run trains: TTT, LoRA or both."""
    names = {"ttt": "TTT", "lora": "LoRA"}
    return " and ".join(word for group, word in names.items() if group in summary["trained"])


def _refuse_different(run: Summary, control: Summary) -> None:
    found = [*_differing(run, control)]
    if not found:
        return
    told = [f"{key} is {_short(mine)} and {_short(its)}" for key, mine, its in found]
    more = f", and {len(told) - _MOST_NAMED} more" if len(told) > _MOST_NAMED else ""
    raise UserError(
        f"{run['run']} and {control['run']} are no run and its control: "
        f"{', '.join(told[:_MOST_NAMED])}{more}; the same base, chapters, spans, stages and "
        "schedule are needed, so that only what is trained and its rates differ"
    )


def _differing(run: Summary, control: Summary) -> Iterator[tuple[str, Any, Any]]:
    """Key and both values of all that must be the same and is not."""
    for key, mine, its in _differences(run, control):
        if not any(f"{key}.".startswith(f"{free}.") for free in MAY_DIFFER):
            yield key, mine, its
    begun = [bool(side["plan"]["start_sha256"]) for side in (run, control)]
    if begun[0] != begun[1]:
        said = ["an export" if each else "none" for each in begun]
        yield "start_from", said[0], said[1]
    lists = [
        [
            [span[key] for key in ("chapter_id", "speaker", "frames")]
            for span in side["spans"]["base"]
        ]
        for side in (run, control)
    ]
    if lists[0] != lists[1]:
        yield "spans", lists[0], lists[1]


def _differences(run: Summary, control: Summary) -> Iterator[tuple[str, Any, Any]]:
    """Key and both values of every setting of the plans that differs; None: not there."""
    mine, its = (dict(entries(side["plan"])) for side in (run, control))
    for key in {**mine, **its}:
        if mine.get(key) != its.get(key):
            yield key, mine.get(key), its.get(key)


def _at(side: Summary, step: int) -> Mapping[str, Any]:
    return next(each for each in side["validations"] if each["step"] == step)


def _bases_apart(run: Summary, control: Summary) -> float:
    """How far the base's loss of a span differs at most: it is one model, heard by both runs."""
    pairs = zip(run["spans"]["base"], control["spans"]["base"], strict=True)
    return max(abs(a["losses"]["mean"] - b["losses"]["mean"]) for a, b in pairs)


def _short(value: Any, most: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}..."
