"""Three nodes, of which one is taken away in the middle of a job and another joins.

Each node has its own raylet, object store and worker processes. It is taken away by kill -9 of all
of them, or its cable is pulled: then they live on, no connection is reset, and nobody hears from
them again. The job is a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from ray.cluster_utils import Cluster

from tests.machines import Network, network, why_not
from tests.ray_jobs.nano_training import (
    ELASTIC,
    ROOT,
    TOTAL_STEPS,
    World,
    command,
    final,
    metrics,
    steps_recorded,
    wait_until,
)
from tests.ray_jobs.worker_processes import worker_pids
from ttt.eval.chapters.records import read_records

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with one CPU and two nodes with two each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Network]:
    """The same, each with an address of its own."""
    if reason := why_not():
        pytest.skip(reason)
    with network(tmp_path / "network") as machines:
        for cpus in (1, 2, 2):
            machines.add(cpus)
        yield machines


def wait_and_remove_node(
    cluster: Cluster, process: subprocess.Popen[bytes], title: str, ready: Callable[[], bool]
) -> None:
    """Once `ready`, kill -9 a node other than the head on which a worker of this title runs."""
    wait_until(lambda: ready() and bool(_nodes_of(cluster, title)), process, seconds=600)
    cluster.remove_node(_nodes_of(cluster, title)[0], allow_graceful=False)


def _nodes_of(cluster: Cluster, title: str) -> list[Any]:
    raylets = {node: node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes}
    return [node for node, raylet in raylets.items() if worker_pids(title, below=raylet)]


def run_and_replace(
    cluster: Cluster, words: list[str], title: str, ready: Callable[[], bool]
) -> None:
    """Run a job; one node is lost, another joins; the job ends well, without anybody's help."""
    process = subprocess.Popen([*words, "--address", cluster.address], cwd=ROOT)
    wait_and_remove_node(cluster, process, title, ready)
    cluster.add_node(num_cpus=2)
    began = time.monotonic()
    assert process.wait(timeout=900) == 0
    print(f"{title}: ended {time.monotonic() - began:.0f} s after the other node had joined")


def run_and_pull_a_cable(machines: Network, words: list[str], ready: Callable[[], bool]) -> None:
    """As `run_and_replace`, with a node that is cut off, not killed."""
    process = machines.start(machines.head, *words, "--address", machines.ray_address)
    wait_until(ready, process, seconds=600)
    machines.pull_cable(machines.newest)
    began = time.monotonic()
    machines.add(2)
    assert process.wait(timeout=900) == 0
    print(f"ended {time.monotonic() - began:.0f} s after the cable was pulled")


