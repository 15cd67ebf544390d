"""Commands beside each other: their order, whole blocks on one screen, and that none is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_jobs.runtime import side_by_side
from ray_jobs.runtime.side_by_side import Step, run_steps

ROOT = Path(__file__).resolve().parents[2]

ACTOR = '''
"""Does what its words say: say=TEXT, make=FILE, await=FILE, absent=FILE, exit=CODE, stay, deaf,
gone=NAME (waits until that one has ended and was reaped), pause=SECONDS, leave (a child)."""
import os, pathlib, signal, subprocess, sys, time

folder = pathlib.Path(__file__).parent
name = sys.argv[1]


def told(number, frame):
    (folder / f"{name}-was-told").touch()
    raise SystemExit(143)


signal.signal(signal.SIGTERM, told)
(folder / f"{name}.pid").write_text(str(os.getpid()))
for word in sys.argv[2:]:
    verb, _, value = word.partition("=")
    if verb == "say":
        print(value, file=sys.stderr if value.endswith("!") else sys.stdout)
    elif verb == "make":
        (folder / value).touch()
    elif verb == "await":
        while not (folder / value).exists():
            time.sleep(0.01)
    elif verb == "gone":
        pid = (folder / f"{value}.pid").read_text()
        while pathlib.Path("/proc", pid).exists():
            time.sleep(0.01)
    elif verb == "pause":
        time.sleep(float(value))
    elif verb == "leave":
        left = subprocess.Popen(["sleep", "600"])  # Its output is where this one's is.
        (folder / f"{name}-left.pid").write_text(str(left.pid))
    elif verb == "absent":
        assert not (folder / value).exists(), value
    elif verb == "exit":
        sys.exit(int(value))
    elif verb == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif verb == "stay":
        (folder / f"{name}-stays").touch()
        time.sleep(600)
'''


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "actor.py").write_text(ACTOR)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def step(name: str, *words: str, after: tuple[str, ...] = ()) -> Step:
    return Step(name=name, what="acts", module="actor", arguments=(name, *words), after=after)


def has_ended(scene: Path, name: str) -> bool:
    pid = int((scene / f"{name}.pid").read_text())
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def was_killed(scene: Path, name: str) -> bool:
    """Of what a step has left, which another process reaps when it likes."""
    status = Path("/proc", (scene / f"{name}-left.pid").read_text(), "stat")
    for _ in range(500):
        try:
            if status.read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_a_step_that_ends_beside_another_is_shown_whole(
    scene: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = [
        step("first", "say=one", "make=begun", "await=done", "gone=beside", "say=two"),
        step("last", "say=five", after=("first",)),
        step("beside", "await=begun", "say=three", "say=four!", "make=done"),
    ]
    assert run_steps(steps) == 0
    assert capfd.readouterr().out.splitlines() == [
        "",
        "[demo] $ python -m actor first say=one make=begun await=done gone=beside say=two",
        "one",
        "",
        "[demo] $ python -m actor beside await=begun say=three 'say=four!' make=done",
        "three",
        "four!",
        "",
        "[demo] and on with actor",
        "two",
        "",
        "[demo] $ python -m actor last say=five",
        "five",
    ]


def test_the_screen_goes_to_the_earliest_with_what_it_has_said(
    scene: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = [
        step("first", "await=begun", "say=one", "make=done"),
        step("beside", "say=two", "make=begun", "await=done", "gone=first", "say=three"),
    ]
    assert run_steps(steps) == 0
    said = [line for line in capfd.readouterr().out.splitlines() if line and "$" not in line]
    assert said == ["one", "two", "three"]


def test_at_most_two_run_at_once_and_each_after_those_it_needs(scene: Path) -> None:
    steps = [
        step("first", "make=a", "await=b"),
        # The pause is what a third would need to begin.
        step("second", "await=a", "pause=0.5", "absent=third.pid", "absent=needy.pid", "make=b"),
        step("needy", after=("second",)),
        step("third"),
    ]
    assert run_steps(steps) == 0
    assert (scene / "third.pid").exists()
    assert (scene / "needy.pid").exists()
    with pytest.raises(AssertionError, match=r"no step can begin: \['alone'\]"):
        run_steps([step("alone", after=("nobody",))])


@pytest.mark.parametrize("system", ["waitid", "no waitid"])
@pytest.mark.parametrize("failing", ["first", "beside"])
def test_a_failure_is_shown_and_ends_the_others(
    scene: Path,
    failing: str,
    system: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if system == "no waitid":
        monkeypatch.delattr(os, "waitid")
    other = {"first": "beside", "beside": "first"}[failing]
    words = {
        failing: (f"await={other}-stays", "say=error: no room!", "exit=2"),
        other: ("say=begun", "stay"),
    }
    steps = [
        *(step(name, *words[name]) for name in ("first", "beside")),
        step("never", "make=never", after=("first", "beside")),
    ]
    assert run_steps(steps) == 2
    said = capfd.readouterr()
    command = next(each.typed for each in steps if each.name == failing)
    assert f"[demo] $ {command}\nerror: no room!\n" in said.out
    assert "[demo] actor stopped with exit code 2" in said.err
    assert (scene / f"{other}-was-told").exists()
    assert has_ended(scene, other)
    assert not (scene / "never").exists()


def test_what_does_not_end_when_told_is_ended(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "END_SECONDS", 0.2)
    assert run_steps([step("first", "await=deaf-stays", "exit=1"), step("deaf", "deaf", "stay")])
    assert has_ended(scene, "deaf")


@pytest.mark.parametrize("staying", [("stay",), ("deaf", "stay")])
def test_what_a_failed_or_ended_step_leaves_is_killed(
    scene: Path, staying: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "deaf" in staying:
        monkeypatch.setattr(side_by_side, "END_SECONDS", 0.2)
    steps = [
        step("failed", "await=ended-stays", "leave", "exit=2"),
        step("ended", "leave", *staying),
    ]
    assert run_steps(steps) == 2
    assert was_killed(scene, "failed")
    assert was_killed(scene, "ended")


def test_what_a_step_leaves_is_not_waited_for(
    scene: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "REST_SECONDS", 0.2)
    steps = [step("first", "leave", "say=one"), step("then", "say=two", after=("first",))]
    try:
        assert run_steps(steps) == 0
        said = [line for line in capfd.readouterr().out.splitlines() if line and "$" not in line]
        assert said == ["one", "two"]
    finally:
        os.kill(int((scene / "first-left.pid").read_text()), signal.SIGKILL)


PARENT = """
import sys
from ray_jobs.runtime.cli import unwinding_signals
from ray_jobs.runtime.side_by_side import Step, run_steps

