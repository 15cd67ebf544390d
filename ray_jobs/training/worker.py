"""The training loop in Ray Train's workers.

Ray Train only starts the group of workers again when one dies: checkpoints, and finding the newest
of them, are the loop's own.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.train.torch
import torch

from ray_jobs.runtime.actors import beside_driver
from ray_jobs.runtime.cli import find_user_error
from ray_jobs.runtime.connection import ray_session, require_free_cpu_per_node, require_room
from ray_jobs.runtime.gauges import exported
from ray_jobs.runtime.progress import Progress
from ray_jobs.training import monitor as train_monitor
from ray_jobs.training.monitor import MonitorClient
from ray_jobs.training.network import NodeNetworkConfig
from ray_jobs.training.position import PositionHook
from ray_jobs.training.preemption import PreemptionNotices, errors_held_after_a_notice
from ray_jobs.training.ray_source import (
    RayBatchSource,
    batch_data_config,
    batch_dataset,
    start_cursor,
)
from ray_jobs.training.rooms import RAY_FOLDER, note_room
from ray_jobs.training.run import Outcome, run_loop
from ray_jobs.training.trackers import ReportHook
from ray_jobs.training.training_job import TrainingJob, steps_done
from ttt import storage
from ttt.training.hooks import Hook
from ttt.training.ranks import ProcessGroup


def train_on_ray(
    job: TrainingJob[Any],
    address: str | None,
    stop: threading.Event,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> Outcome:
    """The loop in `cluster.num_workers` workers of Ray Train, which tells `callbacks` of each
    report.

    Raises UserError when they would take every CPU or more GPUs than there are, and what the loop
    raises.
    """
    cluster, counts = job.config.cluster, job.config.cluster.worker_counts
    fixed = cluster.min_workers is None
    if not fixed:  # Ray counts a lost node in for as long as it tries to start a whole group.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    # How often Ray looks at its workers; its two seconds are long beside a short epoch.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    with ray_session(address or cluster.address, cluster.local_cpus):
        require_free_cpu_per_node(cluster.num_workers, cluster.cpus_per_worker)
        require_room(cluster.num_workers, cluster.cpus_per_worker, cluster.gpus_per_worker)
        cursor = start_cursor(job.stream())
        monitor: Any = train_monitor.Monitor.options(scheduling_strategy=beside_driver()).remote()
        resources = {
            "CPU": cluster.cpus_per_worker,
            **({"GPU": 1} if cluster.gpus_per_worker else {}),
        }
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={"given": Given(job, cursor, monitor)},
            torch_config=NodeNetworkConfig(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=cluster.num_workers if fixed else (counts[0], counts[-1]),
                use_gpu=bool(cluster.gpus_per_worker),
                resources_per_worker=resources,
            ),
            run_config=ray.train.RunConfig(
                # A name of its own each time: Ray resumes an old name without a word.
                name=uuid.uuid4().hex,
                storage_path=storage.join(job.config.run, RAY_FOLDER),
                failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
                callbacks=[*callbacks, _EndForGood()],
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
            datasets={"train": lambda: batch_dataset(cursor)},
            dataset_config=batch_data_config(),
        )
        done = steps_done(job.config.run)
        with (
            Progress("training", job.total_steps, "steps", done=done) as progress,
            exported(progress, job.command, job.config.run) as gauges,
            train_monitor.watched(monitor, progress, gauges, done, stop),
        ):
            try:
                result = trainer.fit()
            except ray.train.TrainingFailedError as error:
                mendable = find_user_error(error)
                if mendable is None:
                    raise
                raise mendable from error
    storage.delete(storage.join(job.config.run, RAY_FOLDER))
    assert isinstance(result.return_value, Outcome)
    return result.return_value


@dataclass(frozen=True)
class Given:
    """What the driver hands to every worker."""

    job: TrainingJob[Any]
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
    given: Given = arguments["given"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    job, rank, world = given.job, context.get_world_rank(), context.get_world_size()
    shard = ray.train.get_dataset_shard("train")
    assert shard is not None
    source = RayBatchSource(shard, given.cursor, job.stream(), rank, world)
    hooks: list[Hook] = [ReportHook(lambda metrics, _folder: ray.train.report(metrics))]
    client = MonitorClient(given.monitor)
    notices = PreemptionNotices(client.say)
    with ExitStack() as stack:
        if rank == 0:  # the loop follows the first rank's wish to stop or to save
            note_room(job.config.run)
            stack.enter_context(client.connected())
            hooks += [PositionHook(client.move_to, job), notices]
        stack.enter_context(errors_held_after_a_notice())
        group, stop = ProcessGroup(), lambda: client.stop_requested
        return run_loop(job, source, group, device, hooks, stop, notices.unanswered)
