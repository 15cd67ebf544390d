"""Worlds whose truth is known, for `benchmarks.coverage`: what they draw, and what is true there.

A world draws the values of a run with a given number of independent units, as the project would
have measured them, together with the interval that the project would print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from benchmarks.recorded_rows import origin, recorded_rows
from ttt.eval.chapters.long_context import slope_interval, slope_weights
from ttt.snac.metrics import METRICS
from ttt.statistics.accuracies import (
    Weighing,
    accuracy_difference_interval,
    accuracy_interval,
    crossed_accuracy_interval,
)
from ttt.statistics.intervals import Floats, Interval, clustered_interval, clustered_ratio_interval

Clusters = Sequence[int]
Draw = Callable[[np.random.Generator, int], tuple[Interval, float]]
"""Draws a run of so many units: its interval, and how wide Student's t would be on it."""

RESAMPLES = 500
CHANCES = (0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
SIZES = (1, 2, 4, 10, 40)
CLIPS_HEARD, TIES, MISSING = 16, 0.1, 0.05


@dataclass(frozen=True)
class World:
    """One kind of interval on one kind of data."""

    interval: str
    """What the project prints; the worst world of each is reported."""
    data: str
    truth: float
    draw: Draw


def worlds(chances: Sequence[float] = CHANCES, sizes: Sequence[int] = SIZES) -> Iterator[World]:
    """All of them; fewer accuracies with fewer chances and sizes."""
    yield from _columns()
    yield from _ratios()
    yield from _differences()
    yield from _chapters()
    yield from _slopes()
    yield from _shares()
    yield from _accuracies(chances, sizes)
    yield from _accuracy_differences(sizes)
    yield from _preferences()


# Means, ratios and differences over clips.


def _columns() -> Iterator[World]:
    name = "a column's mean over clips"
    yield World(name, "normal", 2.0, _of_units(lambda rng, n: rng.normal(2, 0.5, n)))
    for spread in (0.5, 1.0):
        draw = partial(_log_normal, spread=spread)
        yield World(name, f"log-normal, {spread}", math.exp(spread**2 / 2), _of_units(draw))
    for metric in METRICS:
        rows = recorded_rows()[metric][:, 0]
        yield World(name, f"{origin()} {metric}", rows.mean(), _of_units(partial(_again, rows)))


def _ratios() -> Iterator[World]:
    name = "the verdict's ratio to resampling"

    def normal(rng: np.random.Generator, n: int) -> Floats:
        baseline = rng.normal(3, 0.6, n)
        return np.stack([0.8 * baseline + rng.normal(0, 0.3, n), baseline], axis=1)

    def log_normal(rng: np.random.Generator, n: int, clip: float, noise: float) -> Floats:
        baseline = rng.lognormal(0, clip, n)
        return np.stack([baseline * rng.lognormal(0, noise, n), baseline], axis=1)

    def speakers(rng: np.random.Generator, n: int) -> Floats:
        voices = rng.normal(0, [0.2, 0.4], (n, 1, 2))
        return np.exp(voices + rng.normal(0, [0.2, 0.3], (n, 20, 2))).reshape(-1, 2)

    yield World(name, "normal", 0.8, _of_units(normal))
    for clip, noise in ((0.5, 0.2), (0.5, 0.5), (1.0, 0.3)):
        truth = math.exp(noise**2 / 2)
        draw = partial(log_normal, clip=clip, noise=noise)
        yield World(name, f"log-normal, {clip} and {noise}", truth, _of_units(draw))
    for spread in (0.5, 1.0):
        draw = partial(_two_log_normal, spread=spread)
        yield World(name, f"two log-normal, {spread}", 1.0, _of_units(draw))
    truth = math.exp((0.2**2 + 0.2**2 - 0.4**2 - 0.3**2) / 2)
    yield World(name, "speakers with 20 clips each", truth, _of_units(speakers, size=20))
    for metric in ("lsd", "lsd_lf", "lsd_hf", "env_r", "l1"):
        rows = recorded_rows()[metric]
        truth = float(rows[:, 0].mean() / rows[:, 1].mean())
        yield World(name, f"{origin()} {metric}", truth, _of_units(partial(_again, rows)))


def _differences() -> Iterator[World]:
    name = "the verdict's paired difference"

    def of_two(rng: np.random.Generator, n: int) -> Floats:
        return np.diff(_two_log_normal(rng, n, 0.5), axis=1)[:, 0]

    def shifted(rng: np.random.Generator, n: int) -> Floats:
        baseline = rng.lognormal(0, 0.5, n)
        return baseline * rng.lognormal(0, 0.5, n) - baseline

    yield World(name, "normal", 0.0, _of_units(lambda rng, n: rng.normal(0, 0.5, n)))
    yield World(name, "two log-normal, 0.5", 0.0, _of_units(of_two))
    truth = math.exp(0.125) * math.expm1(0.125)
    yield World(name, "log-normal, 0.5 and 0.5", truth, _of_units(shifted))
    for metric in ("env_r", "si_sdr"):
        rows = -np.diff(recorded_rows()[metric], axis=1)[:, 0]
        yield World(name, f"{origin()} {metric}", rows.mean(), _of_units(partial(_again, rows)))


# Chapters: several a speaker, each with noise that lingers from frame to frame.

_LINGERS, _FRAME_NOISE = 0.3, 2.0


def _chapter_lengths(rng: np.random.Generator, n: int) -> tuple[Floats, list[int]]:
    """Frames of LibriLight-like chapters, and whose they are: one to five of each speaker."""
    speakers = np.repeat(np.arange(n), rng.integers(1, 6, n))
    frames = np.clip(rng.lognormal(math.log(10_500), 0.5, len(speakers)), 4_000, 40_000)
    return frames, speakers.tolist()


def _chapters() -> Iterator[World]:
    lingering = _FRAME_NOISE**2 * (1 + _LINGERS) / (1 - _LINGERS)

    def draw(
        rng: np.random.Generator, n: int, reader: float, book: float
    ) -> tuple[Interval, float]:
        frames, speakers = _chapter_lengths(rng, n)
        values = rng.normal(0, reader, n)[speakers] + rng.normal(0, book, len(frames))
        values += rng.normal(size=len(frames)) * np.sqrt(lingering / (frames - 3000))
        return _printed(values, np.ones(len(frames)), speakers)

    for data, reader, book in (
        ("losses", 0.2, 0.15), ("paired differences", 0.01, 0.02), ("no speaker's own", 0.0, 0.1)
    ):  # fmt: skip
        yield World(
            "chapters' mean, by speaker", data, 0.0, partial(draw, reader=reader, book=book)
        )


def _slopes() -> Iterator[World]:
    name = "slopes, weighted, by speaker"
    lingering = _FRAME_NOISE**2 * (1 + _LINGERS) / (1 - _LINGERS)

    def draw(
        rng: np.random.Generator, n: int, reader: float, book: float
    ) -> tuple[Interval, float]:
        frames, of_speaker = _chapter_lengths(rng, n)
        speakers, known = [str(speaker) for speaker in of_speaker], (frames - 3000) ** 3 / 12
        values = rng.normal(0, reader, n)[of_speaker] + rng.normal(0, book, len(frames))
        values += rng.normal(size=len(frames)) * np.sqrt(lingering / known)
        found = slope_interval(values.tolist(), known.tolist(), speakers)
        printed = Interval(**{edge: found[edge] for edge in ("mean", "low", "high", "n", "reason")})
        weights = slope_weights(known.tolist(), speakers)
        return printed, _t_width(weights * values, weights, np.asarray(of_speaker))

    for data, reader, book in (("noise alone", 0.0, 0.0), ("speakers differ", 1e-5, 3e-6)):
        yield World(name, data, 0.0, partial(draw, reader=reader, book=book))


def _shares() -> Iterator[World]:
    name = "share of the gain beyond the window"

    def normal(rng: np.random.Generator, n: int) -> Floats:
        beyond = rng.normal(0, 0.03, (n, 1)) + rng.normal(0.05, 0.07, (n, 3))
        within = rng.normal(0, 0.1, (n, 1)) + rng.normal(0.3, 0.12, (n, 3))
        return np.stack([beyond, beyond + within], axis=2).reshape(-1, 2)

    def skewed(rng: np.random.Generator, n: int) -> Floats:
        beyond, within = rng.lognormal(-3, 0.7, n * 3), rng.lognormal(-1.3, 0.5, n * 3)
        return np.stack([beyond, beyond + within], axis=1)

    yield World(name, "normal", 0.05 / 0.35, _of_units(normal, size=3))
    beyond, within = math.exp(-3 + 0.245), math.exp(-1.3 + 0.125)
    yield World(name, "log-normal", beyond / (beyond + within), _of_units(skewed, size=3))


# Accuracies.


def _accuracies(chances: Sequence[float], sizes: Sequence[int]) -> Iterator[World]:
    def draw(
        rng: np.random.Generator, n: int, chance: float, size: int, alike: float, weighing: Weighing
    ) -> tuple[Interval, float]:
        right = _beta(rng, chance, alike, n)
        pairs = np.full(n, size) if weighing == "clusters" else rng.integers(1, 2 * size, n)
        of_cluster = np.repeat(np.arange(n), pairs)
        outcomes = (rng.random(len(of_cluster)) < right[of_cluster]).astype(np.float64)
        printed = accuracy_interval(outcomes, of_cluster.tolist(), weighing, "word")
        return printed, _t_width(outcomes, np.ones_like(outcomes), of_cluster)

    for chance in chances:
        for size in sizes:
            for alike in (0.0, 0.2)[: 1 + (size > 1)]:
                data = f"p = {chance}, clusters of {size}, correlation {alike}"
                of_this = partial(draw, chance=chance, size=size, alike=alike)
                yield World("accuracy", data, chance, partial(of_this, weighing="clusters"))
                if size in (4, 40):
                    uneven = partial(of_this, weighing="values")
                    yield World("accuracy over pairs", f"{data} on average", chance, uneven)


def _accuracy_differences(sizes: Sequence[int]) -> Iterator[World]:
    def draw(
        rng: np.random.Generator, n: int, gained: float, lost: float, size: int, alike: float
    ) -> tuple[Interval, float]:
        changes = _beta(rng, gained + lost, alike, n)
        up = _beta(rng, gained / (gained + lost), alike, n) if gained + lost else changes
        of_cluster = np.repeat(np.arange(n), size)
        changed = rng.random(n * size) < changes[of_cluster]
        signs = np.where(rng.random(n * size) < up[of_cluster], 1.0, -1.0)
        differences = np.where(changed, signs, 0.0)
        printed = accuracy_difference_interval(differences, of_cluster.tolist(), "word")
        return printed, _t_width(differences, np.ones(n * size), of_cluster)

    for gained, lost in ((0, 0), (0.01, 0.0), (0.01, 0.02), (0.05, 0.05), (0.1, 0.02), (0.3, 0.1),
                         (0.3, 0.3), (0.5, 0.5), (0.9, 0.05), (1, 0)):  # fmt: skip
        for size in sizes:
            for alike in (0.0, 0.2)[: 1 + (size > 1)]:
                data = f"+{gained} -{lost}, clusters of {size}, correlation {alike}"
                of_this = partial(draw, gained=gained, lost=lost, size=size, alike=alike)
                yield World("difference of accuracies", data, gained - lost, of_this)


def _preferences() -> Iterator[World]:
    """Listeners who all hear the same 16 clips and differ in taste, as the clips do."""

    def draw(
        rng: np.random.Generator, n: int, leaning: float, taste: float, clip: float
    ) -> tuple[Interval, float]:
        leans = leaning + rng.normal(0, taste, (n, 1)) + rng.normal(0, clip, (1, CLIPS_HEARD))
        prefers = (rng.random(leans.shape) < 1 / (1 + np.exp(-leans))).astype(np.float64)
        prefers[rng.random(leans.shape) < TIES] = 0.5
        heard = rng.random(leans.shape) >= MISSING
        listeners, clips = np.nonzero(heard)
        crossed = listeners.tolist(), clips.tolist(), ("listener", "clip")
        printed = crossed_accuracy_interval(prefers[heard], *crossed)
        return printed, _t_width(prefers[heard], np.ones(len(clips)), listeners)

    points, weights = np.polynomial.hermite_e.hermegauss(201)
    for leaning in (0.0, 1.0, 2.5):
        for taste, clip in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (2.5, 0.5), (0.5, 2.5)):
            leans = leaning + math.hypot(taste, clip) * points
            share = float(weights @ (1 / (1 + np.exp(-leans))) / weights.sum())
            truth = (1 - TIES) * share + TIES / 2
            data = f"leaning {leaning}, tastes {taste}, clips {clip}"
            of_this = partial(draw, leaning=leaning, taste=taste, clip=clip)
            yield World("preference, by listener and 16 clips", data, truth, of_this)


