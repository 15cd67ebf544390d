"""What `make setup` installs and when, with a Python that only writes down what it is asked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PYTHON = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *sysconfig*) echo "$FOUND_COMPILER" ;;
esac
"""


# `make METRICS=1 test` hands its variables down to every make that a test starts.
INHERITED = ("CXX", "METRICS", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")


class Checkout:
    """A folder with the Makefile and what it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-metrics.txt"):
            shutil.copy(ROOT / name, folder)
            os.utime(folder / name, (1e9, 1e9))
        self.python = folder / "python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def make(self, *words: str, compiler: str = "sh") -> subprocess.CompletedProcess[str]:
        plain = {key: value for key, value in os.environ.items() if key not in INHERITED}
        return subprocess.run(
            ["make", f"PYTHON={self.python}", *words],
            cwd=self.folder,
            env={**plain, "LOG": str(self.folder / "log"), "FOUND_COMPILER": compiler},
            capture_output=True,
            text=True,
        )

    def installed(self, *words: str) -> list[str]:
        """The files from which a `make setup` installs."""
        (self.folder / "log").write_text("")
        done = self.make("setup", *words)
        assert done.returncode == 0, done.stderr
        log = (self.folder / "log").read_text()
        return re.findall(r"-r (\S+)", log)

    def touch(self, name: str) -> None:
        """Make a file newer than the stamps, and older than those that will follow."""
        for path in (self.folder / ".venv").glob(".stamp*"):
            times = path.stat()
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns - 10 * 10**9))
        os.utime(self.folder / name, (time.time() - 1, time.time() - 1))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    return Checkout(tmp_path)


LOCK, METRICS = "requirements.lock", "requirements-metrics.txt"


def test_metrics_are_added_to_a_plain_setup_and_kept_by_one(checkout: Checkout) -> None:
    assert checkout.installed() == [LOCK]
    assert checkout.installed() == []
    assert checkout.installed("METRICS=1") == [METRICS]
    assert checkout.installed("METRICS=1") == []
    assert checkout.installed() == []
    assert (checkout.folder / ".venv" / ".stamp-metrics").exists()


def test_a_fresh_machine_gets_both_at_once(checkout: Checkout) -> None:
    assert checkout.installed("METRICS=1") == [LOCK, METRICS]


@pytest.mark.parametrize("off", ["METRICS=", "METRICS=0"])
def test_metrics_can_be_off(checkout: Checkout, off: str) -> None:
    assert checkout.installed(off) == [LOCK]


def test_each_is_installed_anew_when_its_own_lock_changes(checkout: Checkout) -> None:
    checkout.installed("METRICS=1")
    checkout.touch(METRICS)
    assert checkout.installed() == []
    assert checkout.installed("METRICS=1") == [METRICS]
    checkout.touch(LOCK)
    assert checkout.installed() == [LOCK]
    assert checkout.installed("METRICS=1") == [METRICS]


def test_a_missing_compiler_is_one_sentence_and_the_next_setup_tries_again(
    checkout: Checkout,
) -> None:
    done = checkout.make("setup", "METRICS=1", compiler="no-such-compiler")
    assert done.returncode != 0
    sentence = "error: METRICS=1 compiles libsvm and there is no C++ compiler no-such-compiler;"
    assert sentence in done.stderr
    assert checkout.installed() == []
    assert checkout.installed("METRICS=1") == [METRICS]


def test_the_metrics_are_pinned_beside_the_lock_and_not_in_it() -> None:
    pins = (ROOT / METRICS).read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", pin) for pin in pins)
    locked = (ROOT / LOCK).read_text()
    assert not any(f"\n{pin.partition('==')[0]}==" in locked for pin in pins)
    assert "\nscipy==" in locked
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extra["metrics"][0].startswith("visqol-python>=3.8")
    assert "make METRICS=1 check test" in (ROOT / ".ci/run").read_text()
