"""What decides over trials, told of results that are written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune import Checkpoint
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import TrialScheduler

from ray_jobs.sweep import trials as tune_trials
from ray_jobs.sweep.config import RATE_FACTOR
from ray_jobs.sweep.search import Limits, TpeSearch, build_scheduler
from ray_jobs.sweep.trials import Reached, Trial, best_of
from ray_jobs.training.trackers import WORST_SCORE, ReportHook
from tests.tune_world import load, write_world
from ttt.training.state import TrainState
from ttt.training.trainee import ValidationResult


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def reached(number: int, losses: list[float | None], **changes: Any) -> Reached:
    """A finished trial with a loss per epoch of two steps."""
    curve = tuple((2 * epoch, loss, epoch) for epoch, loss in enumerate(losses, start=1))
    known = [loss for loss in losses if loss is not None]
    fields: dict[str, Any] = {
        "trial": Trial(number, {}),
        "state": "finished",
        "why": "",
        "loss": min(known, default=None),
        "best_step": 2,
        "place": "",
        "step": 2 * len(losses),
        "curve": curve,
    }
    return Reached(**{**fields, **changes})


@dataclass(frozen=True)
class Running:
    """A trial as Ray Tune's schedulers see it."""

    number: int

    @property
    def trial_id(self) -> str:
        return f"ray-{self.number}"

    @property
    def config(self) -> dict[str, int]:
        return {"number": self.number}


def decision(scheduler: Any, number: int, epochs: int, loss: float) -> str:
    trial = Running(number)
    if epochs == 1:
        scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"epochs": epochs, "score": -loss})


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_a_scheduler_judges_by_what_earlier_trials_reached(world: Path, kind: str) -> None:
    sweep = load(world, world.parent / "run", f"scheduler.kind={kind}")
    past = [reached(number, [1.0 + 0.1 * number] * 3) for number in range(1, 5)]
    for results, bad in ((past, TrialScheduler.STOP), ([], TrialScheduler.CONTINUE)):
        assert decision(build_scheduler(sweep, results, 3), 7, 1, 2.0) == bad
        assert decision(build_scheduler(sweep, results, 3), 8, 1, 0.5) == TrialScheduler.CONTINUE
    told = build_scheduler(sweep, past, 3)
    assert decision(told, 0, 1, 2.0) == TrialScheduler.CONTINUE, "trial 0 is never stopped"
    assert decision(told, 0, 2, 2.0) == TrialScheduler.CONTINUE


def test_a_trial_that_goes_on_counts_once(world: Path) -> None:
    past = [reached(1, [1.0], state="unfinished"), reached(2, [1.5])]
    asha: Any = build_scheduler(load(world, world.parent / "run", "scheduler.kind=asha"), past, 3)
    assert decision(asha, 1, 1, 1.0) == TrialScheduler.CONTINUE
    rungs = dict(asha._brackets[0]._rungs)
    assert sorted(rungs[min(rungs)].values()) == [-1.5, -1.0]
    median: Any = build_scheduler(
        load(world, world.parent / "run", "scheduler.kind=median"), past, 3
    )
    # One other trial is not enough to be judged by.
    assert decision(median, 1, 1, 2.0) == TrialScheduler.CONTINUE
    assert len(median._results) == 2


def test_a_resumed_median_rule_judges_by_reports_alone(world: Path) -> None:
    """Not by step 0, which no trial reports, and by each report once."""
    sweep = load(world, world.parent / "run", "scheduler.kind=median")
    live: Any = build_scheduler(sweep, [], 3)
    for number, losses in ((1, [3.0, 1.0]), (2, [3.0, 1.0]), (4, [2.5])):
        for epoch, loss in enumerate(losses, start=1):
            decision(live, number, epoch, loss)
        if len(losses) == 2:
            live.on_trial_complete(None, Running(number), {"epochs": 2, "score": -1.0})
    going_on = reached(4, [], state="unfinished", curve=((0, 0.5, 0), (2, 2.5, 1)))
    told: Any = build_scheduler(
        sweep, [reached(1, [3.0, 1.0]), reached(2, [3.0, 1.0]), going_on], 3
    )
    for scheduler in (live, told):
        # It had only its end left to note.
        scheduler.on_trial_complete(None, Running(5), {"done": True})
        assert decision(scheduler, 3, 1, 2.5) == TrialScheduler.CONTINUE
        assert decision(scheduler, 3, 2, 1.9) == TrialScheduler.CONTINUE
        assert decision(scheduler, 4, 2, 2.4) == TrialScheduler.STOP


