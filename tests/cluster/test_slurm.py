"""The Slurm script runs: a real Ray and a real training; only Slurm's own commands are played."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.manifests import CLUSTER, ROOT
from tests.nano_cache import write_nano_cache, write_nano_codec

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$*" >> "$HOME/scontrol.log"; fi
"""
STAGES = "[{first_epoch: 1, last_epoch: 8, segment_seconds: 0.18, clips_per_step: 2}]"


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_job_is_saved_queued_again_and_resumed(tmp_path, allocate):
    write_nano_codec(tmp_path / "codec")
    write_nano_cache(tmp_path / "cache", 11)
    (tmp_path / "bin").mkdir()
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(content)
        (tmp_path / "bin" / name).chmod(0o755)
    run = tmp_path / "run"
    tiny = (ROOT / "configs" / "train_tiny_cpu.yaml").read_text()
    (tmp_path / "train.yaml").write_text(tiny.replace("run: runs/train_tiny", f"run: {run}"))
    words = [
        *("--config", f"{tmp_path}/train.yaml", f"codec={tmp_path}/codec"),
        *(f"data.train={tmp_path}/cache", "validation.segment_seconds=0.26"),
        *(f"curriculum.stages={STAGES}", "curriculum.epochs=8"),
        *("cluster.cpus_per_worker=0.5", "tracking.every_steps=1"),
    ]

    first = allocate(words, restarts=0)
    wait_for(lambda: (run / "metrics.jsonl").exists(), first)
    wait_for(lambda: '"step": 3' in (run / "metrics.jsonl").read_text(), first)
    (token,) = (tmp_path / ".ray").glob("slurm-*.token")
    assert token.stat().st_mode & 0o077 == 0
    first.send_signal(signal.SIGTERM)
    output = first.communicate()[0]
    assert first.returncode == 0, output
    assert "continue with --resume" in output
    assert (tmp_path / "scontrol.log").read_text().startswith("requeue ")
    assert not token.exists()

    second = allocate(words, restarts=1)
    output = second.communicate()[0]
    assert second.returncode == 0, output
    (total,) = re.findall(r"trained (\d+) steps; best decoder:", output)
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == list(range(1, int(total) + 1))
    assert (tmp_path / "scontrol.log").read_text().count("requeue ") == 1


PYTHON = """#!/bin/bash
case "$1 $*" in
  *--print-config*) ;;
  -m*) trap 'exit $CODE' TERM; echo "$*" > "$HOME/runs"; while :; do sleep 0.1; done ;;
esac
"""


@pytest.mark.parametrize(
    "restarts, code, requeued", [(0, 0, True), (1, 143, True), (0, 2, False), (1, 1, False)]
)
def test_only_a_job_that_was_stopped_is_queued_again(
    tmp_path, allocate, monkeypatch, restarts, code, requeued
):
    """The script's decisions alone: the job and Ray are played, too."""
    played = {"srun": SRUN, "scontrol": SCONTROL, "ray": "#!/bin/bash\nexec sleep 60\n"}
    for folder, files in (("bin", played), (".venv/bin", {"python": PYTHON})):
        (tmp_path / folder).mkdir(parents=True)
        for name, content in files.items():
            (tmp_path / folder / name).write_text(content)
            (tmp_path / folder / name).chmod(0o755)
    monkeypatch.setenv("CODE", str(code))
    job = allocate([], restarts, checkout=tmp_path)
    wait_for(lambda: (tmp_path / "runs").exists(), job)
    assert ("--resume-if-begun" in (tmp_path / "runs").read_text().split()) == (restarts > 0)
    job.send_signal(signal.SIGTERM)
    output = job.communicate()[0]
    assert job.returncode == code, output
    assert (tmp_path / "scontrol.log").exists() == requeued


@pytest.fixture
def allocate(tmp_path):
    """Runs the script with some words, as an allocation of one node would."""
    started = []

    def run(words: list[str], restarts: int, checkout: Path = ROOT) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = {
            **kept,
            "PATH": f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "SLURM_SUBMIT_DIR": str(checkout),
            "SLURM_JOB_ID": str(free_job_id()),
            "SLURM_JOB_NODELIST": "localhost",
            "SLURM_CPUS_PER_TASK": "2",
            "SLURM_RESTART_COUNT": str(restarts),
        }
        process = subprocess.Popen(
            ["bash", str(CLUSTER / "slurm.sh"), "train_decoder", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.terminate()  # the script then ends its Ray
        process.wait()


def free_job_id() -> int:
    """A job whose four ports (see the script) are free here."""
    for job in range(1, 1200):
        sockets = [socket.socket() for _ in range(4)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("", 20000 + job * 10 + offset))
            return job
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise OSError("no ports are free")


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
