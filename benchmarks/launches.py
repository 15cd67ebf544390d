"""What today's code asks of a GPU, counted without one, the time that follows and what is to hold.

    python -m benchmarks.launches               (needs gcc; ten minutes of one core)
    python -m benchmarks.launches NAME ...      one of these alone, with the files that launch:

    training_step       a micro-batch of the second phase as the published SNAC's decoder with its
                        48 kHz head trains: 8 windows of .94 s with their context, bfloat16
    training_float32, training_head     the same in float32; with the head alone
    adversarial_step    training_step with the discriminators of configs/train_adversarial.yaml
    reads_per_step      a step of 8 such micro-batches in the loop, of one of several ranks, and how
                        often the program waits: reads back from the card and copies to it
    validation, encoding, decoding      these windows, 9 clips of 6.4 s, codes of 11 s
    known_text, own_text                a pass of Moshi 7B over 64 steps, bfloat16, batch 1
    chunk, own_chunk    the same with TTT-MLP in 16 layers, and what these add to the base
    own_text_by_chunk   what a TTT layer adds to a pass of own text by its steps, and with own_text
                        and depformer the rate that follows
    chapter_by_flavour  one TTT layer of each flavour over 24,000 frames, in passes and in one call
    depformer           128 rows, weights frozen
    save_state          eight full rings of four layers, two of them with TTT, saved
    mimi, mimi_decode   4 s of audio to codes and back

The code runs on a pretended card (tests/fake_cuda), which counts what is launched and the bytes
that these operations read and write. A GPU that does nothing else needs at least

    launches x 6 us        what eager PyTorch takes to hand one operation over, or
    bytes / 3.0 TB/s       what an H100's memory gives in practice of its 3.35,

whichever is more. These are estimates: nobody has run them, convolutions and products also take
arithmetic, and graphs or fused kernels need fewer launches and bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fake_cuda.start import start

SECONDS_PER_LAUNCH = 6e-6
BYTES_PER_SECOND = 3.0e12
CHUNK, KEPT = 64, 10
"""Steps of a pass, and how many of them stand where the text is the model's own."""
ROWS = 128
"""Steps that the depformer takes at once."""

Counted = dict[str, Any]


def waits(counted: Counted) -> int:
    """Reads back from the card and copies to it that the program waits for."""
    return sum(counted["reads_back"].values()) + sum(counted["blocking_copies"].values())


@dataclass(frozen=True)
class Limit:
    """What a count of the published size is not to exceed; tests hold it, too."""

    name: str
    what: str
    reach: float
    count: Callable[[Counted], float]
    held: float | None = None
    """What tests hold where the reach is missed."""


LIMITS = (
    Limit("training_step", "launches", 1_000, lambda counted: counted["launches"]),
    Limit("training_step", "GB", 20, lambda counted: counted["gigabytes"]),
    Limit("reads_per_step", "waits", 2, waits),
    Limit(
        "chunk",
        "launches beyond the base",
        3_300,
        lambda counted: counted["launches"] - counted["base_launches"],
    ),
    Limit("own_text", "waits", 1, waits),
    Limit("own_chunk", "waits", 1, waits),
    Limit("save_state", "GB beyond the rings", 0.3, lambda counted: counted["extra_gigabytes"]),
    Limit("depformer", "GB", 1.7, lambda counted: counted["gigabytes"], held=2.69),
)
"""Of issue 12."""

SCENES = {
    "training_step": "train_bf16",
    "training_float32": "train_float32",
    "training_head": "train_head",
    "adversarial_step": "adversarial",
    "reads_per_step": "train_step_of_many",
    "validation": "validation",
    "encoding": "encoding",
    "decoding": "decoding",
    "known_text": "pass_known",
    "own_text": "pass_own",
    "chunk": "chunk",
    "own_chunk": "own_chunk",
    "own_text_by_chunk": "own_text_by_chunk",
    "chapter_by_flavour": "chapter_by_flavour",
    "depformer": "depformer_frozen",
    "save_state": "save",
    "mimi": "mimi",
    "mimi_decode": "mimi_decode",
}
"""Name -> its scene of tests/fake_cuda/scenes.py."""


