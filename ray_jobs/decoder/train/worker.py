"""The training loop in Ray Train's workers.

Ray Train only starts the group of workers again when one dies: checkpoints, and finding the newest
of them, are the loop's own.

The workers' gloo talks over the network on which Ray itself found its nodes. Left alone, gloo
listens where the host's name points to: on machines installed from Debian or Ubuntu that is
127.0.1.1, and workers on two of them never find each other.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import ray.util
import torch
from ray.train.torch import TorchConfig
from ray.util.placement_group import PlacementGroup, get_current_placement_group

from ray_jobs.decoder.train import monitor as train_monitor
from ray_jobs.decoder.train.monitor import MonitorClient
from ray_jobs.decoder.train.run import Outcome, PositionHook, run_loop, steps_done
from ray_jobs.decoder.train.setup import TrainPlan
from ray_jobs.decoder.train.trackers import ReportHook
from ray_jobs.decoder.train.window_source import (
    RayWindowSource,
    WindowSpec,
    start_cursor,
    window_data_config,
    window_dataset,
)
from ray_jobs.runtime.actors import beside_driver
from ray_jobs.runtime.cli import find_user_error
from ray_jobs.runtime.connection import ray_session, require_free_cpu_per_node, require_room
from ray_jobs.runtime.progress import Progress
from ttt import storage
from ttt.training.hooks import Hook
from ttt.training.ranks import ProcessGroup


def train_on_ray(
    plan: TrainPlan,
    address: str | None,
    stop: threading.Event,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> Outcome:
    """The loop in `cluster.num_workers` workers of Ray Train, which tells `callbacks` of each
    report.

    Raises UserError when they would take every CPU or more GPUs than there are, and what the loop
    raises.
    """
    config = plan.config
    cluster, counts = config.cluster, config.cluster.worker_counts
    fixed = cluster.min_workers is None
    if not fixed:  # Ray counts a lost node in for as long as it tries to start a whole group.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    # How often Ray looks at its workers; its two seconds are long beside a short epoch.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    with ray_session(address or cluster.address, cluster.local_cpus):
        require_free_cpu_per_node(cluster.num_workers, cluster.cpus_per_worker)
        require_room(cluster.num_workers, cluster.cpus_per_worker, cluster.gpus_per_worker)
        cursor = start_cursor(
            WindowSpec(
                cache_uri=config.data.train,
                reach_samples_48k=plan.setup.model.reach_samples_48k,
                seed=config.seed,
                shapes=tuple(epoch.shape for epoch in plan.epochs),
                rows=plan.rows,
            )
        )
        monitor: Any = train_monitor.Monitor.options(scheduling_strategy=beside_driver()).remote()
        resources = {
            "CPU": cluster.cpus_per_worker,
            **({"GPU": 1} if cluster.gpus_per_worker else {}),
        }
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={"job": WorkerJob(plan, cursor, monitor)},
            torch_config=NodeNetworkConfig(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=cluster.num_workers if fixed else (counts[0], counts[-1]),
                use_gpu=bool(cluster.gpus_per_worker),
                resources_per_worker=resources,
            ),
            run_config=ray.train.RunConfig(
                # A name of its own each time: Ray resumes an old name without a word.
                name=uuid.uuid4().hex,
                storage_path=storage.join(config.run, RAY_FOLDER),
                failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
                callbacks=[*callbacks, _EndForGood()],
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
            datasets={"train": lambda: window_dataset(cursor)},
            dataset_config=window_data_config(),
        )
        done = steps_done(config.run)
        with (
            Progress("training", plan.total_steps, "steps", done=done) as progress,
            train_monitor.watched(monitor, progress, done, stop),
        ):
            try:
                result = trainer.fit()
            except ray.train.TrainingFailedError as error:
                mendable = find_user_error(error)
                if mendable is None:
                    raise
                raise mendable from error
    storage.delete(storage.join(config.run, RAY_FOLDER))
    assert isinstance(result.return_value, Outcome)
    return result.return_value


@dataclass(frozen=True)
class WorkerJob:
    """What the driver hands to every worker."""

    plan: TrainPlan
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
    plan = job.plan
    rank, world = context.get_world_rank(), context.get_world_size()
    shard = ray.train.get_dataset_shard("train")
    assert shard is not None
    source = RayWindowSource(
        shard,
        job.cursor,
        plan.setup.windows,
        [epoch.shape for epoch in plan.epochs],
        rank,
        world,
    )
    hooks: list[Hook] = [ReportHook(lambda metrics, _folder: ray.train.report(metrics))]
    client = MonitorClient(job.monitor)
    with ExitStack() as stack:
        if rank == 0:  # the loop follows the first rank's wish to stop
            note_room(plan.config.run)
            stack.enter_context(client.connected())
            hooks.append(PositionHook(client.move_to))
        return run_loop(
            plan,
            source,
            ProcessGroup(),
            device,
            hooks,
            lambda: client.stop_requested,
        )


# The room (placement group) of workers whose driver was an actor that was killed, as a sweep's
# scheduler kills trials, stays taken until the whole job ends. Ray's own cleaner asks the
# dashboard, which may be off, and with several Rays may be another one's. So the first worker
# notes its room in the run folder, and whoever ends the trial gives it back.

RAY_FOLDER = "ray_train"
"""What Ray Train keeps below a run's folder while it runs."""


def note_room(run: str) -> None:
    """Called by a worker: note_room the room it was placed in, if any."""
    group = get_current_placement_group()
    if group is not None:
        storage.write_bytes(_room_note(run), group.id.hex().encode())


def give_room_back(run: str) -> None:
    """Free the room that was noted last, with whatever still runs in it; nothing without a note."""
    if storage.exists(_room_note(run)):
        group = ray.PlacementGroupID(bytes.fromhex(storage.read_bytes(_room_note(run)).decode()))
        ray.util.remove_placement_group(PlacementGroup(group))


def _room_note(run: str) -> str:
    return storage.join(run, RAY_FOLDER, "placement_group")


_INTERFACE = "GLOO_SOCKET_IFNAME"  # torch/csrc/distributed/c10d/ProcessGroupGloo.cpp
_SIOCGIFADDR = 0x8915  # netdevice(7)


class NodeNetworkConfig(TorchConfig):
    """Ray's process group for torch, whose gloo uses the interface with the node's address."""

    @property
    def backend_cls(self) -> type:
        """What Ray starts the group with."""
        return _NodeNetworkBackend


class _NodeNetworkBackend(TorchConfig().backend_cls):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(use_node_network)
        super().on_start(worker_group, backend_config)


def use_node_network() -> None:
    """Tell gloo in this process which interface to use, unless the user has.

    Does nothing where no interface has the node's address (behind NAT) and outside Linux, where
    only single machines are used.
    """
    name = _interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault(_INTERFACE, name)


def _interface_of(address: str) -> str | None:
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, request)
            except OSError:
                continue  # Without an IPv4 address.
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
