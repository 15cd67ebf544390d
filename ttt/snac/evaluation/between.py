"""Two decoders on the same clips: every metric paired by clip, and which of them is better.

Better than another decoder means, each by the end of its 95 % interval and never by its mean: LSD
below the other's; LSD-LF at most 1.02 times, LSD-HF at most 1.02 times and L1 at most 1.01 times
the other's; SI-SDR not lower by more than 0.5 dB, env-r not by more than 0.02. Both directions are
asked, so that neither decoder has to prove more than the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

from ttt.snac.evaluation.comparisons import (
    GUARDS,
    SI_SDR_LOSS_DB,
    Draws,
    Rule,
    mean_interval,
    paired_interval,
    units_of,
)
from ttt.snac.evaluation.systems import METRIC_NAMES, ClipRow, value
from ttt.snac.evaluation.verdict_words import metric_name, metric_names
from ttt.snac.verdict import Verdict, describe_interval, digits
from ttt.statistics.intervals import Interval

LSD_HF_LIMIT = 1.02
"""How far above the other's (as a ratio) LSD-HF may lie; as LSD-LF against resampling."""
ENV_R_LOSS = 0.02
"""By how much env-r may be lower than the other's."""
DIFFERENCES = ("env_r", "si_sdr")
"""The metrics that are compared by a difference; all others by a ratio of means."""


class Between(NamedTuple):
    """One metric of the second decoder against the first's."""

    metric: str
    interval: Interval
    rule: Rule | None
    """What must hold for the second to be better; None where the metric is only shown."""
    holds: bool | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "metric": self.metric,
            "as_ratio": self.metric not in DIFFERENCES,
            "limit": None if self.rule is None else self.rule.limit,
            "interval": self.interval.to_dict(),
            "holds": self.holds,
        }


def summarize_between(
    rows: Sequence[ClipRow],
    names: Mapping[str, str],
    speakers: Sequence[str | None],
    *,
    seed: int,
    resamples: int,
    beside: Sequence[str] = (),
) -> dict[str, Any]:
    """Means, comparisons and verdicts of decoders on the same clips, for JSON.

    Args:
        rows: one per clip: system -> metric -> value; the decoders' systems are the keys of names.
        names: system, such as A -> the decoder as the user named it. The first is the one that
            the others are held to.
        speakers: one per clip; None where that is unknown.
        beside: further systems whose means are shown.
    """
    units = units_of(speakers)
    draws = Draws(seed, resamples, units)
    first, *others = names
    return {
        "systems": {
            system: {
                metric: mean_interval(rows, system, metric, draws).to_dict()
                for metric in METRIC_NAMES
            }
            for system in (*names, *beside)
        },
        "comparisons": [_compared(rows, (first, other), names, draws) for other in others],
        "units": units.to_dict(),
    }


def _compared(
    rows: Sequence[ClipRow], pair: tuple[str, str], names: Mapping[str, str], draws: Draws
) -> dict[str, Any]:
    first, second = pair
    found = _between(rows, first, second, draws)
    verdict = (
        _same(rows, pair)
        or _refused(found, draws)
        or _judged(found, _between(rows, second, first, draws), pair)
    )
    sentences = (*verdict.sentences, draws.units.sentence)
    return {
        "first": first,
        "second": second,
        "names": f"{first} is {names[first]}, {second} is {names[second]}.",
        "metrics": [each.to_dict() for each in found],
        "verdict": asdict(Verdict(verdict.kind, verdict.heading, sentences)),
    }


def _between(rows: Sequence[ClipRow], first: str, second: str, draws: Draws) -> list[Between]:
    """Every metric of `second` against `first`."""
    rules = {rule.metric: rule for rule in _rules(first)}
    found = []
    for metric in METRIC_NAMES:
        rule, as_ratio = rules.get(metric), metric not in DIFFERENCES
        interval = paired_interval(rows, metric, (second, first), as_ratio=as_ratio, draws=draws)
        found.append(Between(metric, interval, rule, rule.holds(interval) if rule else None))
    return found


def _rules(against: str) -> list[Rule]:
    guards = [Rule(metric, against, "guard", True, limit) for metric, limit in GUARDS.items()]
    return [
        Rule("lsd", against, "distance", as_ratio=True, limit=1.0, beyond=True),
        Rule("lsd_hf", against, "how much", as_ratio=True, limit=LSD_HF_LIMIT),
        Rule("env_r", against, "when", as_ratio=False, limit=-ENV_R_LOSS),
        *guards,
        Rule("si_sdr", against, "guard", as_ratio=False, limit=-SI_SDR_LOSS_DB),
    ]


def _same(rows: Sequence[ClipRow], pair: tuple[str, str]) -> Verdict | None:
    """The verdict on two that measure the same to the last digit."""
    first, second = pair
    if not rows or any(
        value(row, first, metric) != value(row, second, metric)
        for row in rows
        for metric in METRIC_NAMES
    ):
        return None
    clips = "the one clip" if len(rows) == 1 else f"each of the {len(rows)} clips"
    sentence = f"Every number of {first} equals {second}'s on {clips}."
    return Verdict("mixed", f"{first} and {second} are identical on these clips", (sentence,))


