"""How fast TTT layers are trained over windows longer than attention reaches, and in what memory.

    python -m benchmarks.ttt_training [--quick]
    python -m benchmarks.ttt_training --memory      (needs gcc; ten minutes of one core)

Frames per second of CPU time, one thread, forward and backward of one window with the same trained
parameters (TTT-MLP in half of the layers, base frozen), tiny model, float32:

    plain         the published `LMModel.forward`, which holds every query against every key
    blocks        ours, with attention in blocks of the window and all else kept
    plain again   the published one with its `checkpointing` of layers
    all           ours with all that saves memory: layers, mini-batches, depformer and loss

Rounds of the four alternate; speeds are medians over rounds, ratios medians of the rounds' ratios:
blocks to plain, all to plain again.

Memory is counted, on a pretended card (tests/fake_cuda): the live bytes by which a window of a mid
model grows with each frame, plain and with all that saves memory; and what a step of the training
loop over a whole chapter of 24,000 frames, not its first, holds at the most in Moshi 7B, bfloat16,
with TTT-MLP in 16 layers. The latter is the sum of what models of three and four layers are counted
at, in each stretch of the step; beside it stands what `ttt.moshi.training.estimate` says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("NO_TORCH_COMPILE", "1")

import torch
from moshi.models.lm import LMModel
from moshi.utils.compile import no_compile
from torch import Tensor

from benchmarks.counted import SECONDS_PER_LAUNCH
from benchmarks.moshi_stream import TINY, random_codes
from benchmarks.sizes import ALL
from tests.fake_cuda.start import start
from ttt.codebook_weights import FIRST_CODEBOOK_WEIGHT
from ttt.moshi.streaming.delays import ZERO_TOKEN
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.training import MemoryConfig, sparing, training_nll, weighted_nll_sum
from ttt.moshi.training.freeze import freeze_base
from ttt.moshi.training.loss import weighed

WEIGHT = FIRST_CODEBOOK_WEIGHT["moshi"]
BLOCKS = MemoryConfig()
CASES = ((4, 0.95, 1.0), (16, 1.25, 1.15))
"""Windows, and the ratios to reach: blocks to plain, all to plain again."""


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description="How fast TTT layers are trained.")
    parser.add_argument("--quick", action="store_true", help="three rounds of four windows")
    parser.add_argument("--memory", action="store_true", help="live bytes on a pretended card")
    arguments = parser.parse_args()
    if arguments.memory:
        show_memory()
    else:
        show_speed(arguments.quick)


def show_speed(quick: bool) -> None:
    """Print one table."""
    torch.set_num_threads(1)
    lm = TINY.build(with_ttt=True)
    freeze_base(lm)
    print("windows  frames  plain/s  blocks/s  ratio (reach)  plain again/s  all/s  ratio (reach)")
    for windows, blocks_reach, all_reach in CASES[: 1 if quick else None]:
        codes = random_codes(windows * TINY.context)
        ways: dict[str, Callable[[], Tensor]] = {
            "plain": lambda codes=codes: published(lm, codes, checkpointing=False),
            "blocks": lambda codes=codes: ours(lm, codes, BLOCKS),
            "plain again": lambda codes=codes: published(lm, codes, checkpointing=True),
            "all": lambda codes=codes: ours(lm, codes, ALL),
        }
        losses = {name: way() for name, way in ways.items()}  # warms up
        for name, loss in losses.items():
            torch.testing.assert_close(loss, losses["plain"], rtol=1e-4, atol=1e-5, msg=name)
        seconds = _seconds(ways, rounds=3 if quick else 7)
        frames = codes.shape[2]
        speeds = {name: frames / statistics.median(each) for name, each in seconds.items()}
        print(
            f"{windows:7}  {frames:6}  {speeds['plain']:7.0f}  {speeds['blocks']:8.0f}  "
            f"{_ratio(seconds, 'plain', 'blocks')} ({blocks_reach})  "
            f"{speeds['plain again']:13.0f}  {speeds['all']:5.0f}  "
            f"{_ratio(seconds, 'plain again', 'all')} ({all_reach})",
            flush=True,
        )


def show_memory() -> None:
    """Print both counts, each as soon as it is there."""
    (line,) = start("tests.fake_cuda.scenes", "mid", "plain_and_sparing").splitlines()
    plain, sparing_ = (json.loads(line)[f"{way}_bytes_per_frame"] for way in ("plain", "sparing"))
    print(
        f"mid model, bytes per frame: {plain:,.0f} plain, {sparing_:,.0f} with all that saves "
        f"memory: {sparing_ / plain:.3f} (reach <= 0.08)",
        flush=True,
    )
    (line,) = start("tests.fake_cuda.scenes", "published", "whole_chapter").splitlines()
    counted = json.loads(line)
    kinds = ("before", "with_ttt", "after")
    added = zip(counted["times"], ("before TTT", "with TTT", "after it"), strict=True)
    titles = "".join(f"  + {count} layers {kind}" for count, kind in added)
    print(f"7B, 24,000 frames, GB: 3 layers{titles} = whole")
    for stretch, whole in counted["whole"].items():
        each = "".join(f" + {counted['added'][kind][stretch] / 1e9:18.3f}" for kind in kinds)
        print(
            f"{stretch:8} {counted['three_layers'][stretch] / 1e9:20.2f}{each} = {whole / 1e9:.1f}"
        )
    most, launches = max(counted["whole"].values()), counted["whole_launches"]
    print(f"at the most {most / 1e9:.1f} GB (reach <= 75); by its sum {counted['estimated']}")
    print(f"{launches:,} launches, {launches * SECONDS_PER_LAUNCH:.1f} s at least")


def published(lm: LMModel, codes: Tensor, *, checkpointing: bool) -> Tensor:
    """Forward and backward by the published forward; returns the loss, []."""
    lm.transformer.checkpointing = checkpointing
    with no_compile():
        codes = codes.long()
        batch, codebooks, frames = codes.shape
        text = codes.new_full((batch, 1, frames), lm.text_padding_token_id)
        other = codes.new_full((batch, lm.n_q - codebooks, frames), ZERO_TOKEN)
        said = lm(torch.cat([text, codes, other], dim=1))
        assert said.logits is not None
        assert said.mask is not None
        total, weight = weighted_nll_sum(said.logits, codes, said.mask, WEIGHT)
        loss = _backward(lm, total / weight)
    lm.transformer.checkpointing = False
    return loss


def ours(lm: LMModel, codes: Tensor, memory: MemoryConfig) -> Tensor:
    """Forward and backward by `training_nll`; returns the loss, []."""
    with sparing(lm, memory, codes.shape[2]):
        streams = Streams(lm, codes, text_stream="pad")
        nll = training_nll(lm, streams, head_block=memory.head_block)
        total, weight = weighed(nll, ~nll.isnan(), WEIGHT)
        return _backward(lm, total / weight)


def _backward(lm: LMModel, loss: Tensor) -> Tensor:
    lm.zero_grad()
    loss.backward()
    return loss.detach()


def _seconds(ways: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    return seconds


def _ratio(seconds: dict[str, list[float]], other: str, ours: str) -> str:
    """How many times as fast as the other, with the range over rounds."""
    rounds = [a / b for a, b in zip(seconds[other], seconds[ours], strict=True)]
    return f"{statistics.median(rounds):.2f}, {min(rounds):.2f} to {max(rounds):.2f}"


if __name__ == "__main__":
    main()
