"""The demo's page: the decoder's verdict, and what remembering gains where it can and cannot.

What the two chapter evaluations should show is known beforehand (ttt/assets/tiny_moshi_effect).
Each picture's sentence is computed from its summary, and says so when it is not as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_jobs import report
from ray_jobs.chapter_facts import interval_words, note, number, paragraph, words
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
            note("The same two models on chapters without a table. Expected: no difference."),
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
    slopes = [
        summary["models"][name]["losses"][weights]["measures"]["slope_per_doubling"]
        for name in (first, second)
    ]
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


def _null(summary: Mapping[str, Any], effect: Mapping[str, Any]) -> Markup:
    """Whether the two models differ at any point of the curve."""
    weights, (compared,) = _weights(summary), summary["comparisons"]
    second, found = compared["second"], compared["losses"][weights]
    curve, beyond = found["curve"], found["measures"]["beyond_window"]
    above = effect["comparisons"][0]["losses"][weights]["measures"]["beyond_window"]
    sentence = (
        f"{second} minus {compared['first']} beyond the window: {words(beyond, 4)} nats, paired on "
        f"{beyond['n']} chapters; with a table it was {number(above['mean'], 4)} (mind the scales)."
    )
    if None in curve["low"]:
        return report.callout("mixed", "Not as expected: no interval", paragraph(sentence))
    points = [
        {"frame": frame, "mean": mean, "low": low, "high": high}
        for frame, mean, low, high in zip(
            *(curve[key] for key in ("frame", "mean", "low", "high")), strict=True
        )
    ]
    differing = [point for point in points if not point["low"] <= 0 <= point["high"]]
    if not differing:
        heading = f"No difference at any of the {len(points)} points of the curve"
        return report.callout("good", heading, paragraph(sentence))
    places = "; ".join(
        f"around frame {point['frame']:.0f} by {point['mean']:.4f} nats "
        f"({interval_words(point, 4)})"
        for point in differing
    )
    sentence += f" They differ at {len(differing)} of {len(points)} points of the curve: {places}."
    after = points[points.index(differing[-1]) + 1 :]
    if any(point["mean"] < 0 for point in differing) or not after:
        heading = f"Not as expected: {second} differs, and paying to find out does not explain it"
        return report.callout("bad", heading, paragraph(sentence))
    heading = (
        f"Not quite as expected: no difference from frame {after[0]['frame']:.0f} on, but "
        f"{second} pays before"
    )
    return report.callout("mixed", heading, paragraph(sentence), paragraph(_PAYS))


_PAYS = (
    "Why: it was trained on chapters of both kinds, and can only find out that this one has no "
    "table by expecting one in the second round of cues. No learner of both kinds is spared that. "
    "ttt/assets/tiny_moshi_effect/README.md says what the least price is; the rest is imperfect "
    "training."
)


def _weights(summary: Mapping[str, Any]) -> str:
    return summary["run"]["summary"]["weights"]
