"""A job plans once: its commands read each header once, and load and hash a codec once."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ray_jobs import cache_codes, decode_codes, evaluate_chapters, evaluate_decoder, train_decoder
from ray_jobs.decoder import decode as decode_worker
from ray_jobs.decoder.cache import encoder as cache_worker
from ray_jobs.decoder.cache import plan as cache_plan
from ttt.eval.chapters import find as chapters
from ttt.snac import load
from ttt.snac.cache import write_shard as cache_shard

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HERE = "cluster.num_workers=0"


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """How often codecs were built and hashed, headers read for a plan, and sizes of files."""
    found: collections.Counter[str] = collections.Counter()

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            found[name] += 1
            return call(*arguments, **named)

        return counting

    monkeypatch.setattr(load, "_build", counted("codecs", load._build))
    hashing = counted("hashes", load.weights_sha256)
    monkeypatch.setattr(load, "weights_sha256", hashing)
    monkeypatch.setattr("ttt.snac.model.weights_sha256", hashing)
    for module in (cache_plan, chapters):
        monkeypatch.setattr(module, "read_header", counted("headers", module.read_header))
    for module in (cache_worker, cache_shard):
        monkeypatch.setattr(module, "size_on_disk", counted("sizes", module.size_on_disk))
    monkeypatch.setattr(decode_worker, "find_decoder", counted("found", decode_worker.find_decoder))
    return found


def run(job: Any, name: str, *words: str) -> None:
    assert job.main([f"--config={CONFIGS / name}.yaml", HERE, *words]) == 0


def test_the_decoders_jobs(tmp_path: Path, counts: collections.Counter[str]) -> None:
    speech, cache, training = (str(tmp_path / name) for name in ("speech", "cache", "run"))
    Path(speech).mkdir()
    for clip in range(6):
        noise = 0.1 * np.random.default_rng(clip).standard_normal(48_000)
        soundfile.write(f"{speech}/{clip}.wav", noise, 48_000)

    run(cache_codes, "cache_folder", "codec.name=tiny", f"input.audio={speech}", f"output={cache}")
    # The second codec is the encoder's, and no file of a new cache is asked its size for the plan.
    assert counts == {"codecs": 2, "hashes": 1, "headers": 6, "sizes": 6}

    counts.clear()
    stage = "{first_epoch: 1, last_epoch: 1, segment_seconds: 0.5, clips_per_step: 2}"
    run(
        train_decoder, "train_tiny_cpu", f"data.train={cache}", f"run={training}",
        "data.validation_share=0.3", "curriculum.epochs=1", "curriculum.head_only_epochs=1",
        f"curriculum.stages=[{stage}]", "tracking.tensorboard=false", "validation.examples=0",
    )  # fmt: skip
    assert counts == {"codecs": 1, "hashes": 1}

    counts.clear()
    run(
        evaluate_decoder, "evaluate_decoder", f"decoder={training}", f"data.audio={speech}",
        f"output={tmp_path / 'evaluation'}", "report.visqol=false", "report.examples=1",
        "bootstrap.resamples=100",
    )  # fmt: skip
    # The second codec is the worker's; each pass over the clips has the same worker.
    assert counts == {"codecs": 2, "hashes": 1}

    counts.clear()
    wavs = tmp_path / "wavs"
    run(decode_codes, "decode", f"decoder={training}/export", f"input={cache}", f"output={wavs}")
    assert counts == {"found": 1}


def test_chapters(tmp_path: Path, counts: collections.Counter[str]) -> None:
    for name in ("1/a/x_1", "1/a/x_2", "2/b/y_1"):
        path = tmp_path / "speech" / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(len(name)).standard_normal(32_000)
        soundfile.write(path, noise, 16_000)
    words = [f"data.root={tmp_path / 'speech'}", f"output={tmp_path / 'out'}", "model.ttt=null"]
    run(evaluate_chapters, "chapters_tiny_cpu", *words, "verify_spans=0", "streams.other=masked")
    assert counts["headers"] == 3
