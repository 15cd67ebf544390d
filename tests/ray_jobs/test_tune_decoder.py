"""Whole sweeps on a local Ray of two CPUs: more trials than slots, early stops, going on."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.util import placement_group_table

from ray_jobs import train_decoder, tune_decoder
from ray_jobs.config.load import load_config
from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.reports import sweep as tune_report
from ray_jobs.sweep import run as tune_sweep
from ray_jobs.sweep import trials as tune_trials
from tests.test_security import Bomb
from tests.tune_world import EPOCHS, STEPS, write_world
from ttt import checkpoint, records
from ttt.snac.model import Decoder48k

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def arguments(world: Path, run: Path, *more: str) -> list[str]:
    return ["--config", str(world), f"run={run}", *more]


def weights(run: Path, number: int, step: int = STEPS) -> bytes:
    folder = run / "trials" / f"{number:04d}" / "checkpoints" / f"step-{step:08d}"
    return (folder / "model.safetensors").read_bytes()


def metrics(run: Path) -> dict[int, bytes]:
    numbers = tune_trials.numbers(str(run))
    return {n: (run / "trials" / f"{n:04d}" / "metrics.jsonl").read_bytes() for n in numbers}


def summary(run: Path) -> dict:
    return json.loads((run / "trials.json").read_text())


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """Five trials on two CPUs under ASHA."""
    run = tmp_path_factory.mktemp("finished") / "sweep"
    assert tune_decoder.main(arguments(world, run)) == 0
    return run


def test_a_sweep_leaves_its_best_configuration_table_report_and_decoder(
    world: Path, finished: Path
) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *("trials", "best.yaml", "trials.csv", "trials.json", "report.html", "export"),
        *("config.yaml", "provenance.json", ".lock"),
    }
    found = summary(finished)
    trials = found["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3, 4]
    states = {trial["number"]: trial["state"] for trial in trials}
    assert states[0] == "finished", "trial 0 is never stopped"
    assert set(states.values()) == {"finished", "stopped"}
    # What the table says, from the runs' own metrics.
    for trial in trials:
        lines = [
            json.loads(line) for line in metrics(finished)[trial["number"]].decode().splitlines()
        ]
        losses = {x["step"]: x["loss"] for x in lines if x["kind"] == "validation" and x["step"]}
        assert trial["loss"] == min(losses.values())
        assert losses[trial["best_step"]] == trial["loss"]
        assert trial["epochs"] == len(losses)
        assert (trial["state"] == "finished") == (len(losses) == EPOCHS)
    best = min(trials, key=lambda trial: trial["loss"])
    assert found["best"] == best["number"]
    table = list(csv.DictReader((finished / "trials.csv").open()))
    assert [float(row["loss"]) for row in table] == [trial["loss"] for trial in trials]
    assert [json.loads(row["optim.clip_norm"]) for row in table] == [
        trial["values"]["optim.clip_norm"] for trial in trials
    ]
    config = load_config(TrainConfig, finished / "best.yaml")
    assert config.optim.peak_lr == best["values"]["optim.peak_lr"]
    assert config.run == str(finished / "best")
    exported = Decoder48k.from_pretrained(finished / "export").state_dict()
    folder = checkpoint.best(str(finished / "trials" / f"{best['number']:04d}"))
    assert folder is not None
    tensors = checkpoint.load(folder).tensors["model"]
    assert all(torch.equal(tensors[name], tensor) for name, tensor in exported.items())
    assert not [group for group in placement_group_table().values() if group["state"] == "CREATED"]


def test_the_verdict_and_the_page_say_what_the_losses_say(finished: Path) -> None:
    found = summary(finished)
    losses = {trial["number"]: trial["loss"] for trial in found["trials"]}
    beats = min(losses, key=losses.__getitem__) != 0
    heading = "beats the default" if beats else "No trial beats the default configuration"
    assert heading in found["verdict"]["heading"]
    assert f"{min(losses.values()):.4f}" in found["verdict"]["sentences"][0]
    assert "of one training each" in found["verdict"]["sentences"][1]
    page = (finished / "report.html").read_text()
    assert found["verdict"]["heading"] in page
    assert page.count("data:image/png;base64,") == 2
    assert "5 trials are too few; 10 are needed" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)


def test_the_page_shows_importance_as_a_picture_where_there_is_any(finished: Path) -> None:
    found = summary(finished)
    known = {"share": 0.4, "chance": 0.1, "n": 20, "reason": None}
    found["importance"]["optim.clip_norm"] = known
    page = tune_report.build_report(found)
    assert page.count("data:image/png;base64,") == 3
    assert "The share of each key: optim.clip_norm" in page


def test_resuming_repeats_no_trial_that_is_over_and_adds_new_ones(
    world: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = metrics(finished)
    assert tune_decoder.main(arguments(world, finished)) == 2
    assert "continue that run with --resume" in capsys.readouterr().err
    changed = arguments(world, finished, "--resume", "optim.weight_decay=0.5")
    assert tune_decoder.main(changed) == 2
    assert "optim.weight_decay was 0.01 and is now 0.5" in capsys.readouterr().err
    assert tune_decoder.main(arguments(world, finished, "--resume")) == 0
    assert metrics(finished) == before
    more = arguments(world, finished, "--resume", "search.trials=5")
    assert tune_decoder.main(more) == 0
    after = metrics(finished)
    assert {number: after[number] for number in before} == before
    assert set(after) == set(range(6))
    assert tune_decoder.main(arguments(world, finished, "--resume")) == 2
    assert f"{finished} has 5 trials besides trial 0 and search.trials is 4" in (
        capsys.readouterr().err
    )


@pytest.fixture
def bombs(tmp_path: Path) -> Iterator[Path]:
    """While the test runs, every error.pkl of Ray Tune's is replaced by a file that makes the
    folder given here when it is unpickled."""
    mark, done = tmp_path / "exploded", threading.Event()
    staged = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parent.parent / "artifacts"

    replaced: list[Path] = []

    def replace() -> None:
        while not done.wait(0.01):
            for file in staged.rglob("error.pkl"):
                file.write_bytes(pickle.dumps(Bomb(mark)))
                replaced.append(file)

    thread = threading.Thread(target=replace)
    thread.start()
    yield mark
    done.set()
    thread.join()
    assert replaced, "Ray Tune keeps its errors elsewhere"


def test_a_failed_trial_is_told_with_its_reason(
    world: Path,
    tmp_path: Path,
    ray_local: None,
    bombs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    in_the_way = run / "trials" / "0001" / "tensorboard"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    # Columns of the report with nothing, with null alone and with 0 on a logarithmic scale.
    space = "{optim.ema_decay: {choice: [null]}, optim.weight_decay: {loguniform: [0.01, 0.1]}}"
    more = [f"space={space}", "optim.weight_decay=0", "search.trials=1", "scheduler.kind=none"]
    more += ["tracking.tensorboard=true", "cluster.max_failures=0", "--resume"]
    assert tune_decoder.main(arguments(world, run, *more)) == 2
    said = capsys.readouterr()
    assert f"{run}: 1 of 2 trials failed (FileExistsError: [Errno 17] File exists" in said.err
    assert "--resume tries failed ones again" in said.err
    assert not bombs.exists(), "Ray has unpickled the error"
    found = summary(run)
    assert [trial["state"] for trial in found["trials"]] == ["finished", "failed"]
    why = found["trials"][1]["why"]
    assert why == f"FileExistsError: [Errno 17] File exists: '{in_the_way}'"
    assert (run / "report.html").exists()
    assert (run / "export").exists()


def test_the_reason_of_a_failed_trial_is_the_whole_message_of_its_last_failure() -> None:
    frames = '  File "a.py", line 1, in f\n    f()\n    ^^^\n  File "<frozen os>", line 2, in g\n'
    first = f"ray::one() (pid=1)\n{frames}KeyError: 1\n\nDuring handling, another:\n\n"
    task = f"{first}{frames}ValueError: a\n  b\n"
    errors = "".join(
        f"Failure # {number} (occurred at 2026-11-21_12-00-00)\n{text}\n"
        for number, text in enumerate(["The actor died.\n\tpid: 3", task], start=1)
    )
    assert tune_sweep._last_message(errors) == "ValueError: a\n  b"
    killed = errors.partition("Failure # 2")[0]
    assert tune_sweep._last_message(killed) == "The actor died.\n\tpid: 3"


@pytest.mark.faults  # for its length
def test_a_limit_leaves_trials_unfinished_and_resuming_ends_with_the_same_bytes(
    world: Path, tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    plain = ["scheduler.kind=none", "search.trials=2"]
    assert tune_decoder.main(arguments(world, run, *plain, "stop.steps=4")) == 0
    assert "ended early: stop.steps 4 is reached; --resume goes on" in capsys.readouterr().out
    assert "unfinished" in {trial["state"] for trial in summary(run)["trials"]}
    assert summary(run)["ended_early"]
    assert tune_decoder.main(arguments(world, run, *plain, "--resume")) == 0
    assert {trial["state"] for trial in summary(run)["trials"]} == {"finished"}
    assert tune_decoder.main(arguments(world, whole, *plain)) == 0
    for number in range(3):
        assert weights(run, number) == weights(whole, number)


def test_tpe_and_median_stopping_with_a_trial_that_is_not_finite(
    world: Path, tmp_path: Path, ray_local: None
) -> None:
    run = tmp_path / "run"
    space = "space={optim.peak_lr: {choice: [1.0e-4, 1.0e+30]}}"
    more = ["search.kind=tpe", "search.trials=4", "scheduler.kind=median", space]
    more += ["optim.max_skipped_in_row=2", "optim.initial_div=1", "curriculum.head_only_epochs=0"]
    assert tune_decoder.main(arguments(world, run, *more)) == 0
    trials = summary(run)["trials"]
    wild = [trial for trial in trials if trial["values"]["optim.peak_lr"] == 1e30]
    assert wild, "TPE's first draws take both"
    for trial in wild:
        assert trial["state"] in ("diverged", "stopped")
        assert trial["loss"] is None or trial["loss"] > trials[0]["loss"]
    assert summary(run)["best"] not in [trial["number"] for trial in wild]
    assert all(math.isfinite(trial["loss"]) for trial in trials if trial not in wild)


@pytest.mark.faults  # for its length
def test_a_population_hands_on_checkpoints_and_its_best_can_be_trained_again(
    world: Path, tmp_path: Path, ray_local: None
) -> None:
    run = tmp_path / "run"
    more = [
        "space={optim.rate_factors.0: {loguniform: [0.01, 30]}}",
        "scheduler={kind: pbt, grace_epochs: 1, perturb_every_epochs: 1}",
        "search.trials=3",
        "curriculum.head_only_epochs=0",
    ]
    assert tune_decoder.main(arguments(world, run, *more)) == 0
    trials = summary(run)["trials"]
    heirs = [trial for trial in trials if trial["copied"]]
    assert heirs, "no trial went on from another's checkpoint"
    assert {trial["state"] for trial in trials} == {"finished"}
    assert not trials[0]["copied"], "trial 0 keeps its schedule"
    heir = heirs[0]
    factors = {int(key.rsplit(".", 1)[1]): f for key, f in heir["values"].items()}
    assert set(factors) == {0, *(copy["step"] for copy in heir["copied"])}
    donor = next(t for t in trials if t["number"] == heir["copied"][0]["from"])
    assert factors[0] == donor["values"]["optim.rate_factors.0"]
    assert all(0.01 <= factor <= 30 for factor in factors.values())
    # Its schedule, trained from the start by the ordinary command, ends with the same bytes.
    config = run / "trials" / f"{heir['number']:04d}" / "config.yaml"
    again = ["--config", str(config), f"run={tmp_path / 'again'}", "cluster.num_workers=0"]
    assert train_decoder.main(again) == 0
    step = tmp_path / "again" / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors"
    assert step.read_bytes() == weights(run, heir["number"])


def test_trials_that_no_node_can_hold_are_refused(
    world: Path, tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, said in (
        (["cluster.cpus_per_worker=3"], "no node has the 3 CPU of a trial"),
        (
            ["cluster.num_workers=2", "cluster.cpus_per_worker=1"],
            "can leave no whole CPU to read the data",
        ),
        (
            ["cluster.num_workers=2", "cluster.cpus_per_worker=0.4", "cluster.gpus_per_worker=1"],
            "2 workers of 0.4 CPU and 1 GPU cannot be placed on this Ray, which has room for 0",
        ),
    ):
        assert tune_decoder.main(arguments(world, tmp_path / "run", *more)) == 2
        assert said in capsys.readouterr().err


def test_a_training_is_not_resumed_as_a_sweep(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write_json(tmp_path / "provenance.json", {"config": {"run": str(tmp_path)}})
    assert tune_decoder.main(arguments(world, tmp_path, "--resume")) == 2
    assert "not the folder of a sweep; choose another run folder" in capsys.readouterr().err


def command(world: Path, run: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "ray_jobs.tune_decoder", *arguments(world, run, *more)]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_killed_sweep_goes_on_and_ends_with_the_same_bytes(world: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    plain = ["scheduler.kind=none", "search.trials=4"]
    process = subprocess.Popen(command(world, run, *plain), cwd=ROOT)
    for _ in range(2400):
        over = list(run.glob("trials/*/end.json"))
        if over:
            break
        assert process.poll() is None, "the sweep ended too early"
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = {path: path.parent.joinpath("metrics.jsonl").read_bytes() for path in over}
    assert len(list(run.glob("trials/*/end.json"))) < 5
    subprocess.run(command(world, run, *plain, "--resume"), cwd=ROOT, check=True)
    subprocess.run(command(world, whole, *plain), cwd=ROOT, check=True)
    for path, content in before.items():
        assert path.parent.joinpath("metrics.jsonl").read_bytes() == content, "trained again"
    for number in range(5):
        assert weights(run, number) == weights(whole, number)
    assert summary(run)["best"] == summary(whole)["best"]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_trials_of_two_workers_give_their_room_back_when_they_are_stopped(
    world: Path, tmp_path: Path
) -> None:
    """Two workers of half a CPU and a whole CPU for the data leave no room for a second trial: a
    placement group that a stopped trial left behind would keep the next one waiting for ever."""
    run = tmp_path / "run"
    more = ["cluster.num_workers=2", "cluster.cpus_per_worker=0.5", "search.trials=4"]
    # With the token that a local Ray has by default: its dashboard asks for it too.
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    subprocess.run(command(world, run, *more), cwd=ROOT, env=env, check=True, timeout=850)
    states = [trial["state"] for trial in summary(run)["trials"]]
    assert len(states) == 5
    assert states[0] == "finished"
    assert "stopped" in states[:-1], "a trial came after one that was stopped"
    assert not list(run.glob("trials/*/ray_train"))
    assert set(states) == {"finished", "stopped"}


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_lost_workers_are_started_again_by_ray_train_alone(world: Path, tmp_path: Path) -> None:
    """Ray Tune above it would start each trial anew, as often again."""
    run = tmp_path / "run"
    for number in range(2):
        (run / "trials" / f"{number:04d}").mkdir(parents=True)
        (run / "trials" / f"{number:04d}" / "tensorboard").touch()
    more = ["cluster.num_workers=2", "cluster.cpus_per_worker=0.5", "cluster.max_failures=1"]
    more += ["search.trials=1", "tracking.tensorboard=true", "--resume"]
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    ended = subprocess.run(
        command(world, run, *more),
        cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, timeout=850, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    for number in range(2):
        assert ended.stderr.count(f"Trial task failed for trial {number:04d}") == 1
        assert "File exists" in tune_trials.reached(str(run), number).why


def test_ray_is_not_asked_to_read_what_it_saved() -> None:
    """Ray Tune's own restore reads pickles."""
    for path in (ROOT / "ray_jobs").glob("tune_*.py"):
        text = path.read_text()
        assert "Tuner.restore" not in text
        assert "Tuner(" not in text, "what Tuner.fit returns unpickles errors"
        assert "pickle" not in text or path.name == "tune_sweep.py"
