"""The rows of a shard of pairs, in the order of its pairs: what was scored, and what was not.

Without a model: whoever gives up a shard, or asks what is there, needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ray_jobs.moshi.pairs.plan import WorkItem
from ttt.eval.pairs.find import Pair, Role, Utterance
from ttt.eval.pairs.records import ItemRecord, Status
from ttt.files.errors import FileIdentity

if TYPE_CHECKING:
    from ttt.eval.pairs.score import Score  # Brings torch, which rows need not.


@dataclass(frozen=True)
class Unscored:
    """Why an utterance has no score."""

    status: Status
    reason: str


@dataclass(frozen=True, eq=False)
class EncodedUtterance:
    """A recording that can be scored."""

    codes: npt.NDArray[np.int16]
    """[8, T]."""
    sha256: str
    """Of the codes."""
    audio: FileIdentity
    """The file that they were made of."""


def shard_rows(
    work: WorkItem,
    encoded: Sequence[EncodedUtterance | Unscored],
    endings: Sequence[int | None],
    results: Sequence[Score | Unscored],
) -> list[ItemRecord]:
    """The rows of a shard: positive and negative of each pair in turn, as in the other lists."""
    sides = [(pair, *side) for pair in work.pairs for side in sides_of(pair)]
    rows = []
    for place, (pair, role, utterance) in enumerate(sides):
        codes, result = encoded[place], results[place]
        about: dict[str, Any] = {
            "task": pair.task,
            "split": pair.split,
            "pair_id": pair.pair_id,
            "cluster_id": pair.cluster_id,
            "item_id": utterance.item_id,
            "role": role,
            "voice": pair.voice,
            "strata": pair.strata,
        }
        if isinstance(codes, EncodedUtterance):
            about |= {"codes_sha256": codes.sha256, "n_frames": codes.codes.shape[1]}
            about["audio"] = codes.audio
        if isinstance(result, Unscored):
            rows.append(ItemRecord(**about, status=result.status, error=result.reason))
        else:
            about |= {"ending_first_frame": endings[place // 2], **vars(result)}
            rows.append(ItemRecord(**about))
    return rows


def without_scores(work: WorkItem, reason: str) -> list[ItemRecord]:
    """Records of a shard that nobody could score."""
    nothing = [Unscored("error", reason)] * 2 * len(work.pairs)
    return shard_rows(work, nothing, [None] * len(work.pairs), nothing)


def sides_of(pair: Pair) -> tuple[tuple[Role, Utterance], tuple[Role, Utterance]]:
    """Both utterances of a pair, each with its part in it."""
    return ("positive", pair.positive), ("negative", pair.negative)
