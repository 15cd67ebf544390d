"""The loop against its promises: exact resume, any number of workers, phases, refusals.

Run as a script, this file is one rank of a two-rank run (see `run_two_ranks`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.nano_cache import write_nano_cache
from tests.ttt.snac.train.rig import (
    CURRICULUM,
    N_TRAIN,
    N_VALID,
    TOTAL_STEPS,
    KillAfter,
    Log,
    Rig,
    content,
)
from tests.two_ranks import Killed, be_a_rank, run_two_ranks
from ttt import checkpoint
from ttt.errors import UserError
from ttt.snac.train.curriculum import CurriculumConfig, StageConfig
from ttt.snac.train.optim import OptimConfig, learning_rates
from ttt.snac.train.window_reader import MicroBatch
from ttt.training.config import CheckpointConfig
from ttt.training.hooks import Hook, StepRecord
from ttt.training.loop import TrainingStopped
from ttt.training.ranks import ProcessGroup
from ttt.training.state import TrainState, fork, plan_of
from ttt.training.trainee import ValidationResult


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nano_cache(tmp_path_factory.mktemp("cache"), N_TRAIN + N_VALID)


@pytest.fixture(scope="session")
def uninterrupted(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    run, log = tmp_path_factory.mktemp("uninterrupted"), Log()
    Rig(cache, run).train([log])
    return run, log


def test_the_whole_run_goes_through_both_phases(uninterrupted: tuple[Path, Log]) -> None:
    run, log = uninterrupted
    assert checkpoint.complete_steps(str(run)) == list(range(1, TOTAL_STEPS + 1))
    assert [record.phase for record in log.steps] == [1, 1, 2, 2, 2, 2, 2, 2]
    assert [record.epoch for record in log.steps] == [1, 1, 2, 2, 3, 3, 3, 3]
    assert [set(record.learning_rates) for record in log.steps[1:3]] == [
        {"head"},
        {"head", "body"},
    ]
    expected = [learning_rates(OptimConfig(), 2, step, 6) for step in range(6)]
    assert [record.learning_rates for record in log.steps[2:]] == expected
    assert [step for step, _ in log.validations] == [0, 2, 4, 8]


@pytest.mark.parametrize(
    ("killed_in", "saved_every"), [(1, 1), (2, 1), (3, 1), (4, 1), (6, 1), (6, 3), (8, 3)]
)
def test_killed_in_any_step_and_resumed_is_bit_for_bit_uninterrupted(
    cache: Path,
    tmp_path: Path,
    uninterrupted: tuple[Path, Log],
    killed_in: int,
    saved_every: int,
) -> None:
    """Cuts in phase 1, at the phase boundary, in mid epoch, at an epoch's end; with a checkpoint
    after every step, and with older ones only."""
    settings = CheckpointConfig(every_steps=saved_every, every_minutes=None, keep_last=99)
    with pytest.raises(Killed):
        Rig(cache, tmp_path, checkpoint=settings).train([KillAfter(killed_in)])
    torch.manual_seed(999)  # another process has drawn other numbers
    log = Log()
    state = Rig(cache, tmp_path, checkpoint=settings).train([log])
    assert state.step == TOTAL_STEPS
    assert len(log.steps) < TOTAL_STEPS or killed_in <= saved_every
    reference, _ = uninterrupted
    for step in (4, TOTAL_STEPS):
        name = f"checkpoints/step-{step:08d}"
        assert content(str(tmp_path / name)) == content(str(reference / name))
    best = "checkpoints/best.json"
    assert (tmp_path / best).read_bytes() == (reference / best).read_bytes()


ALL_WINDOWS = dataclasses.replace(
    CURRICULUM,
    epochs=2,
    stages=(
        StageConfig(first_epoch=1, last_epoch=1, segment_seconds=0.18, clips_per_step=8),
        StageConfig(first_epoch=2, last_epoch=2, segment_seconds=0.26, clips_per_step=4),
    ),
    windows_per_clip="length",
)
"""8 clips of 6 to 13 tokens: 36 windows of 2 in 4 steps, then 23 of 3 in 5."""


@pytest.fixture(scope="session")
def all_windows(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    run = tmp_path_factory.mktemp("all_windows")
    rig = Rig(cache, run, curriculum=ALL_WINDOWS, with_validation=False)
    assert [epoch.steps for epoch in rig.epochs] == [4, 5]
    torch.manual_seed(0)
    rig.train()
    return run


@pytest.mark.parametrize("killed_in", [2, 5, 6, 9])
def test_resume_is_as_exact_where_an_epoch_hears_all_windows(
    cache: Path, tmp_path: Path, all_windows: Path, killed_in: int
) -> None:
    with pytest.raises(Killed):
        Rig(cache, tmp_path, curriculum=ALL_WINDOWS, with_validation=False).train(
            [KillAfter(killed_in)]
        )
    torch.manual_seed(999)  # another process has drawn other numbers
    Rig(cache, tmp_path, curriculum=ALL_WINDOWS, with_validation=False).train()
    last = "checkpoints/step-00000009"
    assert content(str(tmp_path / last)) == content(str(all_windows / last))


def test_resumed_run_repeats_order_losses_and_rates(
    cache: Path, tmp_path: Path, uninterrupted: tuple[Path, Log]
) -> None:
    with pytest.raises(Killed):
        Rig(cache, tmp_path).train([KillAfter(6)])
    log = Log()
    Rig(cache, tmp_path).train([log])
    _, whole = uninterrupted
    untimed = [
        dataclasses.replace(record, data_wait_seconds=0, step_seconds=0)
        for record in (*whole.steps[5:], *log.steps)
    ]
    assert untimed[:3] == untimed[3:]


def test_a_stop_request_saves_and_the_next_start_goes_on(
    cache: Path, tmp_path: Path, uninterrupted: tuple[Path, Log]
) -> None:
    rarely = CheckpointConfig(every_steps=None, every_minutes=None, keep_last=99)
    log = Log()
    state = Rig(cache, tmp_path, checkpoint=rarely).train([log], stop=lambda: len(log.steps) == 4)
    assert state.step == 5
    assert checkpoint.complete_steps(str(tmp_path))[-1] == 5
    assert Rig(cache, tmp_path, checkpoint=rarely).train().step == TOTAL_STEPS
    name = f"checkpoints/step-{TOTAL_STEPS:08d}"
    assert content(str(tmp_path / name)) == content(str(uninterrupted[0] / name))


def test_a_finished_run_stays_as_it_is(
    cache: Path, tmp_path: Path, uninterrupted: tuple[Path, Log]
) -> None:
    run = shutil.copytree(uninterrupted[0], tmp_path / "run")
    before = content(str(checkpoint.newest_complete(str(run))))
    log = Log()
    assert Rig(cache, run).train([log]).step == TOTAL_STEPS
    assert log.steps == []
    assert content(str(checkpoint.newest_complete(str(run)))) == before


def test_weight_average_is_validated_saved_and_resumed(
    cache: Path, tmp_path: Path, uninterrupted: tuple[Path, Log]
) -> None:
    averaged = OptimConfig(ema_decay=0.5)
    log = Log()
    Rig(cache, tmp_path / "whole", optim=averaged).train([log])
    with pytest.raises(Killed):
        Rig(cache, tmp_path / "cut", optim=averaged).train([KillAfter(6)])
    Rig(cache, tmp_path / "cut", optim=averaged).train()
    final = f"checkpoints/step-{TOTAL_STEPS:08d}"
    assert content(str(tmp_path / "cut" / final)) == content(str(tmp_path / "whole" / final))
    _, plain = uninterrupted
    # The training itself is untouched by the average; what is validated is the average.
    assert log.steps[-1].terms == plain.steps[-1].terms
    assert log.validations[-1][1].loss != plain.validations[-1][1].loss
    snapshot = checkpoint.load(str(tmp_path / "whole" / final))
    one_before = checkpoint.load(str(tmp_path / "whole" / f"checkpoints/step-{7:08d}"))
    for name in snapshot.tensors["ema"]:
        expected = 0.5 * (one_before.tensors["ema"][name] + snapshot.tensors["model"][name])
        torch.testing.assert_close(snapshot.tensors["ema"][name], expected)


def test_phase_1_leaves_every_base_byte_and_changes_every_head_parameter(
    cache: Path, tmp_path: Path
) -> None:
    curriculum = CurriculumConfig(
        epochs=3,
        head_only_epochs=2,
        windows_per_clip=1,
        stages=(StageConfig(first_epoch=1, last_epoch=3, segment_seconds=0.18, clips_per_step=4),),
        context_coarse=1,
        micro_batches_per_step=2,
    )
    rig = Rig(
        cache,
        tmp_path,
        curriculum=curriculum,
        optim=OptimConfig(weight_decay=0.0),
        with_validation=False,
    )
    names = {id(parameter): name for name, parameter in rig.model.named_parameters()}
    head = {names[id(parameter)] for parameter in rig.model.head_parameters()}
    before = {name: tensor.clone() for name, tensor in rig.model.state_dict().items()}
    rig.train()
    after_1 = checkpoint.load(str(tmp_path / "checkpoints/step-00000004")).tensors["model"]
    after_2 = checkpoint.load(str(tmp_path / "checkpoints/step-00000005")).tensors["model"]
    changed_1 = {name for name in before if not torch.equal(before[name], after_1[name])}
    assert changed_1 == head
    body = {names[id(p)] for p in rig.model.body_parameters() if p.requires_grad}
    changed_2 = {name for name in before if not torch.equal(after_1[name], after_2[name])}
    assert body <= changed_2
    # The codebooks and their projections are never trained.
    assert not any(name.startswith("quantizer.") for name in changed_1 | changed_2)


class Spoiled:
    """Makes chosen steps' targets infinite, as a broken clip could."""

    def __init__(self, source: Any, steps: set[tuple[int, int]]) -> None:
        self.source, self.steps = source, steps

    def step_batches(self, epoch: int, first_step: int) -> Iterator[list[MicroBatch]]:
        for step, batches in enumerate(self.source.step_batches(epoch, first_step), first_step):
            if (epoch, step) in self.steps:
                audio = torch.full_like(batches[0].audio, math.nan, dtype=torch.float32)
                batches[0] = dataclasses.replace(batches[0], audio=audio)
            yield batches


