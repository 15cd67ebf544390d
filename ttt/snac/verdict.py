"""From rows per clip to the statement: is our 48 kHz better than resampling?

LSD alone is won by noise: an untrained head that hisses has a lower LSD than clean resampling,
because LSD forgives any energy above 12 kHz. So LSD never travels alone here: below 12 kHz
(LSD-LF) and in the waveform (L1) our output must stay as close to the truth as resampling is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ttt.stats import Interval, bootstrap_interval, ratio_interval

TRUE = "true_48k"
"""The truth itself; it has no row, but is seen and heard."""
OURS = "ours_48k"
OURS_24K = "ours_24k_tuned_resampled"
BASELINE = "resampled_decode24"
CEILING = "resampled_true24"
SILENCE = "silence"
"""No audio at all; not shown, but it tells which guard cannot fail."""

SYSTEM_NAMES = {
    OURS: "Ours, 48 kHz",
    OURS_24K: "Ours, tuned 24 kHz output, resampled",
    BASELINE: "Untouched codec at 24 kHz, resampled",
    CEILING: "True audio at 24 kHz, resampled",
}
"""Every row of a result table, in its order: key -> words."""

METRIC_NAMES = {
    "lsd": "LSD",
    "lsd_lf": "LSD-LF",
    "lsd_hf": "LSD-HF",
    "env_r": "env-r",
    "si_sdr": "SI-SDR (dB)",
    "l1": "L1",
}
"""Every column: key -> words. All fall as audio improves, except env-r and SI-SDR, which rise."""

GUARDS = {"lsd_lf": 1.02, "l1": 1.01}
"""How far above resampling's (as a ratio) these may lie before a lower LSD counts for nothing."""

ClipRow = Mapping[str, Mapping[str, float | None]]
"""Of one clip: system -> metric -> value; None where it is undefined (SI-SDR of silence)."""


@dataclass(frozen=True)
class Verdict:
    """An honest sentence, and how it reads at a glance."""

    kind: Literal["good", "mixed", "bad"]
    heading: str
    sentences: tuple[str, ...]


def summarize(rows: Sequence[ClipRow], seed: int, resamples: int) -> dict[str, Any]:
    """Means with intervals, ratios to the baseline and the verdict, for JSON.

    Every clip counts once. A ratio is mean(ours) / mean(baseline) over the clips that have both.
    """
    systems = [name for name in SYSTEM_NAMES if any(name in row for row in rows)]
    ratios = {
        metric: ratio_interval(*_pairs(rows, metric), seed, resamples)
        for metric in ("lsd", "lsd_lf", "lsd_hf", "l1")
    }
    return {
        "systems": {
            system: {
                metric: bootstrap_interval(_values(rows, system, metric), seed, resamples).to_dict()
                for metric in METRIC_NAMES
            }
            for system in systems
        },
        "ratios_to_resampled_decode24": {name: value.to_dict() for name, value in ratios.items()},
        "verdict": asdict(judge(ratios)),
    }


def judge(ratios: Mapping[str, Interval]) -> Verdict:
    """The verdict on ours / resample(decode24); ratios below 1 favour ours.

    Better means: the whole interval of LSD's ratio lies below 1 and both guards hold.
    """
    check_metrics_together(ratios)
    lsd = ratios["lsd"]
    if lsd.mean is None or lsd.low is None or lsd.high is None:
        return Verdict("bad", "No verdict", (f"LSD has no interval: {lsd.reason}.",))
    sentences = (_compared("LSD", lsd), *(_guard(name, ratios[name]) for name in GUARDS))
    broken = [METRIC_NAMES[name] for name in GUARDS if not _holds(name, ratios[name])]
    if lsd.low > 1:
        return Verdict("bad", "Worse than resampling", sentences)
    if lsd.high >= 1:
        return Verdict("mixed", "Not shown to be better than resampling", sentences)
    if broken:
        heading = f"Lower LSD than resampling, but {' and '.join(broken)} got worse"
        noise = "LSD alone is won by noise, so this does not count as better."
        return Verdict("mixed", heading, (*sentences, noise))
    return Verdict("good", "Better than resampling", sentences)


def check_metrics_together(metrics: Iterable[str]) -> None:
    """Raise ValueError when LSD or LSD-HF would be shown without LSD-LF and L1 beside it."""
    shown = set(metrics)
    missing = sorted(set(GUARDS) - shown)
    if shown & {"lsd", "lsd_hf"} and missing:
        raise ValueError(
            f"LSD is won by noise: show {' and '.join(missing)} beside it, or leave it out"
        )


def describe_interval(interval: Mapping[str, Any], digits: int = 3) -> str:
    """`0.612 [0.580, 0.655]`, or the mean and the word `no interval`, or a dash."""
    if interval["mean"] is None:
        return "–"
    mean = f"{interval['mean']:.{digits}f}"
    if interval["low"] is None:
        return f"{mean} (no interval)"
    return f"{mean} [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"


def _compared(name: str, ratio: Interval) -> str:
    return (
        f"{name} is {ratio.mean:.3f} times that of the untouched codec's output resampled "
        f"(95 % interval {ratio.low:.3f} to {ratio.high:.3f}, {ratio.n} clips)."
    )


def _guard(metric: str, ratio: Interval) -> str:
    name, limit = METRIC_NAMES[metric], GUARDS[metric]
    if ratio.mean is None or ratio.high is None:
        return f"{name} cannot be compared ({ratio.reason}), so it does not hold."
    if not _holds(metric, ratio):
        return f"{name} does not hold: {ratio.mean:.3f} times resampling's, the limit is {limit}."
    doubt = "" if ratio.high <= limit else f", though its interval reaches {ratio.high:.3f}"
    return f"{name} holds: {ratio.mean:.3f} times resampling's, the limit is {limit}{doubt}."


def _holds(metric: str, ratio: Interval) -> bool:
    return ratio.mean is not None and ratio.high is not None and ratio.mean <= GUARDS[metric]


def _values(rows: Sequence[ClipRow], system: str, metric: str) -> list[float]:
    values = [row[system].get(metric) for row in rows if system in row]
    return [value for value in values if value is not None and math.isfinite(value)]


def _pairs(rows: Sequence[ClipRow], metric: str) -> tuple[list[float], list[float]]:
    pairs = [(row[OURS][metric], row[BASELINE][metric]) for row in rows]
    kept = [
        (ours, baseline)
        for ours, baseline in pairs
        if ours is not None
        and baseline is not None
        and math.isfinite(ours)
        and math.isfinite(baseline)
    ]
    return [ours for ours, _ in kept], [baseline for _, baseline in kept]