def _beta(rng: np.random.Generator, chance: float, alike: float, n: int) -> Floats:
    """Chances of n clusters whose members are `alike` (their correlation), `chance` on average."""
    if alike == 0 or chance in (0, 1):
        return np.full(n, float(chance))
    rest = (1 - alike) / alike
    return rng.beta(chance * rest, (1 - chance) * rest, n)


# The drawing.


def _of_units(values: Callable[[np.random.Generator, int], Floats], size: int = 1) -> Draw:
    """Means of drawn values [n * size], or ratios of pairs [n * size, 2], `size` a unit."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Interval, float]:
        drawn = values(rng, n)
        first, second = (drawn, np.ones(len(drawn))) if drawn.ndim == 1 else drawn.T
        return _printed(first, second, np.repeat(np.arange(n), size).tolist())

    return draw


def _printed(values: Floats, baseline: Floats, clusters: Clusters) -> tuple[Interval, float]:
    width = _t_width(values, baseline, np.asarray(clusters))
    if (baseline == 1).all():
        return clustered_interval(values, clusters, 0, RESAMPLES, "unit"), width
    return clustered_ratio_interval(values, baseline, clusters, 0, RESAMPLES, "unit"), width


def _t_width(values: Floats, baseline: Floats, clusters: np.ndarray) -> float:
    """How wide the textbook's interval is: t with n - 1 degrees on what each cluster adds."""
    ratio = values.sum() / baseline.sum()
    adds = np.bincount(clusters, weights=values - ratio * baseline)
    n = len(adds)
    return 2 * _t(n - 1) * float(np.sqrt(n / (n - 1) * (adds**2).sum())) / abs(baseline.sum())


@cache
def _t(degrees: int) -> float:
    from scipy.stats import t  # Not the project's own, which is on trial.

    return float(t.ppf(0.975, degrees))


def _log_normal(rng: np.random.Generator, n: int, spread: float) -> Floats:
    return rng.lognormal(0, spread, n)


def _two_log_normal(rng: np.random.Generator, n: int, spread: float) -> Floats:
    return rng.lognormal(0, spread, (n, 2))


def _again(rows: Floats, rng: np.random.Generator, n: int) -> Floats:
    return rows[rng.integers(0, len(rows), n)]
