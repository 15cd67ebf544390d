"""The trials of a sweep on disk: what each is, how it ended, what it reached.

    RUN/trials/0007/trial.json   its values, and which trials it went on from (pbt)
                    end.json     how it ended; without it the trial is not over
                    ...          otherwise the folder of an ordinary training run

These files, not Ray's own state, are what --resume reads: JSON and the runs' checkpoints.
"""

from __future__ import annotations

import json
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
    state: Literal["finished", "stopped", "diverged", "failed", "unfinished"]
    why: str
    """More about the state; empty where it says all."""
    loss: float | None
    """Lowest validation loss of a complete checkpoint; None before the first."""
    best_step: int | None
    """Where it was measured."""
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
    return from_json(records.read_json(storage.join(folder(run, number), _TRIAL)))


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


def reached(run: str, number: int) -> Reached:
    """How far a trial came."""
    place = folder(run, number)
    path = storage.join(place, _END)
    ending: dict[str, Any] = {"how": "unfinished", "why": ""}
    if storage.exists(path):
        ending = records.read_json(path)
    best, newest = checkpoint.best(place), checkpoint.newest_complete(place)
    state = None if best is None else checkpoint.read_state(best)["train"]
    step = 0 if newest is None else checkpoint.read_state(newest)["train"]["step"]
    return Reached(
        trial=read(run, number),
        state=ending["how"],
        why=ending["why"],
        loss=None if state is None else state["best_value"],
        best_step=None if state is None else state["best_step"],
        step=step,
        curve=tuple(
            (line["step"], line["loss"], line["epochs_done"])
            for line in history(place)
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
_TRIAL, _END = "trial.json", "end.json"
