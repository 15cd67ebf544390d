"""What a training run is at one step, and how it goes to a checkpoint and comes back.

`Training` holds what is trained, the updates of the current phase, the average of the weights and
a `TrainState` of plain numbers. Interrupted after any step and restored, all of it is the same,
bit for bit on the CPU; the next batches follow from the position, and so must all that is drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttt import checkpoint
from ttt.training.optim import Update, WeightAverage, load_state
from ttt.training.schedules import EpochPlan
from ttt.training.trainee import MAIN, Trainee

RequireSamePlan = Callable[[str, dict[str, Any], dict[str, Any]], None]
"""Refuses the folder of a checkpoint, whose plan is the second argument, under the third."""


@dataclass
class TrainState:
    """The position of a run and what it has counted."""

    epoch: int = 1
    """The epoch of the next step, from 1; one past the last when the run is finished."""
    step_in_epoch: int = 0
    """Steps of that epoch already taken."""
    step: int = 0
    """Steps of the whole run already taken, skipped ones included."""
    phase: int = 0
    """The phase of the updates; 0 before the first step."""
    skipped: int = 0
    """Steps left out because a loss or gradient was not finite."""
    skipped_in_row: int = 0
    """The last of them without a good step after them."""
    replaced: int = 0
    """Damaged items that another took the place of, over all ranks."""
    best_value: float | None = None
    """Lowest validation loss after a step."""
    best_step: int | None = None
    """Where it was measured."""
    references: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """The validation rows that training does not change, measured at step 0."""

    def count(self, epoch: EpochPlan, *, taken: bool) -> None:
        """One more step of `epoch`; the last one moves on to the next epoch."""
        self.step += 1
        self.step_in_epoch += 1
        if self.step_in_epoch == epoch.steps:
            self.epoch, self.step_in_epoch = epoch.number + 1, 0
        self.skipped += not taken
        self.skipped_in_row = 0 if taken else self.skipped_in_row + 1


class Training:
    """Something in training: weights, optimizers, average and position."""

    def __init__(self, trainee: Trainee[Any], ema_decay: float | None) -> None:
        self.trainee = trainee
        self.state = TrainState()
        self.updates: list[Update] = []
        main = trainee.tensors()[MAIN]
        self.average = None if ema_decay is None else WeightAverage(main, ema_decay)

    def enter(self, phase: int) -> list[Update]:
        """The updates of `phase`: the current ones, or new ones where the phase begins."""
        if not self.updates or self.state.phase != phase:
            self.updates = self.trainee.updates(phase)
            self.state.phase = phase
        return self.updates

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The averaged weights are the model's inside the block, if an average is kept."""
        if self.average is None:
            yield
            return
        live = self.trainee.tensors()[MAIN]
        trained = {name: tensor.clone() for name, tensor in live.items()}
        _fill(live, self.average.weights)
        try:
            yield
        finally:
            _fill(live, trained)

    def snapshot(self, plan: dict[str, Any], *, epoch_end: bool) -> checkpoint.Snapshot:
        """All of it, to be saved."""
        assert self.updates, "a snapshot is taken after a step"
        tensors = self.trainee.tensors()
        if self.average is not None:
            tensors = {**tensors, "ema": self.average.weights}
        optimizers = {update.name: update.optimizer.state_dict() for update in self.updates}
        return checkpoint.Snapshot(
            step=self.state.step,
            tensors=tensors,
            optimizer=_with_equals_shared({**optimizers, "torch_rng": torch.get_rng_state()}, {}),
            state={
                "train": dataclasses.asdict(self.state),
                "plan": plan,
                **({"trainee": own} if (own := self.trainee.own_state()) else {}),
            },
            epoch_end=epoch_end,
        )

    def restore(
        self, folder: str, plan: dict[str, Any], require_same_plan: RequireSamePlan
    ) -> None:
        """Continue from a complete checkpoint.

        Raises UserError when it was made under another plan.
        """
        snapshot = checkpoint.load(folder)
        require_same_plan(folder, snapshot.state["plan"], plan)
        self.state = TrainState(**snapshot.state["train"])
        self.trainee.take_state(snapshot.state.get("trainee", {}))
        for name, tensors in self.trainee.tensors().items():
            _fill(tensors, snapshot.tensors[name])
        self._restore_average(snapshot)
        self.updates = self.trainee.updates(self.state.phase)
        for update in self.updates:
            load_state(update.optimizer, snapshot.optimizer[update.name])
        torch.set_rng_state(snapshot.optimizer["torch_rng"])

    def turn_back(self, folder: str | None) -> None:
        """Take the weights of a complete checkpoint of this run, if there is one to take, and its
        optimizers where they are of this phase; then the phase's updates. The position stays."""
        snapshot = None if folder is None else checkpoint.load(folder)
        states = {update.name: update.optimizer.state_dict() for update in self.updates}
        if snapshot is not None:
            for name, tensors in self.trainee.tensors().items():
                _fill(tensors, snapshot.tensors[name])
            self._restore_average(snapshot)
            same_phase = snapshot.state["train"]["phase"] == self.state.phase
            states = snapshot.optimizer if same_phase else {}
        self.updates = self.trainee.updates(self.state.phase)
        for update in self.updates:
            if update.name in states:
                load_state(update.optimizer, states[update.name])

    def _restore_average(self, snapshot: checkpoint.Snapshot) -> None:
        if self.average is not None:
            device = self.trainee.device
            self.average.weights = {
                name: tensor.to(device) for name, tensor in snapshot.tensors["ema"].items()
            }


def fork(folder: str, run: str, plan: dict[str, Any]) -> str:
    """Begin `run`, which has no checkpoint yet, with the complete checkpoint `folder` of another.

    It goes on from there under its own `plan`. Its best value is the other's only where that one
    was measured at this step: only then are the weights of it here. Returns the new checkpoint's
    folder; raises UserError when `folder` is damaged.
    """
    snapshot = checkpoint.load(folder)
    state = TrainState(**snapshot.state["train"])
    if state.best_step != state.step:
        state.best_step = state.best_value = None
    kept = {**snapshot.state, "train": dataclasses.asdict(state), "plan": plan}
    return checkpoint.save(run, dataclasses.replace(snapshot, state=kept))


def plan_of(epochs: Sequence[EpochPlan], **settings: Any) -> dict[str, Any]:
    """What a resumed run must keep: the settings and the steps they led to."""
    steps = {f"epoch {epoch.number}": epoch.steps for epoch in epochs}
    return {**settings, "steps": steps}


def _with_equals_shared(tree: Any, seen: dict[tuple[type, str], Any]) -> Any:
    """The same tree, in which equal strings, numbers and tuples are one object.

    A pickle notes which objects are the same one, and a restored optimizer shares fewer of them:
    without this a resumed run would write the same values in other bytes.
    """
    if isinstance(tree, dict):
        return {
            _with_equals_shared(key, seen): _with_equals_shared(value, seen)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [_with_equals_shared(value, seen) for value in tree]
    if isinstance(tree, tuple):
        tree = tuple(_with_equals_shared(value, seen) for value in tree)
    return tree if isinstance(tree, Tensor) else seen.setdefault((type(tree), repr(tree)), tree)


@torch.no_grad()
def _fill(live: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Copy stored values into live tensors of the same names and shapes."""
    shapes = [{name: tensor.shape for name, tensor in each.items()} for each in (live, stored)]
    if shapes[0] != shapes[1]:
        differing = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        raise RuntimeError(f"stored and live tensors differ in {', '.join(differing)}")
    for name, tensor in live.items():
        tensor.copy_(stored[name])
