"""A Ray to run on: local unless there is a cluster, authenticated, quiet; and enough CPUs.

Ray 2.60 opens its ports on every network interface of the machine and runs whatever is sent to
them, so a local Ray gets a token of its own that lives as long as the process.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import secrets
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence

from ray_jobs.runtime import ray_start
from ray_jobs.runtime.progress import waiting_for
from ttt.errors import UserError


@contextlib.contextmanager
def ray_session(
    address: str | None, local_cpus: int | None, *, dashboard: bool = False
) -> Iterator[None]:
    """A connected Ray inside the block.

    One that is connected already is used and left running. Otherwise `address`, or RAY_ADDRESS
    (which Ray sets for submitted jobs), names a cluster; without either, a local Ray of
    `local_cpus` CPUs (None: all of the machine) starts and is shut down with the block. Raises
    UserError when no cluster answers or none can be started here.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    cluster = None if address in (None, "", "local") else address
    _choose_authentication(is_local=cluster is None)

    import ray  # Only now: reading a configuration must not cost the import.

    if ray.is_initialized():
        _quiet_data()
        yield
        return
    what = "Ray to start" if cluster is None else f"Ray at {cluster}"
    with _own_sigterm_handler(), waiting_for(what):
        if cluster is None:
            ray_start.start_local(local_cpus, dashboard=dashboard)
        else:
            ray_start.connect(cluster)
    try:
        _quiet_data()
        yield
    finally:
        ray.shutdown()


def require_room(workers: int, cpus_per_worker: float, gpus_per_worker: float) -> None:
    """Refuse actors that the nodes present cannot hold: their work would wait for ever.

    Raises UserError.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = actors_that_fit(nodes, cpus_per_worker, gpus_per_worker)
    if fit < workers:
        raise UserError(
            f"{_count(workers, 'worker')} of {cpus_per_worker:g} CPU and {gpus_per_worker:g} GPU "
            f"cannot be placed on this Ray, which has room for {fit}; lower cluster.num_workers or "
            "what each of them takes, or give Ray more"
        )


def require_gpu_here(gpus_per_worker: float) -> None:
    """Refuse work on a GPU in a process that sees none. Raises UserError."""
    import torch  # Configurations are checked without it.

    if gpus_per_worker and not torch.cuda.is_available():
        raise UserError(
            f"cluster.num_workers=0 works in this process, which sees no GPU, and "
            f"cluster.gpus_per_worker is {gpus_per_worker:g}; set it to 0 to work on the CPU"
        )


def workers_with_room(cpus_per_worker: float, gpus_per_worker: float) -> int:
    """As many as the nodes present hold; on CPUs one fewer, so that the driver has one, too."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = actors_that_fit(nodes, cpus_per_worker, gpus_per_worker)
    return fit if gpus_per_worker else max(1, fit - 1)


def actors_that_fit(
    nodes: Sequence[Mapping[str, float]], cpus_per_actor: float, gpus_per_actor: float
) -> int:
    """How many actors nodes of these resources hold at the same time.

    CPUs are one sum per node. A share of a GPU is a share of one card: what is left of two cards
    is not a share of a third, so that a card holds floor(1 / share).
    """
    fit = 0
    for node in nodes:
        cards, on_node = math.floor(node.get("GPU", 0.0)), []
        if cpus_per_actor:
            on_node.append(_whole(node.get("CPU", 0.0) / cpus_per_actor))
        if 0 < gpus_per_actor < 1:
            on_node.append(cards * _whole(1 / gpus_per_actor))
        elif gpus_per_actor:
            on_node.append(_whole(cards / gpus_per_actor))
        fit += min(on_node)
    return fit


def require_free_cpu_per_node(num_workers: int, cpus_per_worker: float) -> None:
    """Refuse train workers that could leave no node of the cluster a CPU to read data with.

    Ray Data would then wait for ever without a word. Looks at the nodes that are present, so an
    autoscaled cluster must have its smallest set of nodes up. Raises UserError.
    """
    import ray

    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    check_free_cpu(nodes, num_workers, cpus_per_worker)


