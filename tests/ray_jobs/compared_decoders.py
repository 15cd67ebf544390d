"""An evaluation of two decoders on six clips and one that is none, in this process."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from ray_jobs.config.workers import WorkersConfig
from ray_jobs.decoder.evaluate_config import (
    BootstrapConfig,
    EvaluateConfig,
    EvaluationDataConfig,
    ReportConfig,
)
from tests.jobs import run_decoder_evaluation
from ttt.snac.model import Decoder48k

CLIPS = 6


@dataclasses.dataclass
class Compared:
    config: EvaluateConfig
    output: Path
    exports: tuple[Path, Path]

    def lines(self, letter: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / letter / "results.jsonl").open()]


def write_voices(folder: Path) -> None:
    """Six clips of three lengths, with a tone, and a file that is no audio."""
    for number in range(CLIPS):
        rng = np.random.default_rng(number)
        noise = np.cumsum(rng.standard_normal(30_000 + 4_000 * (number % 3)))
        audio = np.diff(noise) + 0.05 * np.sin(np.arange(len(noise) - 1) * 0.02 * (number + 1))
        soundfile.write(folder / f"{number}.wav", 0.05 * audio, 48_000, subtype="PCM_16")
    (folder / "broken.wav").write_text("this is no audio")


def compare(folder: Path, codec: Path, export: Path) -> Compared:
    """The evaluation of `export` and of the same decoder with another head, in `folder`."""
    voices = folder / "voices"
    voices.mkdir()
    write_voices(voices)
    exports = folder / "one", folder / "two"
    shutil.copytree(export, exports[0])
    _other(export, exports[1])
    config = EvaluateConfig(
        decoder=tuple(map(str, exports)),
        codec=str(codec),
        output=str(folder / "out"),
        data=EvaluationDataConfig(audio=str(voices)),
        min_coverage=0.5,
        bootstrap=BootstrapConfig(resamples=200),
        report=ReportConfig(examples=2, example_seconds=0.5, visqol=False),
        cluster=WorkersConfig(num_workers=0),
    )
    run_decoder_evaluation(config)
    return Compared(config, folder / "out", exports)


def _other(export: Path, folder: Path) -> None:
    """The same decoder with another head."""
    decoder = Decoder48k.from_pretrained(export)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in decoder.head_parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    decoder.save_pretrained(folder)
