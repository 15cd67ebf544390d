"""Something else to train than the decoder: a generator and a critic, each with its optimizer.

Phase 1 trains the generator alone, phase 2 the critic (in every second step) and then the
generator. A frozen mixing matrix stays out of the checkpoints. Run as a script, this file is one
rank of a run over two (see `run_toy_over_two_ranks`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.two_ranks import Killed, be_a_rank, run_two_ranks
from ttt.training.config import CheckpointConfig
from ttt.training.hooks import Hook, StepRecord
from ttt.training.loop import LoopSettings, train
from ttt.training.optim import Update
from ttt.training.ranks import Communicator, ProcessGroup, SingleProcess
from ttt.training.schedules import EpochPlan
from ttt.training.state import TrainState, plan_of
from ttt.training.trainee import Trainee, ValidationResult

EPOCHS = (
    EpochPlan(number=1, phase=1, steps=2, first_step=0, phase_first_step=0, phase_steps=2),
    EpochPlan(number=2, phase=2, steps=3, first_step=2, phase_first_step=2, phase_steps=7),
    EpochPlan(number=3, phase=2, steps=4, first_step=5, phase_first_step=2, phase_steps=7),
)
TOTAL_STEPS = 9
MICRO_BATCHES = 2


@dataclass(frozen=True)
class Numbers:
    """One micro-batch: rows of four numbers, each row with a weight."""

    name: str
    seed: int
    rows: Tensor
    """[rows, 4]"""
    weights: Tensor
    """[rows]"""


class Source:
    """Batches that follow from their place; `spoiled` steps (from 0) hold the value given."""

    def __init__(self, group: Communicator, spoiled: Mapping[int, float]) -> None:
        self.group = group
        self.spoiled = spoiled

    def step_batches(self, epoch: int, first_step: int) -> Iterator[list[Numbers]]:
        planned = EPOCHS[epoch - 1]
        for step in range(planned.first_step + first_step, planned.first_step + planned.steps):
            micros = range(self.group.rank, MICRO_BATCHES, self.group.world)
            yield [self._batch(step, micro) for micro in micros]

    def _batch(self, step: int, micro: int) -> Numbers:
        seed = 100 * step + micro
        random = torch.Generator().manual_seed(seed)
        rows = torch.randn(2 + micro, 4, generator=random)
        weights = torch.rand(len(rows), generator=random)
        if micro == 0 and step in self.spoiled:
            rows[0, 0] = self.spoiled[step]
        return Numbers(f"numbers-{step}-{micro}", seed, rows, weights)


class Pair(Trainee[Numbers]):
    """The generator and the critic."""

    item_name = "rows"
    rate_key = "toy.rate"
    epochs = EPOCHS

    def __init__(self, values: Mapping[int, float] | None = None) -> None:
        """`values` are validation's, by the number of moves before it; else it measures one."""
        torch.manual_seed(0)
        self.base = torch.randn(4, 4)
        self.generator, self.critic = nn.Linear(4, 4), nn.Linear(4, 1)
        self.validation = Scored(self, values or {})
        self.moved: list[str] = []
        """The updates that moved, in order."""
        self.spoiled_critic: Collection[int] = ()
        """Steps (from 0) in which the critic's loss alone is no number."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        return {
            "model": dict(self.generator.state_dict()),
            "critic": dict(self.critic.state_dict()),
        }

    def updates(self, phase: int) -> list[Update]:
        of_generator = torch.optim.AdamW([_group("generator", self.generator)], lr=0.0)
        updates = [Update("generator", of_generator, clip_norm=0.5)]
        if phase == 2:
            of_critic = torch.optim.SGD([_group("critic", self.critic)], lr=0.0, momentum=0.9)
            updates.insert(0, Update("critic", of_critic, every=2))
        for update in updates:
            update.optimizer.register_step_post_hook(
                lambda _optimizer, _args, _kwargs, name=update.name: self.moved.append(name)
            )
        return updates

    def rates(self, epoch: EpochPlan, step: int) -> dict[str, float]:
        left = 1 - (step - epoch.phase_first_step) / epoch.phase_steps
        return {"generator": 0.05 * left, "critic": 0.01 * left}

    def denominators(self, batches: Sequence[Numbers]) -> dict[str, float]:
        return {
            "rows": sum(len(batch.rows) for batch in batches),
            "weight": sum(float(batch.weights.double().sum()) for batch in batches),
        }

    def accumulate(
        self,
        batches: Sequence[Numbers],
        denominators: Mapping[str, float],
        *,
        step: int,
        due: Collection[str],
    ) -> dict[str, Tensor]:
        terms = dict.fromkeys(("total", "critic"), torch.zeros(()))
        for batch in batches:
            torch.manual_seed(batch.seed)
            made = self.generator((batch.rows + 0.1 * torch.randn_like(batch.rows)) @ self.base)
            if "critic" in due:
                margin = (self.critic(made.detach()) - self.critic(batch.rows)).sum()
                critic = margin * (math.nan if step in self.spoiled_critic else 1)
                critic = critic / denominators["rows"]
                critic.backward()
                terms["critic"] = terms["critic"] + critic.detach()
            distance = (batch.weights[:, None] * (made - batch.rows) ** 2).sum()
            self.critic.requires_grad_(False)
            believed = self.critic(made).sum() / denominators["rows"]
            total = distance / denominators["weight"] - 0.1 * believed
            total.backward()
            self.critic.requires_grad_(True)
            terms["total"] = terms["total"] + total.detach()
        return terms

    def item_ids(self, batch: Numbers) -> Sequence[str]:
        return [f"{batch.name}/{row}" for row in range(len(batch.rows))]


class Scored:
    """A validation with given values; it remembers the weights that it saw last."""

    reference_rows = ("fixed",)

    def __init__(self, pair: Pair, values: Mapping[int, float]) -> None:
        self.pair = pair
        self.values = values
        self.seen = torch.empty(0)

    def __call__(self, group: Communicator, *, untrained: bool) -> ValidationResult:
        self.seen = self.pair.generator.weight.detach().clone()
        rows = {"ours": {"sum": float(self.seen.sum())}}
        if untrained:
            rows["fixed"] = {"sum": 1.0}
        value = self.values.get(len(self.pair.moved), float((self.seen**2).sum()))
        return ValidationResult(value, {}, rows)


class Log(Hook):
    """Remembers everything, and kills the process in step `kill_in`, before its checkpoint."""

    def __init__(self, kill_in: int = 0) -> None:
        self.kill_in = kill_in
        self.steps: list[StepRecord] = []
        self.validations: list[tuple[int, ValidationResult]] = []

    def on_step(self, record: StepRecord) -> None:
        self.steps.append(record)
        if record.step == self.kill_in:
            raise Killed

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        self.validations.append((state.step, result))


def run_toy(
    run: Path,
    pair: Pair,
    hooks: Sequence[Hook] = (),
    *,
    kind: str = "toy",
    spoiled: Mapping[int, float] | None = None,
    group: Communicator | None = None,
    ema_decay: float | None = 0.5,
) -> TrainState:
    """Start the run in folder `run` or go on with it, as a fresh process would."""
    group = group or SingleProcess()
    settings = LoopSettings(
        run=str(run),
        plan=plan_of(EPOCHS, kind=kind),
        checkpoint=CheckpointConfig(every_steps=1, every_minutes=None, keep_last=99),
        validate_every_steps=1,
        ema_decay=ema_decay,
        max_skipped_in_row=2,
    )
    return train(settings, pair, Source(group, spoiled or {}), group, hooks)


def run_toy_over_two_ranks(run: Path, kill_in: int = 0) -> None:
    """The toy over two processes; rank 0 leaves the losses in run/losses.json."""
    run_two_ranks(__file__, run, kill_in, killed=bool(kill_in))


def _group(name: str, module: nn.Module) -> dict[str, object]:
    return {"name": name, "params": list(module.parameters())}


def _train(rank: int, run: str, kill_in: str) -> None:
    log = Log(int(kill_in))
    run_toy(Path(run), Pair(), [log], group=ProcessGroup())
    if rank == 0:
        Path(run, "losses.json").write_text(json.dumps([step.terms for step in log.steps]))


if __name__ == "__main__":
    be_a_rank(_train)
