"""Running the training loop: in this process, or in Ray Train's workers.

Both prepare the same model, plan and windows and call the same loop; they differ in where the
batches come from (this process, or Ray Data) and in whom the ranks talk to. Ray Train only starts
the group of workers again when one dies: checkpoints, and finding the newest of them, are the
loop's own.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from ray_jobs import train_monitor, train_room
from ray_jobs.actors import beside_driver
from ray_jobs.cli import find_user_error
from ray_jobs.gloo_network import NodeNetworkConfig
from ray_jobs.progress import Progress
from ray_jobs.runtime import ray_session, require_free_cpu_per_node, require_room
from ray_jobs.trackers import build_trackers
from ray_jobs.train_config import TrainConfig
from ray_jobs.train_hook import ReportHook
from ray_jobs.train_monitor import MonitorClient, Position
from ray_jobs.train_setup import (
    Setup,
    decoder_trainee,
    loop_settings,
    prepare,
    require_resumable,
)
from ray_jobs.window_source import (
    RayWindowSource,
    WindowSpec,
    start_cursor,
    window_data_config,
    window_dataset,
)
from ttt import checkpoint, storage
from ttt.errors import UserError
from ttt.snac.train.trick_fit import fit_on_windows
from ttt.snac.train.window_reader import LocalWindowSource, WindowReader
from ttt.training.hooks import Hook, StepRecord
from ttt.training.loop import BatchSource, train
from ttt.training.ranks import Communicator, ProcessGroup, SingleProcess


@dataclass(frozen=True)
class Outcome:
    """Where a training ended."""

    step: int
    finished: bool
    """False when a stop was requested."""
    skipped: int
    replaced: int


def train_in_process(
    config: TrainConfig, stop: threading.Event, hooks: Sequence[Hook] = ()
) -> Outcome:
    """The loop in this process, without Ray; `hooks` listen beside the trackers."""
    setup = prepare(config)
    require_resumable(config, setup)
    source = LocalWindowSource(
        WindowReader(setup.cache, setup.plan), setup.plan, [epoch.shape for epoch in setup.epochs]
    )
    device = torch.device("cuda" if config.cluster.use_gpu else "cpu")
    total = _total_steps(setup)
    done = _steps_done(config.run)
    with Progress("training", total, "steps", done=done) as progress:
        shown = done

        def show(position: Position) -> None:
            nonlocal shown
            progress.advance(position.step - shown, **train_monitor.fields(position))
            shown = position.step

        hooks = [*hooks, _PositionHook(show)]
        return _train(config, setup, source, SingleProcess(), device, hooks, stop.is_set)


def train_on_ray(
    config: TrainConfig,
    address: str | None,
    stop: threading.Event,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> Outcome:
    """The loop in `cluster.num_workers` workers of Ray Train, which tells `callbacks` of each
    report.

    Raises UserError when they would take every CPU or more GPUs than there are, and what the loop
    raises.
    """
    setup = prepare(config)
    require_resumable(config, setup)
    cluster, counts = config.cluster, config.cluster.worker_counts
    fixed = cluster.min_workers is None
    if not fixed:  # Ray counts a lost node in for as long as it tries to start a whole group.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    # How often Ray looks at its workers; its two seconds are long beside a short epoch.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    with ray_session(address or cluster.address, cluster.local_cpus):
        require_free_cpu_per_node(cluster.num_workers, cluster.cpus_per_worker)
        require_room(cluster.num_workers, cluster.cpus_per_worker, float(cluster.use_gpu))
        cursor = start_cursor(
            WindowSpec(
                cache_uri=config.data.train,
                reach_samples_48k=setup.model.reach_samples_48k,
                seed=config.seed,
                shapes=tuple(epoch.shape for epoch in setup.epochs),
                rows=setup.rows,
            )
        )
        monitor: Any = train_monitor.Monitor.options(scheduling_strategy=beside_driver()).remote()
        resources = {"CPU": cluster.cpus_per_worker, **({"GPU": 1} if cluster.use_gpu else {})}
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={"job": WorkerJob(config, cursor, monitor)},
            torch_config=NodeNetworkConfig(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=cluster.num_workers if fixed else (counts[0], counts[-1]),
                use_gpu=cluster.use_gpu,
                resources_per_worker=resources,
            ),
            run_config=ray.train.RunConfig(
                # A name of its own each time: Ray resumes an old name without a word.
                name=uuid.uuid4().hex,
                storage_path=storage.join(config.run, train_room.RAY_FOLDER),
                failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
                callbacks=[*callbacks, _EndForGood()],
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
            datasets={"train": lambda: window_dataset(cursor)},
            dataset_config=window_data_config(),
        )
        done = _steps_done(config.run)
        with (
            Progress("training", _total_steps(setup), "steps", done=done) as progress,
            train_monitor.watched(monitor, progress, done, stop),
        ):
            try:
                result = trainer.fit()
            except ray.train.TrainingFailedError as error:
                mendable = find_user_error(error)
                if mendable is None:
                    raise
                raise mendable from error
    storage.delete(storage.join(config.run, train_room.RAY_FOLDER))
    assert isinstance(result.return_value, Outcome)
    return result.return_value


@dataclass(frozen=True)
class WorkerJob:
    """What the driver hands to every worker."""

    config: TrainConfig
    cursor: str
    """The name of the actor that says what to read."""
    monitor: Any
    """The actor between driver and first worker."""


class _EndForGood(ray.train.UserCallback):
    """Ends the run for what a user must mend: Ray would only start the workers again to meet it
    again. The other ranks may wait for the one that met it, so that it cannot be a return value."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            mendable = find_user_error(error)
            if mendable is not None:
                raise mendable  # An error in a callback is one that Ray does not try again.