def check_free_cpu(node_cpus: Sequence[float], num_workers: int, cpus_per_worker: float) -> None:
    """Raise UserError unless some node keeps a whole CPU wherever the workers are placed.

    Workers may be packed or spread, so the worst placement counts: with one CPU free in total,
    but half of it on each of two nodes, a read task that needs one never starts.
    """
    problem = _problem(node_cpus, num_workers, cpus_per_worker)
    if problem is None:
        return
    workers = _count(num_workers, "train worker")
    nodes = f"{_count(len(node_cpus), 'node')} ({_count(sum(node_cpus), 'CPU')} in total)"
    raise UserError(
        f"{workers} of {cpus_per_worker:g} CPU {problem} on {nodes}; "
        f"{_advice(node_cpus, num_workers, cpus_per_worker)}"
    )


def _problem(node_cpus: Sequence[float], num_workers: int, cpus_per_worker: float) -> str | None:
    if num_workers > _workers_that_fit(node_cpus, cpus_per_worker):
        return "cannot all be placed"
    if num_workers >= _workers_that_starve(node_cpus, cpus_per_worker):
        return "can leave no whole CPU to read the data"
    return None


def _whole(number: float) -> int:
    """The number rounded down, but for what floating point takes from a whole one (1 / 0.1)."""
    return math.floor(round(number, 9))


def _workers_that_fit(node_cpus: Sequence[float], cpus_per_worker: float) -> float:
    if cpus_per_worker <= 0:
        return math.inf
    return sum(_whole(cpus / cpus_per_worker) for cpus in node_cpus)


def _workers_that_starve(node_cpus: Sequence[float], cpus_per_worker: float) -> float:
    """The fewest workers that can leave every node with less than one CPU; inf if none can."""
    if cpus_per_worker <= 0:
        return math.inf
    total = 0
    for cpus in node_cpus:
        if cpus < 1:
            continue
        # Rounding keeps (1 - 0.7) / 0.1 from gaining or losing a worker.
        workers = _whole((cpus - 1) / cpus_per_worker) + 1
        if round(cpus - workers * cpus_per_worker, 9) < 0:
            return math.inf
        total += workers
    return total


def _advice(node_cpus: Sequence[float], num_workers: int, cpus_per_worker: float) -> str:
    options: list[str] = []
    for fewer in range(num_workers - 1, 0, -1):
        if _problem(node_cpus, fewer, cpus_per_worker) is None:
            options.append(f"use at most {_count(fewer, 'train worker')}")
            break
    for share in (2.0, 1.0, 0.5, 0.25, 0.1):
        if share < cpus_per_worker and _problem(node_cpus, num_workers, share) is None:
            options.append(f"give each at most {share:g} CPU")
            break
    return " or ".join(options) or "give Ray more CPUs"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _choose_authentication(is_local: bool) -> None:
    # Set before Ray starts, for Ray reads it once per process. Left unset, a local Ray would
    # write a token into the user's home and change how their next cluster starts.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if is_local and os.environ["RAY_AUTH_MODE"] == "token" and not has_token:
        os.environ["RAY_AUTH_TOKEN"] = _process_token()


@functools.cache
def _process_token() -> str:
    return secrets.token_hex(32)


def _quiet_data() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    # Our own progress lines say the same in one line, and a job's log is no terminal.
    context.enable_progress_bars = False
    # Otherwise a UserError in a read task arrives as "UDF failed", its cause lost in transport.
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    # Ray Train itself sets what this warning of Ray Data calls deprecated.
    warnings.filterwarnings("ignore", message=".*ExecutionOptions.exclude_resources")


@contextlib.contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Keep a SIGTERM handler that the process chose: ray.init replaces it by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler):
            signal.signal(signal.SIGTERM, handler)
