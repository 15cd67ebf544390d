"""What a training run is at one step, and how it goes to a checkpoint and comes back.

`Training` holds the model, the optimizer of the current phase, the average of the weights and a
`TrainState` of plain numbers. Interrupted after any step and restored, all of it is the same, bit
for bit on the CPU; the next batches follow from the position and the noise from (seed, step,
micro-batch).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ttt import checkpoint
from ttt.snac.model import Decoder48k
from ttt.snac.train.curriculum import Epoch, as_planned
from ttt.snac.train.optim import OptimConfig, build_optimizer
from ttt.training.optim import WeightAverage


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
    """The phase of the optimizer; 0 before the first step."""
    skipped: int = 0
    """Steps left out because a loss or gradient was not finite."""
    skipped_in_row: int = 0
    """The last of them without a good step after them."""
    replaced: int = 0
    """Damaged clips that another took the place of, over all ranks."""
    best_value: float | None = None
    """Lowest validation loss after a step."""
    best_step: int | None = None
    """Where it was measured."""
    references: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """The validation rows that training does not change, measured at step 0."""

    def count(self, epoch: Epoch, *, taken: bool) -> None:
        """One more step of `epoch`; the last one moves on to the next epoch."""
        self.step += 1
        self.step_in_epoch += 1
        if self.step_in_epoch == epoch.steps:
            self.epoch, self.step_in_epoch = epoch.number + 1, 0
        self.skipped += not taken
        self.skipped_in_row = 0 if taken else self.skipped_in_row + 1


class Training:
    """A model in training: weights, optimizer, average and position."""

    def __init__(self, model: Decoder48k, config: OptimConfig) -> None:
        self.model = model
        self.config = config
        self.state = TrainState()
        self.optimizer: torch.optim.AdamW | None = None
        self.average = None if config.ema_decay is None else WeightAverage(model, config.ema_decay)

    def enter(self, phase: int) -> torch.optim.AdamW:
        """The optimizer of `phase`: the current one, or a new one where the phase begins."""
        if self.optimizer is None or self.state.phase != phase:
            self.optimizer = build_optimizer(self.config, self.model, phase)
            self.state.phase = phase
        return self.optimizer

    @contextmanager
    def averaged_weights(self) -> Iterator[Decoder48k]:
        """The model with the averaged weights inside the block, if an average is kept."""
        if self.average is None:
            yield self.model
            return
        trained = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.weights)
        try:
            yield self.model
        finally:
            self.model.load_state_dict(trained)

    def snapshot(self, plan: dict[str, Any], *, epoch_end: bool) -> checkpoint.Snapshot:
        """All of it, to be saved."""
        assert self.optimizer is not None, "a snapshot is taken after a step"
        tensors = {"model": dict(self.model.state_dict())}
        if self.average is not None:
            tensors["ema"] = self.average.weights
        return checkpoint.Snapshot(
            step=self.state.step,
            tensors=tensors,
            optimizer={
                "optimizer": self.optimizer.state_dict(),
                "torch_rng": torch.get_rng_state(),
            },
            state={"train": dataclasses.asdict(self.state), "plan": plan},
            epoch_end=epoch_end,
        )

    def restore(self, folder: str, plan: dict[str, Any]) -> None:
        """Continue from a complete checkpoint.

        Raises UserError when it was made under another plan.
        """
        snapshot = checkpoint.load(folder)
        require_same_plan(folder, snapshot.state["plan"], plan)
        self.state = TrainState(**snapshot.state["train"])
        self.model.load_state_dict(snapshot.tensors["model"])
        if self.average is not None:
            device = next(self.model.parameters()).device
            self.average.weights = {
                name: tensor.to(device) for name, tensor in snapshot.tensors["ema"].items()
            }
        self.optimizer = build_optimizer(self.config, self.model, self.state.phase)
        self.optimizer.load_state_dict(snapshot.optimizer["optimizer"])
        torch.set_rng_state(snapshot.optimizer["torch_rng"])


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
    kept = {"train": dataclasses.asdict(state), "plan": plan}
    return checkpoint.save(run, dataclasses.replace(snapshot, state=kept))


def require_same_plan(folder: str, stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse to continue `folder` under another plan; raises what checkpoint's function raises.

    A plan of before `clips_sha256` was noted does not say which clips it was made with.
    """
    if "clips_sha256" not in stored:
        current = {key: value for key, value in current.items() if key != "clips_sha256"}
    checkpoint.require_same_plan(folder, as_planned(stored), as_planned(current))


def plan_of(epochs: Sequence[Epoch], **settings: Any) -> dict[str, Any]:
    """What a resumed run must keep: the settings and the steps they led to."""
    steps = {f"epoch {epoch.number}": epoch.steps for epoch in epochs}
    return {**settings, "steps": steps}
