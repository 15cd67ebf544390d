"""How fast Moshi listens to a chapter, exactly.

    python -m benchmarks.moshi_stream [--quick]

On a GPU: `python -m benchmarks.gpu`.

Frames per second of CPU time, one thread: `evaluate_codes` against two others, all with the loss of
every code.

    stepping   the published generator a step at a time, its depformer codebook after codebook
               (`tests.oracles.reference`): how the package is used, and its first frames, whose
               rings are empty
    chunks     the published modules driven as well as they allow (`benchmarks.moshi_peer`): known
               text in chunks over wide rings, own text a step at a time, the depformer parallel

Rounds of the three alternate; speeds are medians over rounds, ratios medians of the rounds' ratios.
The models are random, so how well their text is guessed says nothing about the
trained one; a bias on the padding token sets how often the text is padding.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("NO_TORCH_COMPILE", "1")

import torch
from moshi.models.lm import LMModel
from torch import Tensor

from benchmarks import moshi_peer
from tests.oracles.reference import step_by_step
from ttt.layers import TTTConfig
from ttt.moshi import ChapterNLL, evaluate_codes, insert_ttt, tiny_lm
from ttt.moshi.streaming.delays import ZERO_TOKEN
from ttt.moshi.streaming.evaluate import negative_log_likelihood

CARD = 2048
CHUNK = 64


@dataclasses.dataclass(frozen=True)
class Size:
    """The shape of one random model."""

    name: str
    dim: int
    layers: int
    heads: int
    depformer_dim: int
    depformer_layers: int
    context: int

    def build(self, with_ttt: bool, padding_bias: float = 0.0, seed: int = 0) -> LMModel:
        """The model; TTT-MLP sits in the middle half of its layers."""
        lm = tiny_lm(
            context=self.context,
            dim=self.dim,
            num_layers=self.layers,
            num_heads=self.heads,
            card=CARD,
            depformer_dim=self.depformer_dim,
            depformer_layers=self.depformer_layers,
            padding_bias=padding_bias,
        )
        if with_ttt:
            torch.manual_seed(seed)  # The layers are drawn, and a figure must be one to come again.
            middle = range(self.layers // 4, self.layers // 4 + self.layers // 2)
            insert_ttt(lm, middle, TTTConfig(dim=self.dim, num_heads=self.heads))
        return lm


TINY = Size("tiny", 128, 4, 4, 64, 2, 250)
MID = Size("mid", 512, 8, 8, 256, 4, 500)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is listened to, and by what factor the goal is to beat stepping."""

    size: Size
    text: str
    """own, or pad."""
    padding_rate: float | None
    """Share of own text that should be padding."""
    reach: float
    """The ratio to reach without TTT."""
    reach_with_ttt: float | None = None
    """With TTT-MLP in half of the layers; None: none was set."""


CASES = (
    Case(TINY, "own", 0.65, 8, 18),
    Case(TINY, "own", 0.9, 14),
    Case(TINY, "pad", None, 40, 45),
    Case(MID, "pad", None, 9),
)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description="How fast Moshi listens to a chapter.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "model  TTT   text  padding  stepping/s  chunks/s  frames/s  to stepping  reach  "
        "to chunks  kept  loss differences"
    )
    for with_ttt in (False, True):
        for case in CASES:
            print(measure(case, with_ttt, arguments.quick), flush=True)


def measure(case: Case, with_ttt: bool, quick: bool) -> str:
    """One line of the table."""
    slow = 12 if case.size is MID else 40
    fast = 256 if case.size is MID else 1280
    rounds = 5 if quick else 11
    lm = case.size.build(with_ttt, _bias_for(case, with_ttt))
    codes = random_codes(fast)

    def by_chunk() -> ChapterNLL:
        return evaluate_codes(lm, codes, text_stream=case.text, chunk=CHUNK)

    own = case.text == "own"
    some = fast // 4 if own else fast

    def peer() -> tuple[Tensor, Tensor]:
        return moshi_peer.listen(lm, codes[:, :, :some], own_text=own, chunk=CHUNK)

    speeds, result, (_, nll) = [], by_chunk(), peer()
    # The last frame of a part is told another text than it is within the whole.
    apart = (nll - result.nll[:, :, :some])[:, :, :-1].abs().max().item()
    _step(lm, codes[:, :, :slow])
    for _ in range(rounds):
        stepping = slow / _cpu_seconds(lambda: _step(lm, codes[:, :, :slow]))
        chunks = some / _cpu_seconds(peer)
        speeds.append((stepping, chunks, fast / _cpu_seconds(by_chunk)))
    ratio = statistics.median(quicker / slower for slower, _, quicker in speeds)
    to_chunks = statistics.median(quicker / slower for _, slower, quicker in speeds)
    padding = (result.text == lm.text_padding_token_id).float().mean().item()
    stepping, chunks, frames = (statistics.median(column) for column in zip(*speeds, strict=True))
    reach = case.reach_with_ttt if with_ttt else case.reach
    goal = "" if reach is None else f"{reach:g}"
    return (
        f"{case.size.name:5}  {'half' if with_ttt else '-':4}  {case.text:4}  {padding:7.2f}  "
        f"{stepping:10.1f}  {chunks:8.0f}  {frames:8.0f}  {ratio:11.1f}  {goal:>5}  "
        f"{to_chunks:9.2f}  {result.acceptance:4.2f}  {_difference(lm, quick):.1e} {apart:.1e}"
    )


def _difference(lm: LMModel, quick: bool) -> float:
    """The largest difference in nats between stepping and chunks, own text; quick: one window."""
    frames = int((1.1 if quick else 3.1) * (lm.context or 0))
    codes = random_codes(frames)
    text, nll = _step(lm, codes)
    chunked = evaluate_codes(lm, codes, chunk=CHUNK)
    if not torch.equal(chunked.text, text):
        raise RuntimeError("the text differs from stepping")
    return (chunked.nll - nll).abs().max().item()


def _step(lm: LMModel, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Own text and NLL of codes [1, 8, T] a step at a time, the other voice silent."""
    codes = codes.long()
    stepped = step_by_step(lm, torch.cat([codes, torch.full_like(codes, ZERO_TOKEN)], dim=1))
    return stepped.text, negative_log_likelihood(stepped.audio_logits, codes)


def _bias_for(case: Case, with_ttt: bool) -> float:
    """The bias on the padding token that gives the case's padding rate, by bisection."""
    if case.padding_rate is None:
        return 0.0
    low, high = 0.0, 8.0
    for _ in range(8):
        middle = (low + high) / 2
        lm = case.size.build(with_ttt, middle)
        text = evaluate_codes(lm, random_codes(600), chunk=CHUNK).text
        rate = (text == lm.text_padding_token_id).float().mean().item()
        low, high = (middle, high) if rate < case.padding_rate else (low, middle)
    return (low + high) / 2


def random_codes(frames: int) -> Tensor:
    """The same random chapter each time [1, 8, frames]."""
    draw = torch.Generator().manual_seed(5)
    return torch.randint(CARD, (1, 8, frames), generator=draw, dtype=torch.int16)


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
