"""Three nodes, of which one is taken away in the middle of a job and another joins.

Each node has its own raylet, object store and worker processes; taking it away is kill -9 of all
of them. The job is a process of its own beside the cluster.
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
from ttt.eval.chapter_records import read_records

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with one CPU and two nodes with two each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    yield cluster
    cluster.shutdown()


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


def test_a_training_goes_on_with_the_same_samples(
    world: World, whole_on_ray: Path, cluster: Cluster, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # Two of 1.5 CPUs fit on no node together.
    words = command(world, run, "cluster.num_workers=2", "cluster.cpus_per_worker=1.5")
    run_and_replace(cluster, words, "ray::RayTrainWorker", lambda: 2 in steps_recorded(run))
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


def test_a_cache_has_the_same_bytes(cluster: Cluster, tmp_path: Path, small_codec: Path) -> None:
    audio, here, there = tmp_path / "audio", tmp_path / "here", tmp_path / "there"
    audio.mkdir()
    for number in range(12):
        noise = np.random.default_rng(number).normal(0, 0.1, 48_000 * (8 + number))
        soundfile.write(audio / f"{number}.wav", noise, 48_000, subtype="PCM_16")

    def words(output: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "ray_jobs.cache_codes", "--config=configs/cache_folder.yaml"),
            *(f"codec.name={small_codec}", f"input.audio={audio}", f"output={output}"),
            *("clips_per_shard=1", "workers.count=3"),
        ]

    subprocess.run([*words(here), "--address", cluster.address], cwd=ROOT, check=True)
    title = "MapWorker(MapBatches(ShardEncoder))"
    run_and_replace(cluster, words(there), title, lambda: any(there.glob("shards/*.jsonl")))
    for pattern in ("shards/*.parquet", "shards/*.jsonl", "*.jsonl", "index.arrow", "codes.bin"):
        names = sorted(path.relative_to(here) for path in here.glob(pattern))
        assert names == sorted(path.relative_to(there) for path in there.glob(pattern))
        assert all((here / name).read_bytes() == (there / name).read_bytes() for name in names)
    summaries = [json.loads((cache / "summary.json").read_text()) for cache in (here, there)]
    assert [summary["cached"] for summary in summaries] == [12, 12]


def test_an_evaluation_has_the_same_records(cluster: Cluster, tmp_path: Path) -> None:
    shape = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20}

    def words(output: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "ray_jobs.evaluate_chapters"),
            *("--config=configs/chapters_tiny_cpu.yaml", f"model.lm_kwargs={json.dumps(shape)}"),
            *("data=null", "synthetic.chapters=8", "synthetic.frames=1000", "streams.other=masked"),
            *("verify_spans=0", "state_every_frames=64", "summary.resamples=100"),
            *("cluster.num_workers=4", "cluster.cpus_per_worker=1", f"output={output}"),
        ]

    here, there = tmp_path / "here", tmp_path / "there"
    subprocess.run([*words(here), "--address", cluster.address], cwd=ROOT, check=True)
    run_and_replace(
        cluster,
        words(there),
        "ray::ChapterWorker",
        lambda: any(there.glob("state/**/[!.]*.safetensors")),
    )
    before, after = (list(read_records(run / "records")) for run in (here, there))
    assert len(before) == 8
    for quiet, disturbed in zip(before, after, strict=True):
        assert quiet.details.chapter_id == disturbed.details.chapter_id
        assert np.array_equal(quiet.nll, disturbed.nll)
        assert np.array_equal(quiet.text, disturbed.text)
    assert not list(there.glob("state/**/*.safetensors"))
