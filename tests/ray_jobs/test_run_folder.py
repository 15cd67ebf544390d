"""A run's folder: what a process killed inside its very first write leaves there is no run."""

import subprocess
import sys
from pathlib import Path

import pytest

from ray_jobs.config.load import load_config
from ray_jobs.moshi import together
from ray_jobs.moshi.all_config import EvaluateAllConfig
from ray_jobs.moshi.chapters import run as chapter_pool
from ray_jobs.moshi.chapters.plan import Plan
from ray_jobs.runtime import cli, run_folder
from ttt.config import Config
from ttt.errors import UserError

ALL = Path(__file__).resolve().parents[2] / "configs" / "evaluate_all.yaml"
KILLED = """
import os, signal, sys
from ttt import storage
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
storage.write_bytes(sys.argv[1], b"output: out")
"""


def test_a_part_killed_inside_its_first_write_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "out" / "chapters"
    subprocess.run([sys.executable, "-c", KILLED, str(part / "config.yaml")], check=False)
    (part / ".lock").touch()
    assert [path.suffix for path in part.iterdir() if path.name != ".lock"] == [".tmp"]
    with (
        pytest.raises(UserError, match="nothing to resume"),
        run_folder.claim(str(part), Config(), resume=True),
    ):
        pass
    claimed = []

    def claim(plan: Plan, invocation: cli.Invocation) -> None:
        with run_folder.claim(plan.given.output, plan.given, resume=invocation.resume) as begin:
            begin()
            claimed.append(invocation.resume)
            (part / "run.json").touch()

    monkeypatch.setattr(chapter_pool, "evaluate", claim)
    changed = ["pairs=null", "chapters.data=null", "chapters.streams.other=masked"]
    made = "chapters.synthetic={chapters: 1, speakers: 1}"
    config = load_config(EvaluateAllConfig, ALL, [f"output={tmp_path / 'out'}", made, *changed])
    for _ in range(2):
        plan = together.make_plan(config)
        together.execute(plan, cli.Invocation(resume=True, address=None, config_path=""))
    assert claimed == [False, True]


def test_a_refused_resume_changes_nothing(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    with run_folder.claim(run, Config(), resume=False) as begin:
        assert run_folder.content(run) == []
        begin()
        (tmp_path / "run" / "work").touch()
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    assert {path.name for path in before} == {".lock", "config.yaml", "provenance.json"}
    (tmp_path / "run" / "config.yaml").write_text("as it was")
    with pytest.raises(UserError, match="refused"), run_folder.claim(run, Config(), resume=True):
        raise UserError("refused")
    assert (tmp_path / "run" / "config.yaml").read_text() == "as it was"