def test_a_training_goes_on_with_the_same_samples(
    world: World, whole_on_ray: Path, cluster: Cluster, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # Two of 1.5 CPUs fit on no node together.
    words = command(world, run, "cluster.num_workers=2", "cluster.cpus_per_worker=1.5")
    run_and_replace(cluster, words, "ray::RayTrainWorker", lambda: 2 in steps_recorded(run))
    assert steps_recorded(run) == list(range(1, TOTAL_STEPS + 1))
    assert final(run) == final(whole_on_ray)


def test_a_training_whose_node_is_cut_off_goes_on_with_the_same_samples(
    world: World, whole_on_ray: Path, machines: Network, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # Here gradients cross a network.
    words = command(world, run, "cluster.num_workers=2", "cluster.cpus_per_worker=1.5")
    run_and_pull_a_cable(machines, words, lambda: 2 in steps_recorded(run))
    assert steps_recorded(run) == list(range(1, TOTAL_STEPS + 1))
    assert final(run) == final(whole_on_ray)


def test_with_fewer_workers_the_same_samples_are_in_the_same_steps(
    world: World, whole_on_ray: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """A node is lost and none joins: one worker goes on."""
    run = tmp_path / "run"
    words = command(world, run, *ELASTIC, "cluster.cpus_per_worker=1.5")
    process = subprocess.Popen([*words, "--address", cluster.address], cwd=ROOT)
    wait_and_remove_node(cluster, process, "ray::RayTrainWorker", lambda: 2 in steps_recorded(run))
    killed, before = time.monotonic(), max(steps_recorded(run))
    wait_until(lambda: max(steps_recorded(run)) > before, process, seconds=600)
    print(f"one worker took the next step {time.monotonic() - killed:.0f} s after the loss")
    assert process.wait(timeout=600) == 0
    ours, theirs = (
        [line for line in metrics(each) if line["kind"] == "step"] for each in (run, whole_on_ray)
    )
    for key in ("step", "valid_samples", "learning_rate"):
        assert [line[key] for line in ours] == [line[key] for line in theirs]
    losses, expected = ([line["loss"] for line in lines] for lines in (ours, theirs))
    assert losses == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def quiet_cache(small_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings and, as `cache` beside them, what caching makes of them undisturbed."""
    folder = tmp_path_factory.mktemp("quiet_cache")
    (folder / "audio").mkdir()
    for number in range(12):
        noise = np.random.default_rng(number).normal(0, 0.1, 48_000 * (8 + number))
        soundfile.write(folder / "audio" / f"{number}.wav", noise, 48_000, subtype="PCM_16")
    words = caching(small_codec, folder, folder / "cache", workers=2)
    subprocess.run(words, cwd=ROOT, check=True)
    return folder


def caching(codec: Path, quiet_cache: Path, output: Path, workers: int = 3) -> list[str]:
    return [
        *(sys.executable, "-m", "ray_jobs.cache_codes", "--config=configs/cache_folder.yaml"),
        *(f"codec.name={codec}", f"input.audio={quiet_cache / 'audio'}", f"output={output}"),
        *("clips_per_shard=1", f"cluster.num_workers={workers}"),
    ]


def assert_same_cache(ours: Path, theirs: Path) -> None:
    for pattern in ("shards/*.parquet", "shards/*.jsonl", "*.jsonl", "index.arrow", "codes.bin"):
        names = sorted(path.relative_to(theirs) for path in theirs.glob(pattern))
        assert names == sorted(path.relative_to(ours) for path in ours.glob(pattern))
        assert all((theirs / name).read_bytes() == (ours / name).read_bytes() for name in names)
    summaries = [json.loads((cache / "summary.json").read_text()) for cache in (ours, theirs)]
    assert [summary["cached"] for summary in summaries] == [12, 12]


def test_a_cache_has_the_same_bytes(
    cluster: Cluster, tmp_path: Path, small_codec: Path, quiet_cache: Path
) -> None:
    words = caching(small_codec, quiet_cache, tmp_path / "cache")
    title = "ShardEncoder"
    ready = any_file(tmp_path / "cache" / "shards", "*.jsonl")
    run_and_replace(cluster, words, title, ready)
    assert_same_cache(tmp_path / "cache", quiet_cache / "cache")


def test_a_cache_of_which_a_node_is_cut_off_has_the_same_bytes(
    machines: Network, tmp_path: Path, small_codec: Path, quiet_cache: Path
) -> None:
    words = caching(small_codec, quiet_cache, tmp_path / "cache")
    run_and_pull_a_cable(machines, words, any_file(tmp_path / "cache" / "shards", "*.jsonl"))
    assert_same_cache(tmp_path / "cache", quiet_cache / "cache")


@pytest.fixture(scope="module")
def quiet_evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that an evaluation is without disturbance."""
    run = tmp_path_factory.mktemp("quiet_evaluation") / "run"
    subprocess.run(evaluation(run, workers=2), cwd=ROOT, check=True)
    return run


def evaluation(output: Path, workers: int = 4) -> list[str]:
    shape = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20}
    return [
        *(sys.executable, "-m", "ray_jobs.evaluate_chapters"),
        *("--config=configs/chapters_tiny_cpu.yaml", f"model.lm_kwargs={json.dumps(shape)}"),
        *("data=null", "synthetic.chapters=8", "synthetic.frames=1000", "streams.other=masked"),
        *("verify_spans=0", "state_every_frames=64", "summary.resamples=100"),
        *(f"cluster.num_workers={workers}", "cluster.cpus_per_worker=1", f"output={output}"),
    ]


def assert_same_records(ours: Path, theirs: Path) -> None:
    before, after = (list(read_records(run / "records")) for run in (theirs, ours))
    assert len(before) == 8
    for quiet, disturbed in zip(before, after, strict=True):
        assert quiet.details.chapter_id == disturbed.details.chapter_id
        assert np.array_equal(quiet.nll, disturbed.nll)
        assert np.array_equal(quiet.text, disturbed.text)
    assert not list(ours.glob("state/**/*.safetensors"))


def test_an_evaluation_has_the_same_records(
    cluster: Cluster, tmp_path: Path, quiet_evaluation: Path
) -> None:
    run = tmp_path / "run"
    ready = any_file(run / "state", "**/[!.]*.safetensors")
    run_and_replace(cluster, evaluation(run), "ray::ChapterWorker", ready)
    assert_same_records(run, quiet_evaluation)


def test_an_evaluation_of_which_a_node_is_cut_off_has_the_same_records(
    machines: Network, tmp_path: Path, quiet_evaluation: Path
) -> None:
    run = tmp_path / "run"
    ready = any_file(run / "state", "**/[!.]*.safetensors")
    run_and_pull_a_cable(machines, evaluation(run), ready)
    assert_same_records(run, quiet_evaluation)


def any_file(folder: Path, pattern: str) -> Callable[[], bool]:
    """Whether there is such a file by now."""
    return lambda: any(folder.glob(pattern))
