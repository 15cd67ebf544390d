"""Two models on the same chapters: what the difference is, and whether it is more than chance.

Every comparison is paired: the same chapter, the same window, the same codes. Differences are the
second model's minus the first's, so that a negative one means that the second has less loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ttt.errors import UserError
from ttt.eval.chapters.long_context import (
    longer_half,
    mean_curve,
    slope_interval,
    speaker_interval,
    speaker_slopes,
)
from ttt.eval.chapters.measures import LOSSES, SLOPES, ChapterMeasures
from ttt.eval.config import LongContextConfig
from ttt.statistics.significance import adjust_for_many, cluster_means, paired_test


def compare(
    first: Sequence[ChapterMeasures],
    second: Sequence[ChapterMeasures],
    config: LongContextConfig,
) -> dict[str, Any]:
    """Loss -> measures and curve of the difference second - first; ready for JSON.

    The mean is over chapters (of slopes, weighted as in `long_context`), its interval is by
    speakers; Wilcoxon's test is on the speakers' mean differences; `p_holm` is adjusted over all
    measures of one loss. The curve is of the longer half of the chapters. `equivalence` says
    whether the settled frames differ by less than `config.equivalence_margin`; None without one.

    Raises:
        UserError: the chapters are not the same, or their codes differ.
    """
    _refuse_different(first, second)
    ours = {chapter.chapter_id: chapter for chapter in second}
    pairs = [(chapter, ours[chapter.chapter_id]) for chapter in first]
    names = ["mean", "beyond_window", *(f"at_{p}" for p in config.positions), "slope_per_frame"]
    compared = {}
    for loss in LOSSES:
        rows = {name: _difference(pairs, loss, name, config) for name in names}
        adjust_for_many(rows.values())
        compared[loss] = {
            "measures": rows,
            "curve": _difference_curve(pairs, loss, config),
            "equivalence": _equivalence(pairs, loss, config),
        }
    return {"chapters": len(pairs), "losses": compared}


def _refuse_different(first: Sequence[ChapterMeasures], second: Sequence[ChapterMeasures]) -> None:
    theirs = {chapter.chapter_id: chapter.codes_sha256 for chapter in first}
    ours = {chapter.chapter_id: chapter.codes_sha256 for chapter in second}
    if alone := sorted(theirs.keys() ^ ours.keys()):
        raise UserError(
            f"{len(alone)} chapters belong to one model only, the first is {alone[0]}; only "
            "results on the same chapters can be compared"
        )
    if differing := sorted(name for name, sha256 in theirs.items() if ours[name] != sha256):
        raise UserError(
            f"{len(differing)} chapters were scored on different codes, the first is "
            f"{differing[0]}; encode both with the same Mimi and audio"
        )


def _difference(
    pairs: Sequence[tuple[ChapterMeasures, ChapterMeasures]],
    loss: str,
    name: str,
    config: LongContextConfig,
) -> dict[str, Any]:
    there = _with_measure(pairs, loss, name)
    differences = [new.values[loss][name] - old.values[loss][name] for old, new in there]  # pyright: ignore[reportOperatorIssue]
    speakers = [old.speaker for old, _ in there]
    if name in SLOPES:
        known = [_information(old, new, name) for old, new in there]
        found = slope_interval(differences, known, speakers)
        by_speaker = speaker_slopes(differences, known, speakers)
    else:
        found = speaker_interval(differences, speakers, config).to_dict()
        by_speaker, _ = cluster_means(differences, speakers)
    return {**found, "speakers": len(by_speaker), **paired_test(by_speaker)}


def _equivalence(
    pairs: Sequence[tuple[ChapterMeasures, ChapterMeasures]], loss: str, config: LongContextConfig
) -> dict[str, Any] | None:
    """The mean difference over settled frames, and whether its interval lies inside the margin.

    A 95 % interval inside is two one-sided tests at 2.5 % each. None of `equivalent`: no interval.
    Source: Schuirmann (1987), Journal of Pharmacokinetics and Biopharmaceutics 15.
    """
    margin = config.equivalence_margin
    if margin is None:
        return None
    there = _with_measure(pairs, loss, "settled")
    differences = [new.values[loss]["settled"] - old.values[loss]["settled"] for old, new in there]  # pyright: ignore[reportOperatorIssue]
    interval = speaker_interval(differences, [old.speaker for old, _ in there], config)
    inside = None
    if interval.low is not None and interval.high is not None:
        inside = -margin < interval.low and interval.high < margin
    return {**interval.to_dict(), "margin": margin, "equivalent": inside}


def _with_measure(
    pairs: Sequence[tuple[ChapterMeasures, ChapterMeasures]], loss: str, name: str
) -> list[tuple[ChapterMeasures, ChapterMeasures]]:
    """Those chapters that are long enough for a measure under both models."""
    return [
        (old, new)
        for old, new in pairs
        if old.values[loss][name] is not None and new.values[loss][name] is not None
    ]


def _information(old: ChapterMeasures, new: ChapterMeasures, name: str) -> float:
    """Of the difference of two slopes: noises add up."""
    before, after = old.slope_information[name], new.slope_information[name]
    assert before is not None
    assert after is not None
    return 1 / (1 / before + 1 / after)


def _difference_curve(
    pairs: Sequence[tuple[ChapterMeasures, ChapterMeasures]],
    loss: str,
    config: LongContextConfig,
) -> dict[str, list[Any]]:
    """Of the longer half of the chapters, as far as all of them reach.

    Whoever reaches a point differs from point to point, and could draw a fall that is in none.
    """
    panel = [pairs[n] for n in longer_half([min(old.frames, new.frames) for old, new in pairs])]
    lines = [
        # Not strict: a run with a preset may lack a chapter's last frames, and so a bin.
        [new - old for old, new in zip(before.curves[loss], after.curves[loss], strict=False)]
        for before, after in panel
    ]
    return mean_curve(lines, [before.speaker for before, _ in panel], config, balanced=True)
