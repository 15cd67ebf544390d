"""Parts of a chapter evaluation's page beside its results: caveats, effort, chapters, origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ray_jobs import report
from ray_jobs.report import Markup
from ttt.eval.run_differences import shown
from ttt.moshi.verify import BEGINNING_FRAMES


def caveats() -> Markup:
    """What the reader must know before believing the page."""
    return report.section(
        "What this cannot tell",
        report.tag("ul", *(report.tag("li", n) for n in _NOTES)),
        id_="notes",
    )


_NOTES = (
    "Loss is teacher-forced on Mimi's codes: it says how well the next codes are predicted, not "
    "how good generated speech would sound.",
    "Loss differs between chapters far more than along one. Only paired differences and slopes "
    "within chapters carry weight; curves of different chapters do not compare.",
    "A model without TTT need not be flat beyond its window: stacked layers reach layers times the "
    "window, and a book's own course (openings, dialogue) moves the loss.",
    "A falling semantic loss speaks for content, a falling acoustic one for the speaker's voice "
    "and the room: read them apart.",
    "LibriVox recordings may have been in Moshi's training data; the loss on them is then lower "
    "than on new books, for all models alike.",
    "Joins of files are counted below and not excluded. Figures of the original evaluation were "
    "taken two frames beside the target and do not compare.",
)


def effort(models: Mapping[str, Any]) -> Markup:
    """Speed, acceptance, memory and joins of each model."""
    rows = [
        [
            name,
            number(model["frames_per_second"], 1),
            number(model["acceptance"], 3),
            "–" if model["peak_bytes"] is None else f"{model['peak_bytes'] / 2**20:,.0f} MiB",
            f"{model['near_ties']:,}",
            f"{model['joins']:,}",
            f"{len(model['chunks_lowered'])}",
        ]
        for name, model in models.items()
    ]
    header = [
        "Model", "frames/s", "acceptance", "peak memory", "near ties", "joins", "chunk lowered",
    ]  # fmt: skip
    explained = (
        "Frames per second of one worker. Acceptance: share of the computed steps that stood, 1 "
        "where the text was known. Peak memory: of the worker's process, or of its GPU. Chunk "
        "lowered: chapters in which memory ran out."
    )
    return report.section("Effort", report.table(header, rows), note(explained), id_="effort")


def held_to_stepping(models: Mapping[str, Any]) -> Iterator[Markup]:
    """How far models are from stepping where that was compared; nothing without `verify_spans`."""
    rows = [
        [
            name,
            f"{held['groups']:,}",
            f"{len(held['unverified']):,}",
            f"{held['frames']:,}",
            largest_difference(held),
            f"{held['text_differences']:,}",
            f"{held['unexplained_text_differences']:,}",
            f"{held['beginning_frames']:,}" if "beginning_frames" in held else "–",
        ]
        for name, model in models.items()
        if (held := model["verification"]) is not None
    ]
    if rows:
        header = [
            "Model", "groups", "not held", "frames in spans", "largest difference (nats)",
            "other text", "no near tie", "frames from the beginning",
        ]  # fmt: skip
        explained = (
            "Heard again one step at a time, after the records were written: random spans, up to "
            "which chunks were heard as in the evaluation, so that what chunks did to the state "
            f"before does not show in them; and each chapter's first {BEGINNING_FRAMES:,} frames "
            "(all of a shorter one), from its beginning on, where it does show. Nothing is said "
            "of frames in neither. Other text: times that the model's own text came out "
            "differently. No near tie: those of them that rounding does not explain; 0 in float32."
        )
        unheld = [
            note(f"{name}, not held: {each}")
            for name, model in models.items()
            if (held := model["verification"]) is not None
            for each in not_held(held)
        ]
        table = report.table(header, rows)
        yield report.section("Held to stepping", table, *unheld, note(explained), id_="stepping")


def stepped_frames(held: Mapping[str, Any]) -> str:
    """Which frames of a model's `verification` were compared."""
    spans = f"{held['frames']:,} frames in random spans"
    if "beginning_frames" not in held:
        return spans
    return f"{held['beginning_frames']:,} frames from the chapters' beginnings and {spans}"


def largest_difference(held: Mapping[str, Any]) -> str:
    """The largest difference to stepping in nats, of a model's `verification`."""
    if not held["groups"]:
        return "–"
    largest = held["largest_nll_difference"]
    return "not a number" if largest is None else f"{largest:.2g}"


def not_held(held: Mapping[str, Any]) -> list[str]:
    """The groups of a model's `verification` that could not be compared, with reasons."""
    return [f"{', '.join(each['chapters'])}: {each['reason']}" for each in held["unverified"]]


def differences_table(compared: Mapping[str, Any]) -> Markup:
    """Every setting that differs between the two of a comparison, of chapters or of pairs."""
    if not compared["differs"]:
        return paragraph("No recorded setting differs.")
    rows = [
        [each["setting"], shown(each["first"]), shown(each["second"])]
        for each in compared["differs"]
    ]
    header = ["What differs", compared["first"], compared["second"]]
    return report.table(header, rows, numeric=False)


