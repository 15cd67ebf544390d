"""docs/scale.md against the counts and sizes that its figures are said to follow from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.counted import (
    KEPT,
    ROWS,
    Counted,
    frames_per_second,
    kept_counts,
    seconds,
    window_seconds,
)
from benchmarks.sizes import SHAPE_7B
from ray_jobs.config.load import load_config
from ray_jobs.moshi.train.config import TrainTTTConfig
from ttt.moshi import tiny_lm
from ttt.moshi.training.estimate import frame_flops, gpu_hours, training_bytes
from ttt.snac.geometry import CodeGeometry

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
README = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
COUNTS = kept_counts()
FRAMES = 60_000 * 45_000
WINDOWS_MILLIONS = {1: 18.0, 2: 7.93, 3: 4.96, 4: 3.84}
"""Of an epoch, by seconds: as the page has them from `python -m benchmarks.scale`."""


def _sides(name: str, counted: Counted | None = None) -> str:
    """Launches and their time, bytes and theirs, as a sentence has them."""
    counted = counted or COUNTS[name]
    launching, moving = (1000 * each for each in seconds(counted))
    return (
        f"{counted['launches']:,.0f} launches x 6 us = {launching:.1f} ms against "
        f"{counted['gigabytes']:.1f} GB / 3.0 TB/s = {moving:.1f} ms"
    )


def _least(name: str) -> float:
    return max(seconds(COUNTS[name]))


def _two_digits(value: float) -> str:
    """Rounded to two digits, with commas."""
    return f"{float(f'{value:.1e}'):,.0f}"


def _three_digits(value: float) -> str:
    return f"{float(f'{value:.2e}'):,.0f}"


@pytest.mark.parametrize("name", ["encoding", "training_step", "own_text", "depformer"])
def test_both_sides_of_an_estimate_are_the_counted_ones(name: str) -> None:
    assert _sides(name) in PAGE


def test_the_decoders_rates_follow() -> None:
    step, least = COUNTS["training_step"], _least("training_step")
    decoded, audio = step["decoded_seconds"] / least, step["audio_seconds"] / least
    assert f"at most {_three_digits(decoded)} decoded seconds a second" in PAGE
    assert f"of which {_three_digits(audio)} count" in PAGE
    float32 = COUNTS["training_float32"]
    assert f"(float32: {float32['gigabytes']:.1f} GB, {1000 * seconds(float32)[1]:.1f} ms)" in PAGE
    plain, judged = COUNTS["training_plain"], COUNTS["adversarial_step"]
    for counted in (plain, judged):
        sizes = f"{counted['launches']:,} launches and {counted['gigabytes']:.1f} GB"
        assert f"{sizes}, {1000 * seconds(counted)[1]:.1f} ms" in PAGE
    assert f"{judged['audio_seconds'] / _least('adversarial_step'):.0f} seconds of" in PAGE
    windows = 8 / least
    geometry = CodeGeometry.preset("snac_24khz")
    window_bytes = 2 * geometry.samples_48k(11)
    assert f"at most {_three_digits(windows)} windows/s of 1 s" in PAGE
    assert f"{windows * window_bytes / 1e6:.0f} MB/s" in PAGE
    encoding = COUNTS["encoding"]
    rate = encoding["audio_seconds"] / _least("encoding")
    assert f"{_three_digits(rate)} audio seconds a second where clips" in PAGE
    assert f"at least {18e6 / rate / 3600:.1f}".replace("0.", ".") + " GPU hours" in PAGE


def test_the_decoders_hours_follow() -> None:
    """Of the 15 epochs: 3 each of 1, 2 and 3 s, 6 of 4 s, with 4 tokens of context a window."""
    decoded = COUNTS["training_step"]["decoded_seconds"] / _least("training_step")
    token = CodeGeometry.preset("snac_24khz").samples_48k(1) / 48_000
    tokens = {1: 15, 2: 27, 3: 39, 4: 50}
    epoch = {s: 1e6 * WINDOWS_MILLIONS[s] * tokens[s] * token for s in tokens}
    assert f"{1000 * token:.1f} ms = {epoch[1] / 1e6:.1f} M seconds" in PAGE
    assert f"at least {epoch[1] / decoded / 3600:.1f} hours" in PAGE
    assert f"= {epoch[4] / 1e6:.1f} M, {epoch[4] / decoded / 3600:.1f} hours" in PAGE
    run = sum((6 if s == 4 else 3) * epoch[s] for s in tokens)
    assert f"= {run / 1e6:.0f} M seconds: at least {run / decoded / 3600:.0f} GPU hours" in PAGE
    once = 2.8e6 * token * sum((6 if s == 4 else 3) * tokens[s] for s in tokens)
    assert f"= {once / 1e6:.0f} M seconds: at least {once / decoded / 3600:.0f} GPU hours" in PAGE


def test_the_chapters_rates_and_hours_follow() -> None:
    base, ttt = COUNTS["own_text"], COUNTS["own_chunk"]
    launching, moving = (1000 * each for each in seconds(ttt))
    assert (
        f"TTT-MLP in 16 layers: {ttt['launches']:,} = {launching:.1f} ms against "
        f"{ttt['gigabytes']:.1f} GB = {moving:.1f} ms" in PAGE
    )
    heads = COUNTS["depformer"]
    rates = {
        kept: [frames_per_second(each, kept, heads) for each in (base, ttt)]
        for kept in (6, KEPT, 14)
    }
    shown = {kept: [_two_digits(each) for each in both] for kept, both in rates.items()}
    least = 1000 * max(seconds(base)), 1000 * max(seconds(heads))
    assert (
        f"{KEPT} / ({least[0]:.1f} + {least[1]:.1f} x {KEPT} / {ROWS} ms) = {shown[KEPT][0]} "
        "frames/s" in PAGE
    )
    assert f"= {shown[KEPT][1]} | estimated" in PAGE
    (few, few_ttt), (many, many_ttt) = shown[6], shown[14]
    assert f"{few} and {many}; with TTT {few_ttt} and {many_ttt}" in PAGE
    hours = [FRAMES / rate / 3600 for rate in rates[KEPT]]
    assert f"= {_two_digits(hours[0])} GPU hours; with TTT {_two_digits(hours[1])} |" in PAGE
    some = [250 * 45_000 / rate / 3600 for rate in rates[KEPT]]
    assert f"{some[0]:.0f} GPU hours; with TTT {some[1]:.0f} |" in PAGE
    known = [frames_per_second(COUNTS[name], 64, heads) for name in ("known_text", "chunk")]
    assert f"= {_three_digits(known[0])} frames/s; with TTT" in PAGE
    assert f"= {_three_digits(known[1])} | estimated" in PAGE
    hours = [FRAMES / rate / 3600 for rate in known]
    assert f"| {_two_digits(hours[0])} GPU hours; with TTT {_two_digits(hours[1])} |" in PAGE
    mimi = COUNTS["mimi"]
    rate = mimi["audio_seconds"] / _least("mimi")
    assert f"{mimi['launches'] / 2:.0f} launches" in PAGE
    assert f"{_two_digits(rate)} audio seconds a second: {_two_digits(60_000 / rate)} GPU" in PAGE


def test_a_batch_is_free_until_its_bytes_catch_up() -> None:
    times = {
        (row["ttt"], row["batch"], row["chunk"]): [1000 * each for each in seconds(row)]
        for row in COUNTS["passes"]["passes"]
        if row["text"] == "pad"
    }
    one, one_ttt = times[False, 1, 64], times[True, 1, 64]
    assert f"{one[1]:.1f} of the {one[0]:.1f} ms of a pass, with TTT for" in PAGE
    assert f"with TTT for {one_ttt[1]:.1f} of {one_ttt[0]:.1f}" in PAGE
    assert (
        f"({times[False, 4, 64][1]:.1f} ms of bytes; with TTT {times[True, 4, 64][1]:.1f})" in PAGE
    )
    eight, eight_ttt = times[False, 8, 32], times[True, 8, 32]
    assert f"({eight[1]:.1f} ms of bytes, with TTT {eight_ttt[1]:.1f})" in PAGE
    assert eight[1] > eight[0]
    assert eight_ttt[1] > eight_ttt[0]


def test_the_readme_shows_the_same_counts() -> None:
    for name in ("known_text", "own_text", "chunk", "own_chunk", "training_step", "mimi"):
        counted = COUNTS[name]
        launching, moving = (1000 * each for each in seconds(counted))
        (row,) = [
            line
            for line in README.splitlines()
            if line.startswith("| ")
            and f"| {counted['launches']:,}" in line
            and f" {launching:.1f} | {counted['gigabytes']:.1f} | {moving:.1f} |" in line
            and "discriminators" not in line
        ]
        assert row


def test_the_hours_of_ttt_training_follow() -> None:
    """Of configs/train_ttt.yaml: micro-batches of up to 3,000 frames, by launches or arithmetic."""
    config = load_config(TrainTTTConfig, ROOT / "configs" / "train_ttt.yaml")
    with torch.device("meta"):
        lm = tiny_lm(**SHAPE_7B, device="meta", dtype=torch.bfloat16)
    total = 0.0
    for stage in config.stages:
        windows = max(1, (config.memory.frames_per_micro_batch or 1) // stage.frames)
        heard = windows * stage.frames
        launching = window_seconds(stage.frames)
        flops = frame_flops(lm, config, stage.frames)
        working = 3600 * gpu_hours(flops, heard / 45_000, 0.4)
        need = training_bytes(lm, config, stage.frames, windows).total / 1e9
        hours = stage.steps * stage.frames_per_step / heard * max(launching, working) / 3600
        total += hours
        row = (
            f"| {windows} x {stage.frames:,} | {stage.steps:,} | "
            f"{stage.frames_per_step // heard} | {launching:.2g} s | {working:.2g} s | "
            f"{need:.0f} GB | {hours:.1f} |"
        )
        assert row in PAGE, row
    assert f"{total:.0f} hours of one GPU, {total / 8:.1f} of eight" in PAGE
    assert f"5.4 million launches x 6 us = {window_seconds(24_000):.0f} s" in PAGE
