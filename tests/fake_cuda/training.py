"""The scenes of a training step: one micro-batch, and whole steps as the loop takes them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.models import plain_activation
from ttt.snac.train.config import AdversarialConfig, LossConfig
from ttt.snac.train.decoder import DecoderTrainee
from ttt.snac.train.optim import OptimConfig
from ttt.snac.train.step import VALID, DecoderRecipe, accumulate_gradients
from ttt.snac.train.window_reader import MicroBatch
from ttt.training.config import CheckpointConfig
from ttt.training.hooks import Hook, StepRecord
from ttt.training.loop import LoopSettings
from ttt.training.loop import train as train_in_loop
from ttt.training.micro_batches import BatchId
from ttt.training.ranks import SingleProcess
from ttt.training.schedules import EpochPlan

if TYPE_CHECKING:
    from tests.fake_cuda.scenes import Stage

MICRO_BATCHES = 8


def train(stage: Stage, precision: Any, phase: int = 2) -> dict[str, Any]:
    """Forward and backward of one micro-batch."""
    model = stage.decoder()
    model.freeze_body(phase == 1)
    batch = stage.micro_batch(model)
    stage.card.clear()
    valid = int(batch.valid_samples.sum())
    recipe = DecoderRecipe(seed=0, precision=precision, optim=OptimConfig(), loss=LossConfig())
    terms = accumulate_gradients(model, [batch], recipe, {VALID: valid}, step=0)
    trained = [each for each in model.parameters() if each.requires_grad]
    assert all(each.grad is not None and each.grad.is_cuda for each in trained)
    assert all(each.is_cuda for each in terms.values())
    decoded = stage.size.clips * model.geometry.samples_48k(stage.size.coarse + 4)
    seconds = {"audio_seconds": valid / 48_000, "decoded_seconds": decoded / 48_000}
    return {**seconds, "units": _units(model), **stage.counts()}


def train_plainly(stage: Stage) -> dict[str, Any]:
    """The same in bfloat16 where the activation's kernel does not work."""
    with plain_activation():
        return train(stage, "bf16")


def adversarial(stage: Stage) -> dict[str, Any]:
    """Forward and backward of one micro-batch with the discriminators of XCodec2, all at work."""
    model = stage.decoder()
    phase = AdversarialConfig(hold_steps=0, ramp_steps=1)
    recipe = DecoderRecipe(
        seed=0, precision="bf16", optim=OptimConfig(), loss=LossConfig(), adversarial=phase
    )
    epoch = EpochPlan(number=1, phase=2, steps=9, first_step=0, phase_first_step=0, phase_steps=9)
    trainee = DecoderTrainee(model, recipe, [epoch], None)  # type: ignore[list-item]
    batch = stage.micro_batch(model)
    updates = trainee.updates(2)
    counts, names = trainee.denominators([batch]), [update.name for update in updates]
    stage.card.clear()
    terms = trainee.accumulate([batch], counts, step=0, due=names)
    assert all(each.is_cuda for each in terms.values())
    gradients = [each.grad for update in updates for each in update.parameters]
    assert all(each is not None and each.is_cuda for each in gradients)
    return {"audio_seconds": counts[VALID] / 48_000, **stage.counts()}


def step(stage: Stage, world: int) -> dict[str, Any]:
    """The second step of the loop: eight micro-batches, the update and the average of the weights.

    With a `world` above 1 the ranks' sums are made on the card.
    """
    model = stage.decoder()
    recipe = DecoderRecipe(seed=0, precision="bf16", optim=OptimConfig(), loss=LossConfig())
    epoch = EpochPlan(number=1, phase=2, steps=9, first_step=0, phase_first_step=0, phase_steps=9)
    trainee = DecoderTrainee(model, recipe, [epoch], None)  # type: ignore[list-item]
    group = SingleProcess()
    group.world = world
    stage.card.clear()
    with tempfile.TemporaryDirectory() as run:
        checkpoints = CheckpointConfig(every_steps=None, every_minutes=None)
        settings = LoopSettings(run=run, plan={}, checkpoint=checkpoints, ema_decay=0.999)
        counting = SecondStep(stage)
        try:
            train_in_loop(settings, trainee, _Batches(stage.micro_batch(model)), group, [counting])
        except Counted:
            return {"loss": counting.loss, **counting.counts}
    raise AssertionError("the loop took one step")


class Counted(Exception):
    """Ends the loop after its second step, when what the optimizer keeps is there."""


class SecondStep(Hook):
    """Counts from the end of the first step to the end of the second."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def on_step(self, record: StepRecord) -> None:
        if record.step == 2:
            self.loss, self.counts = record.terms["total"], self.stage.counts()
            raise Counted
        self.stage.card.clear()


class _Batches:
    def __init__(self, batch: MicroBatch) -> None:
        self.batch = batch

    def step_batches(self, epoch: int, first_step: int) -> Iterator[list[MicroBatch]]:
        for number in range(first_step, 9):
            places = (BatchId(epoch, number, micro) for micro in range(MICRO_BATCHES))
            yield [dataclasses.replace(self.batch, id=place) for place in places]


def _units(model: torch.nn.Module) -> int:
    """Activations, of which there are as many as layers that a step must pass."""
    return sum(type(each).__name__ == "Snake" for each in model.modules())
