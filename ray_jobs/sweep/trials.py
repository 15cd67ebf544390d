"""The trials of a sweep on disk: what each is, how it ended, what it reached.

    RUN/trials/0007/trial.json   its values, and which trials it went on from (pbt)
                    end.json     how it ended; without it the trial is not over
                    kept/        its best checkpoint, where the trial then went on from another's
                    ...          otherwise the folder of an ordinary training run

These files, not Ray's own state, are what --resume reads: JSON and the runs' checkpoints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ttt import checkpoint, records, storage

How = Literal["finished", "stopped", "diverged", "failed"]


@dataclass(frozen=True)
class Trial:
    """What a trial is."""

    number: int
    """0 is the configuration as it stands."""
    values: dict[str, Any]
    """Dotted key -> value, over the sweep's training configuration."""
    copied: tuple[dict[str, int], ...] = ()
    """Under pbt: {"step": ..., "from": number} of each checkpoint that it went on from."""


@dataclass(frozen=True)
class Reached:
    """How far a trial came."""

    trial: Trial
    """What it is; where `place` is not its own folder, what it was then."""
    state: Literal["finished", "stopped", "diverged", "failed", "unfinished"]
    why: str
    """More about the state; empty where it says all."""
    loss: float | None
    """Lowest validation loss of a complete checkpoint, or what `validation.best_by` puts in its
    place; None before the first."""
    best_step: int | None
    """Where it was measured."""
    place: str
    """The run folder with that checkpoint: the trial's own, or `kept` below it."""
    step: int
    """Of the newest complete checkpoint; 0 before the first."""
    curve: tuple[tuple[int, float | None, int], ...]
    """(step, validation loss, epochs done) of each validation up to there."""

    @property
    def over(self) -> bool:
        """Whether --resume leaves the trial as it is; a failed one is tried again."""
        return self.state in ("finished", "stopped", "diverged")

    @property
    def epochs(self) -> int:
        """Whole epochs done."""
        return max((epochs for _, _, epochs in self.curve), default=0)


def folder(run: str, number: int) -> str:
    """Where a trial lives."""
    return storage.join(run, "trials", f"{number:04d}")


def write(run: str, trial: Trial) -> None:
    """Note what a trial is, before it starts."""
    records.write_json(storage.join(folder(run, trial.number), _TRIAL), asdict(trial))


def read(run: str, number: int) -> Trial:
    """The trial of that number."""
    return _read(folder(run, number))


def from_json(tree: dict[str, Any]) -> Trial:
    """The inverse of dataclasses.asdict."""
    return Trial(tree["number"], tree["values"], tuple(tree["copied"]))


def numbers(run: str) -> list[int]:
    """Every trial that was noted, rising."""
    names = storage.list_names(storage.join(run, "trials"))
    found = [int(name) for name in names if name.isdecimal()]
    return [n for n in found if storage.exists(storage.join(folder(run, n), _TRIAL))]


def begin(run: str, number: int) -> None:
    """Take back a failure: the trial is tried again."""
    storage.delete(storage.join(folder(run, number), _END))


def end(run: str, number: int, how: How, why: str = "") -> None:
    """Note how a trial ended; what was noted first stays."""
    path = storage.join(folder(run, number), _END)
    if not storage.exists(path):
        records.write_json(path, {"how": how, "why": why})


def keep_best(run: str, number: int) -> None:
    """Put the best checkpoint of a trial aside, before another's takes the place of all of them.

    Of several, the one with the lowest loss stays. A kill in the middle leaves it where it was.
    """
    own = folder(run, number)
    kept, best, (loss, step) = storage.join(own, _KEPT), checkpoint.best(own), _lowest(own)
    if best is None or step is None or loss >= _lowest(kept)[0]:
        return
    snapshot = checkpoint.load(best)
    storage.delete(storage.join(kept, "checkpoints"))
    for name in (_TRIAL, "config.yaml", "provenance.json", METRICS):
        storage.write_bytes(storage.join(kept, name), storage.read_bytes(storage.join(own, name)))
    checkpoint.save(kept, snapshot)
    checkpoint.mark_best(kept, step, loss)


def reached(run: str, number: int) -> Reached:
    """How far a trial came."""
    own = folder(run, number)
    path = storage.join(own, _END)
    ending: dict[str, Any] = {"how": "unfinished", "why": ""}
    if storage.exists(path):
        ending = records.read_json(path)
    newest = checkpoint.newest_complete(own)
    step = 0 if newest is None else checkpoint.read_state(newest)["train"]["step"]
    place = min(own, storage.join(own, _KEPT), key=lambda place: _lowest(place)[0])
    loss, best_step = _lowest(place)
    return Reached(
        trial=_read(place),
        state=ending["how"],
        why=ending["why"],
        loss=None if best_step is None else loss,
        best_step=best_step,
        place=place,
        step=step,
        curve=tuple(
            (line["step"], line.get("value", line["loss"]), line["epochs_done"])
            for line in history(own)
            if line["kind"] == "validation" and line["step"] <= step
        ),
    )


def every_reached(run: str) -> list[Reached]:
    """How far every trial came, by number."""
    return [reached(run, number) for number in numbers(run)]


def best_of(results: Sequence[Reached]) -> Reached | None:
    """The trial with the lowest loss, the first of equals; None where no trial has one."""
    measured = [result for result in results if result.loss is not None]
    return min(measured, key=lambda result: (result.loss, result.trial.number), default=None)


def history(place: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; empty before the first."""
    path = storage.join(place, METRICS)
    lines = storage.read_bytes(path).decode().splitlines() if storage.exists(path) else []
    if lines and not lines[-1].endswith("}"):
        lines.pop()  # cut short by a kill
    return [json.loads(line) for line in lines]


METRICS = "metrics.jsonl"
_TRIAL, _END, _KEPT = "trial.json", "end.json", "kept"


def _read(place: str) -> Trial:
    return from_json(records.read_json(storage.join(place, _TRIAL)))


def _lowest(place: str) -> tuple[float, int | None]:
    """The loss and the step of a run folder's best checkpoint; infinity and None without one."""
    best = checkpoint.best(place)
    if best is None:
        return math.inf, None
    state = checkpoint.read_state(best)["train"]
    return state["best_value"], state["best_step"]