def train_worker(arguments: dict[str, Any]) -> Outcome:
    """One rank of Ray Train."""
    job: WorkerJob = arguments["job"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    setup = prepare(job.config)
    rank, world = context.get_world_rank(), context.get_world_size()
    shard = ray.train.get_dataset_shard("train")
    assert shard is not None
    source = RayWindowSource(
        shard,
        job.cursor,
        setup.plan,
        [epoch.shape for epoch in setup.epochs],
        rank,
        world,
    )
    hooks: list[Hook] = [ReportHook(lambda metrics, _folder: ray.train.report(metrics))]
    client = MonitorClient(job.monitor)
    with ExitStack() as stack:
        if rank == 0:  # the loop follows the first rank's wish to stop
            train_room.note(job.config.run)
            stack.enter_context(client.connected())
            hooks.append(_PositionHook(client.move_to))
        return _train(
            job.config,
            setup,
            source,
            ProcessGroup(),
            device,
            hooks,
            lambda: client.stop_requested,
        )


def export_best(config: TrainConfig, export: str | None = None) -> str:
    """Write the best checkpoint's decoder (the newest's without validation) into the folder
    `export`, RUN/export by default, and return it.

    The cheap tricks are fitted on the validation windows beside it, for evaluations to use. Raises
    UserError when there is no checkpoint.
    """
    folder = checkpoint.best(config.run) or checkpoint.newest_complete(config.run)
    if folder is None:
        raise UserError(f"{config.run}: no checkpoint to export")
    setup = prepare(config)
    model, tricks = setup.model, None
    if setup.validation is not None:
        print(f"fitting hiss and folding on {setup.validation.n_windows} windows", flush=True)
        tricks = fit_on_windows(model, setup.validation)
    tensors = checkpoint.load(folder).tensors
    model.load_state_dict(tensors.get("ema", tensors["model"]))
    export = export or storage.join(config.run, "export")
    if storage.is_local(export):
        model.save_pretrained(storage.local_path(export), tricks=tricks)
        return export
    with tempfile.TemporaryDirectory() as staged:
        model.save_pretrained(staged, tricks=tricks)
        for path in sorted(Path(staged).iterdir()):
            storage.write_bytes(storage.join(export, path.name), path.read_bytes())
    return export


def _train(
    config: TrainConfig,
    setup: Setup,
    source: BatchSource,
    group: Communicator,
    device: torch.device,
    hooks: Sequence[Hook],
    stop_requested: Callable[[], bool],
) -> Outcome:
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
    setup.model.to(device)
    listeners = list(hooks)
    if group.rank == 0:
        listeners += build_trackers(config.run, config.tracking, config.to_dict())
    state = train(
        loop_settings(config, setup),
        decoder_trainee(config, setup),
        source,
        group,
        listeners,
        stop_requested,
    )
    return Outcome(state.step, state.epoch > len(setup.epochs), state.skipped, state.replaced)


class _PositionHook(Hook):
    """Tells how far the run is and how much of its time went into waiting for data."""

    def __init__(self, show: Callable[[Position], None]) -> None:
        self._show = show
        self._waited = self._elapsed = 0.0

    def on_step(self, record: StepRecord) -> None:
        self._waited += record.data_wait_seconds
        self._elapsed += record.step_seconds
        loss = record.terms["total"]
        shown_loss = loss if math.isfinite(loss) else None
        self._show(Position(record.step, shown_loss, self._waited / self._elapsed))


def _total_steps(setup: Setup) -> int:
    return sum(epoch.steps for epoch in setup.epochs)


def _steps_done(run: str) -> int:
    steps = checkpoint.complete_steps(run)
    return steps[-1] if steps else 0