class Controller:
    """As much of Ray Tune's controller as population based training asks."""

    search_alg = None

    def __init__(self, trials: Sequence[RayTrial]) -> None:
        self.get_trials = lambda: list(trials)
        self.paused: list[RayTrial] = []

    def pause_trial(self, trial: RayTrial, should_checkpoint: bool) -> None:
        self.paused.append(trial)

    def _schedule_trial_save(self, trial: RayTrial, result: Any) -> Checkpoint:
        return Checkpoint("/nowhere")


def test_a_resumed_population_ranks_by_what_it_has_reported(world: Path) -> None:
    space = f"space={{{RATE_FACTOR}: {{uniform: [0.5, 2]}}}}"
    sweep = load(world, world.parent / "run", "scheduler.kind=pbt", space, "search.trials=4")
    losses = {0: [9.0, 9.0], 1: [1.5, 1.0], 2: [3.0, 2.0], 3: [8.0, 7.0], 4: [9.9], 5: []}
    scheduler: Any = build_scheduler(sweep, [reached(n, known) for n, known in losses.items()], 3)
    trials = [RayTrial("stub", stub=True, config={"number": n, "factor": 1.0}) for n in losses]
    controller = Controller(trials)
    for trial in trials:
        scheduler.on_trial_add(controller, trial)
    assert scheduler._quantiles() == ([trials[4]], [trials[1]])
    assert [scheduler._trial_state[trial].last_train_time for trial in trials] == [
        *(0, 2, 2, 2, 1, 0),
    ]
    for trial in trials:
        trial.set_status(RayTrial.RUNNING)
    # The interval counts on; a trial without a checkpoint in this start is not copied.
    report = {"epochs": 2, "score": -9.8}
    assert scheduler.on_trial_result(controller, trials[4], report) == TrialScheduler.CONTINUE
    assert scheduler._trial_state[trials[4]].last_perturbation_time == 2
    assert not controller.paused
    # At its last epoch no trial is replaced, be it the worst beside one that could be copied.
    scheduler._trial_state[trials[1]].last_checkpoint = Checkpoint("/nowhere")
    last = {"epochs": 3, "score": -9.9}
    assert scheduler.on_trial_result(controller, trials[4], last) == TrialScheduler.CONTINUE
    assert not controller.paused
    scheduler._trial_state[trials[4]].last_perturbation_time = 1
    scheduler.on_trial_result(controller, trials[4], report)
    assert controller.paused == [trials[4]], "before, it is"


def test_a_trial_that_reaches_its_last_epoch_is_not_stopped_for_it(world: Path) -> None:
    scheduler = build_scheduler(load(world, world.parent / "run"), [], 3)
    assert [decision(scheduler, 1, epoch, 1.0) for epoch in (1, 2, 3)] == ["CONTINUE"] * 3


