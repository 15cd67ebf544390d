"""The gauges of jobs: what they show, and what Prometheus would read of them on a real head."""

from __future__ import annotations

import math
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ray_jobs.config.load import load_config
from ray_jobs.decoder.train.plan import make_plan
from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.moshi.train.config import TrainTTTConfig
from ray_jobs.moshi.train.plan import make_plan as make_ttt_plan
from ray_jobs.runtime import gauges as runtime_gauges
from ray_jobs.runtime.gauges import FIELDS, GAUGES, TAGS, Gauges, exported, progress_values
from ray_jobs.runtime.progress import Counted, Progress
from ray_jobs.training.position import Position, PositionHook
from ray_jobs.training.run import train_in_process
from ray_jobs.training.training_job import TrainingJob
from tests.ports import free_ports
from tests.ray_jobs.nano_training import ROOT, World, command, metrics
from tests.ray_jobs.test_trackers import record
from tests.ray_jobs.worker_processes import worker_pids
from ttt.training.state import TrainState

OF_ALL = {"ttt_done", "ttt_total", "ttt_per_second", "ttt_replaced_workers"}
OF_ITEMS = {"ttt_failed_items", "ttt_acceptance", "ttt_times_real_time"}


def test_names_and_sentences_are_what_prometheus_and_readers_want() -> None:
    for name, kind in GAUGES.items():
        assert re.fullmatch(r"ttt_[a-z_]+", name)
        assert re.fullmatch(r"[A-Z].*\.", kind.help), name
        assert kind.by not in {*TAGS, "job", "instance"}, name
    assert set(FIELDS.values()) <= set(GAUGES)
    assert not (OF_ALL | OF_ITEMS) - set(GAUGES)


def test_a_progress_line_as_gauges() -> None:
    progress = Progress("hearing", 900, "frames", done=100, clock=iter((0.0, 0.0, 4.0)).__next__)
    fields = {"chapters": Counted(1, 9), "acceptance": 0.75, "failed": 2, "data_wait": "3.0%"}
    progress.advance(200, **fields)
    assert progress_values(progress.reading()) == {
        "ttt_done": {"frames": 300, "chapters": 1},
        "ttt_total": {"frames": 900, "chapters": 9},
        "ttt_per_second": {"frames": 50.0},
        "ttt_acceptance": 0.75,
        "ttt_failed_items": 2,
    }


def test_only_known_gauges_are_shown_and_each_with_its_tag() -> None:
    gauges = Gauges("train_decoder", "/run")
    with pytest.raises(KeyError, match="ttt_los"):
        gauges.show({"ttt_los": 1.0})
    with pytest.raises(AssertionError, match="ttt_loss"):
        gauges.show({"ttt_loss": 1.0})
    with pytest.raises(AssertionError, match="ttt_epoch"):
        gauges.show({"ttt_epoch": {"of": 1.0}})


