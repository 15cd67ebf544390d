"""What a sweep may vary: every problem before anything starts, the same draws every time."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from ray_jobs import tune_decoder
from ray_jobs.config.load import ConfigError
from ray_jobs.sweep import space as tune_space
from tests.tune_world import load, write_world

FACTOR = "{optim.rate_factors.0: {uniform: [1, 2]}}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def problems(world: Path, space: str, *more: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        tune_space.require_valid(load(world, world.parent / "run", f"space={space}", *more))
    return caught.value.problems


def test_every_problem_of_the_space_is_named_at_once(world: Path) -> None:
    found = problems(
        world,
        "{optim.peak_lrr: {loguniform: [1e-5, 1e-3]}, optim.clip_norm: {choice: [1.0, high]}, "
        "optim.warmup_fraction: {uniform: [0.2, 1.5]}, curriculum.stages.3.clips_per_step: "
        "{choice: [4]}, optim.betas: {choice: [[0.9]]}}",
    )
    assert any("optim.peak_lrr: unknown key; did you mean optim.peak_lr?" in x for x in found)
    assert any("optim.clip_norm: expected a number, got 'high'" in x for x in found)
    assert any("warmup_fraction must lie in (0, 1), got 1.5" in x for x in found)
    assert any("curriculum.stages is a list of 1; 3 is not one of its places" in x for x in found)
    assert any(x.startswith("optim.betas") for x in found)
    assert len(found) == 5


def test_what_would_make_trials_incomparable_is_refused(world: Path) -> None:
    found = problems(
        world,
        "{loss.l1_weight: {choice: [1, 2]}, data.validation_share: {uniform: [0.2, 0.3]}, "
        "cluster.max_failures: {choice: [1, 2]}, curriculum: {choice: [{context_coarse: 2}]}}",
    )
    assert set(found) == {
        "loss.l1_weight: cannot vary (trials would be compared by different measures)",
        "data.validation_share: cannot vary (trials would be compared by different measures)",
        "curriculum: cannot vary (trials would be compared by different measures)",
        "cluster.max_failures: cannot vary (the same for all trials; set it in the configuration "
        "itself)",
    }


def test_combinations_are_checked_together_and_planned_over_the_cache(world: Path) -> None:
    (found,) = problems(
        world, "{curriculum.epochs: {choice: [3]}, curriculum.head_only_epochs: {choice: [1, 4]}}"
    )
    assert "head_only_epochs must lie in 0..3, got 4" in found
    (found,) = problems(world, "{curriculum.stages.0.clips_per_step: {choice: [2, 4, 10]}}")
    assert "with curriculum.stages.0.clips_per_step=10: 8 training clips are fewer" in found
    # A group of keys is laid over the configuration: what it leaves out stays.
    stages = "[{first_epoch: 1, last_epoch: 1, segment_seconds: 0.2, clips_per_step: 4}]"
    sweep = load(
        world, world.parent / "run",
        f"space={{curriculum: {{choice: [{{epochs: 1, stages: {stages}}}]}}}}", "search.trials=1",
    )  # fmt: skip
    tune_space.require_valid(sweep)
    (values,) = tune_space.drawn(sweep)
    config = tune_space.trial_config(sweep, values, "elsewhere")
    assert (config.run, config.curriculum.epochs, config.curriculum.context_coarse) == (
        *("elsewhere", 1, 1),
    )
    assert tune_space.most_epochs(sweep) == 1


def test_a_space_with_more_combinations_than_can_be_checked_still_tries_every_value(
    world: Path,
) -> None:
    many = ", ".join(f"optim.{k}: {{choice: {v}}}" for k, v in {
        "peak_lr": [1e-4] * 20, "head_only_lr": [1e-4] * 20, "clip_norm": [1.0] * 20,
        "weight_decay": [0.0] * 19 + [-1.0],
    }.items())  # fmt: skip
    assert problems(world, f"{{{many}}}") == ("optim: weight_decay must not be negative, got -1.0",)


def test_a_drawn_trial_is_checked_however_many_combinations_there_are(world: Path) -> None:
    places = {"micro_batches_per_step": 0, "stages.0.clips_per_step": 0}

    def space(choices: dict[str, list[int]]) -> str:
        return ", ".join(f"curriculum.{key}: {{choice: {c}}}" for key, c in choices.items())

    # Where in lists of 200 the first trial lies, and there what is wrong only together.
    blank = {key: [*range(200)] for key in places}
    first = tune_space.drawn(load(world, world.parent / "run", f"space={{{space(blank)}}}"))[0]
    values = {"micro_batches_per_step": (2, 4), "stages.0.clips_per_step": (4, 2)}
    rare = {
        key: [other if place == first[f"curriculum.{key}"] else usual for place in range(200)]
        for key, (usual, other) in values.items()
    }
    (found,) = problems(world, f"{{{space(rare)}}}", "search.trials=1")
    assert "micro_batches_per_step" in found


def test_a_key_inside_another_key_of_the_space_is_refused(world: Path) -> None:
    assert problems(
        world,
        "{curriculum.head_only_epochs: {choice: [0, 1]}, optim.peak_lr: {choice: [1e-4]}, "
        "curriculum: {choice: [{head_only_epochs: 1}]}, curriculum.stages: {choice: [[]]}}",
    )[:2] == (
        "curriculum.head_only_epochs: is part of curriculum, which varies too; put them into one "
        "group",
        "curriculum.stages: is part of curriculum, which varies too; put them into one group",
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["search.kind=grid", "search.trials=null"], "space.optim.peak_lr: a grid needs choice"),
        (["search.kind=grid"], "set trials to null"),
        (["scheduler.kind=pbt"], "only optim.rate_factors.0 can vary"),
        (
            ["scheduler.kind=pbt", f"space={FACTOR}", "cluster.num_workers=2"],
            "pbt needs trials of one worker",
        ),
        (["space={}"], "space is empty"),
        (["space={optim.peak_lr: {uniform: [2, 1]}}"], "uniform must rise"),
        (["space={optim.peak_lr: {loguniform: [0, 1]}}"], "loguniform must lie above 0"),
        (["space={optim.peak_lr: {choice: [1], uniform: [0, 1]}}"], "give exactly one of"),
        (["space={optim.peak_lr: {quniform: [0, 1]}}"], "did you mean space.optim.peak_lr.uniform"),
        (["data.validation_share=null"], "trials are compared by validation"),
        (["cluster.num_workers=0"], "cluster.num_workers of at least 1"),
        (["stop.hours=0"], "hours must be above 0 or null"),
    ],
)
def test_contradictions_are_refused(
    world: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    command = ["--config", str(world), f"run={world.parent / 'run'}", "--dry-run", *overrides]
    assert tune_decoder.main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_dry_run_says_what_varies_and_writes_nothing(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = world.parent / "dry"
    assert tune_decoder.main(["--config", str(world), f"run={run}", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "6 steps in 3 epochs" in printed
    assert "sweep: 5 trainings: trial 0 is the plan above, 4 more (search.trials) vary" in printed
    assert "  optim.peak_lr: loguniform 0.0001, 0.03" in printed
    assert not run.exists()


def test_draws_depend_on_seed_and_place_alone(world: Path) -> None:
    few, many, other = (
        tune_space.drawn(load(world, world.parent / "run", *more))
        for more in (["search.trials=5"], ["search.trials=400"], ["search.seed=1"])
    )
    assert many[:5] == few
    assert few[:4] != other
    rates = np.log([values["optim.peak_lr"] for values in many])
    low, high = np.log(1e-4), np.log(3e-2)
    assert low <= rates.min()
    assert rates.max() <= high
    quartiles = (np.quantile(rates, [0.25, 0.5, 0.75]) - low) / (high - low)
    assert quartiles == pytest.approx([0.25, 0.5, 0.75], abs=0.08)
    norms = [values["optim.clip_norm"] for values in many]
    assert {norm: norms.count(norm) > 100 for norm in (0.3, 1.0, None)} == {
        0.3: True,
        1.0: True,
        None: True,
    }


def test_a_grid_is_every_combination_but_the_default(world: Path) -> None:
    space = "space={optim.peak_lr: {choice: [1e-4, 2e-4]}, optim.clip_norm: {choice: [1.0, null]}}"
    sweep = load(world, world.parent / "run", space, "search={kind: grid, trials: null}")
    found = [(v["optim.peak_lr"], v["optim.clip_norm"]) for v in tune_space.drawn(sweep)]
    default = (sweep.optim.peak_lr, sweep.optim.clip_norm)
    assert default == (1e-4, 1.0)
    assert found == [p for p in itertools.product((1e-4, 2e-4), (1.0, None)) if p != default]
    assert tune_space.number_of_trials(sweep) == 4
