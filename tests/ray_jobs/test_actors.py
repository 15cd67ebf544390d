"""Items over actors: each exactly once, also when an actor is killed."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError, RayTaskError

from ray_jobs.runtime.actors import ActorPool, WorkerDied, over_actors
from ttt.errors import UserError


@ray.remote(num_cpus=0.5)
class _Square:
    """Squares numbers; dies at -1, the first time only at -2; raises at -3."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def square(self, number: int) -> int:
        (self._folder / f"{number}-{os.getpid()}-{os.urandom(4).hex()}").touch()
        attempts = len(list(self._folder.glob(f"{number}-*")))
        if number == -1 or (number == -2 and attempts == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == -3:
            raise ZeroDivisionError("a bug")
        return number * number


def _run(folder: Path, numbers: list[int], actors: int = 2) -> dict[int, Any]:
    def start() -> Any:
        return _Square.remote(folder)

    def call(actor: Any, number: int) -> ray.ObjectRef:
        return actor.square.remote(number)

    results = list(over_actors(start, call, numbers, actors=actors, attempts=2))
    assert len(results) == len(numbers)
    return dict(results)


def test_every_item_has_one_result(ray_local: None, tmp_path: Path) -> None:
    assert _run(tmp_path, list(range(7))) == {n: n * n for n in range(7)}
    assert len(list(tmp_path.iterdir())) == 7
    assert _run(tmp_path, []) == {}


def test_a_killed_actor_loses_no_item(ray_local: None, tmp_path: Path) -> None:
    results = _run(tmp_path, [1, -2, 3, -1, 5])
    died = results.pop(-1)
    assert isinstance(died, WorkerDied)
    assert died.reason == "its worker died 2 times"
    assert results == {1: 1, -2: 4, 3: 9, 5: 25}


def test_an_actor_that_dies_while_it_is_prepared_has_one_successor(
    ray_local: None, tmp_path: Path
) -> None:
    def prepared(number: int) -> Any:
        pool = ActorPool(lambda: _Square.remote(tmp_path))
        return pool.prepare(lambda actor: (ray.get(actor.square.remote(number)), actor)[1])

    actor = prepared(-2)
    assert ray.get(actor.square.remote(3)) == 9
    ray.kill(actor)
    with pytest.raises(ray.exceptions.RayActorError):
        prepared(-1)
    assert len(list(tmp_path.glob("-1-*"))) == 2
    with pytest.raises(RayTaskError, match="a bug"):
        prepared(-3)
    assert len(list(tmp_path.glob("-3-*"))) == 1


def test_a_bug_in_the_work_is_raised(ray_local: None, tmp_path: Path) -> None:
    with pytest.raises(RayTaskError, match="a bug"):
        _run(tmp_path, [-3], actors=1)


@pytest.mark.timeout(60)
def test_items_go_to_live_actors_where_a_new_one_finds_no_place(
    ray_local: None, tmp_path: Path
) -> None:
    started = count()

    def start() -> Any:
        nowhere = {"a node that is gone": 1} if next(started) >= 2 else {}
        return _Square.options(resources=nowhere).remote(tmp_path)

    results = over_actors(start, lambda actor, n: actor.square.remote(n), [-2, 1, 3, 5], actors=2)
    assert dict(results) == {-2: 4, 1: 1, 3: 9, 5: 25}
    assert next(started) == 3


@ray.remote(num_cpus=0.5)
class _NeverUp:
    """Dies while it starts, or raises there."""

    def __init__(self, folder: Path, bug: bool) -> None:
        if bug:
            raise ZeroDivisionError("a bug")
        (folder / os.urandom(4).hex()).touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def work(self, item: int) -> int:
        return item


def test_actors_that_die_while_starting_are_given_up(ray_local: None, tmp_path: Path) -> None:
    def run(bug: bool) -> dict[int, Any]:
        start, items = (lambda: _NeverUp.remote(tmp_path, bug)), [1, 2]
        call = lambda actor, item: actor.work.remote(item)  # noqa: E731
        return dict(over_actors(start, call, items, actors=1, attempts=2))

    assert run(bug=False) == dict.fromkeys(
        [1, 2], WorkerDied("its worker died 2 times while starting")
    )
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ActorDiedError, match="a bug"):
        run(bug=True)


