"""A node that is to be taken away: the training saves first and goes on elsewhere.

The notice is Ray's own, from `ray drain-node` or from a node that gets SIGTERM.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private.state import GlobalState
from ray.cluster_utils import Cluster
from ray.train import PreemptionInfo

from ray_jobs.training.preemption import PreemptionNotices, errors_held_after_a_notice
from tests.ray_jobs.nano_training import (
    ROOT,
    World,
    command,
    metrics,
    steps_recorded,
    wait_until,
    write_world,
)
from tests.ray_jobs.nano_ttt import write_ttt_world
from tests.ray_jobs.worker_processes import slowed, worker_pids
from ttt import checkpoint
from ttt.errors import UserError
from ttt.training.state import TrainState

RAY = str(Path(sys.executable).with_name("ray"))
SECONDS = 15  # from the notice to the deadline


@pytest.mark.usefixtures("ray_local")
def test_each_node_has_one_checkpoint_and_one_sentence() -> None:
    said: list[str] = []
    heard: list[PreemptionInfo | None] = [None]
    notices = PreemptionNotices(said.append, lambda: heard[-1])
    assert not notices.unanswered()
    notices.on_checkpoint(TrainState(step=3), "")  # one without a notice
    (node,) = ray.nodes()
    here, elsewhere = node["NodeID"], "f" * 56
    heard.append(PreemptionInfo(1_800_000_000_000, {here: [0, 1]}))
    assert notices.unanswered()
    notices.on_checkpoint(TrainState(step=5), "")
    assert not notices.unanswered()
    heard.append(PreemptionInfo(1_700_000_000_000, {here: [0, 1]}))  # sooner: the same node
    assert not notices.unanswered()
    heard.append(PreemptionInfo(None, {here: [0, 1], elsewhere: [2]}))
    assert notices.unanswered()
    notices.on_checkpoint(TrainState(step=8), "")
    notices.on_checkpoint(TrainState(step=9), "")
    assert not notices.unanswered()
    assert said == [
        f"node {node['NodeManagerAddress']} ({here[:8]}) is to be taken away, deadline 2027-01-15 "
        "08:00:00 UTC: step 5 is saved",
        "node of unknown address (ffffffff) is to be taken away, without a deadline: step 8 is "
        "saved",
    ]


def test_a_node_that_ray_cannot_look_up_is_named_by_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray._private.state.state", GlobalState())  # one that reaches no cluster
    with pytest.raises(ray.exceptions.RaySystemError):
        ray.nodes()
    said: list[str] = []
    info = PreemptionInfo(None, {"f" * 56: [0]})
    PreemptionNotices(said.append, lambda: info).on_checkpoint(TrainState(step=8), "")
    assert said == [
        "node of unknown address (ffffffff) is to be taken away, without a deadline: step 8 is "
        "saved"
    ]


@pytest.mark.parametrize(
    ("info", "error", "seconds"),
    [
        (None, RuntimeError("connection closed by peer"), []),
        (PreemptionInfo(None, {"f" * 56: [0]}), UserError("the disk is full"), []),
        (PreemptionInfo(None, {"f" * 56: [0]}), RuntimeError("connection closed by peer"), [60.0]),
    ],
    ids=["without a notice", "what a user must mend", "what may come of the node"],
)
def test_after_a_notice_an_error_is_logged_and_held_back(
    info: PreemptionInfo | None,
    error: Exception,
    seconds: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    held: list[float] = []
    logged_before: list[str] = []

    def hold(how_long: float) -> None:
        held.append(how_long)
        logged_before.append(caplog.text)

    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(type(error)) as raised,
        errors_held_after_a_notice(lambda: info, hold),
    ):
        raise error
    assert raised.value is error
    assert held == seconds
    assert bool(caplog.text) == bool(seconds)
    for text in logged_before:  # with its traceback, before the wait in which Ray ends the process
        assert "held back for 60 s" in text
        assert "Traceback" in text
        assert str(error) in text


def test_what_ends_well_is_not_held_back_after_a_notice() -> None:
    held: list[float] = []
    with errors_held_after_a_notice(lambda: PreemptionInfo(None, {"f" * 56: [0]}), held.append):
        pass
    assert held == []


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with one CPU and one node with two."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=2)
    yield cluster
    cluster.shutdown()


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_drained_node_costs_no_step_before_the_notice(cluster: Cluster, tmp_path: Path) -> None:
    """By `ray drain-node`. The node is gone a little before its deadline, and a spare one is there
    already."""
    world = write_world(tmp_path, clips=83)
    stage = {"first_epoch": 1, "last_epoch": 3, "segment_seconds": 0.26, "clips_per_step": 2}
    more = [f"curriculum.stages={json.dumps([stage])}"]
    whole, run = (tmp_path / name / "run" for name in ("whole", "disturbed"))
    train_undisturbed(world, whole, more)
    drained = cluster.add_node(num_cpus=2)
    process = start(world, run, cluster, more)
    wait_until(lambda: 3 in steps_recorded(run), process, seconds=600)
    cluster.add_node(num_cpus=2)
    notice = [RAY, "drain-node", f"--address={cluster.address}", f"--node-id={drained.node_id}"]
    notice += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot machine taken back"]
    with slowed(workers := train_workers()):
        subprocess.run([*notice, f"--deadline-remaining-seconds={SECONDS}"], check=True)
        deadline = time.monotonic() + SECONDS
        see_checkpoint(run, process)
        time.sleep(max(0.0, deadline - 4 - time.monotonic()))
        cluster.remove_node(drained, allow_graceful=False)
        see_end_of(workers, process)
    assert_ends_as(whole, run, process, drained.node_id)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_sigterm_to_a_node_is_a_notice_too(cluster: Cluster, tmp_path: Path) -> None:
    """As a pod of Kubernetes gets it, whose first process is `ray start --block`; another node
    joins when this one is gone."""
    world = write_ttt_world(tmp_path)
    stages = [
        {"frames": 32, "steps": 4, "frames_per_step": 128},
        {"frames": 128, "steps": 60, "frames_per_step": 256},
    ]
    more = [f"stages={json.dumps(stages)}", "validation.every_steps=null"]
    whole, run = (tmp_path / name / "run" for name in ("whole", "disturbed"))
    train_undisturbed(world, whole, more)
    drain = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(SECONDS)}
    words = [RAY, "start", f"--address={cluster.address}", "--num-cpus=2", "--block"]
    with (tmp_path / "node").open("wb") as printed:
        node = subprocess.Popen(words, env={**os.environ, **drain}, stdout=printed)
    wait_until(lambda: "Ray runtime started" in (tmp_path / "node").read_text(), node)
    process = start(world, run, cluster, more)
    wait_until(lambda: 6 in steps_recorded(run), process, seconds=600)
    with slowed(workers := train_workers()):
        node.send_signal(signal.SIGTERM)
        see_checkpoint(run, process)
        see_end_of(workers, process)
    node.wait(timeout=60)
    cluster.add_node(num_cpus=2)
    assert_ends_as(whole, run, process, "")


def train_undisturbed(world: World, run: Path, more: list[str]) -> None:
    subprocess.run(command(world, run, *settings(more, cpus=0.5)), cwd=ROOT, check=True)


def settings(more: list[str], cpus: float) -> list[str]:
    """Two workers that may not fail, and no checkpoints but those at the end of an epoch."""
    workers = ["cluster.num_workers=2", f"cluster.cpus_per_worker={cpus}", "cluster.max_failures=0"]
    return [*more, *workers, "checkpoint.every_steps=null"]


def start(world: World, run: Path, cluster: Cluster, more: list[str]) -> subprocess.Popen[bytes]:
    """Each of the two workers takes more than half of a node."""
    words = [*command(world, run, *settings(more, cpus=1.5)), "--address", cluster.address]
    run.parent.mkdir()
    with (run.parent / "printed").open("wb") as printed:
        return subprocess.Popen(words, cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT)


def train_workers() -> list[int]:
    return worker_pids("ray::RayTrainWorker")


def see_checkpoint(run: Path, process: subprocess.Popen[bytes]) -> None:
    before, began = checkpoint.complete_steps(str(run)), time.monotonic()
    wait_until(lambda: checkpoint.complete_steps(str(run)) != before, process)
    print(f"saved {time.monotonic() - began:.1f} s after the notice")


def see_end_of(workers: list[int], process: subprocess.Popen[bytes]) -> None:
    assert len(workers) == 2
    wait_until(lambda: not set(workers) & set(train_workers()), process)


def assert_ends_as(whole: Path, run: Path, process: subprocess.Popen[bytes], node_id: str) -> None:
    """The run ends well, without a step before the notice's checkpoint trained twice, in the bytes
    of an undisturbed one, and with nothing else in its folder."""
    began, ends = time.monotonic(), checkpoint.complete_steps(str(whole))
    (saved,) = set(checkpoint.complete_steps(str(run))) - set(ends)
    lowest = max(steps_recorded(run))
    assert saved < lowest
    while process.poll() is None:
        lowest = min(lowest, max(steps_recorded(run)))
        time.sleep(0.02)
    print(f"ended {time.monotonic() - began:.0f} s after the workers were gone")
    assert process.returncode == 0
    assert lowest >= saved
    printed = (run.parent / "printed").read_text()
    (sentence,) = [line for line in printed.splitlines() if "is to be taken away" in line]
    assert f"({node_id[:8]}" in sentence
    assert "deadline" in sentence
    assert f"step {saved} is saved" in sentence
    assert steps_recorded(run) == list(range(1, ends[-1] + 1))
    last = f"checkpoints/step-{ends[-1]:08d}"
    extra = f"checkpoints/step-{saved:08d}"
    ours, theirs = (
        {str(path.relative_to(each)) for path in each.rglob("*") if path.is_file()}
        for each in (run, whole)
    )
    assert {name for name in ours if not name.startswith(extra)} == theirs
    for name in theirs:
        if name.startswith((last, "checkpoints/best.json")):
            assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    kinds = [line["step"] for line in metrics(run) if line["kind"] == "checkpoint"]
    assert kinds == sorted({*ends, saved})
