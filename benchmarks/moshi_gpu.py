"""The 7B's speed and memory on a CUDA device, with random weights in bfloat16.

    python -m benchmarks.moshi_stream --gpu

Frames per second by chunk and batch, text known (no guessing: a random model's acceptance means
nothing), with and without TTT-MLP in 16 of the 32 layers. Beside each figure what the device
allows at most: the weights and rings that a pass must read at 4.8 TB/s, or its arithmetic at 989
TFLOP/s, whichever takes longer (an H200's data sheet). And the memory beyond the weights, beside
what `memory_need` computes.
"""

from __future__ import annotations

import time

import torch
from moshi.models.lm import LMModel

from ttt.layers import TTTConfig
from ttt.moshi import Evaluation, insert_ttt, tiny_lm
from ttt.moshi.memory import memory_need

BYTES_PER_SECOND = 4.8e12
OPERATIONS_PER_SECOND = 989e12
SETTINGS = ((1, 1), (1, 16), (1, 32), (1, 64), (1, 128), (4, 1), (4, 32), (4, 64), (8, 32))
"""(batch, chunk)"""
PASSES = 12


def main() -> None:
    """Print one table."""
    print("TTT  batch  chunk  frames/s  at most  share  memory  computed (GB)")
    for layers in (range(0), range(8, 24)):
        lm = random_moshi_7b("cuda", layers)
        for batch, chunk in SETTINGS:
            print(measure(lm, len(layers), batch, chunk), flush=True)
        del lm
        torch.cuda.empty_cache()


def random_moshi_7b(device: str, ttt_layers: range) -> LMModel:
    """Moshi's published shape; on "meta" without weights, else with small random ones."""
    with torch.device("meta"):
        lm = tiny_lm(
            context=3000,
            dim=4096,
            num_layers=32,
            num_heads=32,
            card=2048,
            text_card=32000,
            depformer_dim=1024,
            depformer_layers=6,
            depformer_heads=16,
            device="meta",
            dtype=torch.bfloat16,
        )
        if ttt_layers:
            insert_ttt(lm, ttt_layers, TTTConfig(dim=4096, num_heads=32))
    if device == "meta":
        return lm
    lm = lm.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.normal_(0, 0.02, generator=generator)
    return lm


def measure(lm: LMModel, ttt_layers: int, batch: int, chunk: int) -> str:
    """One line of the table, of a few passes after two that warm up."""
    weights = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    codes = torch.randint(2048, (batch, 8, max(PASSES * chunk, 384) + 2 * 128 + 2 * chunk))
    with Evaluation(lm, codes, text_stream="pad", chunk=chunk) as evaluation:
        blocks = iter(evaluation)
        for _ in range(2):
            next(blocks)
        torch.cuda.synchronize()
        first, start = evaluation.frames_done, time.perf_counter()
        for _ in blocks:
            pass
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        speed = batch * (evaluation.frames_done - first) / seconds
    taken = torch.cuda.max_memory_allocated() - weights
    most = roofline(lm, batch, chunk)
    return (
        f"{ttt_layers:3}  {batch:5}  {chunk:5}  {speed:8.0f}  {most:7.0f}  {speed / most:5.2f}  "
        f"{taken / 1e9:6.2f}  {memory_need(lm, batch, chunk).total / 1e9:8.2f}"
    )


def roofline(lm: LMModel, batch: int, chunk: int) -> float:
    """Frames per second that bandwidth and arithmetic allow at most."""
    tables = sum(p.numel() for name, p in lm.named_parameters() if "emb" in name)
    read = sum(p.numel() for p in lm.parameters()) - tables
    need = memory_need(lm, batch, chunk)
    seconds_reading = (read * lm.dtype.itemsize + need.rings + need.ttt) / BYTES_PER_SECOND
    frames = batch * chunk
    return frames / max(seconds_reading, 2 * read * frames / OPERATIONS_PER_SECOND)
