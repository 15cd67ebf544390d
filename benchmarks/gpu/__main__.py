"""What a GPU does with this code, beside what was estimated without one; half an hour of an H100.

    python -m benchmarks.gpu --output FOLDER [--only SECTION ...] [--minutes 28]
    python -m benchmarks.gpu --small        tiny models, a minute: on a GPU a rehearsal, on a CPU
                                            the same code without what only a GPU tells
    python -m benchmarks.gpu                without a GPU: the estimates, for an H100

    profile     one pass of Moshi 7B (random weights, bfloat16) and one micro-batch of the decoder's
                training: kernels against counted launches, their time against the bytes', the clock
    listening   frames a second by batch and chunk, base and TTT-MLP in 16 layers, text known and
                own text of which 10 steps of a pass stand; memory against `memory_need`
    training    the decoder: seconds of audio a second in float32 and bfloat16, without the
                activation's kernel, the head alone, with discriminators, a step with its update;
                memory against what was counted
    codec       SNAC and Mimi, audio to codes and back
    state       save_state: size, time, what lives beyond the rings
    ttt         a step of TTT's training over 3,000 and over 24,000 frames, and its memory against
                `training_bytes`

Every row is in FOLDER/gpu.jsonl as soon as it is there; the table is printed at the end and lies in
FOLDER/gpu.md, with what earlier runs of the same device and size left in that folder; rows of
others are refused there. Estimates are launches x 6 us or bytes over nine tenths of the card's
bandwidth, whichever is more, from what `python -m benchmarks.launches` counted
(`benchmarks.counted`); a rate below its estimate has a ratio below 1, a time above it one above. A
case that fails is a row that says why, and the next case goes on; then the exit code is 1.

It takes no Ray, no network and no files: torch, torchaudio, moshi 0.2.13 (`--no-deps`), numpy,
safetensors, einops, sentencepiece, huggingface_hub and what that needs; for the decoder snac,
soundfile, cffi, pycparser and pyarrow.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Before moshi is imported: as the jobs run it, whose passes are not compiled.
os.environ.setdefault("NO_TORCH_COMPILE", "1")

import torch

from benchmarks.cards import card_named
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import Case, DeviceLost, Quantity, Section, run
from benchmarks.gpu.device import Cuda, Device
from benchmarks.gpu.report import Report
from benchmarks.sizes import PUBLISHED, SMALL, Size
from ttt.errors import UserError
from ttt.records import provenance

SECTIONS = {
    "profile": (240, "listening:pass_cases", "decoder:step_cases"),
    "listening": (480, "listening:rate_cases"),
    "training": (180, "decoder:training_cases"),
    "codec": (120, "decoder:codec_cases"),
    "state": (120, "listening:state_cases"),
    "ttt": (420, "ttt_training:window_cases"),
}
"""Section -> the seconds it may take, and where its cases are."""
MINUTES = 28


def main(words: Sequence[str]) -> int:
    """Measure; returns the exit code, 1 where a case failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--output", type=Path, help="folder for gpu.jsonl and gpu.md")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--small", action="store_true", help="tiny models, on a CPU if need be")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no case begins later")
    options = parser.parse_args(words)
    device: Device | None = Cuda() if torch.cuda.is_available() else None
    if device is None and options.small:
        torch.set_num_threads(1)
        device = Device()
    size = SMALL if options.small else PUBLISHED
    try:
        return measure(size, device, options.only, options.output, 60 * options.minutes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def measure(
    size: Size, device: Device | None, names: Sequence[str], output: Path | None, seconds: float
) -> int:
    """Measure these sections and print the table; returns the exit code."""
    until = time.monotonic() + seconds
    facts = _facts(size, device)
    bench = Bench(size, device, card_named(facts["device"]))
    report = Report(output, facts)
    try:
        for each in (section(name) for name in SECTIONS if name in names):
            run(each, bench, until, report.record)
    except DeviceLost as lost:
        print(f"the device is lost, and nothing more can be measured: {lost}", file=sys.stderr)
    print(report.finish())
    return int(any(row.failed for row in report.rows))


def _facts(size: Size, device: Device | None) -> dict[str, Any]:
    """Of the device, if there is one, and of the code."""
    origin = provenance(size.encode)
    made = {"commit": origin["git_commit"] or "unknown", "date": origin["created"]}
    made["size"] = "published" if size is PUBLISHED else "small"
    return {"device": "none", **made} if device is None else {**device.facts(), **made}


def section(name: str) -> Section:
    """The section of this name."""
    seconds, *places = SECTIONS[name]
    return Section(name, float(seconds), partial(_cases, places))


def _cases(places: Sequence[str], bench: Bench) -> Iterator[Case]:
    """The cases of a section; one that says why, where what they need cannot be imported."""
    for place in places:
        module, _, name = place.partition(":")
        try:
            cases = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)
        except ImportError as error:
            yield Case((Quantity(f"all of {place}", ""),), _raising(error))
        else:
            yield from cases(bench)


def _raising(error: ImportError) -> Callable[[], Sequence[float | None]]:
    def measure() -> Sequence[float | None]:
        raise error

    return measure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
