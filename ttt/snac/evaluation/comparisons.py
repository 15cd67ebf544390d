"""Ours against resampling and against the cheap tricks: what is compared, and what must hold.

Every comparison is paired by clip and judged by an end of its interval, never by its mean:
- LSD: the ratio to resampling must be below 1;
- against hiss and against folding + hiss, at every set of fitted levels: env-r must be above, and
  LSD-HF not above;
- guards against resampling: LSD-LF at most 1.02 times, L1 at most 1.01 times, SI-SDR not lower by
  more than 0.5 dB.

A number that only one of the two has (a decoder whose output is NaN), or that was not measured on
every clip, holds for nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ttt.snac.evaluation.systems import (
    BASELINE,
    FOLDING_HISS,
    FOLDING_HISS_BEFORE,
    HISS,
    HISS_BEFORE,
    OURS,
    SILENCE,
    ClipRow,
    is_measured,
    value,
)
from ttt.statistics.intervals import (
    FEWEST_CLUSTERS,
    Interval,
    clustered_interval,
    clustered_ratio_interval,
)

GUARDS = {"lsd_lf": 1.02, "l1": 1.01}
"""How far above resampling's (as a ratio) these may lie before a lower LSD counts for nothing."""
SI_SDR_LOSS_DB = 0.5
"""By how much SI-SDR may be lower than resampling's."""
NOT_MEASURED = "not measured"
"""The reason of an interval of which no clip has the number."""
TRICKS = (HISS_BEFORE, FOLDING_HISS_BEFORE, HISS, FOLDING_HISS)

Role = Literal["distance", "when", "how much", "guard"]


@dataclass(frozen=True)
class Rule:
    """What must hold of one metric against one system."""

    metric: str
    against: str
    role: Role
    """"when" is env-r against a trick, "how much" LSD-HF against one."""
    as_ratio: bool
    """A ratio of means, which must not be high; otherwise a difference, which must not be low."""
    limit: float
    beyond: bool = False
    """Whether the limit itself does not hold: "below 1", not "not above"."""

    def holds(self, interval: Interval) -> bool:
        """Whether the interval's end lies within the limit; never without an interval."""
        end = interval.high if self.as_ratio else interval.low
        if end is None:
            return False
        slack = self.limit - end if self.as_ratio else end - self.limit
        return bool(slack > 0 if self.beyond else slack >= 0)


@dataclass(frozen=True)
class Comparison:
    """A rule, what was found, and whether it holds."""

    rule: Rule
    interval: Interval
    holds: bool
    silence_holds: bool | None = None
    """Of a guard: whether silence would pass it on these clips, so that it guards nothing here;
    None where silence was not measured."""
    theirs: float | None = None
    """The other system's mean, which tells how much a difference to it means."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self.rule),
            "interval": self.interval.to_dict(),
            "holds": self.holds,
            "silence_holds": self.silence_holds,
            "theirs": self.theirs,
        }


@dataclass(frozen=True)
class Draws:
    """How intervals are drawn, and over which units."""

    seed: int
    resamples: int
    units: Units


def compare_all(rows: Sequence[ClipRow], tricks: Sequence[str], draws: Draws) -> list[Comparison]:
    """Every comparison that the verdict needs, against `tricks` and resampling."""
    rules = [Rule("lsd", BASELINE, "distance", as_ratio=True, limit=1.0, beyond=True)]
    for trick in tricks:
        rules += [
            Rule("env_r", trick, "when", as_ratio=False, limit=0.0, beyond=True),
            Rule("lsd_hf", trick, "how much", as_ratio=True, limit=1.0),
        ]
    rules += [
        Rule(metric, BASELINE, "guard", as_ratio=True, limit=limit)
        for metric, limit in GUARDS.items()
    ]
    rules.append(Rule("si_sdr", BASELINE, "guard", as_ratio=False, limit=-SI_SDR_LOSS_DB))
    return [_compare(rows, rule, draws) for rule in rules]


def paired_interval(
    rows: Sequence[ClipRow], metric: str, systems: tuple[str, str], as_ratio: bool, draws: Draws
) -> Interval:
    """The ratio (or the mean difference) of the first system to the second, paired by clip.

    Clips on which both are undefined, such as SI-SDR of silence, are left out. There is no
    interval, and the reason says so, where only one is undefined or a number was not measured.
    """
    first, second = systems
    unmeasured = sum(not all(is_measured(row, s, metric) for s in systems) for row in rows)
    pairs = [(value(row, first, metric), value(row, second, metric)) for row in rows]
    kept = [(place, a, b) for place, (a, b) in enumerate(pairs) if a is not None and b is not None]
    ours, theirs = [a for _, a, _ in kept], [b for _, _, b in kept]
    units = draws.units
    clusters = [units.of_clips[place] for place, _, _ in kept]
    arguments: Any = (clusters, draws.seed, draws.resamples, units.kind)
    if as_ratio:
        found = clustered_ratio_interval(ours, theirs, *arguments)
    else:
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        found = clustered_interval(differences, *arguments)
    torn = sum((a is None) != (b is None) for a, b in pairs)
    if unmeasured:
        return _without_ends(found, f"not measured on {unmeasured} of {len(rows)} clips")
    if torn:
        return _without_ends(found, f"undefined for one of the two on {torn} of {len(rows)} clips")
    if not kept and rows:
        return _without_ends(found, "undefined on every clip")
    return found


def mean_interval(rows: Sequence[ClipRow], system: str, metric: str, draws: Draws) -> Interval:
    """A system's mean over the clips on which the metric is defined."""
    if not any(is_measured(row, system, metric) for row in rows):
        return Interval(None, None, None, 0, NOT_MEASURED)
    numbers = [value(row, system, metric) for row in rows]
    places = [place for place, number in enumerate(numbers) if number is not None]
    units = draws.units
    return clustered_interval(
        [number for number in numbers if number is not None],
        [units.of_clips[place] for place in places],
        draws.seed,
        draws.resamples,
        units.kind,
    )


