"""The scenes of training TTT over whole chapters: what lives on the card at the most."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.ttt_training import ALL, ours, published
from ttt.moshi.training import MemoryConfig
from ttt.moshi.training.freeze import freeze_base

if TYPE_CHECKING:
    from tests.fake_cuda.scenes import Stage


def whole_chapter(stage: Stage) -> dict[str, Any]:
    """A step over one window of `stage.size.chapter_frames`, from models of two and three layers.

    A layer's input is kept, and with it nothing that grows with the layers; so two differences
    give what a layer and a TTT layer add, and these the sum for the whole model.
    """
    layers, with_ttt = stage.size.moshi["num_layers"], len(stage.size.ttt_layers)
    peaks = {
        (layers, with_ttt): _step(stage, layers, with_ttt)["most_live_bytes"]
        for layers, with_ttt in ((2, 1), (3, 1), (3, 2))
    }
    layer = peaks[3, 1] - peaks[2, 1]
    ttt = peaks[3, 2] - peaks[3, 1]
    whole = peaks[2, 1] + (layers - 2) * layer + (with_ttt - 1) * ttt
    return {
        "two_layers_bytes": peaks[2, 1],
        "layer_bytes": layer,
        "ttt_bytes": ttt,
        "whole_bytes": whole,
        **stage.counts(),
    }


def sum_of_layers(stage: Stage) -> dict[str, Any]:
    """The sum for five layers, three of them with TTT, and what such a model is counted at."""
    stage.size = dataclasses.replace(
        stage.size, moshi={**stage.size.moshi, "num_layers": 5}, ttt_layers=range(2, 5)
    )
    summed = whole_chapter(stage)["whole_bytes"]
    return {"summed": summed, "counted": _step(stage, 5, 3)["most_live_bytes"], **stage.counts()}


def plain_and_sparing(stage: Stage) -> dict[str, Any]:
    """Live bytes by which a window grows with each frame, all that saves memory on and off."""
    lengths = stage.size.chapter_frames // 2, stage.size.chapter_frames
    layers, with_ttt = stage.size.moshi["num_layers"], len(stage.size.ttt_layers)
    found: dict[str, Any] = {}
    for name, memory in (("plain", None), ("sparing", ALL)):
        peaks = []
        for frames in lengths:
            stage.size = dataclasses.replace(stage.size, chapter_frames=frames)
            peaks.append(_step(stage, layers, with_ttt, memory)["most_live_bytes"])
        found[f"{name}_bytes_per_frame"] = (peaks[1] - peaks[0]) / (lengths[1] - lengths[0])
    return {**found, **stage.counts()}


def _step(
    stage: Stage, layers: int, with_ttt: int, memory: MemoryConfig | None = ALL
) -> dict[str, Any]:
    """A step of AdamW on one window, its first: gradients and both averages live at its end."""
    stage.size = dataclasses.replace(
        stage.size,
        moshi={**stage.size.moshi, "num_layers": layers},
        ttt_layers=range(layers - with_ttt, layers),
    )
    lm = stage.moshi(ttt=True)
    groups = [{"params": [*named.values()]} for named in freeze_base(lm).values()]
    optimizer = torch.optim.AdamW(groups)
    codes = torch.zeros(1, 8, stage.size.chapter_frames, dtype=torch.int64)
    stage.card.clear()
    if memory is None:
        published(lm, codes.to(lm.device), checkpointing=False)
    else:
        ours(lm, codes, memory)
    optimizer.step()
    return stage.counts()
