"""The verdict's sentences: every comparison with its interval, and what fails by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttt.snac.evaluation.comparisons import TRICKS, Comparison, by_rule
from ttt.snac.evaluation.systems import (
    FOLDING_HISS,
    FOLDING_HISS_BEFORE,
    HISS,
    HISS_BEFORE,
    METRIC_NAMES,
)
from ttt.snac.evaluation.trick_levels import FittedTricks
from ttt.statistics.intervals import Interval

_TRICK_WORDS = {
    HISS_BEFORE: "hiss at the level from validation",
    FOLDING_HISS_BEFORE: "folding + hiss at the levels from validation",
    HISS: "hiss at its best level on these clips",
    FOLDING_HISS: "folding + hiss at their best levels on these clips",
}


def distance_sentence(ratio: Interval) -> str:
    """LSD against resampling; the ratio has an interval."""
    return (
        f"LSD is {ratio.mean:.3f} times that of the untouched codec's output resampled "
        f"(95 % interval {ratio.low:.3f} to {ratio.high:.3f}, {ratio.n} clips)."
    )


def trick_sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """One for each cheap trick that ours was compared with."""
    sentences = []
    for trick in TRICKS:
        parts = [
            _trick_part(each)
            for role in ("when", "how much")
            for each in by_rule(comparisons, role, trick)
        ]
        if parts:
            sentences.append(f"Against {_TRICK_WORDS[trick]}: {'; '.join(parts)}.")
    return sentences


def guard_sentence(guard: Comparison) -> str:
    """Whether a guard holds, by how much, and whether it could have failed."""
    name = METRIC_NAMES[guard.rule.metric].removesuffix(" (dB)")
    found, limit = guard.interval, guard.rule.limit
    if found.mean is None:
        return f"{name} cannot be compared ({found.reason}), so it does not hold."
    holds = "holds" if guard.holds else "does not hold"
    if guard.rule.as_ratio:
        size = f"{found.mean:.3f} times resampling's {_ends(found)}"
        sentence = f"{name} {holds}: {size}, the upper end may reach {limit}."
    else:
        size = f"{found.mean:+.2f} dB against resampling's {_ends(found, 2)}"
        sentence = f"{name} {holds}: {size}, the lower end may reach {limit:g} dB."
        if guard.theirs is not None and guard.theirs < 0:
            sentence += (
                f" At {guard.theirs:.1f} dB resampling does not follow the waveform either, so "
                "little follows from this guard here."
            )
    if guard.silence_holds is None:
        return f"{sentence} Whether silence would pass was not measured."
    if guard.silence_holds and guard.holds:
        return f"{sentence} Silence passes it on these clips too, so it guards little here."
    if guard.silence_holds:
        return f"{sentence} Silence would pass it on these clips."
    return sentence


def faults(comparisons: Sequence[Comparison]) -> list[str]:
    """What keeps a lower LSD from counting as better, for the heading; empty when nothing does."""
    found = [*_trick_faults(comparisons)]
    guards = [each for each in by_rule(comparisons, "guard") if not each.holds]
    worse = [each for each in guards if _is_worse(each)]
    unshown = [each for each in guards if not _is_worse(each)]
    if worse:
        found.append(f"{_names(worse)} got worse")
    if unshown:
        found.append(f"{_names(unshown)} {'is' if len(unshown) == 1 else 'are'} not shown to hold")
    return found


def closing_sentence(comparisons: Sequence[Comparison]) -> str:
    """Why a lower LSD does not count, where something else fails."""
    waveform = [each for each in by_rule(comparisons, "guard") if each.rule.metric == "si_sdr"]
    if comparisons and all(each.holds for each in comparisons if each not in waveform):
        return "Better needs every guard to hold, so this does not count as better."
    return "LSD alone is won by noise, so this does not count as better."


def level_notes(tricks: Mapping[str, Any]) -> list[str]:
    """Which levels the tricks' rows have and where they come from, from a summary's "tricks"."""
    notes = []
    for source, words in (("validation", "the run's validation windows"), ("here", "these clips")):
        fields = tricks.get(source)
        if fields is None:
            notes.append(f"Levels from {words}: {_NO_LEVELS[source]}.")
            continue
        fitted = FittedTricks.from_dict(fields)
        levels = (("hiss", fitted.hiss), ("folding + hiss", fitted.folding_hiss))
        told = f"{fitted.hiss.words} alone; {fitted.folding_hiss.words} together"
        ends = [name for name, level in levels if level.at_end]
        note = f"Levels from {words} ({fitted.rows} of them): {told}."
        if ends:
            note += (
                f" For {' and for '.join(ends)} that is at an end of the levels tried, so a "
                "stronger one may lie beyond."
            )
        notes.append(note)
    return notes


_NO_LEVELS = {
    "validation": "none, the decoder carries none",
    "here": "none, since no clip was measured with the tricks",
}


def _trick_faults(comparisons: Sequence[Comparison]) -> list[str]:
    when, much = by_rule(comparisons, "when"), by_rule(comparisons, "how much")
    if not when or not much or all(each.interval.mean is None for each in (*when, *much)):
        return ["hiss and folding were not measured beside it"]
    knows_when, knows_much = (all(each.holds for each in role) for role in (when, much))
    if knows_when and knows_much:
        return []
    if knows_when:
        here = {HISS, FOLDING_HISS}
        only_here = all(each.holds for each in much if each.rule.against not in here)
        beaten = any(each.rule.against not in here for each in much) and only_here
        where = " (by tricks whose level comes from these clips)" if beaten else ""
        return [f"it knows when there is energy above 12 kHz, not how much{where}"]
    if knows_much:
        return ["it knows how much energy there is above 12 kHz, not when"]
    return ["what costs nothing, hiss or folding, is not shown to be beaten above 12 kHz"]


def _trick_part(comparison: Comparison) -> str:
    name, found = METRIC_NAMES[comparison.rule.metric], comparison.interval
    if found.mean is None:
        return f"{name} cannot be compared ({found.reason}), so it does not hold"
    if comparison.rule.as_ratio:
        holds = "not above" if comparison.holds else "not shown to be no higher"
        return f"{name} is {found.mean:.3f} times as high {_ends(found)}, {holds}"
    holds = "above" if comparison.holds else "not shown to be above"
    return f"{name} differs by {found.mean:+.3f} {_ends(found)}, {holds}"


def _is_worse(guard: Comparison) -> bool:
    """Whether the whole interval is beyond the limit."""
    found, rule = guard.interval, guard.rule
    if found.low is None or found.high is None:
        return False
    return found.low > rule.limit if rule.as_ratio else found.high < rule.limit


def _names(comparisons: Sequence[Comparison]) -> str:
    return metric_names([each.rule.metric for each in comparisons])


def metric_names(metrics: Sequence[str]) -> str:
    """The metrics' names in a sentence: `LSD-LF, SI-SDR and L1`."""
    *others, last = [metric_name(metric) for metric in metrics]
    return f"{', '.join(others)} and {last}" if others else last


def metric_name(metric: str) -> str:
    """A metric's name without its unit."""
    return METRIC_NAMES[metric].removesuffix(" (dB)")


def _ends(interval: Interval, digits: int = 3) -> str:
    if interval.low is None or interval.high is None:
        return f"(no interval: {interval.reason})"
    sign = "+" if interval.low < 0 else ""
    low, high = (f"{end:{sign}.{digits}f}" for end in (interval.low, interval.high))
    return f"(95 % interval {low} to {high})"
