"""What is heard twice, or never, when a training is killed at a random step and resumed.

Each way is read once undisturbed, then killed with SIGKILL after steps that a seed draws, with its
workers reading ahead, and resumed in a fresh process by its own mechanism from the state kept after
that step. Steps whose state was not kept would be anybody's loss: what counts is what the
mechanism makes of the state it was given.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.driver import Child, Refused, wait_for_lines
from benchmarks.peers.loaders.protocol import Order, Sample
from benchmarks.peers.ways import WAYS

PAUSE_SECONDS = 0.02
"""What a step of the pretended training takes."""

Batches = list[list[Sample]]


@dataclass(frozen=True)
class Outcome:
    """A killed and resumed epoch beside the undisturbed one."""

    repeated: int
    """Samples heard more often than in the undisturbed epoch."""
    lost: int
    """Samples heard less often."""
    moved: int
    """Samples heard as often, but for another window of their clip."""
    exact: bool
    """The same batches in the same order."""


def compare(undisturbed: Sequence[Sequence[Sample]], heard: Sequence[Sequence[Sample]]) -> Outcome:
    """Count what an epoch repeats and loses against an undisturbed one."""
    wanted, got = ([sample for batch in each for sample in batch] for each in (undisturbed, heard))
    clips_wanted, clips_got = (Counter(clip for clip, _ in each) for each in (wanted, got))
    lost = (clips_wanted - clips_got).total()
    missing = (Counter(wanted) - Counter(got)).total()
    return Outcome(
        repeated=(clips_got - clips_wanted).total(),
        lost=lost,
        moved=missing - lost,
        exact=[list(batch) for batch in undisturbed] == [list(batch) for batch in heard],
    )


def kill_and_resume(name: str, folder: Path, order: Order, kills: int) -> dict[str, Any]:
    """Outcomes of one way, the last with one worker after the kill.

    The log of the children is `folder`/NAME.log. Raises Refused when an undisturbed epoch fails.
    """
    trainings = Trainings(name, folder, order)
    try:
        undisturbed, again = trainings.epoch(), trainings.epoch()
        result: dict[str, Any] = {
            "batches": len(undisturbed),
            "samples": sum(map(len, undisturbed)),
            "reproducible": undisturbed == again,
            "mechanism": WAYS[name].resumes,
        }
        if not WAYS[name].resumes:
            return result
        draw = random.Random(order.seed)
        outcomes = [
            trainings.cut(draw.randrange(2, len(undisturbed) - 4), workers, undisturbed)
            for workers in (*[order.workers] * kills, 1)
        ]
        return {**result, "kills": outcomes[:-1], "one_worker": outcomes[-1]}
    finally:
        trainings.child.kill()


class Trainings:
    """Pretended trainings of one way, one after the other."""

    def __init__(self, name: str, folder: Path, order: Order) -> None:
        self._name = name
        self._folder = folder
        self._order = order
        self._log, self._state = folder / "heard.jsonl", folder / "state.pt"
        self.child = Child(name, folder)

    def epoch(self) -> Batches:
        """What an epoch hears that nobody disturbs."""
        self._forget()
        self.child.ask("train", **self._words(self._order), pause=0)
        return self._heard()

    def cut(self, step: int, workers: int, undisturbed: Batches) -> dict[str, Any]:
        """Kill an epoch after a step and resume it by `workers` in a new process."""
        self._forget()
        self.child.begin("train", **self._words(self._order), pause=PAUSE_SECONDS, hold=step)
        wait_for_lines(self._log, step, self.child)
        self.child.kill()
        self.child = Child(self._name, self._folder)
        done, _ = torch.load(self._state, weights_only=True)
        before = self._heard()
        assert len(before) == done == step
        self._log.unlink()
        words = self._words(dataclasses.replace(self._order, workers=workers))
        try:
            self.child.ask("train", **words, pause=0, resume=True)
        except Refused as refusal:
            self.child.kill()
            self.child = Child(self._name, self._folder)
            return {"step": done, "refused": str(refusal)}
        return {"step": done, **asdict(compare(undisturbed, before + self._heard()))}

    def _words(self, order: Order) -> dict[str, Any]:
        return {"order": asdict(order), "log": str(self._log), "state": str(self._state)}

    def _forget(self) -> None:
        for path in (self._log, self._state):
            path.unlink(missing_ok=True)

    def _heard(self) -> Batches:
        if not self._log.exists():  # Killed in the last step: nothing was left.
            return []
        lines = self._log.read_text().splitlines()
        return [[(clip, start) for clip, start in json.loads(line)] for line in lines]
