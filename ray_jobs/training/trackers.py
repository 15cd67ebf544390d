"""Who listens to a training: metrics.jsonl always, TensorBoard, Weights & Biases and MLflow.

Each is a hook of the loop and lives on the first worker. After a restart every one continues at
the checkpoint's step, so no step is recorded twice.

A line of metrics.jsonl has "kind": "step" (loss terms, learning rate per group, gradient norm,
data-wait share), "validation" (loss terms, rows of metrics, and the value that decides where it is
not the loss), "turn_back" (why training went back to its best checkpoint) or "checkpoint".
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_jobs.training.config import TrackingConfig
from ray_jobs.training.step_lines import StepLines
from ray_jobs.training.training_job import TrainingJob
from ttt import storage
from ttt.errors import UserError
from ttt.training.hooks import Hook, StepRecord
from ttt.training.state import TrainState
from ttt.training.trainee import ValidationResult


def require_installed(config: TrackingConfig) -> None:
    """Raises UserError when a tracker is asked for and its package is not there."""
    for name in ("wandb", "mlflow"):
        if getattr(config, name) is not None and importlib.util.find_spec(name) is None:
            raise UserError(
                f"tracking.{name} is set and the package {name} is not installed; install it or "
                f"set tracking.{name} to null"
            )


def build_trackers(job: TrainingJob[Any]) -> list[Hook]:
    """The hooks that the job's configuration asks for."""
    run, config = job.config.run, job.config.tracking
    trackers: list[Hook] = [MetricsFile(run, config.every_steps, job.item_name)]
    if config.tensorboard:
        folder = storage.local_path(run) / "tensorboard"
        trackers.append(TensorBoard(folder, config.every_steps, job.show_example))
    if config.wandb is not None:
        trackers.append(WandB(run, config.wandb, config.every_steps, job.config.to_dict()))
    if config.mlflow is not None:
        trackers.append(MLflow(run, config.mlflow, config.every_steps, job.config.to_dict()))
    return trackers


class MetricsFile(Hook):
    """RUN/metrics.jsonl; on an object store it is uploaded at each validation and checkpoint."""

    def __init__(self, run: str, every_steps: int, item_name: str) -> None:
        """`item_name` is what a batch holds: clips, windows."""
        self._lines = StepLines(run, "metrics.jsonl")
        self._every_steps = every_steps
        self._item_name = item_name

    def on_start(self, state: TrainState) -> None:
        self._lines.go_on(state.step)

    def on_step(self, record: StepRecord) -> None:
        if _recorded(record.step, self._every_steps) or not record.taken or record.replaced:
            self._lines.append(
                {
                    "kind": "step",
                    "step": record.step,
                    "epoch": record.epoch,
                    "phase": record.phase,
                    "loss": record.terms["total"],
                    "terms": record.terms,
                    "learning_rate": record.learning_rates,
                    "grad_norm": record.grad_norm,
                    "taken": record.taken,
                    **record.denominators,
                    "replaced": record.replaced,
                    "step_seconds": record.step_seconds,
                    "data_wait_share": record.data_wait_seconds / record.step_seconds,
                }
            )

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        self._lines.append(
            {
                "kind": "validation",
                "step": state.step,
                "epochs_done": state.epoch - 1,
                "loss": result.loss,
                **({} if result.value is None else {"value": result.value}),
                "terms": result.terms,
                "rows": result.rows,
                "best": state.best_step == state.step,
            }
        )
        self._lines.upload()

    def on_turn_back(self, state: TrainState, why: str) -> None:
        self._lines.append({"kind": "turn_back", "step": state.step, "why": why})

    def on_checkpoint(self, state: TrainState, folder: str) -> None:
        self._lines.append(
            {
                "kind": "checkpoint",
                "step": state.step,
                "name": storage.name(folder),
                "skipped_steps": state.skipped,
                f"replaced_{self._item_name}": state.replaced,
            }
        )
        self._lines.upload()


ShowExample = Callable[[Any, int, Any, int], None]
"""Shows an example on a TensorBoard: the board, which it is, the example, the step."""


