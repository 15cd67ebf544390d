"""Python with a pretended CUDA device: builds the runtime without a card and preloads it."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
ROOT = _HERE.parents[1]


def start(module: str, *arguments: str) -> str:
    """What `python -m module arguments` prints.

    Raises CalledProcessError where it fails, after its errors are shown.
    """
    environment = {
        **os.environ,
        "LD_PRELOAD": str(_no_card()),
        "PRETENDED_CUDA": "1",
        "NO_TORCH_COMPILE": "1",
        "NO_CUDA_GRAPH": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
    done.check_returncode()
    return done.stdout


def compiler() -> str | None:
    """The C compiler that it needs."""
    return shutil.which("gcc") or shutil.which("cc")


@functools.cache
def _no_card() -> Path:
    found = compiler()
    if found is None:
        raise FileNotFoundError("a pretended CUDA device needs a C compiler (gcc or cc)")
    # Under the driver's own name, so that whoever loads the driver finds this one loaded.
    folder = tempfile.mkdtemp(prefix="no-card-")
    atexit.register(shutil.rmtree, folder)
    library = Path(folder) / "libcuda.so.1"
    source = str(_HERE / "no_card.c")
    flags = ["-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([found, *flags, "-o", str(library), source], check=True)
    return library
