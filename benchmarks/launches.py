"""What today's code asks of a GPU, counted without one, the time that follows and what is to hold.

    python -m benchmarks.launches               (needs gcc; ten minutes of one core)
    python -m benchmarks.launches NAME ...      one of these alone, with the files that launch:
    python -m benchmarks.launches --keep [NAME ...]     and put the counts into counted.json, from
                        which benchmarks.gpu and tests of documents take their estimates

    training_step       a micro-batch of the second phase as the published SNAC's decoder with its
                        48 kHz head trains: 8 windows of .94 s with their context, bfloat16
    training_float32, training_head     the same in float32; with the head alone
    training_plain      training_step where the activation's kernel does not work
    adversarial_step    training_step with the discriminators of configs/train_adversarial.yaml
    reads_per_step      a step of 8 such micro-batches in the loop, of one of several ranks, and how
                        often the program waits: reads back from the card and copies to it
    step                the same in a single process
    validation, encoding, decoding      these windows, 9 clips of 6.4 s, codes of 11 s
    known_text, own_text                a pass of Moshi 7B over 64 steps, bfloat16, batch 1
    chunk, own_chunk    the same with TTT-MLP in 16 layers, and what these add to the base
    own_text_by_chunk   what a TTT layer adds to a pass of own text by its steps, and with own_text
                        and depformer the rate that follows
    passes              passes of every batch and chunk that benchmarks.gpu measures
    chapter_by_flavour  one TTT layer of each flavour over 24,000 frames, in passes and in one call
    depformer           128 rows of two recordings, weights frozen; those of one lie side by side
                        and are 8 launches fewer (`passes`)
    save_state          eight full rings of four layers, two of them with TTT, saved
    mimi, mimi_decode   4 s of audio to codes and back

The code runs on a pretended card (tests/fake_cuda), which counts what is launched and the bytes
that these operations read and write. What a GPU needs for them at least `benchmarks.counted` says.
These are estimates: nobody has run them, convolutions and products also take arithmetic, and graphs
or fused kernels need fewer launches and bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.counted import (
    CHUNK,
    KEPT,
    Counted,
    frames_per_second,
    keep_counts,
    kept_steps,
    seconds,
)
from tests.fake_cuda.start import start


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
    "training_plain": "train_plain",
    "adversarial_step": "adversarial",
    "reads_per_step": "train_step_of_many",
    "step": "train_step",
    "validation": "validation",
    "encoding": "encoding",
    "decoding": "decoding",
    "known_text": "pass_known",
    "own_text": "pass_own",
    "chunk": "chunk",
    "own_chunk": "own_chunk",
    "own_text_by_chunk": "own_text_by_chunk",
    "passes": "passes",
    "chapter_by_flavour": "chapter_by_flavour",
    "depformer": "depformer_frozen",
    "save_state": "save",
    "mimi": "mimi",
    "mimi_decode": "mimi_decode",
}
"""Name -> its scene of tests/fake_cuda/scenes.py."""


def main(words: Sequence[str]) -> int:
    """Count what is named, or all; returns the exit code, 1 where tests would refuse a count."""
    names = [word for word in words if word != "--keep"]
    if unknown := [name for name in names if name not in SCENES]:
        print(f"there is no {unknown[0]}: give some of {', '.join(SCENES)}", file=sys.stderr)
        return 2
    chosen = names or tuple(SCENES)
    lines = start("tests.fake_cuda.scenes", "published", *(SCENES[name] for name in chosen))
    counts: dict[str, Counted] = dict(zip(chosen, map(json.loads, lines.splitlines()), strict=True))
    if "--keep" in words:
        keep_counts(counts)
    if names:
        for name, counted in counts.items():
            _show_places(name, counted)
    print(f"{'':18}  launches    ms      GB      ms     at least   per second")
    for name, counted in counts.items():
        if name == "own_text_by_chunk":
            print(f"launches of a TTT layer by steps: {counted['layer']}")
        elif rows := _rows_of(name, counted):
            print(f"{name}:")
            for what, its in rows.items():
                print(_row(what, its))
        else:
            print(_row(name, counted))
    if "depformer" in counts:
        _show_rates(counts)
    return _show_limits(counts)


def _rows_of(name: str, counted: Counted) -> dict[str, Counted]:
    """What is counted more than once, by the words to print before it."""
    if name == "chapter_by_flavour":
        return counted["layers"]
    if name == "passes":
        rows = {f"depformer {rows}": its for rows, its in counted["depformer"].items()}
        for its in counted["passes"]:
            layers = "TTT" if its["ttt"] else "base"
            rows[f"{layers} {its['text']} {its['batch']}x{its['chunk']}"] = its
        return rows
    return {}


def _row(name: str, counted: Counted) -> str:
    launching, moving = seconds(counted)
    most = max(launching, moving)
    audio = counted.get("audio_seconds")
    rate = "" if audio is None else f"{audio / most:9,.0f} audio s"
    return (
        f"{name:18} {counted['launches']:9,.0f} {1000 * launching:6.1f}  "
        f"{counted['gigabytes']:6.1f}  {1000 * moving:6.1f}  {1000 * most:6.1f} ms  {rate}"
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
