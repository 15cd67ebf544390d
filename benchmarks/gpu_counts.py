"""What a GPU is asked for by today's code, counted without one, and the time that follows.

    python -m benchmarks.gpu_counts [SCENE ...]        (needs gcc; 10 minutes of one core)

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
from collections.abc import Sequence
from typing import Any

from tests.fake_cuda.start import start

SECONDS_PER_LAUNCH = 6e-6
BYTES_PER_SECOND = 3.0e12
CHUNK, KEPT = 64, 10
"""Steps of a pass, and how many of them stand where the text is the model's own."""

LISTENING = ("known_text", "own_text", "known_text_ttt", "own_text_ttt")
SOUND = ("train_bf16", "train_float32", "train_head", "validation", "encoding", "decoding", "mimi")


def main(names: Sequence[str]) -> None:
    """Print a table of the scenes, all of them where none is named."""
    chosen = names or (*LISTENING, "depformer", "depformer_frozen", *SOUND)
    lines = start("tests.fake_cuda.scenes", "published", *chosen).splitlines()
    scenes = {scene["scene"]: scene for scene in map(json.loads, lines)}
    print("scene                  launches    ms      GB      ms     at least  per second")
    for name, scene in scenes.items():
        if name in LISTENING:
            print(_row(name, scene["pass"]))
            print(_row(f"{name}: save", scene["save"]))
        else:
            print(_row(name, scene, scene.get("audio_seconds"), "audio s"))
            if name == "mimi":
                print(_row("mimi: decode", scene["decode"], scene["audio_seconds"], "audio s"))
    if "depformer" in scenes:
        print(f"frames per second, with the depformer's share ({KEPT} steps kept of own text):")
        for name in LISTENING:
            if name in scenes:
                print(f"{name:22} {frames_per_second(name, scenes):7,.0f}")


def seconds(counted: dict[str, Any]) -> tuple[float, float]:
    """What the launches take, and what the bytes take."""
    return (
        counted["launches"] * SECONDS_PER_LAUNCH,
        counted["gigabytes"] * 1e9 / BYTES_PER_SECOND,
    )


def frames_per_second(name: str, scenes: dict[str, Any]) -> float:
    """Of passes that keep so many steps, and of a depformer that takes 128 of them at once."""
    frames = CHUNK if name.startswith("known") else KEPT
    share = max(seconds(scenes["depformer"])) * frames / 128
    return frames / (max(seconds(scenes[name]["pass"])) + share)


def _row(name: str, counted: dict[str, Any], units: float | None = None, of: str = "") -> str:
    launching, moving = seconds(counted)
    most = max(launching, moving)
    rate = "" if units is None else f"{units / most:9,.0f} {of}"
    return (
        f"{name:22} {counted['launches']:7,} {1000 * launching:6.1f}  {counted['gigabytes']:6.1f}  "
        f"{1000 * moving:6.1f}  {1000 * most:6.1f} ms  {rate}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
