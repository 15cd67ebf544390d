"""The shared command line: exit codes, what is printed where, and errors wrapped by Ray."""

import errno
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from ray_jobs.config.schema import JOB_CONFIGS, config_class
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Action, Invocation, find_user_error, run
from ttt import storage
from ttt.config import Config
from ttt.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CountConfig(Config):
    """A job that counts."""

    top: int = 3
    """Where it ends."""
    folder: str = "runs/count"
    """Where it writes."""


@dataclass(frozen=True, kw_only=True)
class WriteConfig(Config):
    """A job that writes."""

    run: str
    """Where it writes."""


class Job:
    """Records what it was called with."""

    def __init__(self, error=None):
        self.calls = []
        self.error = error

    def execute(self, config, invocation):
        self.calls.append((config, invocation))
        if self.error is not None:
            raise self.error

    def plan(self, config):
        if config.top > 100:
            raise UserError(f"top {config.top} is beyond 100; count less far")
        return config

    def describe(self, config):
        return f"counts to {config.top}"

    def __call__(self, *argv, actions=()):
        return run(
            CountConfig,
            plan=self.plan,
            execute=self.execute,
            describe=self.describe,
            argv=argv,
            doc="Count.",
            actions=actions,
        )


def test_runs_with_words_in_any_order(tmp_path, capsys):
    path = tmp_path / "count.yaml"
    path.write_text("top: 5\n")
    job = Job()
    words = ["top=7", "--resume", "folder=x", "--config", str(path), "--address", "auto"]
    assert job(*words) == 0
    assert job.calls == [(CountConfig(top=7, folder="x"), Invocation(True, "auto", str(path)))]
    assert capsys.readouterr().out == "counts to 7\n"


@pytest.mark.parametrize("place", ["a folder", "an object store"])
def test_a_job_that_is_tried_again_resumes_where_it_had_begun(place, tmp_path, object_store):
    folder = object_store.uri("run") if place == "an object store" else str(tmp_path / "run")
    path = tmp_path / "job.yaml"
    path.write_text(f"run: {folder}\n")
    resumed = []

    def job(*words):
        done = run(
            WriteConfig,
            plan=lambda config: config,
            execute=lambda _config, invocation: resumed.append(invocation.resume),
            describe=lambda _config: "",
            argv=["--config", str(path), *words],
            doc="",
        )
        assert done == 0

    job("--resume-if-begun")
    storage.write_bytes(storage.join(folder, "config.yaml"), b"")
    job("--resume-if-begun")
    job()
    assert resumed == [False, True, False]


@pytest.mark.parametrize("job", [job for job in JOB_CONFIGS if job != "push_decoder"])
def test_every_job_but_the_push_says_which_folder_it_writes_to(job):
    assert len({field.name for field in fields(config_class(job))} & set(run_folder.KEYS)) == 1


def test_dry_run_prints_the_plan_and_does_nothing(capsys):
    job = Job()
    assert job("--dry-run", "top=4") == 0
    assert capsys.readouterr().out == "counts to 4\n"
    assert job.calls == []


def test_print_config(capsys):
    assert Job()("--print-config", "top=4") == 0
    expected = "# Where it ends.\ntop: 4\n# Where it writes.\nfolder: runs/count\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    "words, message",
    [
        (["tpo=4"], "error: command line: 1 problem\ntpo: unknown key; did you mean top?\n"),
        (["top=101"], "error: top 101 is beyond 100; count less far\n"),
        (
            ["--config", "nowhere.yaml"],
            "error: nowhere.yaml: no such file; --config takes the path of a YAML file\n",
        ),
    ],
)
def test_mistakes_exit_with_2_and_no_traceback(words, message, capsys):
    job = Job()
    assert job(*words) == 2
    assert capsys.readouterr().err == message
    assert job.calls == []


def test_unknown_options_exit_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        Job()("--dry", "top=4")
    assert caught.value.code == 2
    assert "unrecognized arguments: --dry" in capsys.readouterr().err


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        Job(ZeroDivisionError())()


def test_interruption(capsys):
    assert Job(KeyboardInterrupt())() == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_action_replaces_the_job(capsys):
    seen = []
    verify = Action("--verify", ("DIR",), "check a folder", seen.append)
    job = Job()
    assert job("--verify", "cache", actions=[verify]) == 0
    assert seen == ["cache"]
    assert job.calls == []

    def refuse(folder):
        raise UserError(f"{folder}: is not a cache")

    assert job("--verify", "x", actions=[Action("--verify", ("DIR",), "", refuse)]) == 2
    assert capsys.readouterr().err == "error: x: is not a cache\n"


def test_an_action_is_told_of_dry_run_or_refuses_it(capsys):
    seen = []

    def clean(folder, *, dry_run):
        seen.append((folder, dry_run))

    job = Job()
    tried = Action("--clean", ("DIR",), "", clean, takes_dry_run=True)
    assert job("--clean", "cache", "--dry-run", actions=[tried]) == 0
    assert job("--clean", "cache", actions=[tried]) == 0
    assert seen == [("cache", True), ("cache", False)]
    plain = Action("--verify", ("DIR",), "", seen.append)
    assert job("--verify", "x", "--dry-run", actions=[plain]) == 2
    assert "--verify cannot be tried with --dry-run" in capsys.readouterr().err
    assert len(seen) == 2


