"""metrics.jsonl over restarts, on a disk and on an object store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_jobs.decoder.train_config import TrackingConfig
from ray_jobs.training.trackers import MetricsFile, require_installed
from ttt import storage
from ttt.errors import UserError
from ttt.training.hooks import StepRecord
from ttt.training.state import TrainState
from ttt.training.trainee import ValidationResult


def record(step: int, *, taken: bool = True, loss: float = 1.0) -> StepRecord:
    return StepRecord(
        step=step,
        epoch=1,
        phase=1,
        terms={"total": loss},
        learning_rates={"head": 0.1},
        grad_norms={"optimizer": 2.0},
        taken=taken,
        denominators={"valid_samples": 100},
        replaced=[],
        data_wait_seconds=0.1,
        step_seconds=1.0,
    )


def lines(uri: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines()]


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_restart_records_no_step_twice(tmp_path: Path, scheme: str) -> None:
    run = f"{scheme}{tmp_path}"
    first = MetricsFile(run, every_steps=1, item_name="clips")
    first.on_start(TrainState())
    for step in range(1, 6):
        first.on_step(record(step))
    first.on_checkpoint(TrainState(step=5), f"{run}/checkpoints/step-00000005")
    uri = storage.join(run, "metrics.jsonl")
    if not scheme:  # the last line was cut short by the kill
        with open(uri, "a") as file:
            file.write('{"kind": "step", "st')
    again = MetricsFile(run, every_steps=1, item_name="clips")
    again.on_start(TrainState(step=3))
    for step in (4, 5):
        again.on_step(record(step))
    again.on_validation(TrainState(step=5), ValidationResult(1.0, {"total": 1.0}, {}))
    assert [(line["kind"], line["step"]) for line in lines(uri)] == [
        *(("step", step) for step in range(1, 6)),
        ("validation", 5),
    ]
    fresh = MetricsFile(run, every_steps=1, item_name="clips")
    fresh.on_start(TrainState())
    assert lines(uri) == []


def test_only_every_nth_step_is_written_but_every_skipped_one(tmp_path: Path) -> None:
    tracker = MetricsFile(str(tmp_path), every_steps=4, item_name="clips")
    tracker.on_start(TrainState())
    for step in range(1, 10):
        tracker.on_step(record(step, taken=step != 7, loss=float("nan") if step == 7 else 1.0))
    written = lines(f"{tmp_path}/metrics.jsonl")
    assert [line["step"] for line in written] == [1, 4, 7, 8]
    assert written[2]["loss"] is None


def test_a_tracker_that_is_not_installed_is_refused() -> None:
    require_installed(TrackingConfig())
    for name in ("wandb", "mlflow"):
        said = f"tracking.{name} is set and the package {name} is not installed"
        with pytest.raises(UserError, match=said):
            require_installed(TrackingConfig(**{name: "project"}))