def test_a_step_that_is_not_finite_is_skipped_and_counted(cache: Path, tmp_path: Path) -> None:
    rig, log = Rig(cache, tmp_path), Log()
    rig.source = Spoiled(rig.source, {(1, 1), (3, 0)})
    state = rig.train([log])
    assert (state.step, state.skipped, state.skipped_in_row) == (TOTAL_STEPS, 2, 0)
    assert [record.taken for record in log.steps] == [True, False, True, True, False] + [True] * 3
    folders = [str(tmp_path / f"checkpoints/step-{step:08d}") for step in (4, 5)]
    before, skipped = (checkpoint.load(folder) for folder in folders)
    for name, tensor in before.tensors["model"].items():
        assert torch.equal(tensor, skipped.tensors["model"][name])
    assert all(torch.isfinite(tensor).all() for tensor in rig.model.state_dict().values())


def test_too_many_in_a_row_stop_the_run_and_keep_the_last_good_checkpoint(
    cache: Path, tmp_path: Path
) -> None:
    rig = Rig(cache, tmp_path, optim=OptimConfig(max_skipped_in_row=2))
    rig.source = Spoiled(rig.source, {(2, 0), (2, 1), (3, 0)})
    with pytest.raises(TrainingStopped, match="step 4: the loss or gradient was not finite in 2"):
        rig.train()
    newest = checkpoint.load(str(checkpoint.newest_complete(str(tmp_path))))
    assert newest.step == 3
    assert all(torch.isfinite(tensor).all() for tensor in newest.tensors["model"].values())


