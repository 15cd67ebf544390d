"""What discriminators cost a training step: with them over without, on one core.

    python -m benchmarks.adversarial_step

The tiny codec's decoder, 4 windows of .94 s, all layers, and the discriminators of
configs/train_adversarial_tiny_cpu.yaml. Both kinds of step are taken in turn in one process; each
is forward, backward and update. The figure is the median of the turns' ratios. Reach: <= 3.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.training_step import training_step
from ray_jobs.config.load import load_config
from ray_jobs.decoder.train_config import TrainConfig
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k
from ttt.snac.train.config import AdversarialConfig
from ttt.snac.train.curriculum import Epoch
from ttt.snac.train.decoder import DecoderTrainee
from ttt.snac.train.step import DecoderRecipe
from ttt.snac.train.window_reader import MicroBatch
from ttt.snac.train.windows import WindowShape
from ttt.training.micro_batches import BatchId
from ttt.training.optim import Update

TURNS = 20
CLIPS, CORE, CONTEXT = 4, 11, 2
CONFIG = Path(__file__).parents[1] / "configs" / "train_adversarial_tiny_cpu.yaml"


def main() -> None:
    """Print the figure as a JSON line."""
    torch.set_num_threads(1)
    config = load_config(TrainConfig, CONFIG)
    assert config.adversarial is not None
    phase = dataclasses.replace(config.adversarial, first_epoch=1, hold_steps=0)
    trainees = [_trainee(config, None), _trainee(config, phase)]
    updates = [trainee.updates(2) for trainee in trainees]
    seconds: list[list[float]] = [[], []]
    for turn in range(TURNS + 2):
        for side, trainee in enumerate(trainees):
            started = time.perf_counter()
            _step(trainee, updates[side], turn)
            if turn >= 2:  # the first ones warm up
                seconds[side].append(time.perf_counter() - started)
    ratios = [ours / plain for plain, ours in zip(*seconds, strict=True)]
    adversary = trainees[1].adversary
    assert adversary is not None
    figure = {
        "benchmark": "step time, with tiny discriminators / without",
        "parameters": adversary.networks.n_parameters,
        "seconds": [statistics.median(side) for side in seconds],
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "turns": TURNS,
        "reach": 3,
    }
    print(json.dumps(figure))


def _trainee(config: TrainConfig, phase: AdversarialConfig | None) -> DecoderTrainee:
    shape = WindowShape(CORE, CONTEXT, CLIPS, 1)
    epoch = Epoch(
        number=1,
        phase=2,
        segment_seconds=1.0,
        shape=shape,
        steps=TURNS + 2,
        first_step=0,
        phase_first_step=0,
        phase_steps=TURNS + 2,
    )
    recipe = DecoderRecipe(
        seed=0, precision="float32", optim=config.optim, loss=config.loss, adversarial=phase
    )
    return DecoderTrainee(Decoder48k.from_snac(load_codec("tiny").model), recipe, [epoch], None)


def _step(trainee: DecoderTrainee, updates: Sequence[Update], step: int) -> None:
    geometry = trainee.model.geometry
    samples = geometry.samples_48k(CORE)
    random = torch.Generator().manual_seed(step)
    codes = torch.randint(256, (CLIPS, CORE + 2 * CONTEXT, 7), generator=random)
    audio = torch.randint(-9000, 9000, (CLIPS, samples), generator=random)
    batch = MicroBatch(
        id=BatchId(1, step, 0),
        codes=codes.to(torch.int16),
        audio=audio.to(torch.int16),
        core_start=torch.full((CLIPS,), CONTEXT),
        valid_samples=torch.full((CLIPS,), samples),
        clip_ids=["x"] * CLIPS,
    )
    training_step(trainee, updates, [batch], step=step)


if __name__ == "__main__":
    main()
