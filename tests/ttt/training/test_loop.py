"""The loop with something else than the decoder: what it promises does not depend on that one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from tests.ttt.training.toy import (
    EPOCHS,
    TOTAL_STEPS,
    Log,
    Pair,
    Source,
    run_toy,
    run_toy_over_two_ranks,
)
from tests.two_ranks import Killed
from ttt import checkpoint
from ttt.errors import UserError
from ttt.training.config import CheckpointConfig
from ttt.training.hooks import Hook
from ttt.training.loop import Diverged, LoopSettings, train
from ttt.training.ranks import SingleProcess
from ttt.training.state import TrainState, plan_of

LAST = f"checkpoints/step-{TOTAL_STEPS:08d}"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    run, log = tmp_path_factory.mktemp("toy"), Log()
    run_toy(run, Pair(), [log])
    return run, log


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("killed_in", [1, 2, 3, 4, 5, 6, 8])
def test_killed_in_any_step_and_resumed_is_bit_for_bit_uninterrupted(
    tmp_path: Path, whole: tuple[Path, Log], killed_in: int
) -> None:
    with pytest.raises(Killed):
        run_toy(tmp_path, Pair(), [Log(killed_in)])
    torch.manual_seed(999)  # another process has drawn other numbers
    log = Log()
    assert run_toy(tmp_path, Pair(), [log]).step == TOTAL_STEPS
    assert content(tmp_path / LAST) == content(whole[0] / LAST)
    best = "checkpoints/best.json"
    assert (tmp_path / best).read_bytes() == (whole[0] / best).read_bytes()
    ours, theirs = (
        [dataclasses.replace(step, data_wait_seconds=0, step_seconds=0) for step in steps]
        for steps in (log.steps, whole[1].steps[-len(log.steps) :])
    )
    assert ours == theirs
    assert log.validations[-1] == whole[1].validations[-1]


def test_a_checkpoint_holds_what_is_trained_and_every_optimizer(whole: tuple[Path, Log]) -> None:
    snapshot = checkpoint.load(str(whole[0] / LAST))
    shapes = {
        file: {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for file, tensors in snapshot.tensors.items()
    }
    generator = {"weight": (4, 4), "bias": (4,)}
    critic = {"weight": (1, 4), "bias": (1,)}
    assert shapes == {"model": generator, "ema": generator, "critic": critic}
    assert snapshot.optimizer.keys() == {"critic", "generator", "torch_rng"}
    assert snapshot.optimizer["critic"]["state"][0].keys() == {"momentum_buffer"}


def test_updates_move_in_their_order_where_they_are_due(tmp_path: Path) -> None:
    pair, log = Pair(), Log()
    run_toy(tmp_path, pair, [log])
    both, alone = ["critic", "generator"], ["generator"]
    due = [alone, alone, both, alone, both, alone, both, alone, both]
    assert [list(step.grad_norms) for step in log.steps] == due
    assert pair.moved == [name for names in due for name in names]
    critics = [
        checkpoint.load(str(tmp_path / f"checkpoints/step-{step:08d}")).tensors["critic"]["weight"]
        for step in range(1, TOTAL_STEPS + 1)
    ]
    moved = [not torch.equal(one, next_one) for one, next_one in itertools.pairwise(critics)]
    assert moved == ["critic" in names for names in due[1:]]
    assert [step.denominators["rows"] for step in log.steps] == [5] * TOTAL_STEPS
    assert all(isinstance(step.denominators["weight"], float) for step in log.steps)
    norms = log.steps[2].grad_norms
    assert log.steps[2].grad_norm == pytest.approx(math.hypot(*norms.values()), rel=1e-12)


@pytest.mark.parametrize("step", [0, 2, 3, 6])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_moves_no_network(
    tmp_path: Path, step: int, value: float
) -> None:
    log = Log()
    state = run_toy(tmp_path, Pair(), [log], spoiled={step: value})
    assert (state.step, state.skipped, state.skipped_in_row) == (TOTAL_STEPS, 1, 0)
    assert [record.taken for record in log.steps] == [n != step for n in range(TOTAL_STEPS)]
    _nothing_moved_in(tmp_path, step)


@pytest.mark.parametrize("step", [2, 4])
def test_a_bad_loss_of_one_update_holds_back_the_other(tmp_path: Path, step: int) -> None:
    pair, log = Pair(), Log()
    pair.spoiled_critic = {step}
    assert run_toy(tmp_path, pair, [log]).skipped == 1
    record = log.steps[step]
    assert not record.taken
    assert math.isfinite(record.terms["total"])
    assert math.isfinite(record.grad_norms["generator"])
    _nothing_moved_in(tmp_path, step)


def _nothing_moved_in(run: Path, step: int) -> None:
    """Weights and average are those of the step before, or of the start; nothing is spoiled."""
    after = checkpoint.load(str(run / f"checkpoints/step-{step + 1:08d}")).tensors
    if step == 0:
        started = Pair().tensors()
        before = {**started, "ema": started["model"]}
    else:
        before = checkpoint.load(str(run / f"checkpoints/step-{step:08d}")).tensors
    for file, tensors in before.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, after[file][name]), f"{file}/{name}"
    last = checkpoint.load(str(run / LAST)).tensors
    assert all(t.isfinite().all() for tensors in last.values() for t in tensors.values())


def test_too_many_in_a_row_stop_and_say_what_was_trained_on(tmp_path: Path) -> None:
    said = (
        r"step 5: the loss or gradient was not finite in 2 steps in a row \(rows numbers-4-0/0, "
        r"numbers-4-0/1, ...\); the last good checkpoint is intact: check these rows and continue "
        r"with --resume, or start a new run with a lower toy.rate"
    )
    with pytest.raises(Diverged, match=said):
        run_toy(tmp_path, Pair(), spoiled=dict.fromkeys((3, 4), math.nan))


def test_the_lowest_value_after_a_step_is_the_best(tmp_path: Path) -> None:
    """By number of moves: before the first, then 1, 2, 4, 5, 7, 8, 10, 11 and 13."""
    values = {0: -9.0, 1: 5.0, 2: math.nan, 4: 3.0, 5: 4.0, 7: 2.0, 8: 2.0, 10: 7.0, 11: 7.0, 13: 3}
    log = Log()
    state = run_toy(tmp_path, Pair(values), [log])
    assert (state.best_step, state.best_value) == (5, 2.0)
    assert checkpoint.best(str(tmp_path)) == str(tmp_path / "checkpoints/step-00000005")
    assert [step for step, _ in log.validations] == list(range(TOTAL_STEPS + 1))
    assert all(result.rows["fixed"] == {"sum": 1.0} for _, result in log.validations)


def test_the_average_is_what_is_validated_and_leaves_the_training_alone(tmp_path: Path) -> None:
    pairs = {name: Pair() for name in ("averaged", "plain")}
    run_toy(tmp_path / "averaged", pairs["averaged"], ema_decay=0.5)
    run_toy(tmp_path / "plain", pairs["plain"], ema_decay=None)
    averaged, plain = (checkpoint.load(str(tmp_path / name / LAST)).tensors for name in pairs)
    assert torch.equal(pairs["averaged"].validation.seen, averaged["ema"]["weight"])
    assert torch.equal(pairs["plain"].validation.seen, plain["model"]["weight"])
    assert torch.equal(averaged["model"]["weight"], plain["model"]["weight"])
    assert not torch.equal(averaged["ema"]["weight"], plain["model"]["weight"])


def test_another_plan_or_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run_toy(tmp_path, Pair(), [Log(4)])
    with pytest.raises(UserError, match="kind was 'toy' and is now 'doll'; a resumed run keeps"):
        run_toy(tmp_path, Pair(), kind="doll")
    wider = Pair()
    wider.critic = torch.nn.Linear(5, 1)
    with pytest.raises(RuntimeError, match="stored and live tensors differ in weight"):
        run_toy(tmp_path, wider)


def test_two_ranks_are_one_rank(tmp_path: Path, whole: tuple[Path, Log]) -> None:
    """The same rows in the same steps and close weights; killed and resumed, bit for bit."""
    together, cut = tmp_path / "together", tmp_path / "cut"
    run_toy_over_two_ranks(together)
    run_toy_over_two_ranks(cut, kill_in=4)
    run_toy_over_two_ranks(cut)
    assert content(together / LAST) == content(cut / LAST)
    one, two = (checkpoint.load(str(run / LAST)) for run in (whole[0], together))
    for file, tensors in one.tensors.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(two.tensors[file][name], tensor, rtol=1e-4, atol=1e-6)
    losses = json.loads((together / "losses.json").read_text())
    for ours, record in zip(losses, whole[1].steps, strict=True):
        assert ours == pytest.approx(record.terms, rel=1e-4, abs=1e-6)


class Asks(Hook):
    """Asks for a checkpoint before the step of this number (from 1), until one is written."""

    def __init__(self, step: int) -> None:
        self.answered: list[int] = []
        self._step = step
        self._asked = 0

    def __call__(self) -> bool:
        self._asked += 1
        return self._asked >= self._step and not self.answered

    def on_checkpoint(self, state: TrainState, folder: str) -> None:
        if self._asked >= self._step:
            self.answered.append(state.step)


@pytest.mark.parametrize("step", [3, 5])
def test_a_checkpoint_that_is_asked_for_is_written_once_and_changes_nothing(
    tmp_path: Path, step: int
) -> None:
    """Step 3 is in the middle of an epoch, step 5 ends one and is saved anyway."""
    asks = Asks(step)
    for name in ("asked", "left_alone"):
        settings = LoopSettings(
            run=str(tmp_path / name),
            plan=plan_of(EPOCHS, kind="toy"),
            checkpoint=CheckpointConfig(every_steps=None, every_minutes=None, keep_last=99),
        )
        hooks, asked = ([asks], asks) if name == "asked" else ([], lambda: False)
        group = SingleProcess()
        train(settings, Pair(), Source(group, {}), group, hooks, save_requested=asked)
    assert checkpoint.complete_steps(str(tmp_path / "left_alone")) == [2, 5, 9]
    assert checkpoint.complete_steps(str(tmp_path / "asked")) == sorted({2, 5, 9, step})
    assert asks.answered[0] == step
    assert content(tmp_path / "asked" / LAST) == content(tmp_path / "left_alone" / LAST)
