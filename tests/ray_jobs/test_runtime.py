"""The session in real processes, and the CPU check against every placement of workers."""

import itertools
import os
import subprocess
import sys
import textwrap

import pytest

from ray_jobs.runtime.connection import actors_that_fit, check_free_cpu, require_free_cpu_per_node
from ttt.errors import UserError

STARVES = "can leave no whole CPU to read the data"
CANNOT = "cannot all be placed"


@pytest.mark.parametrize(
    "nodes, workers, cpus, problem, place, advice",
    [
        (
            [2],
            2,
            1,
            STARVES,
            "1 node (2 CPUs",
            "use at most 1 train worker or give each at most 0.5",
        ),
        ([1, 1, 1], 3, 0.5, STARVES, "3 nodes (3 CPUs", "use at most 2 train workers"),
        (
            [2],
            4,
            1,
            CANNOT,
            "1 node (2 CPUs",
            "use at most 1 train worker or give each at most 0.25",
        ),
        ([1, 1], 2, 1.5, CANNOT, "2 nodes (2 CPUs", "give Ray more CPUs"),
        ([2, 2], 2, 2.5, CANNOT, "2 nodes (4 CPUs", "give each at most 1"),
        ([1], 1, 1, STARVES, "1 node (1 CPU", "give Ray more CPUs"),
    ],
)
def test_workers_that_starve_the_data(nodes, workers, cpus, problem, place, advice):
    with pytest.raises(UserError) as caught:
        check_free_cpu(nodes, workers, cpus)
    start = f"{workers} train worker{'s' if workers > 1 else ''} of {cpus:g} CPU"
    end = " CPU" if advice[-1].isdigit() else ""
    assert str(caught.value) == f"{start} {problem} on {place} in total); {advice}{end}"


@pytest.mark.parametrize(
    "nodes, workers, cpus",
    [([2], 2, 0.5), ([2, 2, 2], 3, 1), ([0, 8], 7, 1), ([16], 5, 3), ([2], 3, 0.1), ([2], 1, 0)],
)
def test_workers_that_leave_a_cpu(nodes, workers, cpus):
    check_free_cpu(nodes, workers, cpus)


def test_agrees_with_trying_every_placement():
    for nodes in itertools.product([0, 0.5, 1, 2, 3], repeat=2):
        for workers, cpus in itertools.product([1, 2, 3, 4], [0.5, 1, 1.5, 2]):
            outcomes = [
                any(node - count * cpus >= 1 for node, count in zip(nodes, counts, strict=True))
                for counts in itertools.product(range(workers + 1), repeat=2)
                if sum(counts) == workers
                and all(n * cpus <= node for node, n in zip(nodes, counts, strict=True))
            ]
            if outcomes and all(outcomes):
                check_free_cpu(nodes, workers, cpus)
            else:
                with pytest.raises(UserError):
                    check_free_cpu(nodes, workers, cpus)


@pytest.mark.parametrize(
    "nodes, cpus, gpus, fit",
    [
        ([(8, 2)], 1, 0.4, 4),  # of two cards 5 shares could be summed, but none lies on both
        ([(8, 8)], 0.5, 0.6, 8),
        ([(64, 4)], 1, 0.34, 8),
        ([(64, 4)], 1, 0.3, 12),
        ([(64, 1)], 1, 0.1, 10),  # 1 / 0.1 is a whole number, whatever floating point says
        ([(64, 3)], 1, 1 / 3, 9),
        ([(64, 2)], 1, 0.5, 4),
        ([(64, 2)], 1, 0.51, 2),
        ([(64, 2)], 1, 1, 2),
        ([(64, 3)], 1, 2, 1),  # a card of its own each, and one is left
        ([(64, 3), (64, 1)], 1, 2, 1),
        ([(4, 2), (4, 2)], 1, 0.3, 8),  # here CPUs are what ends first
        ([(1.5, 0), (1.5, 0)], 1, 0, 2),
        ([(0, 4)], 1, 0.5, 0),
        ([(4, 0)], 1, 0.5, 0),
        ([], 1, 0.5, 0),
    ],
)
def test_shares_of_a_gpu_lie_on_one_card(nodes, cpus, gpus, fit):
    resources = [{"CPU": n_cpus, "GPU": n_gpus} for n_cpus, n_gpus in nodes]
    assert actors_that_fit(resources, cpus, gpus) == fit


def test_asks_the_running_ray(ray_local):
    require_free_cpu_per_node(2, 0.5)
    with pytest.raises(UserError, match=r"1 node \(2 CPUs in total\)"):
        require_free_cpu_per_node(2, 1)


def test_a_local_session_has_its_own_token_and_leaves_the_home_alone(tmp_path):
    script = """
        import os, signal
        from ray_jobs.runtime.connection import ray_session

        def leave(signum, frame):
            raise SystemExit(7)

        signal.signal(signal.SIGTERM, leave)
        with ray_session(None, 1):
            import ray

            @ray.remote
            def mode():
                return os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])

            assert ray.get(mode.remote()) == ("token", 64)
            with ray_session(None, 1):  # one that runs already is used and left running
                pass
            assert ray.is_initialized()
            assert signal.getsignal(signal.SIGTERM) is leave
        assert not ray.is_initialized()
    """
    unset = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**environment, "HOME": str(tmp_path)},
        check=True,
    )
    assert not (tmp_path / ".ray").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_an_address_where_no_cluster_answers(address):
    script = f"""
        from ray_jobs.runtime.connection import ray_session
        from ttt.errors import UserError

        try:
            with ray_session({address!r}, None):
                pass
        except UserError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith(f"no Ray cluster answers at {address} (")
    assert done.stdout.endswith("(host:port), or unset both for a local Ray\n")
