"""Parts of the page of an evaluation of pairs beside its results: caveats, coverage, origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ray_jobs import report
from ray_jobs.chapter_facts import identity, note, origin_section
from ray_jobs.report import Markup
from ttt.eval.pairs import task_title


def caveats() -> Markup:
    """What the reader must know before believing the page."""
    notes = (
        "Not the figures of Moshi's paper: there the user's stream is scored after multi-stream "
        "tuning, and the published models do not predict it. The text stream is in no score.",
        "Two evaluators of one model have been seen 15 points apart. Compare runs of this program "
        "on the same pairs, not its figures with others'.",
        "Loss is teacher-forced on Mimi's codes; a recording's length and voice weigh in.",
    )
    return report.section(
        "What this cannot tell",
        report.tag("ul", *(report.tag("li", text) for text in notes)),
        id_="notes",
    )


def silence_section(flac: bytes | None) -> Iterator[Markup]:
    """What the codes of silence sound like; nothing without a sound."""
    if flac is not None:
        explained = "Mimi's codes of digital silence, decoded: what the other voice says."
        player = report.audio(flac, "codes of silence")
        yield report.section("Silence", player, note(explained), id_="silence")


def coverage(runs: Mapping[str, Any]) -> Markup:
    """How many pairs have a score, and why the others have none."""
    rows, lost = [], []
    for key, run in runs.items():
        for name, task in run["tasks"].items():
            share = "–" if task["coverage"] is None else f"{100 * task['coverage']:.2f} %"
            counts = [f"{task[n]:,}" for n in ("planned", "scored", "not_scored_yet")]
            rows.append([f"{task_title(name)} ({key})", *counts, share])
            lost += [[f"{each['pair_id']} ({key})", each["reason"]] for each in task["left_out"]]
    table = report.table(["Benchmark", "pairs", "scored", "not yet", "coverage"], rows)
    listed = report.table(["Pair", "Reason"], lost[:_LISTED], numeric=False)
    more = f", the first {_LISTED}" if len(lost) > _LISTED else ""
    hidden = [report.details(f"{len(lost):,} left out{more}", listed)] if lost else []
    return report.section("Coverage", table, *hidden, id_="coverage")


_LISTED = 200


def origin(run: Mapping[str, Any]) -> Markup:
    """What made the numbers."""
    return origin_section(
        run,
        [
            *((f"model {model['model']}", identity(model)) for model in run["models"]),
            ("codec", f"{run['mimi']['name']}, weights {run['mimi']['weights_sha256'][:16]}"),
            *(
                (f"streams {s['name']}", f"text {s['text']}, other {s['other']}, {s['voice']}")
                for s in run["settings"]
            ),
            *(
                (
                    task_title(task["task"]),
                    f"{task['pairs']:,} of {task['found']:,} pairs, {task['pairs_sha256'][:16]}",
                )
                for task in run["tasks"]
            ),
            (
                "chunk, batch",
                f"{run['chunk']} steps; {run['batch_items']} recordings, "
                f"{run['batch_frames']:,} frames at most",
            ),
        ],
    )
