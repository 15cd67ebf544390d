"""How often a planted slope is found, and how often its interval holds it: old weights and new.

    python -m benchmarks.slopes [--quick]

Chapters are as long as LibriLight's (mean 11,900 frames, log-normal), the loss has the noise of a
semantic code (standard deviation 2 nats, lag-one correlation 0.3), and a speaker may have a slope
of its own around the planted one. Slopes are drawn, not fitted: what least squares makes of such
noise has a known variance, and tests/benchmarks/test_slopes.py holds the draws to fitted ones.

power     the planted -1e-5 nats per frame with 30 speakers: share of runs whose interval lies
          below 0, with every chapter weighing the same and with `ttt.eval.chapters.long_context`
coverage  of the new intervals, 5 to 30 speakers, one chapter of each, three, or a number that
          differs by speaker, without speakers' own slopes and with small and large ones
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ttt.eval.chapters.long_context import slope_interval
from ttt.eval.config import LongContextConfig
from ttt.statistics.intervals import clustered_interval

CONTEXT, MEAN_FRAMES, SPREAD = 3000, 11_900, 0.7
DEVIATION, CORRELATION = 2.0, 0.3
PLANTED = -1e-5
LEAST = LongContextConfig().min_slope_frames
OWN_SLOPES = (0.0, 1e-5, 1e-4)
"""Standard deviations of speakers' slopes, nats per frame."""
MIXED = 0
"""In place of chapters per speaker: a number that differs, 3.3 in the mean."""

Floats = npt.NDArray[np.float64]
Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class Slopes:
    """Chapters that are long enough: slope, information and speaker of each."""

    slopes: Floats
    information: Floats
    speakers: list[str]


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    rounds = 200 if parser.parse_args().quick else 2000
    print(f"power: {PLANTED:g} per frame, 30 speakers, {rounds // 4} runs   reach >= 0.95")
    print("chapters  own slopes   every chapter alike   weighted   median width")
    for chapters, own in product((1, 3, MIXED), (0.0, 1e-5)):
        shares, widths = [], []
        for interval in (alike, weighted):
            found = list(intervals(interval, 30, chapters, own, rounds // 4))
            shares.append(np.mean([high < 0 for _, high in found]))
            widths.append(np.median([high - low for low, high in found]))
        print(f"{_named(chapters):8s}  {own:10g}   {shares[0]:19.3f}   {shares[1]:8.3f}   "
              f"{widths[0]:.1e} and {widths[1]:.1e}")  # fmt: skip
    print(f"\ncoverage of 95 % intervals, {rounds:,} runs each   reach >= 0.92, 0.90 at 5")
    print("speakers  chapters  " + "  ".join(f"own {own:g}" for own in OWN_SLOPES))
    worst: dict[int, float] = {}
    for speakers, chapters in product((5, 8, 12, 30), (1, 3, MIXED)):
        shares = [coverage(speakers, chapters, own, rounds) for own in OWN_SLOPES]
        worst[speakers] = min([worst.get(speakers, 1.0), *shares])
        print(f"{speakers:8d}  {_named(chapters):8s}  " + "  ".join(f"{s:.3f}" for s in shares))
    print("worst: " + ", ".join(f"{share:.3f} at {n} speakers" for n, share in worst.items()))
    return 0


def coverage(speakers: int, chapters: int, own: float, rounds: int) -> float:
    """The share of runs whose interval holds the planted slope."""
    found = list(intervals(weighted, speakers, chapters, own, rounds))
    return float(np.mean([low <= PLANTED <= high for low, high in found]))


def intervals(
    interval: Callable[[Slopes], Ends], speakers: int, chapters: int, own: float, rounds: int
) -> Iterator[tuple[float, float]]:
    """The ends in so many runs; a run left with too few long chapters has none and is drawn anew.

    Seeded by the cell: both ways of weighing see the same runs.
    """
    generator = np.random.default_rng([speakers, chapters, round(own * 1e6)])
    done = 0
    while done < rounds:
        low, high = interval(draw(generator, speakers, chapters, own))
        if low is not None and high is not None:
            done += 1
            yield low, high


def alike(run: Slopes) -> Ends:
    """Every chapter weighs the same; speakers resampled. What 8b30563 did."""
    found = clustered_interval(run.slopes, run.speakers, seed=0, resamples=1000, unit="speaker")
    return found.low, found.high


def weighted(run: Slopes) -> Ends:
    """As summaries have it."""
    found = slope_interval(run.slopes.tolist(), run.information.tolist(), run.speakers)
    return found["low"], found["high"]


def draw(generator: np.random.Generator, speakers: int, chapters: int, own: float) -> Slopes:
    """The slopes of one evaluation."""
    if chapters == MIXED:
        counts = generator.geometric(0.3, speakers)
    else:
        counts = np.full(speakers, chapters)
    who = np.repeat(np.arange(speakers), counts)
    centre = math.log(MEAN_FRAMES) - SPREAD**2 / 2
    beyond = np.floor(generator.lognormal(centre, SPREAD, len(who))) - CONTEXT
    information = beyond * (beyond**2 - 1) / 12
    speakers_own = generator.normal(0, own, speakers)[who]
    kept = beyond >= LEAST
    noise = slope_deviation(information[kept]) * generator.normal(size=int(kept.sum()))
    return Slopes(
        PLANTED + speakers_own[kept] + noise,
        information[kept],
        [str(name) for name in who[kept]],
    )


def slope_deviation(information: Floats) -> Floats:
    """Of a least-squares slope, over frames enough that their correlation has died away."""
    drawn_out = (1 + CORRELATION) / (1 - CORRELATION)
    return DEVIATION * np.sqrt(drawn_out / information)


def _named(chapters: int) -> str:
    return "mixed" if chapters == MIXED else str(chapters)


if __name__ == "__main__":
    raise SystemExit(main())