def by_rule(
    comparisons: Sequence[Comparison], role: Role, against: str | None = None
) -> list[Comparison]:
    """Those of a role, against one system or any."""
    return [
        each
        for each in comparisons
        if each.rule.role == role and against in (None, each.rule.against)
    ]


def ratios_to_baseline(rows: Sequence[ClipRow], draws: Draws) -> Mapping[str, Interval]:
    """Ours / resample(decode24) of what falls as audio improves."""
    return {
        metric: paired_interval(rows, metric, (OURS, BASELINE), as_ratio=True, draws=draws)
        for metric in ("lsd", "lsd_lf", "lsd_hf", "l1")
    }


def _compare(rows: Sequence[ClipRow], rule: Rule, draws: Draws) -> Comparison:
    def found(system: str) -> Interval:
        pair = (system, rule.against)
        return paired_interval(rows, rule.metric, pair, as_ratio=rule.as_ratio, draws=draws)

    ours = found(OURS)
    silence = None
    if rule.role == "guard" and all(is_measured(row, SILENCE, rule.metric) for row in rows):
        silence = rule.holds(found(SILENCE))
    numbers = [value(row, rule.against, rule.metric) for row in rows]
    known = [number for number in numbers if number is not None]
    theirs = sum(known) / len(known) if known else None
    return Comparison(rule, ours, rule.holds(ours), silence, theirs)


def _without_ends(interval: Interval, reason: str) -> Interval:
    return Interval(interval.mean, None, None, interval.n, reason)


@dataclass(frozen=True)
class Units:
    """The unit of every clip, and what that means for the verdict."""

    kind: str
    """What one unit is called: speaker or clip."""
    of_clips: Sequence[Hashable]
    """One name per clip; equal names are one unit."""
    sentence: str
    """What the units are, for the reader."""
    refusal: str | None
    """Why there can be no verdict; None when there can."""
    one_speaker: bool = False
    """Whether the verdict is about one speaker only."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(set(self.of_clips))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": self.kind, "count": self.count, "sentence": self.sentence}


def units_of(speakers: Sequence[str | None]) -> Units:
    """The units of clips by these speakers (None: unknown), one per clip.

    Speakers are the units where at least five are known; clips of unknown speakers then make up
    one unit together, since they may all be one person's. Clips are the units where all are one
    speaker's, and where no speaker is known. Anything else gives no verdict.
    """
    clips = len(speakers)
    known = {speaker for speaker in speakers if speaker is not None}
    unknown = sum(speaker is None for speaker in speakers)
    if len(known) >= FEWEST_CLUSTERS:
        rest = f"; the {unknown} of unknown speakers count as one more" if unknown else ""
        sentence = f"Units are the {len(known)} speakers of the {clips} clips{rest}."
        return Units("speaker", list(speakers), sentence, None)
    too_few = f"{clips} {'clip' if clips == 1 else 'clips'}; a verdict needs {FEWEST_CLUSTERS}."
    refusal = too_few if clips < FEWEST_CLUSTERS else None
    if not known:
        sentence = (
            f"Who speaks is unknown, so the {clips} clips are the units; where speakers share "
            "them, the intervals are too narrow."
        )
        return Units("clip", range(clips), sentence, refusal)
    if len(known) == 1 and not unknown:
        sentence = (
            f"All {clips} clips are of one speaker ({known.pop()}): clips are the units, and this "
            "is about this speaker alone."
        )
        return Units("clip", range(clips), sentence, refusal, one_speaker=True)
    others = f", and of unknown ones ({unknown} clips)" if unknown else ""
    speakers_known = "1 known speaker" if len(known) == 1 else f"{len(known)} known speakers"
    sentence = f"The {clips} clips are of {speakers_known}{others}."
    if refusal is None:
        refusal = (
            f"{sentence} A verdict needs {FEWEST_CLUSTERS} known speakers, or one alone, or none "
            "known; fewer say too little about other speakers."
        )
    return Units("speaker", list(speakers), sentence, refusal)
