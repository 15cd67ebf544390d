"""From records to pairs: what a model finds more probable, under each way to say "probable".

A score is computed from sums s_k and counts n_k of codebook k, in nats; lower is more probable:

    weighted_mean  sum(w_k s_k) / sum(w_k n_k) with w = 100 for codebook 0 and 1 for the others
    semantic_mean  codebook 0 alone         what is said
    acoustic_mean  the mean of the others   how it sounds
    ..._sum        the same per frame, summed: longer recordings are less probable
    ending_weighted_mean  weighted_mean from the first frame in which the two recordings differ

The share of codebook 0 in weighted_mean is 100 / 107: as Moshi is trained, and as its paper scores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from ttt.errors import UserError
from ttt.eval.chapters.measures import LOSSES
from ttt.eval.config import ScoreName
from ttt.eval.pairs.find import LeftOut
from ttt.eval.pairs.records import CODEBOOKS, ItemRecord

SCORES: tuple[ScoreName, ...] = get_args(ScoreName)
NEAR_TIE = 1e-6
"""Nats: what is closer than this is within what float32 and the batch can move."""

_TIE = 1e-12
"""Relative: sums of float64 differ by this much when they mean the same."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """The pairs of one task and split that have both scores, in order of their ids; n of them."""

    task: str
    split: str
    pair_ids: tuple[str, ...]
    cluster_ids: tuple[str, ...]
    strata: tuple[Mapping[str, str], ...]
    codes_sha256: tuple[tuple[str | None, str | None], ...]
    losses: Mapping[ScoreName, Floats]
    """[n, 2] of the positive and the negative recording; NaN where the score is undefined."""

    def margin(self, score: ScoreName) -> Floats:
        """[n] nats by which the positive recording is the more probable; NaN where undefined."""
        positive, negative = self.losses[score].T
        return negative - positive

    def outcome(self, score: ScoreName) -> Floats:
        """[n] 1 right, 0.5 a tie, 0 wrong; NaN where undefined."""
        margin = self.margin(score)
        tie = np.abs(margin) <= _TIE * np.abs(self.losses[score]).sum(axis=1)
        right = np.where(tie, 0.5, (margin > 0).astype(np.float64))
        return np.where(np.isnan(margin), np.nan, right)

    def near_ties(self, score: ScoreName) -> int:
        """How many pairs are closer than 1e-6 nats and yet no tie."""
        return int(((np.abs(self.margin(score)) < NEAR_TIE) & (self.outcome(score) != 0.5)).sum())

    def only(self, pair_ids: Iterable[str]) -> ScoredPairs:
        """Those of the given ids."""
        wanted = set(pair_ids)
        kept = [place for place, pair_id in enumerate(self.pair_ids) if pair_id in wanted]
        return ScoredPairs(
            self.task,
            self.split,
            tuple(self.pair_ids[place] for place in kept),
            tuple(self.cluster_ids[place] for place in kept),
            tuple(self.strata[place] for place in kept),
            tuple(self.codes_sha256[place] for place in kept),
            {name: losses[kept] for name, losses in self.losses.items()},
        )


def scored_pairs(records: Sequence[ItemRecord]) -> tuple[list[ScoredPairs], list[LeftOut]]:
    """The pairs of one task, by split, and those of which a recording has no score.

    Raises:
        UserError: a recording occurs twice.
    """
    sides: dict[str, dict[str, int]] = defaultdict(dict)
    for place, record in enumerate(records):
        if sides[record.pair_id].setdefault(record.role, place) != place:
            raise UserError(f"{record.item_id}: two records of the same recording")
    losses = _losses(records)
    whole: dict[str, list[tuple[int, int]]] = defaultdict(list)
    missing = []
    for pair_id in sorted(sides):
        both = sides[pair_id]
        first = records[next(iter(both.values()))]
        reason = _reason([records[place] for place in both.values()], losses, list(both.values()))
        if reason is None:
            whole[first.split].append((both["positive"], both["negative"]))
        else:
            missing.append(LeftOut(first.split, pair_id, reason))
    return [_of_split(records, losses, places) for _, places in sorted(whole.items())], missing


def _reason(
    both: Sequence[ItemRecord], losses: Mapping[ScoreName, Floats], places: Sequence[int]
) -> str | None:
    """Why a pair has no score; None when it has one."""
    for record in both:
        if record.status != "ok":
            return f"{record.item_id}: {record.error}"
    if len(both) == 1:
        return f"{both[0].item_id}: its partner has no record"
    for record, place in zip(both, places, strict=True):
        if not np.isfinite(losses["weighted_mean"][place]):
            return f"{record.item_id}: its loss is not a finite number"
    return None


def _of_split(
    records: Sequence[ItemRecord],
    losses: Mapping[ScoreName, Floats],
    places: Sequence[tuple[int, int]],
) -> ScoredPairs:
    positives = [records[place] for place, _ in places]
    negatives = [records[place] for _, place in places]
    return ScoredPairs(
        positives[0].task,
        positives[0].split,
        tuple(record.pair_id for record in positives),
        tuple(record.cluster_id for record in positives),
        tuple(record.strata for record in positives),
        tuple(
            (one.codes_sha256, other.codes_sha256)
            for one, other in zip(positives, negatives, strict=True)
        ),
        {name: values[np.array(places)] for name, values in losses.items()},
    )


def _losses(records: Sequence[ItemRecord]) -> dict[ScoreName, Floats]:
    """[N] of every score; NaN where a record has none."""
    sums, counts = _table(records, "nll_sum"), _table(records, "n_cb")
    first = np.array([r.ending_first_frame for r in records], dtype=np.float64)  # None is NaN.
    ending_counts = counts - first[:, None]
    return {
        "weighted_mean": _mean(sums, counts, "moshi"),
        "semantic_mean": _mean(sums, counts, "semantic"),
        "acoustic_mean": _mean(sums, counts, "acoustic"),
        "weighted_sum": _sum(sums, "moshi"),
        "semantic_sum": _sum(sums, "semantic"),
        "acoustic_sum": _sum(sums, "acoustic"),
        "ending_weighted_mean": _mean(_table(records, "ending_sum"), ending_counts, "moshi"),
    }


def _mean(sums: Floats, counts: Floats, weights: str) -> Floats:
    """NaN where there is no frame."""
    frames, nothing = _sum(counts, weights), np.full(len(sums), np.nan)
    return np.divide(_sum(sums, weights), frames, out=nothing, where=frames > 0)


def _sum(values: Floats, weights: str) -> Floats:
    """[N] weighted sums of values [N, 8]; a matrix product would round a row by its place."""
    return (values * LOSSES[weights]).sum(axis=1)


def _table(records: Sequence[ItemRecord], name: str) -> Floats:
    """[N, 8] of a field; NaN where a record has no finite value."""
    nothing: tuple[Any, ...] = (np.nan,) * CODEBOOKS
    rows = [getattr(record, name) or nothing for record in records]
    table = np.array(rows, dtype=np.float64).reshape(len(records), CODEBOOKS)
    return np.where(np.isfinite(table), table, np.nan)