def main(names: Sequence[str]) -> int:
    """Count what is named, or all; returns the exit code, 1 where tests would refuse a count."""
    if unknown := [name for name in names if name not in SCENES]:
        print(f"there is no {unknown[0]}: give some of {', '.join(SCENES)}", file=sys.stderr)
        return 2
    chosen = names or tuple(SCENES)
    lines = start("tests.fake_cuda.scenes", "published", *(SCENES[name] for name in chosen))
    counts: dict[str, Counted] = dict(zip(chosen, map(json.loads, lines.splitlines()), strict=True))
    if names:
        for name, counted in counts.items():
            _show_places(name, counted)
    print(f"{'':18}launches    ms      GB      ms     at least   per second")
    for name, counted in counts.items():
        if name == "own_text_by_chunk":
            print(f"launches of a TTT layer by steps: {counted['layer']}")
        elif name == "chapter_by_flavour":
            print("a TTT layer over a chapter:")
            for layer, its in counted["layers"].items():
                print(_row(layer, its))
        else:
            print(_row(name, counted))
    if "depformer" in counts:
        _show_rates(counts)
    return _show_limits(counts)


def seconds(counted: Mapping[str, Any]) -> tuple[float, float]:
    """What the launches take, and what the bytes take."""
    return (
        counted["launches"] * SECONDS_PER_LAUNCH,
        counted["gigabytes"] * 1e9 / BYTES_PER_SECOND,
    )


def kept_steps(chance: float, steps: int) -> float:
    """Steps of a pass that stand where each guess is right with this chance, on its own."""
    return steps if chance == 1 else (1 - chance**steps) / (1 - chance)


def frames_per_second(a_pass: Mapping[str, Any], kept: float, depformer: Counted) -> float:
    """Of passes that keep so many steps, and of a depformer that takes ROWS of them at once."""
    return kept / (max(seconds(a_pass)) + max(seconds(depformer)) * kept / ROWS)


def _row(name: str, counted: Counted) -> str:
    launching, moving = seconds(counted)
    most = max(launching, moving)
    audio = counted.get("audio_seconds")
    rate = "" if audio is None else f"{audio / most:9,.0f} audio s"
    return (
        f"{name:18} {counted['launches']:7,} {1000 * launching:6.1f}  {counted['gigabytes']:6.1f}  "
        f"{1000 * moving:6.1f}  {1000 * most:6.1f} ms  {rate}"
    )


def _show_rates(counts: Mapping[str, Counted]) -> None:
    depformer = counts["depformer"]
    print(f"frames per second with the depformer's share, {KEPT} steps of own text kept:")
    for name in ("known_text", "chunk", "own_text", "own_chunk"):
        if name in counts:
            kept = KEPT if name.startswith("own") else CHUNK
            print(f"{name:18} {frames_per_second(counts[name], kept, depformer):7,.0f}")
    if "own_text" in counts and "own_text_by_chunk" in counts:
        _show_chunks(counts["own_text"]["launches"], counts["own_text_by_chunk"], depformer)


def _show_chunks(base: int, by_chunk: Counted, depformer: Counted) -> None:
    """Rates of own text by the launches alone, which take longer than the bytes at every chunk."""
    chances = (0.5, 0.8, 0.87, 0.95, 0.98)
    print("own text: frames per second by a pass's steps and the chance that a guess is right")
    print(f"{'':18}launches{''.join(f'{chance:8}' for chance in chances)}")
    for kind, layers in (("base", 0), ("16 TTT layers", 16)):
        for steps, of_layer in by_chunk["layer"].items():
            launches = base + layers * of_layer
            a_pass = {"launches": launches, "gigabytes": 0}
            kept = [kept_steps(chance, int(steps)) for chance in chances]
            rates = "".join(f"{frames_per_second(a_pass, each, depformer):8,.0f}" for each in kept)
            print(f"{kind + ' ' + steps:18} {launches:7,.0f}{rates}")


def _show_places(name: str, counted: Counted) -> None:
    for kind in ("launches_by_file", "reads_back", "blocking_copies"):
        for place, count in counted[kind].items():
            print(f"{name}: {kind.replace('_', ' ')}: {count:6,}  {place}")


def _show_limits(counts: Mapping[str, Counted]) -> int:
    exceeded = 0
    for limit in LIMITS:
        if limit.name in counts:
            found = limit.count(counts[limit.name])
            missed = found > limit.reach
            exceeded += found > (limit.held or limit.reach)
            print(
                f"{limit.name}: {limit.what} {found:,.5g}, reach {limit.reach:,g}"
                f"{', missed' if missed else ''}"
            )
    return int(exceeded > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