def test_another_plan_is_refused_with_key_and_both_values(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        Rig(cache, tmp_path).train([KillAfter(3)])
    with pytest.raises(UserError, match=r"optim\.peak_lr was 0\.0001 and is now 0\.001; a resumed"):
        Rig(cache, tmp_path, optim=OptimConfig(peak_lr=1e-3)).train()


def test_a_validation_loss_that_is_no_number_is_never_the_best(cache: Path, tmp_path: Path) -> None:
    wild = OptimConfig(head_only_lr=1e30, peak_lr=1e30, max_skipped_in_row=99)
    log = Log()
    state = Rig(cache, tmp_path, optim=wild).train([log])
    assert not math.isfinite(log.validations[-1][1].loss)
    assert (state.step, state.best_step, checkpoint.best(str(tmp_path))) == (
        TOTAL_STEPS,
        None,
        None,
    )
    assert checkpoint.complete_steps(str(tmp_path))[-1] == TOTAL_STEPS


def test_a_fork_with_a_new_rate_factor_is_the_run_that_had_it_from_the_start(
    cache: Path, uninterrupted: tuple[Path, Log], tmp_path: Path
) -> None:
    changed = OptimConfig(rate_factors={4: 0.5})
    whole, log = Rig(cache, tmp_path / "whole", optim=changed), Log()
    whole.train([log])
    rates = [record.learning_rates["head"] for record in log.steps]
    before = [record.learning_rates["head"] for record in uninterrupted[1].steps]
    assert rates == [rate * (0.5 if step >= 4 else 1.0) for step, rate in enumerate(before)]
    for step, best_step in ((4, 4), (5, None)):  # validated after steps 2, 4 and 8
        forked = Rig(cache, tmp_path / f"fork{step}", optim=changed)
        plan = plan_of(forked.epochs, seed=forked.seed, optim=changed.to_dict())
        donor = (uninterrupted[0] if step == 4 else tmp_path / "whole") / "checkpoints"
        folder = fork(str(donor / f"step-{step:08d}"), str(forked.run), plan)
        state = checkpoint.read_state(folder)["train"]
        assert (state["step"], state["best_step"]) == (step, best_step)
        forked.train()
        for name in ("model.safetensors", "optimizer.pt"):
            ours, theirs = (r.run / "checkpoints/step-00000008" / name for r in (forked, whole))
            assert ours.read_bytes() == theirs.read_bytes()


def test_validation_is_the_same_whatever_the_epoch_trains_on(cache: Path, tmp_path: Path) -> None:
    """With learning rates of nothing the loss may not move, whatever the segment length is."""
    still = OptimConfig(head_only_lr=1e-30, peak_lr=1e-30, weight_decay=0.0)
    log = Log()
    Rig(cache, tmp_path, optim=still, validate_every_steps=1).train([log])
    assert [step for step, _ in log.validations] == list(range(TOTAL_STEPS + 1))
    first = log.validations[0][1]
    for _, result in log.validations:
        assert result.loss == first.loss
        assert result.rows == first.rows
    # Before training, init `interp` is the resampled 24 kHz output.
    assert set(first.rows) == {"ours_48k", "resampled_decode24", "resampled_true24"}
    for metric in ("lsd_lf", "l1"):
        ours, baseline = (first.rows[row][metric] for row in ("ours_48k", "resampled_decode24"))
        assert ours == pytest.approx(baseline, rel=1e-4)


def test_two_ranks_are_one_rank(
    cache: Path, tmp_path: Path, uninterrupted: tuple[Path, Log]
) -> None:
    """The same clips in the same steps and close losses with one rank and with two; killed and
    resumed with two, bit for bit."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_two_ranks(__file__, cache, whole, 0)
    run_two_ranks(__file__, cache, cut, 5, killed=True)
    run_two_ranks(__file__, cache, cut, 0)
    final = f"checkpoints/step-{TOTAL_STEPS:08d}"
    assert content(str(whole / final)) == content(str(cut / final))
    one, (_, log) = checkpoint.load(str(uninterrupted[0] / final)), uninterrupted
    two = checkpoint.load(str(whole / final))
    assert one.state["train"] | {"best_value": 0} == two.state["train"] | {"best_value": 0}
    assert one.state["train"]["best_value"] == pytest.approx(two.state["train"]["best_value"])
    records = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [r["valid_samples"] for r in records] == [
        r.denominators["valid_samples"] for r in log.steps
    ]
    assert [r["loss"] for r in records] == pytest.approx(
        [r.terms["total"] for r in log.steps], rel=1e-4
    )
    # Before the first step the models are equal, and so is the validation, to the last bit.
    assert (whole / "validation_0.txt").read_text() == repr(log.validations[0][1].loss)


class _RankLog(KillAfter):
    def __init__(self, step: int, run: Path) -> None:
        super().__init__(step)
        self.run = run

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        self.run.mkdir(exist_ok=True)
        (self.run / f"validation_{state.step}.txt").write_text(repr(result.loss))

    def on_step(self, record: StepRecord) -> None:
        line = {**record.denominators, "loss": record.terms["total"]}
        with open(self.run / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        super().on_step(record)


def _train(rank: int, cache: str, run: str, kill_after: str) -> None:
    log = _RankLog(int(kill_after), Path(run))
    hooks: list[Hook] = [log] if rank == 0 else [KillAfter(int(kill_after))]
    Rig(Path(cache), Path(run), ProcessGroup()).train(hooks)


if __name__ == "__main__":
    be_a_rank(_train)
