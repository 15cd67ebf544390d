"""Two models on the same chapters: what the difference is, and whether it is more than chance.

Every comparison is paired: the same chapter, the same window, the same codes. Differences are the
second model's minus the first's, so that a negative one means that the second has less loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttt.errors import UserError
from ttt.eval.long_context import mean_curve, speaker_interval
from ttt.eval.measures import LOSSES, ChapterMeasures, LongContextConfig
from ttt.eval.significance import holm, wilcoxon_signed_rank
from ttt.stats import FEWEST_CLUSTERS


def compare(
    first: Sequence[ChapterMeasures],
    second: Sequence[ChapterMeasures],
    config: LongContextConfig,
) -> dict[str, Any]:
    """Loss -> measures and curve of the difference second - first; ready for JSON.

    The mean is over chapters, its interval resamples speakers; Wilcoxon's test is on the speakers'
    mean differences; `p_holm` is adjusted over all measures of one loss.

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
        adjusted = holm([row["p_wilcoxon"] for row in rows.values()])
        for row, p_holm in zip(rows.values(), adjusted, strict=True):
            row["p_holm"] = p_holm
        compared[loss] = {"measures": rows, "curve": _difference_curve(pairs, loss, config)}
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
    differences, speakers = [], []
    for before, after in pairs:
        old, new = before.values[loss][name], after.values[loss][name]
        if old is not None and new is not None:
            differences.append(new - old)
            speakers.append(before.speaker)
    interval = speaker_interval(differences, speakers, config)
    by_speaker = _speaker_means(differences, speakers)
    enough = len(by_speaker) >= FEWEST_CLUSTERS
    return {
        **interval.to_dict(),
        "speakers": len(by_speaker),
        "p_wilcoxon": wilcoxon_signed_rank(by_speaker) if enough else None,
    }


def _difference_curve(
    pairs: Sequence[tuple[ChapterMeasures, ChapterMeasures]],
    loss: str,
    config: LongContextConfig,
) -> dict[str, list[Any]]:
    lines = [
        # Not strict: a run with a preset may lack a chapter's last frames, and so a bin.
        [new - old for old, new in zip(before.curves[loss], after.curves[loss], strict=False)]
        for before, after in pairs
    ]
    return mean_curve(lines, [before.speaker for before, _ in pairs], config)


def _speaker_means(differences: Sequence[float], speakers: Sequence[str]) -> list[float]:
    grouped: dict[str, list[float]] = defaultdict(list)
    for difference, speaker in zip(differences, speakers, strict=True):
        grouped[speaker].append(difference)
    return [float(np.mean(values)) for values in grouped.values()]
