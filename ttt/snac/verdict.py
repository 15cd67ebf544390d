"""From rows per clip to the statement: is our 48 kHz better than resampling?

LSD alone is won by noise: an untrained head that hisses has a lower LSD than clean resampling,
because LSD forgives any energy above 12 kHz. Hiss that starts above 12 kHz leaves LSD-LF, L1 and
SI-SDR as they were. So LSD never travels alone here, and better means: beyond what costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ttt.snac.evaluation.comparisons import (
    GUARDS,
    NOT_MEASURED,
    TRICKS,
    Comparison,
    Draws,
    Units,
    by_rule,
    compare_all,
    mean_interval,
    ratios_to_baseline,
    units_of,
)
from ttt.snac.evaluation.systems import (
    BASELINE,
    CEILING,
    FOLDING_HISS,
    HISS,
    METRIC_NAMES,
    OURS,
    OURS_24K,
    SILENCE,
    SYSTEM_NAMES,
    TRUE,
    ClipRow,
    with_tricks,
)
from ttt.snac.evaluation.trick_levels import FittedTricks, fit
from ttt.snac.evaluation.verdict_words import (
    closing_sentence,
    distance_sentence,
    faults,
    guard_sentence,
    trick_sentences,
)
from ttt.statistics.intervals import Interval

__all__ = [
    "BASELINE",
    "CEILING",
    "METRIC_NAMES",
    "OURS",
    "OURS_24K",
    "SILENCE",
    "SYSTEM_NAMES",
    "TRUE",
    "ClipRow",
    "Verdict",
    "check_metrics_together",
    "describe_interval",
    "judge",
    "summarize",
]


@dataclass(frozen=True)
class Verdict:
    """An honest sentence, and how it reads at a glance."""

    kind: Literal["good", "mixed", "bad"]
    heading: str
    sentences: tuple[str, ...]


def summarize(
    rows: Sequence[ClipRow],
    seed: int,
    resamples: int,
    *,
    speakers: Sequence[str | None] | None = None,
    fitted: FittedTricks | None = None,
) -> dict[str, Any]:
    """Means with intervals, ratios to the baseline, comparisons and the verdict, for JSON.

    Every clip counts once. A ratio is mean(ours) / mean(baseline) over the clips that have both.

    Args:
        rows: what `Evaluator.measure` gave, one per clip. Of several decoders, each fitted on
            clips of its own, `with_tricks` adds the levels of each before.
        speakers: one per clip; None, whole or for a clip, where that is unknown.
        fitted: the tricks' levels on the run's validation clips, from the export. The levels that
            are strongest on these rows are always judged too.
    """
    units = units_of([None] * len(rows) if speakers is None else speakers)
    draws = Draws(seed, resamples, units)
    here = fit(rows)
    rows = with_tricks(rows, fitted, here)
    comparisons = compare_all(rows, _judged_tricks(rows, fitted), draws)
    ratios = ratios_to_baseline(rows, draws)
    systems = [name for name in SYSTEM_NAMES if any(name in row for row in rows)]
    return {
        "systems": {
            system: {
                metric: mean_interval(rows, system, metric, draws).to_dict()
                for metric in METRIC_NAMES
            }
            for system in systems
        },
        "ratios_to_resampled_decode24": {name: ratio.to_dict() for name, ratio in ratios.items()},
        "comparisons": [comparison.to_dict() for comparison in comparisons],
        "tricks": {
            "validation": None if fitted is None else fitted.to_dict(),
            "here": None if here is None else here.to_dict(),
        },
        "units": units.to_dict(),
        "verdict": asdict(judge(ratios, comparisons, units)),
    }


def judge(
    ratios: Mapping[str, Interval],
    comparisons: Sequence[Comparison] = (),
    units: Units | None = None,
) -> Verdict:
    """The verdict from ours / resample(decode24) and from all that better needs.

    Better means that every comparison of `ttt.snac.evaluation.comparisons` holds. Raises
    ValueError when LSD would be judged without LSD-LF and L1 beside it.
    """
    check_metrics_together(ratios)
    if units is not None and units.refusal is not None:
        return Verdict("bad", "No verdict", (units.refusal,))
    lsd = ratios["lsd"]
    if lsd.mean is None or lsd.low is None or lsd.high is None:
        return Verdict("bad", "No verdict", (f"LSD has no interval: {lsd.reason}.",))
    about = "" if units is None or not units.one_speaker else ", for this speaker"
    sentences = (
        distance_sentence(lsd),
        *trick_sentences(comparisons),
        *(guard_sentence(each) for each in by_rule(comparisons, "guard")),
        *(() if units is None else (units.sentence,)),
    )
    if lsd.low > 1:
        return Verdict("bad", f"Worse than resampling{about}", sentences)
    if lsd.high >= 1:
        return Verdict("mixed", f"Not shown to be better than resampling{about}", sentences)
    failing = faults(comparisons)
    if failing:
        heading = f"Lower LSD than resampling, but {'; '.join(failing)}"
        return Verdict("mixed", heading, (*sentences, closing_sentence(comparisons)))
    return Verdict("good", f"Better than resampling{about}", sentences)


def check_metrics_together(metrics: Iterable[str]) -> None:
    """Raise ValueError when LSD or LSD-HF would be shown without LSD-LF and L1 beside it, or
    LSD-HF without its offset alone."""
    shown = set(metrics)
    if "lsd_hf_shape" in shown and "lsd_hf" not in shown:
        raise ValueError("LSD-HF without its offset does not see the level: show lsd_hf beside it")
    missing = sorted(set(GUARDS) - shown)
    if shown & {"lsd", "lsd_hf", "lsd_hf_shape"} and missing:
        raise ValueError(
            f"LSD is won by noise: show {' and '.join(missing)} beside it, or leave it out"
        )


def describe_interval(interval: Mapping[str, Any], digits: int = 3) -> str:
    """`0.612 [0.580, 0.655]`, or the mean and the word `no interval`, or why there is no mean."""
    if interval["mean"] is None:
        return NOT_MEASURED if interval.get("reason") == NOT_MEASURED else "–"
    mean = f"{interval['mean']:.{digits}f}"
    if interval["low"] is None:
        return f"{mean} (no interval)"
    return f"{mean} [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"


def _judged_tricks(rows: Sequence[ClipRow], fitted: FittedTricks | None) -> Sequence[str]:
    """Also where a grid is missing: what was not measured then holds for nothing."""
    return [
        trick
        for trick in TRICKS
        if fitted is not None or trick in (HISS, FOLDING_HISS) or any(trick in row for row in rows)
    ]


def digits(metric: str) -> int:
    """Decimals worth reading: L1 is small, decibels are coarse."""
    return {"l1": 4, "si_sdr": 2}.get(metric, 3)
