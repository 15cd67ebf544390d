"""The demo's page: the decoder's verdict, and what remembering gains where it can and cannot.

What the two chapter evaluations should show is known beforehand (ttt/assets/tiny_moshi_effect).
Each picture's sentence is computed from its summary, and says so when it is not as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_jobs import report
from ray_jobs.chapter_facts import (
    equivalence_words,
    interval_words,
    note,
    number,
    paragraph,
    words,
)
from ray_jobs.pair_report import accuracy_table
from ray_jobs.report import Markup
from ttt.eval.chapter_plots import LOSS_NAMES, difference_plot, loss_plot

_FLAT_SHARE = 0.1
"""A model is flat when its slope's whole interval is within this share of the other's slope."""


def build_page(
    decoder: Mapping[str, Any],
    effect: Mapping[str, Any],
    null: Mapping[str, Any],
    pairs: Mapping[str, Any],
    links: Sequence[str],
) -> str:
    """The page from four summaries: of the decoder's evaluation, of chapters with and without a
    table to be remembered, each of a baseline and a TTT model, and of pairs.

    `links` are the addresses of the four whole reports, relative to this page.
    """
    verdict = decoder["verdict"]
    spoken = report.callout(
        verdict["kind"], verdict["heading"], *map(paragraph, verdict["sentences"])
    )
    parts = [
        _section("A 48 kHz decoder for 24 kHz codes", "decoder", links[0], spoken),
        _section(
            "Chapters with something to remember",
            "effect",
            links[1],
            _effect(effect),
            _pictures(effect),
            note(
                "Made of codes, not recorded. Every chapter hides a table that is only known to "
                "who remembers further back than attention reaches. Expected: without TTT flat "
                "beyond the window, with TTT falling."
            ),
        ),
        _section(
            "The null control: nothing to remember",
            "null",
            links[2],
            _null(null, effect),
            _pictures(null),
            note(
                "The same two models on chapters without a table. Expected: nothing is gained "
                "anywhere; behind start-up no slope, and a difference within the margin that the "
                "configuration sets beforehand."
            ),
        ),
        _section(
            "Benchmarks made of pairs",
            "pairs",
            links[3],
            accuracy_table(pairs["runs"]),
            note(
                "A small model with random weights, on made recordings: what it prefers is an "
                "accident of both and means nothing. Shown is what a run gives."
            ),
        ),
    ]
    return report.page("What the demo made", *parts, subtitle="Every number is of this run.")


def _section(heading: str, id_: str, link: str, *children: Markup) -> Markup:
    whole = report.tag("p", report.tag("a", "The whole report", href=link))
    return report.section(heading, *children, whole, id_=id_)


def _pictures(summary: Mapping[str, Any]) -> Markup:
    weights, (compared,) = _weights(summary), summary["comparisons"]
    loss = loss_plot(summary, weights, "png")
    difference = difference_plot(summary, compared, weights, "png")
    return report.tag(
        "div",
        report.picture(loss, f"{LOSS_NAMES[weights]} by position, both models"),
        report.picture(difference, f"difference of the {LOSS_NAMES[weights]} by position"),
        class_="pair",
    )


def _effect(summary: Mapping[str, Any]) -> Markup:
    """Whether the first model is flat beyond its window, and the second falls and has less loss."""
    weights, (compared,) = _weights(summary), summary["comparisons"]
    first, second = compared["first"], compared["second"]
    slopes = [_slopes(summary)[name] for name in (first, second)]
    less = compared["losses"][weights]["measures"]["beyond_window"]
    sentence = (
        f"Beyond the window of {summary['models'][first]['context']:,} frames the loss of {first} "
        f"changes by {words(slopes[0], 4)} nats per doubling of the position, that of {second} by "
        f"{words(slopes[1], 4)}; {second} minus {first}: {words(less, 4)} nats, paired on "
        f"{less['n']} chapters."
    )
    if any(each["low"] is None for each in (*slopes, less)):
        return report.callout("mixed", "Not as expected: no interval", paragraph(sentence))
    flat = _FLAT_SHARE * abs(slopes[1]["mean"])
    faults = [
        text
        for holds, text in (
            (max(abs(slopes[0]["low"]), abs(slopes[0]["high"])) <= flat, f"{first} is not flat"),
            (slopes[1]["high"] < 0, f"{second} does not fall"),
            (less["high"] < 0, f"{second} has not less loss"),
        )
        if not holds
    ]
    if faults:
        return report.callout("bad", f"Not as expected: {', '.join(faults)}", paragraph(sentence))
    heading = f"Beyond the window {first} is flat, and {second} falls"
    return report.callout("good", heading, paragraph(sentence))


def _null(null: Mapping[str, Any], effect: Mapping[str, Any]) -> Markup:
    """Whether anything is gained at any point of the curve, sloped, or beyond the margin."""
    weights, (compared,) = _weights(null), null["comparisons"]
    found, settled = compared["losses"][weights], compared["losses"][weights]["equivalence"]
    start = null["models"][compared["second"]]["settled_from"]
    above = effect["comparisons"][0]["losses"][weights]["measures"]["beyond_window"]
    slopes = _slopes(null)
    said = "No margin was set." if settled is None else equivalence_words(settled, start)
    sentences = [
        f"{compared['second']} minus {compared['first']}, paired on {compared['chapters']} "
        f"chapters; with a table it was {number(above['mean'], 4)} nats (mind the scales). {said}",
        f"Slopes from frame {start} on, nats per doubling of the position: "
        + "; ".join(f"{name} {words(slope, 4)}" for name, slope in slopes.items())
        + ".",
    ]
    curve = found["curve"]
    tested = (*slopes.values(), *([] if settled is None else [settled]))
    if None in curve["low"] or any(row["low"] is None for row in tested):
        return _callout("mixed", "Not as expected: no interval", sentences)
    differing = _differing_points(curve)
    if differing:
        places = "; ".join(
            f"around frame {point['frame']:.0f} by {point['mean']:.4f} nats "
            f"({interval_words(point, 4)})"
            for point in differing
        )
        count = len(curve["frame"])
        sentences.append(f"They differ at {len(differing)} of {count} points: {places}.")
    faults = [
        *(f"{name} is not flat" for name, slope in slopes.items() if _excludes_0(slope)),
        *([] if settled and settled["equivalent"] else ["not shown to be equivalent"]),
    ]
    if any(point["mean"] < 0 or point["frame"] > start for point in differing):
        why = "paying to find out does not explain it"
        faults.insert(0, f"{compared['second']} differs, and {why}")
    if faults or settled is None:
        return _callout("bad", f"Not as expected: {', '.join(faults)}", sentences)
    same = f"equivalent within {settled['margin']:g} nats from frame {start} on, no slope found"
    if differing:
        heading = f"{compared['second']} pays to find out; then {same}"
        return _callout("mixed", heading, [*sentences, _PAYS, _HARM])
    heading = f"No difference found at any of the {len(curve['frame'])} points; {same}"
    return _callout("good", heading, [*sentences, _HARM])


def _slopes(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Model -> slope per doubling of its headline loss."""
    weights = _weights(summary)
    return {
        name: model["losses"][weights]["measures"]["slope_per_doubling"]
        for name, model in summary["models"].items()
    }


def _differing_points(curve: Mapping[str, Any]) -> list[dict[str, float]]:
    """Points of a difference curve whose interval leaves 0 out."""
    keys: list[str] = ["frame", "mean", "low", "high"]
    points = [dict(zip(keys, row, strict=True)) for row in zip(*map(curve.get, keys), strict=True)]
    return [point for point in points if _excludes_0(point)]


def _excludes_0(interval: Mapping[str, Any]) -> bool:
    return not interval["low"] <= 0 <= interval["high"]


def _callout(kind: str, heading: str, sentences: Sequence[str]) -> Markup:
    return report.callout(kind, heading, *map(paragraph, sentences))


_PAYS = (
    "Why: it was trained on chapters of both kinds, and can only find out that this one has no "
    "table by expecting one in the second round of cues. No learner of both kinds is spared that. "
    "ttt/assets/tiny_moshi_effect/README.md says what the least price is; the rest is imperfect "
    "training."
)
_HARM = (
    "Equivalent is not equal: on 240 chapters, too many for a demo, a small harm shows that "
    "lasts; the same README has the figure."
)


def _weights(summary: Mapping[str, Any]) -> str:
    return summary["run"]["summary"]["weights"]
