"""An environment for each peer: its own pins, and all else from the project's environment.

The peers' pins exclude each other's and the project's (numpy, huggingface-hub). So each has a
virtual environment in .venv-peers (git ignores it) with exactly the packages that a list beside
the loaders pins, installed without their dependencies; a .pth file puts the project's
site-packages behind them, from which come torch and what else is missing. So torch is there once,
and what a pin excludes is found in the peer's version first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from ttt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venv-peers"
PINS = Path(__file__).parent / "loaders"


def python_of(environment: str | None) -> Path:
    """The Python of an environment; the project's own for None."""
    if environment is None:
        return Path(sys.executable)
    return ENVIRONMENTS / environment / "bin" / "python"


def is_ready(environment: str | None) -> bool:
    """Whether an environment is there and has what is pinned now."""
    return environment is None or (
        _stamp(environment).is_file() and _stamp(environment).read_text() == _wanted(environment)
    )


def make(environment: str) -> None:
    """Make an environment anew with pip, from the registry that pip is set up for.

    Raises UserError when a package cannot be installed.
    """
    folder = ENVIRONMENTS / environment
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = str(python_of(environment))
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    pins = str(PINS / f"{environment}.txt")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "-r"]
    done = subprocess.run([*pip, pins], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UserError(
            f"{pins}: cannot be installed ({reason}); leave this peer out with --only, or mend "
            "pip's access to its registry"
        )
    # Only now: pip would take what the project has for installed.
    Path(packages, "project.pth").write_text(_project() + "\n")
    _stamp(environment).write_text(_wanted(environment))


def _project() -> str:
    return sysconfig.get_path("purelib")


def _wanted(environment: str) -> str:
    return (PINS / f"{environment}.txt").read_text() + _project()


def _stamp(environment: str) -> Path:
    return ENVIRONMENTS / environment / "made-of.txt"
