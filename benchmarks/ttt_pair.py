"""What a pair of tiny models shows of memory beyond the window: effect, null control, start-up.

    python -m benchmarks.ttt_pair [--pair FOLDER] [--ttt EXPORT] [--chapters 240] [--frames 4096]
                                  [--first-seed 2000000]
    python -m benchmarks.ttt_pair --heads BASE

FOLDER holds `baseline` and `ttt`, as ttt/assets/tiny_moshi_pair does, which is heard unless
another is named; `ttt` may have a base model of its own, or EXPORT be heard in its place, in the
folder's baseline. Both hear fresh chapters of the pair's language (`ttt.moshi.tiny_pair`), with
tables and without structure. The differences ttt - baseline are paired by chapter; intervals hold
95 % and resample chapters, which are independent: each has a table of its own.

The table is of the semantic code, in bins of frames. The effect is Moshi's weighted loss from the
window's end to frame 512, as `evaluate_chapters --config configs/chapters_effect.yaml` prints it.

`--heads` says what a base model's heads can say at all: the semantic loss of each answer with the
best hidden state that gradient descent finds, from many starts, where the last norm begins. Layers
that are trained while the base is frozen cannot do better than the best there is.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

os.environ.setdefault("NO_TORCH_COMPILE", "1")

import numpy as np
import numpy.typing as npt
import torch
from moshi.models.lm import LMModel
from torch.nn import functional as F

from ttt.codebook_weights import mixture
from ttt.moshi.load import load_moshi
from ttt.moshi.streaming.evaluate import evaluate_codes
from ttt.moshi.streaming.heads import audio_logits
from ttt.moshi.tiny_pair import ASSET, LANGUAGE
from ttt.moshi.ttt_files import load_ttt
from ttt.statistics.intervals import Interval, difference_interval
from ttt.synthetic.chapters import synthetic_chapter

TOGETHER = 24
"""Chapters heard in one batch."""
FIRST_SEED = 2_000_000
"""Of chapters that no training and no choice between trainings has met."""
EFFECT_REACH, NULL_REACH, SETTLED_REACH, STARTUP_REACH = -0.946, 0.002, 0.0005, 0.0485
NULL_FROM, SETTLED, SHOWN = 64, (32, 512), 512
STARTUP = 16, 32
"""The second round, in which the layers find out whether their chapter has a table."""

Losses = npt.NDArray[np.float64]
"""[chapters, 2, frames] nats: the semantic code's, and Moshi's weighted mean."""
Frames = tuple[int, int]
Structure = Literal["table", "none"]


def main() -> None:
    """Print the table, and what of it was to be reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pair", type=Path, default=ASSET, help="folder with baseline and ttt")
    parser.add_argument("--ttt", type=Path, help="TTT layers in place of the folder's")
    parser.add_argument("--chapters", type=int, default=240)
    parser.add_argument("--frames", type=int, default=4096)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="of the chapters")
    parser.add_argument("--heads", type=Path, help="a base model, whose heads are asked instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.heads is not None:
        found = best_answers(load_moshi(str(arguments.heads), dtype="float32").lm)
        print(f"best loss found by answer: {', '.join(f'{each:.4f}' for each in found.tolist())}")
        print(f"mean {found.mean():.4f}; a uniform guess pays {math.log(LANGUAGE.cues):.4f}")
        return
    pair = load_pair(arguments.pair, arguments.ttt)
    drawn = Drawn(arguments.chapters, arguments.frames, arguments.first_seed)
    for line in report(*pair, drawn):
        print(line, flush=True)


def load_pair(folder: Path, export: Path | None = None) -> tuple[LMModel, LMModel]:
    """The baseline of a folder, and the model with its TTT layers, or with those of an export.

    Raises UserError where there is none, or the layers are another base model's.
    """
    baseline, layers = folder / "baseline", export or folder / "ttt"
    own_base = export is None and (layers / "model.safetensors").exists()
    ttt = load_moshi(str(layers if own_base else baseline), dtype="float32").lm
    load_ttt(ttt, layers)
    return load_moshi(str(baseline), dtype="float32").lm, ttt


class Drawn(NamedTuple):
    """The chapters of each kind that are heard."""

    chapters: int
    frames: int
    first_seed: int = FIRST_SEED


def report(baseline: LMModel, ttt: LMModel, drawn: Drawn) -> Iterator[str]:
    """The lines of the table and of the targets."""
    chapters, frames = drawn.chapters, drawn.frames
    structures: tuple[Structure, ...] = "table", "none"
    found = {each: (losses(ttt, each, drawn), losses(baseline, each, drawn)) for each in structures}
    yield f"{chapters} chapters of {frames:,} frames of each kind, ttt - baseline, semantic nats"
    yield f"{'frames':>11}  {'table':^30}  {'no structure':^30}"
    for bin_ in bins(frames):
        columns = [in_words(difference(*found[name], bin_)) for name in structures]
        yield f"{bin_[0]:5}-{bin_[1]:<5}  {columns[0]:^30}  {columns[1]:^30}"
    window = int(baseline.context or 0)
    effect = difference(*found["table"], (window, min(SHOWN, frames)), weighted=True)
    yield f"effect, weighted, {window}-{SHOWN}: {in_words(effect)} (reach <= {EFFECT_REACH})"
    late = [difference(*found["none"], each) for each in bins(frames) if each[0] >= NULL_FROM]
    if late:
        worst = max(late, key=reach_of)
        yield (
            f"null control, the bin from {NULL_FROM} on that is farthest from 0: {in_words(worst)} "
            f"(reach within +-{NULL_REACH}, by the interval)"
        )
    settled = difference(*found["none"], (SETTLED[0], min(SETTLED[1], frames)))
    yield f"null control, {SETTLED[0]}-{SETTLED[1]}: {in_words(settled)} (reach < {SETTLED_REACH})"
    unavoidable = math.log(2) / LANGUAGE.round_frames
    yield (
        f"start-up, {STARTUP[0]}-{STARTUP[1]}: {in_words(difference(*found['none'], STARTUP))} "
        f"(reach <= {STARTUP_REACH}; {unavoidable:.4f} is unavoidable)"
    )


def losses(lm: LMModel, structure: Structure, drawn: Drawn) -> Losses:
    """Hear the chapters, as chapters are evaluated."""
    language = dataclasses.replace(LANGUAGE, structure=structure)
    parts = []
    end = drawn.first_seed + drawn.chapters
    for first in range(drawn.first_seed, end, TOGETHER):
        seeds = range(first, min(first + TOGETHER, end))
        codes = np.stack([synthetic_chapter(language, seed, drawn.frames) for seed in seeds])
        heard = evaluate_codes(
            lm, torch.from_numpy(codes), text_stream="pad", other_stream="masked", chunk=64
        ).nll.double()
        shares = torch.tensor(mixture("moshi", heard.shape[1]), dtype=torch.float64)
        weighted = (heard * shares[:, None]).sum(dim=1)
        parts.append(torch.stack([heard[:, 0], weighted], dim=1).numpy())
    return np.concatenate(parts)


def best_answers(lm: LMModel, starts: int = 64, steps: int = 400) -> npt.NDArray[np.float32]:
    """[cues] the semantic loss of each answer with the best hidden state found for it."""
    lm.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    answers = torch.arange(LANGUAGE.cues).repeat_interleave(starts)
    hidden = torch.randn(len(answers), 1, lm.dim, generator=generator).requires_grad_()
    # Of what the depformer is told, the semantic code depends on the text alone.
    told = torch.full((len(answers), lm.num_codebooks, 1), 0)
    told[:, 0] = lm.text_padding_token_id
    optimizer = torch.optim.Adam([hidden], lr=0.05)
    loss = torch.empty(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        logits = audio_logits(lm, told, lm.out_norm(hidden))[:, 0, 0]
        loss = F.cross_entropy(logits, LANGUAGE.cues + answers, reduction="none")
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    return loss.detach().view(LANGUAGE.cues, starts).amin(dim=1).numpy()


def difference(
    ttt: Losses, baseline: Losses, frames: Frames, *, weighted: bool = False
) -> Interval:
    """The mean of ttt - baseline over a stretch of frames, over chapters."""
    kind, place = int(weighted), slice(*frames)
    means = (each[:, kind, place].mean(axis=1) for each in (ttt, baseline))
    return difference_interval(*means, seed=0)


def bins(frames: int) -> list[Frames]:
    """The window's end to the second round, and then doubling, as far as chapters go."""
    edges = [4, 16]
    while edges[-1] < frames:
        edges.append(min(2 * edges[-1], frames))
    return [*itertools.pairwise(edges)]


def reach_of(interval: Interval) -> float:
    """How far from 0 an interval reaches."""
    return max(abs(end) if end is not None else math.inf for end in (interval.low, interval.high))


def in_words(interval: Interval) -> str:
    """A difference with its interval."""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.4f} ({interval.reason})"
    return f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


if __name__ == "__main__":
    main()