@ray.remote(num_cpus=0.5)
class _OnACard:
    """Doubles numbers; raises `how()` at item 2, and while it starts, as often as it is told."""

    def __init__(self, folder: Path, how: Callable[[], None], starts: int, times: int) -> None:
        self._folder, self._how, self._times = folder, how, times
        self._fail("start", starts)

    def double(self, number: int) -> int:
        if number == 2:
            self._fail("item", self._times)
        return 2 * number

    def _fail(self, what: str, times: int) -> None:
        if len(list(self._folder.glob(f"{what}-*"))) < times:
            (self._folder / f"{what}-{os.urandom(4).hex()}").touch()
            self._how()


def _illegal_access() -> None:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nadvice")


def _failed_product() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`")


def _failed_convolution() -> None:
    raise RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")


def _behind_another_error() -> None:
    try:
        _illegal_access()
    except RuntimeError as error:
        raise UserError("the model cannot be loaded") from error


def _out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _no_kernel() -> None:
    raise torch.AcceleratorError("CUDA error: no kernel image is available")


def _on_cards(folder: Path, how: Callable[[], None], starts: int, times: int) -> dict[int, Any]:
    start = lambda: _OnACard.remote(folder, how, starts, times)  # noqa: E731
    call = lambda actor, number: actor.double.remote(number)  # noqa: E731
    return dict(over_actors(start, call, [1, 2, 3], actors=1, attempts=2))


@pytest.mark.parametrize(
    "how", (_illegal_access, _failed_product, _failed_convolution, _behind_another_error)
)
def test_an_actor_that_lost_its_device_loses_no_item(
    ray_local: None, tmp_path: Path, how: Callable[[], None]
) -> None:
    assert _on_cards(tmp_path, how, starts=1, times=1) == {1: 2, 2: 4, 3: 6}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_device_lost_every_time_is_that_items_reason(ray_local: None, tmp_path: Path) -> None:
    results = _on_cards(tmp_path, _illegal_access, 0, 99)
    lost = results.pop(2)
    assert isinstance(lost, WorkerDied)
    assert lost.reason == (
        "its worker died 2 times, in the end because it lost its device: CUDA error: an illegal "
        "memory access was encountered"
    )
    assert results == {1: 2, 3: 6}
    (starting,) = set(_on_cards(tmp_path, _failed_product, 99, 0).values())
    assert starting.reason.startswith("its worker died 2 times while starting, in the end because")


@pytest.mark.parametrize("how", (_out_of_memory, _no_kernel))
def test_what_a_new_process_would_meet_again_is_raised(
    ray_local: None, tmp_path: Path, how: Callable[[], None]
) -> None:
    with pytest.raises(RayTaskError, match=r"out of memory|no kernel image"):
        _on_cards(tmp_path, how, 0, 1)
    with pytest.raises(ActorDiedError, match=r"out of memory|no kernel image"):
        _on_cards(tmp_path, how, 99, 0)


def test_an_actor_that_loses_its_device_while_it_is_prepared_has_one_successor(
    ray_local: None, tmp_path: Path
) -> None:
    start = lambda: _OnACard.remote(tmp_path, _illegal_access, 0, 1)  # noqa: E731
    pool = ActorPool(start)
    actor = pool.prepare(lambda actor: (ray.get(actor.double.remote(2)), actor)[1])
    assert ray.get(actor.double.remote(2)) == 4


@pytest.mark.faults
def test_workers_that_ray_kills_for_lack_of_memory_are_deaths_too() -> None:
    """Ray kills by itself where a node's memory runs low; here it believes that at once."""
    script = """
        import time

        import ray_jobs
        import ray

        from ray_jobs.runtime.actors import over_actors

        ray.init(address="local", num_cpus=2, include_dashboard=False)

        @ray.remote(num_cpus=0.5)
        class Slow:
            def work(self, number):
                time.sleep(600)

        results = over_actors(Slow.remote, lambda a, n: a.work.remote(n), [1], actors=1, attempts=2)
        print([(item, result.reason) for item, result in results])
    """
    low = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env={**os.environ, **low}, capture_output=True, text=True)
    assert "[(1, 'its worker died 2 times" in done.stdout, done.stderr