class TensorBoard(Hook):
    """Scalars, and the examples of each validation."""

    def __init__(self, folder: Path, every_steps: int, show_example: ShowExample) -> None:
        self._folder = folder
        self._every_steps = every_steps
        self._show_example = show_example
        self._writer: Any = None

    def on_start(self, state: TrainState) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        # What a killed process wrote after the checkpoint is hidden by TensorBoard itself.
        self._writer = SummaryWriter(str(self._folder), purge_step=state.step + 1)

    def on_step(self, record: StepRecord) -> None:
        if _recorded(record.step, self._every_steps):
            for name, value in _scalars(record).items():
                self._writer.add_scalar(name, value, record.step)

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        for name, value in _validation_scalars(result).items():
            self._writer.add_scalar(name, value, state.step)
        for index, example in enumerate(result.examples):
            self._show_example(self._writer, index, example, state.step)
        self._writer.flush()


class WandB(Hook):
    """Weights & Biases; a resumed run continues the same page."""

    def __init__(self, run: str, project: str, every_steps: int, settings: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._every_steps = every_steps
        self._run = wandb.init(
            project=project,
            id=_tracker_id(run),
            name=storage.name(run),
            config=settings,
            resume="allow",
        )

    def on_step(self, record: StepRecord) -> None:
        if _recorded(record.step, self._every_steps):
            self._run.log(_scalars(record), step=record.step)

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        self._run.log(_validation_scalars(result), step=state.step)


class MLflow(Hook):
    """MLflow; the tracking server is the one MLflow's own environment variables name."""

    def __init__(
        self, run: str, experiment: str, every_steps: int, settings: dict[str, Any]
    ) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        self._every_steps = every_steps
        self._mlflow = mlflow
        mlflow.set_experiment(experiment)
        found = mlflow.search_runs(
            filter_string=f"tags.run_folder = '{_tracker_id(run)}'", output_format="list"
        )
        mlflow.start_run(
            run_id=found[0].info.run_id if found else None, tags={"run_folder": _tracker_id(run)}
        )
        if not found:
            mlflow.log_dict(settings, "config.json")

    def on_step(self, record: StepRecord) -> None:
        if _recorded(record.step, self._every_steps):
            self._mlflow.log_metrics(_scalars(record), step=record.step)

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        self._mlflow.log_metrics(_validation_scalars(result), step=state.step)


def _recorded(step: int, every_steps: int) -> bool:
    return step == 1 or step % every_steps == 0


def _scalars(record: StepRecord) -> dict[str, float]:
    return {
        **{f"train/{name}": value for name, value in record.terms.items()},
        **{f"learning_rate/{group}": rate for group, rate in record.learning_rates.items()},
        "train/grad_norm": record.grad_norm,
        "time/data_wait_share": record.data_wait_seconds / record.step_seconds,
        "time/step_seconds": record.step_seconds,
    }


def _validation_scalars(result: ValidationResult) -> dict[str, float]:
    terms = {f"validation/{name}": value for name, value in result.terms.items()}
    return terms | {
        f"{metric}/{row}": value
        for row, metrics in result.rows.items()
        for metric, value in metrics.items()
    }


def _tracker_id(run: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in run).strip("-")[-100:]


WORST_SCORE = -1e30
"""Stands for a loss that is no number: it must not win."""


class ReportHook(Hook):
    """Tells Ray Train or Ray Tune each validation, once its checkpoint is complete.

    Every rank has it, for Ray Train's report is a barrier. Plain finite floats only: anything
    else breaks Ray's snapshot of a run. "score" is always there and larger is better, because Ray
    takes a missing or minimised one for the best.
    """

    def __init__(self, report: Callable[[dict[str, float], str], None]) -> None:
        """`report` gets the numbers and the checkpoint's folder (empty but on the first rank)."""
        self._report = report
        self._values: dict[str, float] | None = None

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        values = {
            f"{row}/{name}": value
            for row, metrics in result.rows.items()
            for name, value in metrics.items()
        }
        values = {"validation_loss": result.loss, **values}
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        score = -float(result.decides) if math.isfinite(result.decides) else WORST_SCORE
        self._values = {
            "step": state.step,
            "epochs": state.epoch - 1,
            "score": score,
            **finite,
        }

    def on_checkpoint(self, state: TrainState, folder: str) -> None:
        if self._values is not None and self._values["step"] == state.step:
            self._report(self._values, folder)
