"""The 7B's speed and memory on a CUDA device, with random weights in bfloat16.

    python -m benchmarks.moshi_stream --gpu

Frames per second by chunk and batch, text known (no guessing: a random model's acceptance means
nothing), with and without TTT-MLP in 16 of the 32 layers. Beside each figure what the device
allows at most: the weights, rings and fast weights that a pass must read, or its arithmetic,
whichever takes longer by the data sheet of the card that is there (`benchmarks.cards`; "-" where it
is not listed). And the memory beyond the weights, beside what `memory_need` computes.

A pass reads the whole ring whether it is full or not, so that a chapter's first minutes say how
fast the rest will be.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from moshi.models.lm import LMModel

from benchmarks.cards import Card, card_named
from ttt.layers import TTTConfig
from ttt.moshi import Evaluation, insert_ttt, tiny_lm
from ttt.moshi.insert import ttt_layers
from ttt.moshi.memory import memory_need
from ttt.moshi.streaming.evaluate import chunks_per_block
from ttt.moshi.streaming.streams import Streams

SHAPE_7B = {
    "context": 3000,
    "dim": 4096,
    "num_layers": 32,
    "num_heads": 32,
    "card": 2048,
    "text_card": 32000,
    "depformer_dim": 1024,
    "depformer_layers": 6,
    "depformer_heads": 16,
}
"""Moshi's published shape, as arguments of `tiny_lm`."""

SETTINGS = ((1, 1), (1, 16), (1, 32), (1, 64), (1, 128), (4, 1), (4, 32), (4, 64), (8, 32))
"""(batch, chunk)"""
PASSES = 12


def main() -> None:
    """Print one table."""
    print(torch.cuda.get_device_name())
    print("TTT  batch  chunk  frames/s  at most  share  memory  computed (GB)")
    for layers in (range(0), range(8, 24)):
        lm = random_moshi("cuda", layers)
        for batch, chunk in SETTINGS:
            print(measure(lm, batch, chunk), flush=True)
        del lm
        torch.cuda.empty_cache()


def random_moshi(device: str, layers: range, shape: dict[str, Any] = SHAPE_7B) -> LMModel:
    """Moshi in bfloat16 with TTT-MLP in `layers`; random weights, or none on "meta"."""
    with torch.device("meta"):
        lm = tiny_lm(**shape, device="meta", dtype=torch.bfloat16)
        if layers:
            insert_ttt(lm, layers, TTTConfig(dim=lm.dim, num_heads=shape["num_heads"]))
    if device == "meta":
        return lm
    lm = lm.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.normal_(0, 0.02, generator=generator)
    return lm


def measure(lm: LMModel, batch: int, chunk: int, passes: int = PASSES) -> str:
    """One line of the table, of so many passes, and 384 frames at least, after two blocks."""
    on_gpu = lm.device.type == "cuda"  # Elsewhere, as in a test, nobody counts the memory.
    weights = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    device = torch.get_device_module(lm.device)
    block = chunk * chunks_per_block(batch, chunk)
    codes = torch.randint(lm.card, (batch, 8, max(passes * chunk, 384) + 2 * block))
    with Evaluation(Streams(lm, codes, text_stream="pad"), chunk=chunk) as evaluation:
        blocks = iter(evaluation)
        for _ in range(2):
            next(blocks)
        device.synchronize()
        first, start = evaluation.frames_done, time.perf_counter()
        for _ in blocks:
            pass
        device.synchronize()
        seconds = time.perf_counter() - start
        speed = batch * (evaluation.frames_done - first) / seconds
    taken = f"{(torch.cuda.max_memory_allocated() - weights) / 1e9:.2f}" if on_gpu else "-"
    card = card_named(torch.cuda.get_device_name()) if on_gpu else None
    most, share = "-", "-"
    if card is not None:
        allowed = roofline(lm, batch, chunk, card)
        most, share = f"{allowed:.0f}", f"{speed / allowed:.2f}"
    return (
        f"{len(ttt_layers(lm)):3}  {batch:5}  {chunk:5}  {speed:8.0f}  {most:>7}  "
        f"{share:>5}  {taken:>6}  {memory_need(lm, batch, chunk).total / 1e9:8.2f}"
    )


def roofline(lm: LMModel, batch: int, chunk: int, card: Card) -> float:
    """Frames per second that the card's bandwidth and arithmetic allow at most.

    A pass reads the temporal transformer, its rings and fast weights once; the depformer is read
    once for all passes of a block. Attention's and the fast weights' own arithmetic is left out.
    """
    sizes = {"table": 0, "depformer": 0, "temporal": 0}
    for name, parameter in lm.named_parameters():
        kind = "depformer" if name.startswith(("depformer", "linears")) else "temporal"
        sizes["table" if "emb" in name else kind] += parameter.numel()
    read = sizes["temporal"] + sizes["depformer"] / chunks_per_block(batch, chunk)
    learnt = sum(each.layer.state_bytes(batch) for each in ttt_layers(lm).values())
    pass_bytes = read * lm.dtype.itemsize + memory_need(lm, batch, chunk).rings + learnt
    operations = 2 * (sizes["temporal"] + sizes["depformer"]) * batch * chunk
    seconds = max(pass_bytes / card.bytes_per_second, operations / card.operations_per_second)
    return batch * chunk / seconds
