"""The demo's page: a clip to hear, the decoder's verdict, and what remembering gains where it can
and cannot.

What the two chapter evaluations should show is known beforehand (ttt/assets/tiny_moshi_pair).
Each picture's sentence is computed from its summary, and says so when it is not as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.reports.examples import PANELS, Example, panels, read_examples
from ray_jobs.reports.page import read_pictures, render
from ray_jobs.reports.words import equivalence_words, interval_words, number, words
from ttt import storage
from ttt.eval.figures import LOSS_NAMES, chapter_figures, drawn_pngs
from ttt.records import read_json
from ttt.snac.evaluation.systems import BASELINE, FOLDING_HISS, OURS, TRUE

_FLAT_SHARE = 0.1
"""A model is flat when its slope's whole interval is within this share of the other's slope."""
_CLIP_PANELS = {key: PANELS[key] for key in (TRUE, BASELINE, FOLDING_HISS, OURS)}
_Pictures = Mapping[str, bytes]


def write_page(folder: Path) -> Path:
    """Write the page from the evaluations in the demo's folder; returns where it is."""
    parts = ("evaluation", "chapters_effect", "chapters_null", "pairs")
    decoder, effect, null, pairs = (read_json(folder / p / "summary.json") for p in parts)
    links = [f"{part}/report.html" for part in parts]
    page = folder / "report.html"
    examples = read_examples(folder / parts[0] / "examples")
    pictures = read_pictures(folder / parts[1]), read_pictures(folder / parts[2])
    made = build_page(decoder, effect, null, pairs, links, examples, pictures=pictures)
    storage.write_bytes(page, made.encode())
    return page


def build_page(
    decoder: Mapping[str, Any],
    effect: Mapping[str, Any],
    null: Mapping[str, Any],
    pairs: Mapping[str, Any],
    links: Sequence[str],
    examples: Sequence[Example],
    *,
    pictures: tuple[_Pictures, _Pictures] | None = None,
) -> str:
    """The page from four summaries: of the decoder's evaluation, of chapters with and without a
    table to be remembered, each of a baseline and a TTT model, and of pairs.

    Args:
        links: the addresses of the four whole reports, relative to this page.
        examples: of the decoder's evaluation, from the best to the worst; the page opens with
            the one in the middle.
        pictures: PNGs of both chapter evaluations by the names of `ttt.eval.figures`; None
            draws them.
    """
    drawn = pictures or (_drawn(effect), _drawn(null))
    return render(
        "demo.html.j2",
        "What the demo made",
        subtitle="Every number is of this run.",
        clip=panels(examples[len(examples) // 2], _CLIP_PANELS),
        verdict=decoder["verdict"],
        effect=_effect(effect),
        null=_null(null, effect),
        shown=[_shown(*each) for each in zip((effect, null), drawn, strict=True)],
        runs=pairs["runs"],
        links=links,
    )


def _shown(summary: Mapping[str, Any], pictures: _Pictures) -> list[dict[str, Any]]:
    """The loss of both models by position, and its difference."""
    name = LOSS_NAMES[_weights(summary)]
    of_both, of_difference = (pictures[each] for each in _picture_names(summary))
    return [
        {"png": of_both, "alt": f"{name} by position, both models"},
        {"png": of_difference, "alt": f"difference of the {name} by position"},
    ]


def _drawn(summary: Mapping[str, Any]) -> _Pictures:
    return drawn_pngs(chapter_figures(summary), _picture_names(summary))


def _picture_names(summary: Mapping[str, Any]) -> tuple[str, str]:
    weights, (compared,) = _weights(summary), summary["comparisons"]
    return f"loss_{weights}", f"difference_{compared['second']}_{weights}"


def _effect(summary: Mapping[str, Any]) -> dict[str, Any]:
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
        return _callout("mixed", "Not as expected: no interval", [sentence])
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
        return _callout("bad", f"Not as expected: {', '.join(faults)}", [sentence])
    heading = f"Beyond the window {first} is flat, and {second} falls"
    return _callout("good", heading, [sentence])


def _null(null: Mapping[str, Any], effect: Mapping[str, Any]) -> dict[str, Any]:
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
    margin = 0.0 if settled is None else settled["margin"]
    if any(_is_unexplained(point, start, margin) for point in differing):
        why = "paying to find out does not explain it"
        faults.insert(0, f"{compared['second']} differs, and {why}")
    if faults or settled is None:
        return _callout("bad", f"Not as expected: {', '.join(faults)}", sentences)
    same = f"equivalent within {margin:g} nats from frame {start} on, no slope found"
    if any(point["mean"] > margin for point in differing):
        heading = f"{compared['second']} pays to find out; then {same}"
        return _callout("mixed", heading, [*sentences, _PAYS, _NOT_EQUAL])
    count = len(curve["frame"])
    found = (
        f"Differences at {len(differing)} of {count} points, none beyond the margin"
        if differing
        else f"No difference found at any of the {count} points"
    )
    return _callout("good", f"{found}; {same}", [*sentences, _NOT_EQUAL])


def _is_unexplained(point: Mapping[str, float], start: int, margin: float) -> bool:
    """Whether a difference beyond the margin is a gain, or a price after finding out is over.

    Of six points with 95 % intervals one is off 0 by chance in a quarter of all runs, and layers
    trained besides may learn away what the base model lost: the margin, which is fixed before the
    run, says what counts.
    """
    return point["mean"] < -margin or (point["frame"] > start and point["mean"] > margin)


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


def _callout(kind: str, heading: str, sentences: Sequence[str]) -> dict[str, Any]:
    return {"kind": kind, "heading": heading, "sentences": sentences}


_PAYS = (
    "Why: it was trained on chapters of both kinds, and can only find out that this one has no "
    "table by expecting one in the second round of cues. No learner of both kinds is spared that. "
    "ttt/assets/tiny_moshi_pair/README.md says what the least price is; the rest is imperfect "
    "training."
)
_NOT_EQUAL = (
    "Equivalent is not equal: ttt/assets/tiny_moshi_pair/README.md has what 240 chapters show, too "
    "many for a demo."
)


def _weights(summary: Mapping[str, Any]) -> str:
    return summary["run"]["summary"]["weights"]
