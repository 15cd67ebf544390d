"""The scenes of training TTT over whole chapters: what lives on the card at the most."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from moshi.models.lm import LMModel
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from benchmarks.sizes import ALL, WHOLE_CHAPTER, windows_config
from benchmarks.ttt_training import ours, published
from tests.fake_cuda.pretended import on_card
from tests.fake_cuda.training import Counted, SecondStep
from ttt.moshi import tiny_lm
from ttt.moshi.training import (
    MemoryConfig,
    MoshiTrainee,
    MoshiTrainingConfig,
    WindowBatch,
    freeze_base,
    insert_trained,
)
from ttt.moshi.training.config import LoRAConfig, TTTLayersConfig, WindowStageConfig
from ttt.moshi.training.estimate import training_bytes
from ttt.training.config import CheckpointConfig
from ttt.training.loop import LoopSettings, train
from ttt.training.ranks import SingleProcess

if TYPE_CHECKING:
    from tests.fake_cuda.scenes import Stage

STRETCHES = ("forward", "heads", "layers", "update")
"""Of a step: the temporal transformer's forward pass, both passes of the depformer and the loss,
the temporal transformer's backward pass, and the optimizer."""


class _Windows:
    """A short window, and in the second step those to count."""

    def __init__(self, windows: int, frames: int) -> None:
        self.sizes = (1, 16), (windows, frames)

    def step_batches(self, epoch: int, first_step: int) -> Iterator[list[WindowBatch]]:
        for rows, frames in self.sizes:
            codes = torch.zeros(rows, 8, frames, dtype=torch.int64)
            counted = torch.ones(rows, frames, dtype=torch.bool)
            yield [WindowBatch(rows * ["x"], codes, counted)]


def most_by_stretch(
    stage: Stage, lm: LMModel, config: MoshiTrainingConfig, windows: int
) -> dict[str, int]:
    """What lives at the most in each stretch of a step of the training loop, which is not its
    first: over one micro-batch of windows as long as the last stage's."""
    trainee, card = MoshiTrainee(lm, config), stage.card

    def layers_follow(module: Any, inputs: tuple[Tensor]) -> None:
        inputs[0].register_hook(lambda _: card.enter("layers"))

    begins = (
        lm.emb[0].register_forward_pre_hook(lambda *_: card.enter("forward")),
        lm.out_norm.register_forward_pre_hook(layers_follow),
        lm.out_norm.register_forward_hook(lambda *_: card.enter("heads")),
        register_optimizer_step_pre_hook(lambda *_: card.enter("update")),
    )
    with tempfile.TemporaryDirectory() as run:
        checkpoints = CheckpointConfig(every_steps=None, every_minutes=None)
        settings = LoopSettings(run=run, plan={}, checkpoint=checkpoints)
        source = _Windows(windows, config.stages[-1].frames)
        try:
            train(settings, trainee, source, SingleProcess(), [SecondStep(stage)])
        except Counted:
            return {name: card.most_in[name] for name in STRETCHES}
        finally:
            for each in begins:
                each.remove()
    raise AssertionError("the loop took one step")


def whole_chapter(stage: Stage) -> dict[str, Any]:
    """A step over one window of `stage.size.chapter_frames`, from models of three and four layers.

    Layers differ by their place: before the first with TTT, with TTT, after it. Those before it
    keep nothing, so that they add their weights. What another layer with TTT and another one after
    it add is the difference of two counts, in each stretch of the step.
    """
    layers, with_ttt = stage.size.moshi["num_layers"], stage.size.ttt_layers
    least, ttt, after = (_counted(stage, *places) for places in ((1, 1, 1), (1, 2, 1), (1, 1, 2)))
    times = with_ttt.start - 1, len(with_ttt) - 1, layers - with_ttt.stop - 1
    added = {
        "before": dict.fromkeys(STRETCHES, least.layer_bytes),
        "with_ttt": {name: ttt.most[name] - least.most[name] for name in STRETCHES},
        "after": {name: after.most[name] - least.most[name] for name in STRETCHES},
    }
    whole = {
        name: least.most[name]
        + sum(count * each[name] for count, each in zip(times, added.values(), strict=True))
        for name in STRETCHES
    }
    outline, config = _whole(stage, stage.size.ttt_layers, layers)
    return {
        "estimated": training_bytes(outline, config, stage.size.chapter_frames).sentence(),
        "three_layers": least.most,
        "added": added,
        "times": times,
        "whole": whole,
        "whole_launches": least.launches
        + times[1] * (ttt.launches - least.launches)
        + times[2] * (after.launches - least.launches),
        **stage.counts(),
    }


def sum_of_layers(stage: Stage) -> dict[str, Any]:
    """The sum for seven layers, three of them with TTT, and what such a model is counted at."""
    stage.size = dataclasses.replace(
        stage.size, moshi={**stage.size.moshi, "num_layers": 7}, ttt_layers=range(2, 5)
    )
    summed = whole_chapter(stage)
    counted = _counted(stage, 2, 3, 2)
    return {
        "summed": summed["whole"],
        "counted": counted.most,
        "launches_summed": summed["whole_launches"],
        "launches_counted": counted.launches,
        **stage.counts(),
    }


