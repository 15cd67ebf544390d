"""What one piece of work asks of a GPU, counted on the pretended card (tests/fake_cuda).

    python -m benchmarks.launches training_step         (needs gcc; a minute of one core)
    python -m benchmarks.launches adversarial_step

training_step is one micro-batch of the second phase as the published SNAC's decoder with its
48 kHz head trains: 8 windows of .94 s with their context, forward and backward in bfloat16, random
weights. adversarial_step is the same with the discriminators of configs/train_adversarial.yaml.
The last line is `launches N GB X`: operations handed over, and what they read and write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from tests.fake_cuda.start import start

SCENES = {"training_step": "train_bf16", "adversarial_step": "adversarial"}


def main(names: Sequence[str]) -> int:
    """Count the scene of that name; returns the exit code."""
    if len(names) != 1 or names[0] not in SCENES:
        print(f"give one of: {', '.join(SCENES)}", file=sys.stderr)
        return 2
    counted = json.loads(start("tests.fake_cuda.scenes", "published", SCENES[names[0]]))
    for file, launches in counted["launches_by_file"].items():
        print(f"{launches:6,}  {file}")
    print(f"launches {counted['launches']} GB {counted['gigabytes']:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