def test_a_gauge_that_cannot_be_set_is_logged_once_and_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sets, raised = list[threading.Thread](), "no such metric"

    def refuse(_: Gauges) -> None:
        sets.append(threading.current_thread())
        raise RuntimeError(raised)

    monkeypatch.setattr(runtime_gauges, "_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(Gauges, "set", refuse)
    with exported(Progress("training", 10, "steps"), "train_decoder", "/run"):
        deadline = time.monotonic() + 60
        while len(sets) < 5:
            assert time.monotonic() < deadline, "the thread has ended"
            time.sleep(0.01)
        assert sets[-1] is not threading.current_thread()
        assert sets[-1].is_alive()
    assert sets[0] is sets[-1] is threading.current_thread()  # before the block, and after it
    (warning,) = [each for each in caplog.records if each.name == runtime_gauges.__name__]
    assert warning.levelname == "WARNING"
    assert "train_decoder" in warning.message
    assert raised in (warning.exc_text or "")


def decoder_job(world: World, run: Path) -> TrainingJob[Any]:
    return make_plan(load_config(TrainConfig, world.config, [f"run={run}"]))


def ttt_job(world: World, run: Path) -> TrainingJob[Any]:
    return make_ttt_plan(load_config(TrainTTTConfig, world.config, [f"run={run}"]))


@pytest.mark.parametrize(
    ("fixture", "plan", "windows"),
    [
        # Two epochs of two steps of four windows, one of four steps of two.
        ("world", decoder_job, [4] * 4 + [2] * 4),
        ("ttt_world", ttt_job, [128 // 32] * 4 + [256 // 128] * 4),
    ],
)
def test_a_training_measures_what_its_records_say(
    fixture: str,
    plan: Callable[[World, Path], TrainingJob[Any]],
    windows: list[int],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    run, positions = tmp_path / "run", list[Position]()
    job = plan(request.getfixturevalue(fixture), run)
    train_in_process(job, threading.Event(), [PositionHook(positions.append, job)])
    gauges = Gauges(job.command, str(run))
    for position in positions:
        gauges.show(position.measured)  # refuses unknown ones
    names = {name for position in positions for name in position.measured}
    assert names == set(GAUGES) - OF_ALL - OF_ITEMS
    at = {position.step: position.measured for position in positions}  # after its validation
    best, seconds = math.inf, 0.0
    for line in metrics(run):
        measured = at[line["step"]]
        if line["kind"] == "step":
            assert measured["ttt_loss"] == line["terms"]
            assert measured["ttt_learning_rate"] == line["learning_rate"]
            assert measured["ttt_grad_norm"] == line["grad_norm"]
            assert (measured["ttt_epoch"], measured["ttt_phase"]) == (line["epoch"], line["phase"])
            assert measured["ttt_skipped_steps"] == measured["ttt_replaced_items"] == 0
            seconds += line["step_seconds"]
            if seconds < 10:
                heard = sum(windows[: line["step"]])
                assert measured["ttt_windows_per_second"] == pytest.approx(heard / seconds)
                assert measured["ttt_step_seconds"] == pytest.approx(seconds / line["step"])
        elif line["kind"] == "validation" and line["step"] > 0:
            best = min(best, line["loss"])
            assert measured["ttt_validation_loss"] == line["loss"]
            assert measured["ttt_best_loss"] == best


def test_skipped_steps_and_replaced_items_are_counted_on_over_a_restart() -> None:
    class Job:
        shown_terms: Mapping[str, str] = {"loss": "total"}

        def windows_per_step(self, epoch: int) -> int:
            return 5 * epoch

    shown: list[Position] = []
    hook = PositionHook(shown.append, Job())  # pyright: ignore[reportArgumentType]
    hook.on_start(TrainState(step=6, skipped=2, replaced=3, best_value=0.5, best_step=4))
    assert shown[-1].measured == {
        "ttt_skipped_steps": 2,
        "ttt_replaced_items": 3,
        "ttt_best_loss": 0.5,
    }
    hook.on_step(record(7, taken=False, loss=math.nan))
    assert shown[-1].measured["ttt_skipped_steps"] == 3
    assert shown[-1].fields()["loss"] is None
    for step in range(8, 30):  # of a second each
        hook.on_step(record(step))
    assert shown[-1].measured["ttt_windows_per_second"] == 5
    assert shown[-1].measured["ttt_data_wait_share"] == pytest.approx(0.1)


# From here on a real head, with a token of its own, scraped as Prometheus does it.


Samples = dict[str, dict[tuple[str, ...], float]]
"""Gauge -> (command, run, the tag of its own where it has one) -> value."""


@dataclass(frozen=True)
class Head:
    """A Ray head of this test alone."""

    address: str
    metrics_port: int
    environment: dict[str, str]
    pid: int

    def samples(self) -> Samples:
        """Our gauges."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=120) as answer:  # without the token
            text = answer.read().decode()
        found: Samples = {}
        for family in text_string_to_metric_families(text):
            name = family.name.removeprefix("ray_")
            if name not in GAUGES:
                assert not name.startswith("ttt_"), name
                continue
            assert (family.type, family.documentation) == ("gauge", GAUGES[name].help)
            by = GAUGES[name].by
            for sample in family.samples:
                tags = (*TAGS, by) if by else TAGS
                key = tuple(sample.labels[tag] for tag in tags)
                assert key not in found.setdefault(name, {}), "two processes set it"
                found[name][key] = sample.value
        return found

    def wait_for(self, seen: Callable[[Samples], bool], seconds: float = 600) -> Samples:
        """What is scraped once `seen` is true of it."""
        deadline = time.monotonic() + seconds
        while True:
            samples = self.samples()
            if seen(samples):
                return samples
            assert time.monotonic() < deadline, samples
            time.sleep(0.2)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """One whose processes export every second."""
    folder = Path(tempfile.mkdtemp(prefix="ttt-head-"))  # Ray's sockets need a short path
    (folder / "token").write_text(secrets.token_hex(32))
    port, metrics_port, agent, client = free_ports(4)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_metrics_report_interval_ms": "1000",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
    }
    ray = Path(sys.executable).with_name("ray")
    start = (
        f"{ray} start --head --block --node-ip-address=127.0.0.1 --num-cpus=2 --port={port} "
        f"--disable-usage-stats --include-dashboard=false --ray-client-server-port={client} "
        f"--metrics-export-port={metrics_port} --dashboard-agent-listen-port={agent} "
        f"--temp-dir={folder}/ray"
    )
    with open(folder / "head.log", "wb") as log:
        process = subprocess.Popen(
            shlex.split(start), env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    made = Head(f"127.0.0.1:{port}", metrics_port, environment, process.pid)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                assert made.samples() == {}
                break
            except urllib.error.URLError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(300)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def started(words: list[str], head: Head, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A driver that writes into `said`, killed at the latest where the block ends."""
    with said.open("wb") as file:
        process = subprocess.Popen(words, cwd=ROOT, env=head.environment, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(900)
def test_a_training_is_scraped_while_it_runs(head: Head, world: World, tmp_path: Path) -> None:
    run, tree = tmp_path / "run", yaml.safe_load(world.config.read_text())
    for stage, last in zip(tree["curriculum"]["stages"], (2, 2000), strict=True):
        stage["last_epoch"] = last
    tree["curriculum"]["epochs"] = 2000  # SIGTERM ends it long before
    tree["validation"]["max_windows"] = 1
    tree["checkpoint"] = {"every_minutes": 30, "keep_last": 1, "keep_epoch_ends": False}
    longer = World(tmp_path, world.job)
    longer.config.write_text(yaml.safe_dump(tree))
    on_ray = "cluster.num_workers=1", "cluster.cpus_per_worker=0.5", f"--address={head.address}"
    of_run, seen = ("train_decoder", str(run)), list[Samples]()

    def are_of_two_steps(samples: Samples) -> bool:
        assert process.poll() is None, "it ended too early"
        step = samples.get("ttt_done", {}).get((*of_run, "steps"))
        lines = [m for m in metrics(run) if m["kind"] == "step" and m["step"] == step]
        names = "ttt_loss", "ttt_learning_rate", "ttt_grad_norm", "ttt_epoch"
        scraped = [
            {tags[2:]: value for tags, value in samples.get(name, {}).items()} for name in names
        ]
        written = [
            [
                {(term,): loss for term, loss in line["terms"].items()},
                {(group,): rate for group, rate in line["learning_rate"].items()},
                {(): line["grad_norm"]},
                {(): line["epoch"]},
            ]
            for line in lines
        ]
        if [scraped] == written:  # else scraped while they were set
            seen.append(samples)
        return len(seen) > 1 and seen[-1]["ttt_done"] != seen[0]["ttt_done"]

    said = tmp_path / "said"
    with started(command(longer, run, *on_ray), head, said) as process:
        samples = head.wait_for(are_of_two_steps)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, said.read_text()
    assert set(samples) == set(GAUGES) - OF_ITEMS - {"ttt_replaced_workers"}
    assert {tags[:2] for by_tags in samples.values() for tags in by_tags} == {of_run}
    validations = [m["loss"] for m in metrics(run) if m["kind"] == "validation"]
    assert samples["ttt_validation_loss"][of_run] in validations
    assert samples["ttt_best_loss"][of_run] in validations
    assert 0 < samples["ttt_data_wait_share"][of_run] < 1
    assert samples["ttt_windows_per_second"][of_run] > 0
    head.wait_for(lambda left: not left)  # they vanish with the driver


@pytest.mark.timeout(900)
def test_an_evaluation_is_scraped_while_it_runs(head: Head, tmp_path: Path) -> None:
    output, said = tmp_path / "out", tmp_path / "said"
    words = [
        "--config", "configs/chapters_tiny_cpu.yaml", f"output={output}", "data=null",
        "synthetic.chapters=400", "synthetic.frames=200", "streams.other=masked", "verify_spans=0",
        "summary.positions=[50, 100]", "summary.window_frames=40", "summary.resamples=100",
        "cluster.num_workers=1", "cluster.cpus_per_worker=0.5", f"--address={head.address}",
    ]  # fmt: skip
    of_run = "evaluate_chapters", str(output)

    def is_replaced(samples: Samples) -> bool:
        return "ttt_replaced_workers" in samples and "acceptance=" in said.read_text()

    def has_heard(samples: Samples) -> bool:
        assert process.poll() is None, "it ended too early"
        done = samples.get("ttt_done", {}).get((*of_run, "chapters"), 0)
        return done >= 2 and "ttt_acceptance" in samples  # Ray may export between two sets.

    words = [sys.executable, "-m", "ray_jobs.evaluate_chapters", *words]
    with started(words, head, said) as process:
        first = head.wait_for(has_heard)
        (worker,) = worker_pids("ray::ChapterWorker", below=head.pid)
        os.kill(worker, signal.SIGKILL)
        samples = head.wait_for(is_replaced)
        process.kill()  # so that it can set nothing at its end
    assert set(first) == {"ttt_done", "ttt_total", "ttt_per_second", "ttt_acceptance"}
    assert set(samples) == {*first, "ttt_replaced_workers"}
    assert samples["ttt_total"] == {(*of_run, "chapters"): 400, (*of_run, "frames"): 400 * 200}
    heard = samples["ttt_done"][*of_run, "chapters"]
    assert 2 <= heard <= len(list((output / "records").rglob("*.parquet"))) <= 400
    assert 200 <= samples["ttt_done"][*of_run, "frames"] < 400 * 200
    assert samples["ttt_replaced_workers"] == {of_run: 1}
    accepted = [float(share) for share in re.findall(r"acceptance=([0-9.]+)", said.read_text())]
    assert min(accepted) - 0.1 <= samples["ttt_acceptance"][of_run] <= max(accepted) + 0.1
    head.wait_for(lambda left: not left)