words = [("one", sys.argv[1:]), ("two", sys.argv[1:])]
with unwinding_signals("stopped; begin again"):
    run_steps([
        Step(name=name, what="acts", module="actor", arguments=(name, *rest))
        for name, rest in words
    ])
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_ends_all(scene: Path, number: signal.Signals, code: int) -> None:
    parent = _staying(scene, "stay")
    parent.send_signal(number)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == code
    assert "stopped; begin again" in said
    for name in ("one", "two"):
        assert (scene / f"{name}-was-told").exists()
        assert has_ended(scene, name)


def test_under_nohup_a_closed_terminal_ends_nothing(scene: Path) -> None:
    parent = _staying(scene, "stay", hangup=signal.SIG_IGN)
    parent.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        parent.wait(timeout=0.5)
    assert not any((scene / f"{name}-was-told").exists() for name in ("one", "two"))
    parent.send_signal(signal.SIGTERM)
    parent.communicate(timeout=60)
    assert parent.returncode == 143
    assert all(has_ended(scene, name) for name in ("one", "two"))


def test_a_second_ctrl_c_ends_all_at_once(scene: Path) -> None:
    parent = _staying(scene, "deaf", "stay")
    began = time.monotonic()
    parent.send_signal(signal.SIGINT)
    assert parent.stderr is not None
    assert "Ctrl-C once more ends at once" in parent.stderr.readline()
    time.sleep(0.5)
    parent.send_signal(signal.SIGINT)
    parent.communicate(timeout=60)
    assert time.monotonic() - began < side_by_side.END_SECONDS
    assert all(has_ended(scene, name) for name in ("one", "two"))


def _staying(
    scene: Path, *words: str, hangup: signal.Handlers = signal.SIG_DFL
) -> subprocess.Popen[str]:
    """A process whose two steps stay, and that began with this way of taking SIGHUP."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{scene}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # The tests' own would be inherited, and they may have been started under nohup.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
    )
    while not all((scene / f"{name}-stays").exists() for name in ("one", "two")):
        assert parent.poll() is None
        time.sleep(0.02)
    return parent