def test_a_loss_that_is_no_number_never_wins(world: Path) -> None:
    reports: list[dict[str, float]] = []
    hook = ReportHook(lambda metrics, _folder: reports.append(metrics))
    state = TrainState(step=4, epoch=3)
    for loss in (0.7, math.nan, math.inf):
        rows = {"ours_48k": {"lsd": loss, "l1": 0.1}}
        hook.on_validation(state, ValidationResult(loss=loss, terms={}, rows=rows))
        assert len(reports) < 1 or reports[-1]["score"] != -loss, "told before its checkpoint"
        hook.on_checkpoint(state, "somewhere")
    good, *bad = reports
    assert good == {
        "step": 4,
        "epochs": 2,
        "score": -0.7,
        "validation_loss": 0.7,
        "ours_48k/lsd": 0.7,
        "ours_48k/l1": 0.1,
    }
    for report in bad:
        assert report == {"step": 4, "epochs": 2, "score": WORST_SCORE, "ours_48k/l1": 0.1}
    hook.on_checkpoint(TrainState(step=5), "a checkpoint without a validation")
    assert len(reports) == 3
    # What decides instead of the loss is the score.
    hook.on_validation(state, ValidationResult(loss=0.7, terms={}, rows={}, value=1.9))
    hook.on_checkpoint(state, "somewhere")
    assert (reports[-1]["score"], reports[-1]["validation_loss"]) == (-1.9, 0.7)
    nothing = reached(1, [None, None])
    assert best_of([nothing]) is None
    assert best_of([nothing, reached(2, [3.0]), reached(3, [3.0])]) == reached(2, [3.0])


def write_result(run: Path, number: int, values: dict[str, Any]) -> None:
    tune_trials.write(str(run), Trial(number, values))
    tune_trials.end(str(run), number, "finished")


def loss_of(values: dict[str, Any]) -> float:
    """Lowest at a rate of 1e-3 with a clip norm of 0.3."""
    away = math.log(values["optim.peak_lr"] / 1e-3)
    return away**2 + (0 if values["optim.clip_norm"] == 0.3 else 1)


def test_tpe_learns_from_the_trials_on_disk_and_does_not_propose_the_same_again(
    world: Path, tmp_path: Path
) -> None:
    sweep = load(world, tmp_path, "search.kind=tpe", "search.trials=70")
    random = np.random.default_rng(0)
    results = [reached(0, [9.0])]
    for number in range(1, 41):
        values = {key: space.at(random.random()) for key, space in sweep.space.items()}
        write_result(tmp_path, number, values)
        results.append(reached(number, [loss_of(values)], trial=Trial(number, values)))
    asleep = reached(41, [5.0], state="unfinished", trial=Trial(41, results[1].trial.values))
    tune_trials.write(str(tmp_path), asleep.trial)
    search = TpeSearch(sweep, [*results, asleep], 71)
    assert search.suggest("again") == {"number": 41}, "what is not over comes first"
    found = []
    for number in range(42, 71):
        assert search.suggest(f"trial-{number}") == {"number": number}
        found.append(tune_trials.read(str(tmp_path), number).values)
    assert search.suggest("none left") == "FINISHED"
    drawn = [loss_of(result.trial.values) for result in results[1:]]
    assert np.median([loss_of(values) for values in found]) < 0.5 * np.median(drawn)
    assert len({values["optim.peak_lr"] for values in found}) == len(found)
    later = TpeSearch(sweep, results[:1], 71)
    later.suggest("first")
    assert tune_trials.read(str(tmp_path), 1).values not in found


def test_limits_count_the_steps_of_all_trials_and_of_earlier_starts(world: Path) -> None:
    sweep = load(world, world.parent / "run", "stop.steps=14")
    going_on = reached(1, [1.0], state="unfinished")
    limits = Limits(sweep, [reached(0, [1.0, 1.0]), reached(9, [1.0]), going_on])  # 4 + 2 steps
    assert not limits.stop_all()
    for number, step, full in ((1, 4, False), (1, 4, False), (2, 2, False), (2, 4, True)):
        limits(f"id {number}", {"step": step})
        assert limits.stop_all() == full
    assert limits.reason == "stop.steps 14 is reached"
    sweep = load(world, world.parent / "run", "stop.hours=1.0e-15")
    limits = Limits(sweep, [])
    assert limits.stop_all()
    assert limits.reason == "stop.hours 1e-15 is reached"


def test_half_a_line_of_metrics_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step"}\n{"kind": "vali')
    assert tune_trials.history(str(tmp_path)) == [{"kind": "step"}]
