"""Reading a configuration imports nothing heavy, and the decoder alone needs few packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import soundfile

from ray_jobs.config.schema import JOB_CONFIGS
from tests.conftest import NANO_CONFIG

ROOT = Path(__file__).resolve().parent.parent
KEYS = {
    "cache_codes": ["input.audio=a", "output=o"],
    "train_decoder": ["run=r", "codec=tiny", "data.train=c"],
    "tune_decoder": ["run=r", "codec=tiny", "data.train=c", "space={seed: {choice: [0, 1]}}"],
    "evaluate_decoder": ["decoder=d", "output=o"],
    "push_decoder": ["decoder=d", "repo=user/name"],
    "decode_codes": ["decoder=d", "input=i", "output=o"],
    "export_onnx": ["decoder=d", "output=o.onnx"],
    "cache_chapters": ["output=o", "data.root=d"],
    "train_ttt": [
        "run=r",
        "data.cache=c",
        "ttt.layers=[0]",
        "stages=[{frames: 1, steps: 1, frames_per_step: 1}]",
    ],
    "evaluate_chapters": ["output=o", "data.root=d"],
    "evaluate_pairs": ["output=o", "tasks={swuggy: {root: d}}"],
    "evaluate_all": ["output=o", "chapters={data: {root: d}}"],
    "import_ttt": ["input=i", "output=o"],
}
"""What each job cannot do without."""
EXTRA = (
    "ray moshi pyarrow fsspec pydantic yaml matplotlib optuna jinja2 tensorboard onnx onnxruntime"
)
"""Packages of extras; torch and snac bring some, but the decoder imports none."""
BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRA.split()}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
DECODE = f"""
import sys
from pathlib import Path
import numpy as np
from snac import SNAC
import ttt.snac.decode, ttt.snac.evaluate, ttt.snac.export, ttt.snac.model
from ttt.snac.decode import write_decoded
from ttt.snac.model import Decoder48k

folder = Path(sys.argv[1])
Decoder48k.from_snac(SNAC(**{NANO_CONFIG}).eval()).save_pretrained(folder / "export")
codes = np.zeros((9, 7), np.int64)

decoder = Decoder48k.from_pretrained(folder / "export")
write_decoded(decoder, codes, folder / "decoded.wav")

from ttt import storage
from ttt.errors import UserError
try:
    storage.exists("s3://bucket/export")
except UserError as error:
    print(error)
"""
NOT_THERE = "s3://bucket/export needs pyarrow; install ttt-speech[jobs]\n"


@pytest.mark.parametrize("job", JOB_CONFIGS)
def test_reading_a_configuration_imports_nothing_heavy(job: str) -> None:
    script = f"""
        import contextlib, importlib, sys
        job = importlib.import_module("ray_jobs.{job}")
        with contextlib.suppress(SystemExit):
            job.main(["--help"])
        assert job.main([*{KEYS[job]}, "--print-config"]) == 0
        assert job.main([*{KEYS[job]}, "misspelt=1"]) == 2
        heavy = {{"torch", "ray", "pyarrow", "matplotlib", "snac", "moshi", "soundfile"}}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    assert "misspelt" in _python(textwrap.dedent(script)).stderr


def test_the_decoder_needs_no_package_of_an_extra(tmp_path: Path) -> None:
    assert _python(BLOCKED + DECODE, str(tmp_path)).stdout == NOT_THERE
    _require_decoded(tmp_path)


def test_a_job_without_its_packages_is_one_sentence() -> None:
    script = BLOCKED.replace("'yaml', ", "") + "import ray_jobs.train_decoder"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: a job needs pydantic; install ttt-speech[jobs]\n"


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_the_light_form_decodes_in_an_environment_of_its_own(tmp_path: Path) -> None:
    source, python = tmp_path / "source", tmp_path / "venv" / "bin" / "python"
    for name in ("ttt", "ray_jobs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    pip = ("-m", "pip", "install", "-q", "-c", str(ROOT / "requirements.lock"), str(source))
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    subprocess.run([str(python), *pip], check=True)
    absent = """
        import importlib.util
        for name in "ray moshi pyarrow pydantic matplotlib optuna".split():
            assert importlib.util.find_spec(name) is None, name
    """
    command = [str(python), "-c", textwrap.dedent(absent) + DECODE, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, NOT_THERE), done.stderr
    _require_decoded(tmp_path)


def _require_decoded(folder: Path) -> None:
    audio, rate = soundfile.read(folder / "decoded.wav")
    assert (rate, audio.shape) == (48_000, (9 * 4096,))


def _python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done