def test_sigterm_unwinds_the_job(tmp_path):
    marker = tmp_path / "closed"
    script = f"""
        import time
        from pathlib import Path
        from ray_jobs.runtime.cli import run
        from tests.ray_jobs.test_cli import CountConfig

        def execute(config, invocation):
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                Path({str(marker)!r}).touch()

        run(CountConfig, plan=str, execute=execute, describe=lambda plan: "", argv=[], doc="")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert marker.exists()


WAITING = """
    import sys, time
    from pathlib import Path
    from ray_jobs.runtime.cli import run
    from tests.ray_jobs.test_cli import CountConfig

    def execute(config, invocation):
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            Path(sys.argv[1]).touch()
            time.sleep(float(sys.argv[2]))

    job = {"plan": str, "execute": execute, "describe": lambda plan: ""}
    sys.exit(run(CountConfig, **job, argv=[], doc=""))
"""


def interrupt(marker: Path, seconds_to_unwind: float, times: int) -> tuple[int, str]:
    """Exit code and stderr of a job that gets Ctrl-C so many times."""
    command = [sys.executable, "-c", textwrap.dedent(WAITING), str(marker), str(seconds_to_unwind)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        for _ in range(times - 1):
            while not marker.exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    return process.returncode, error


def test_ctrl_c_once_unwinds_and_says_how_to_go_on(tmp_path):
    code, error = interrupt(tmp_path / "unwound", 0, times=1)
    assert code == 130
    assert "Ctrl-C once more ends at once" in error
    assert error.endswith("stopped; --resume goes on from here\n")
    assert "Traceback" not in error
    assert (tmp_path / "unwound").exists()


def test_ctrl_c_twice_ends_at_once(tmp_path):
    code, error = interrupt(tmp_path / "unwinding", 60, times=2)
    assert code == 130
    assert error.endswith("interrupted\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("named", [True, False])
def test_a_full_disk_is_one_sentence(number, named, capsys):
    full = OSError(number, "full", *(["runs/a.bin"] if named else []))
    assert Job(full)() == 2
    place = "runs/a.bin" if named else "a file"
    said = capsys.readouterr().err
    assert said.startswith(f"error: {place}: could not be written (")
    assert said.endswith("; make room, then --resume goes on from here\n")
    with pytest.raises(OSError, match="other"):
        Job(OSError(errno.EIO, "other"))()


def test_a_typo_costs_neither_ray_nor_torch():
    script = """
        import sys
        from dataclasses import dataclass
        from ray_jobs.runtime.cli import run
        from ray_jobs.runtime import connection, progress
        from ttt.config import Config

        @dataclass(frozen=True, kw_only=True)
        class C(Config):
            top: int = 3

        assert run(C, plan=str, execute=print, describe=str, argv=["tpo=1"], doc="") == 2
        assert not {"ray", "torch"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


def test_a_user_error_is_found_in_what_ray_train_raises():
    # The real classes, filled as ray.train.v2 fills them.
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    mistake = UserError("the cache is empty")
    bug = ValueError("other")
    assert find_user_error(WorkerGroupError("m", {1: bug, 0: mistake})) is mistake
    assert find_user_error(ControllerError(mistake)) is mistake
    assert find_user_error(UserExceptionWithTraceback(mistake, "trace")) is mistake
    assert find_user_error(ControllerError(WorkerGroupError("m", {3: mistake}))) is mistake
    assert find_user_error(WorkerGroupError("m", {0: bug})) is None


def test_an_exception_met_while_handling_a_mistake_is_a_bug():
    def stumble():
        try:
            raise UserError("first")
        except UserError:
            return {}["while handling it"]

    with pytest.raises(KeyError) as caught:
        stumble()
    assert isinstance(caught.value.__context__, UserError)
    assert find_user_error(caught.value) is None


def test_a_user_error_is_found_through_ray(ray_local):
    import ray
    import ray.data

    @ray.remote(num_cpus=0)
    def inner():
        raise UserError("clip.wav: holds no sample")

    @ray.remote(num_cpus=0)
    def outer():
        return ray.get(inner.remote())

    with pytest.raises(Exception) as caught:
        ray.get(outer.remote())
    found = find_user_error(caught.value)
    assert str(found) == "clip.wav: holds no sample"
    assert type(found) is UserError


def test_a_user_error_in_ray_data_ends_as_one_line(ray_local, capsys):
    import ray.data

    from ray_jobs.runtime.connection import ray_session

    def refuse(batch):
        raise UserError("clip.wav: holds no sample")

    def execute(config, invocation):
        with ray_session(invocation.address, None):
            ray.data.range(1).map_batches(refuse).materialize()

    assert run(CountConfig, plan=lambda c: c, execute=execute, describe=str, argv=[], doc="") == 2
    assert "error: clip.wav: holds no sample\n" in capsys.readouterr().err.splitlines(keepends=True)