def estimates(stage: Stage, few: bool = False) -> dict[str, Any]:
    """What steps take by sum, and counted: TTT, LoRA and both, with what saves memory on and off,
    in two precisions; a few of these over short windows of four layers."""
    frames, size = stage.size.chapter_frames, stage.size.moshi
    if few:
        frames, size = 400, {**size, "num_layers": 4}
    ttt = TTTLayersConfig(layers=(1, 2))
    lora = LoRAConfig(rank=8)
    group = max(1, frames // 64)
    rows: list[dict[str, Any]] = []
    cases: list[tuple[dict[str, Any], MemoryConfig, int, torch.dtype]] = [
        ({"ttt": ttt}, MemoryConfig(), 1, torch.bfloat16),
        ({"ttt": ttt}, MemoryConfig(head_block=frames // 8), 2, torch.float32),
        ({"ttt": ttt}, MemoryConfig(checkpoint_mini_batches=group), 1, torch.bfloat16),
        ({"ttt": ttt}, MemoryConfig(checkpoint_layers=True), 1, torch.bfloat16),
        ({"ttt": ttt}, _all(group, frames // 8), 1, torch.bfloat16),
        ({"ttt": ttt}, _all(group, frames // 8), 2, torch.float32),
        ({"ttt": dataclasses.replace(ttt, kind="linear")}, MemoryConfig(), 1, torch.float32),
        ({"ttt": dataclasses.replace(ttt, flavour="video_dit")}, MemoryConfig(), 1, torch.bfloat16),
        ({"lora": lora}, MemoryConfig(), 2, torch.bfloat16),
        ({"lora": lora}, _all(group, frames // 8), 1, torch.bfloat16),
        ({"lora": lora, "ttt": ttt}, _all(group, frames // 8), 1, torch.bfloat16),
    ]
    for what, memory, windows, dtype in cases[:: 3 if few else 1]:
        stages = (WindowStageConfig(frames=frames, steps=2, frames_per_step=windows * frames),)
        config = MoshiTrainingConfig(
            **what, stages=stages, text="pad", other="masked", memory=memory
        )
        with torch.device("meta"):
            outline = tiny_lm(**size, device="meta", dtype=dtype)
        need = training_bytes(outline, config, frames, windows)
        most = most_by_stretch(stage, _inserted(stage, outline, config), config, windows)
        rows.append(
            {
                "what": f"{', '.join(what)} {memory} {windows} {dtype}",
                "estimated": need.total,
                "counted": max(most.values()),
                "moment": need.moment,
                "stretches": most,
            }
        )
    return {"rows": rows, **stage.counts()}


def _all(mini_batches: int, head_block: int) -> MemoryConfig:
    return MemoryConfig(
        checkpoint_layers=True, checkpoint_mini_batches=mini_batches, head_block=head_block
    )


def plain_and_sparing(stage: Stage) -> dict[str, Any]:
    """Live bytes by which a window grows with each frame, all that saves memory on and off."""
    lengths = stage.size.chapter_frames // 2, stage.size.chapter_frames
    found: dict[str, Any] = {}
    for name in ("plain", "sparing"):
        peaks = []
        for frames in lengths:
            lm = stage.moshi(ttt=True)
            freeze_base(lm)
            codes = torch.zeros(1, 8, frames, dtype=torch.int64)
            stage.card.clear()
            if name == "plain":
                published(lm, codes.to(lm.device), checkpointing=False)
            else:
                ours(lm, codes, ALL)
            peaks.append(stage.card.most_bytes)
        found[f"{name}_bytes_per_frame"] = (peaks[1] - peaks[0]) / (lengths[1] - lengths[0])
    return {**found, **stage.counts()}


@dataclasses.dataclass(frozen=True)
class _Count:
    most: dict[str, int]
    launches: int
    layer_bytes: int
    """Of a layer's own weights."""


def _counted(stage: Stage, before: int, with_ttt: int, after: int) -> _Count:
    """A step of a model with so many layers before TTT, with it and after it."""
    layers = range(before, before + with_ttt)
    outline, config = _whole(stage, layers, before + with_ttt + after)
    lm = _inserted(stage, outline, config)
    layer_bytes = sum(each.nbytes for each in lm.transformer.layers[0].parameters())
    most = most_by_stretch(stage, lm, config, windows=1)
    return _Count(most, stage.card.launches.total(), layer_bytes)


def _whole(stage: Stage, with_ttt: range, layers: int) -> tuple[LMModel, MoshiTrainingConfig]:
    """The outline of a model, and its training over whole chapters with all that saves memory."""
    frames = stage.size.chapter_frames
    config = windows_config(with_ttt, 1, frames, WHOLE_CHAPTER)
    shape = {**stage.size.moshi, "num_layers": layers}
    with torch.device("meta"):
        return tiny_lm(**shape, device="meta", dtype=torch.bfloat16), config


def _inserted(stage: Stage, outline: LMModel, config: MoshiTrainingConfig) -> Any:
    """The model on the card, with what is trained."""
    with torch.device("meta"):
        insert_trained(outline, config)
    return on_card(outline, stage.card)