def _refused(found: Sequence[Between], draws: Draws) -> Verdict | None:
    """The verdict where there can be none."""
    if draws.units.refusal is not None:
        return Verdict("bad", "No verdict", (draws.units.refusal,))
    lsd = _of(found, "lsd")
    if lsd.low is None:
        return Verdict("bad", "No verdict", (f"LSD has no interval: {lsd.reason}.",))
    return None


def _judged(found: Sequence[Between], reverse: Sequence[Between], pair: tuple[str, str]) -> Verdict:
    first, second = pair
    for better, worse, asked, kind in (
        (second, first, found, "good"),
        (first, second, reverse, "bad"),
    ):
        # The numbers stand in the heading's direction, so that what fails can be read off them.
        sentences = _sentences(asked, (worse, better))
        failing = [each for each in asked if each.holds is False]
        lower = _of(asked, "lsd").high
        if not failing:
            side: Literal["good", "bad"] = "good" if kind == "good" else "bad"
            return Verdict(side, f"{better} is better than {worse}", sentences)
        if lower is not None and lower < 1:
            names = metric_names([each.metric for each in failing])
            heading = (
                f"{better} has a lower LSD than {worse}, but its {names} "
                f"{'is' if len(failing) == 1 else 'are'} not shown to hold"
            )
            caution = "LSD alone is won by noise, so this does not count as better."
            return Verdict("mixed", heading, (*sentences, caution))
    heading = f"Neither {first} nor {second} is shown to be better"
    return Verdict("mixed", heading, _sentences(found, pair))


def _sentences(asked: Sequence[Between], pair: tuple[str, str]) -> tuple[str, ...]:
    return tuple(_sentence(each, pair) for each in asked if each.rule is not None)


def _sentence(each: Between, pair: tuple[str, str]) -> str:
    """How the second stands to the first in one metric, and what better asks of it."""
    first, second = pair
    name, found = metric_name(each.metric), each.interval
    assert each.rule is not None
    if found.mean is None or found.low is None or found.high is None:
        return f"{name} cannot be compared ({found.reason}), so it holds for neither."
    if each.rule.as_ratio:
        reach = "must lie below 1" if each.rule.beyond else f"may reach {each.rule.limit:g}"
        return (
            f"{name} of {second} is {found.mean:.3f} times {first}'s (95 % interval "
            f"{found.low:.3f} to {found.high:.3f}, {found.n} clips; the upper end {reach})."
        )
    unit, places = (" dB", 2) if each.metric == "si_sdr" else ("", 3)
    return (
        f"{name} of {second} differs by {found.mean:+.{places}f}{unit} from {first}'s (95 % "
        f"interval {found.low:+.{places}f} to {found.high:+.{places}f}, {found.n} clips; the lower "
        f"end may reach {each.rule.limit:g}{unit})."
    )


def _of(found: Sequence[Between], metric: str) -> Interval:
    return next(each.interval for each in found if each.metric == metric)


def markdown(summary: Mapping[str, Any]) -> str:
    """The comparison as a text for a README, from its summary.json."""
    data, made, decoders = summary["data"], summary["provenance"], summary["decoders"]
    letters = list(decoders)
    compared = summary["comparisons"]
    header = ["", *letters, *(f"{each['second']} against {each['first']}" for each in compared)]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for place, (metric, name) in enumerate(METRIC_NAMES.items()):
        means = [
            describe_interval(summary["systems"][letter][metric], digits(metric))
            for letter in letters
        ]
        found = [against_words(each["metrics"][place]) for each in compared]
        lines.append(f"| {name} | {' | '.join([*means, *found])} |")
    verdicts = "\n\n".join(
        f"**{each['verdict']['heading']}.** "
        f"{' '.join([each['names'], *each['verdict']['sentences']])}"
        for each in compared
    )
    weights = "\n".join(
        f"- {letter}: {each['name']} ({each['source']}), weights sha256 `{each['sha256']}`"
        for letter, each in decoders.items()
    )
    table, clips = "\n".join(lines), "clip" if data["compared"] == 1 else "clips"
    return f"""# {len(letters)} decoders on the same clips

{verdicts}

{table}

Mean over {data["compared"]} {clips} ({data["seconds"]:.0f} s) of {data["wanted"]} from
`{data["name"]}`, with 95 % intervals over {summary["units"]["kind"]}s; the last columns are paired
by clip, a ratio of means, or a difference for {" and ".join(METRIC_NAMES[m] for m in DIFFERENCES)}.

{weights}
- codec: `{decoders[letters[0]]["codec"]}`, weights sha256 `{decoders[letters[0]]["codec_sha256"]}`
- measured: {made["created"]}, commit `{made["git_commit"]}`, configuration {made["config_digest"]}
"""


def against_words(row: Mapping[str, Any]) -> str:
    """`0.934 x [0.901, 0.970]` or `+0.012 [-0.003, +0.027]` of a comparison's metric."""
    found = row["interval"]
    if found["mean"] is None:
        return f"– ({found['reason']})"
    places = 3 if row["as_ratio"] else digits(row["metric"])
    sign, times = ("", " x") if row["as_ratio"] else ("+", "")
    mean = f"{found['mean']:{sign}.{places}f}{times}"
    if found["low"] is None:
        return f"{mean} (no interval: {found['reason']})"
    return f"{mean} [{found['low']:{sign}.{places}f}, {found['high']:{sign}.{places}f}]"