def equivalence_words(found: Mapping[str, Any], settled_from: int) -> str:
    """Whether two models differ by less than a margin that was set beforehand."""
    margin = f"{found['margin']:g} nats"
    difference = f"mean difference from frame {settled_from:,} on: {words(found, 5)} nats"
    if found["equivalent"]:
        return f"Equivalent within {margin}: the whole interval lies inside; {difference}."
    why = "there is no interval" if found["equivalent"] is None else "the interval reaches beyond"
    return f"Not shown to be equivalent within {margin}: {why}; {difference}."


def every_chapter(summary: Mapping[str, Any]) -> Markup:
    """A row per chapter and model, behind a click."""
    weights = summary["run"]["summary"]["weights"]
    rows = [
        [
            f"{chapter['chapter_id']} ({name})",
            chapter["speaker"],
            f"{chapter['frames']:,}",
            *(
                number(chapter["values"][weights][measure], digits)
                for measure, digits in (
                    ("mean", 3),
                    ("beyond_window", 3),
                    ("slope_per_doubling", 4),
                )
            ),
        ]
        for name, model in summary["models"].items()
        for chapter in model["values"]
    ]
    header = ["Chapter", "speaker", "frames", "loss", "beyond window", "per doubling"]
    inside = report.details(f"{len(rows)} results", report.table(header, rows))
    return report.section("Every chapter", inside, id_="chapters")


def left_out(models: Mapping[str, Any]) -> Iterator[Markup]:
    """Chapters without a result and why; nothing when there is none."""
    rows = [
        [entry["chapter_id"], name, entry["reason"]]
        for name, model in models.items()
        for entry in model["left_out"]
    ]
    if rows:
        table = report.table(["Chapter", "Model", "Reason"], rows, numeric=False)
        yield report.section("Left out", table, id_="left-out")


def origin(run: Mapping[str, Any]) -> Markup:
    """What made the numbers."""
    return origin_section(
        run,
        [
            *((f"model {m['model']}", identity(m)) for m in run["models"]),
            ("codec", f"{run['mimi']['name']}, weights {run['mimi']['weights_sha256'][:16]}"),
            ("streams", ", ".join(f"{key} {value}" for key, value in run["streams"].items())),
            ("chunk, batch", f"{run['chunk']} steps, {run['batch']} chapters"),
        ],
    )


def origin_section(run: Mapping[str, Any], facts: Iterable[tuple[str, str]]) -> Markup:
    """The facts of one kind of run, then those that every run has."""
    provenance = run["provenance"]
    common = [
        ("device, precision", f"{run['device']}, {run['dtype']}"),
        ("seed", str(run["seed"])),
        *((key, str(provenance[key])) for key in ("created", "git_commit", "config_digest")),
        ("versions", ", ".join(f"{k} {v}" for k, v in provenance["versions"].items())),
    ]
    rows = [
        part
        for key, text in (*facts, *common)
        for part in (report.tag("dt", key), report.tag("dd", text))
    ]
    return report.section("Origin", report.tag("dl", *rows), id_="origin")


def identity(model: Mapping[str, Any]) -> str:
    """What a model is, in one line."""
    parts = [model["source"], f"weights {model['fingerprint']}", f"window {model['context']:,}"]
    if model["ttt"] is not None:
        parts.append("TTT " + ", ".join(f"{key} {value}" for key, value in model["ttt"].items()))
    if model["controls"]:
        parts.append("controls " + ", ".join(f"{k} {v}" for k, v in model["controls"].items()))
    return "; ".join(parts)


def cell(interval: Mapping[str, Any], digits: int, scale: float = 1.0) -> Markup:
    """The mean, its interval and n small below it."""
    if interval["mean"] is None:
        return Markup(report.tag("div", "–") + report.tag("div", interval["reason"], class_="note"))
    mean = report.tag("div", number(interval["mean"] * scale, digits))
    n = f"n = {interval['n']}" + (f" ({interval['reason']})" if interval["reason"] else "")
    if interval["low"] is not None:
        low, high = (interval[edge] * scale for edge in ("low", "high"))
        n = f"{low:.{digits}f} to {high:.{digits}f}, {n}"
    return Markup(mean + report.tag("div", n, class_="note"))


def words(interval: Mapping[str, Any], digits: int) -> str:
    """The mean with its interval in brackets."""
    return f"{number(interval['mean'], digits)} ({interval_words(interval, digits)})"


def interval_words(interval: Mapping[str, Any], digits: int) -> str:
    """The interval, or why there is none."""
    if interval["low"] is None:
        return f"no interval: {interval['reason']}"
    return f"95 % interval {interval['low']:.{digits}f} to {interval['high']:.{digits}f}"


def number(value: float | None, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def paragraph(text: str) -> Markup:
    """A paragraph of text."""
    return report.tag("p", text)


def note(text: str) -> Markup:
    """A paragraph that explains."""
    return report.tag("p", text, class_="note")
