"""What one piece of work asks of a GPU, counted on the pretended card (tests/fake_cuda).

    python -m benchmarks.launches training_step         (needs gcc; a minute of one core)
    python -m benchmarks.launches adversarial_step
    python -m benchmarks.launches reads_per_step        (two minutes)
    python -m benchmarks.launches chunk                 (two minutes)

training_step is one micro-batch of the second phase as the published SNAC's decoder with its
48 kHz head trains: 8 windows of .94 s with their context, forward and backward in bfloat16, random
weights. adversarial_step is the same with the discriminators of configs/train_adversarial.yaml.
The last line of both is `launches N GB X`: operations handed over, and what they read and write.

reads_per_step is a step of 8 such micro-batches in the loop, with its update and the average of
the weights, as one of several ranks takes it. The last line is `waits N`: reads back from the card
and copies to it that the program waits for.

chunk is a pass of Moshi 7B over 64 steps of known text in bfloat16, batch 1, with TTT-MLP in 16
layers, and how many launches these layers add to the base's. Its last line is as the first two's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.fake_cuda.start import start


def main(names: Sequence[str]) -> int:
    """Count the scene of that name; returns the exit code."""
    if len(names) != 1 or names[0] not in SCENES:
        print(f"give one of: {', '.join(SCENES)}", file=sys.stderr)
        return 2
    scene, show = SCENES[names[0]]
    show(json.loads(start("tests.fake_cuda.scenes", "published", scene)))
    return 0


def _show_launches(counted: dict[str, Any]) -> None:
    _by_place(counted["launches_by_file"])
    if base := counted.get("base_launches"):
        print(f"{counted['launches'] - base:6,}  beyond the {base:,} of the base")
    print(f"launches {counted['launches']} GB {counted['gigabytes']:.1f}")


def _show_waits(counted: dict[str, Any]) -> None:
    _by_place(counted["reads_back"])
    _by_place(counted["blocking_copies"])
    print(f"launches {counted['launches']} GB {counted['gigabytes']:.1f}")
    print(f"waits {waits(counted)}")


def waits(counted: dict[str, Any]) -> int:
    """Reads back from the card and copies to it that the program waits for."""
    return sum(counted["reads_back"].values()) + sum(counted["blocking_copies"].values())


def _by_place(counts: dict[str, int]) -> None:
    for place, count in counts.items():
        print(f"{count:6,}  {place}")


SCENES: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "training_step": ("train_bf16", _show_launches),
    "adversarial_step": ("adversarial", _show_launches),
    "reads_per_step": ("train_step_of_many", _show_waits),
    "chunk": ("chunk", _show_launches),
}
"""Name -> its scene of tests/fake_cuda/scenes.py, and what is printed of it."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
