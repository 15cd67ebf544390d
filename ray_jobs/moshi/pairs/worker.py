"""The actor of an evaluation of pairs: encodes a shard's recordings, scores them, writes them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from functools import partial

import torch

from ray_jobs.moshi.models import LoadedModels
from ray_jobs.moshi.pairs.config import EvaluatePairsConfig
from ray_jobs.moshi.pairs.plan import WorkItem
from ray_jobs.moshi.pairs.rows import EncodedUtterance, Unscored, shard_rows, sides_of
from ray_jobs.moshi.wanted import NamedModel
from ray_jobs.runtime.items import Count
from ttt import storage
from ttt.audio import Piece, flac_bytes, read_header
from ttt.device_errors import raise_if_lost
from ttt.errors import UserError
from ttt.eval.pairs.find import Utterance
from ttt.eval.pairs.records import write_part
from ttt.eval.pairs.score import Recording, Score, Scoring, check_streams, first_difference, score
from ttt.eval.run import ModelIdentity
from ttt.files.errors import FileIdentity
from ttt.moshi.codes import decode_codes, encode_recording
from ttt.numerics import exact_float32


class PairWorker:
    """Scores shards; loads another model when a shard is another's."""

    def __init__(self, config: EvaluatePairsConfig, count: Count | None) -> None:
        torch.set_num_threads(config.cluster.threads)
        exact_float32()
        self._config, self._count_recordings = config, count
        self._models = LoadedModels(config.model, config.cluster.device)
        assert config.codes_cache is not None  # The plan has named one.
        self._cache = config.codes_cache

    def identify(self, model: NamedModel) -> ModelIdentity:
        """Load the model and say what it is. Raises UserError when it or its streams do not fit."""
        identity = self._models.identity(model.name, model.weights, model.controls)
        for setting in self._config.settings:
            check_streams(self._models.moshi(model.weights).lm, setting.streams)
        return identity

    def identify_codec(self) -> dict[str, str]:
        """Name and hash of what makes the codes."""
        mimi = self._models.mimi()
        return {"name": mimi.name, "weights_sha256": mimi.weights_sha256}

    def write_silence(self, seconds: float, path: str) -> None:
        """Write what Mimi's codes of silence sound like."""
        mimi = self._models.mimi().mimi
        codes = self._models.silence(round(seconds * mimi.frame_rate), self._cache)
        storage.write_bytes(path, flac_bytes(decode_codes(mimi, codes), mimi.sample_rate))

    def score(self, work: WorkItem) -> int:
        """Score a shard and write its part file; returns how many utterances have no score."""
        encoded = [
            self._encode(utterance) for pair in work.pairs for _, utterance in sides_of(pair)
        ]
        endings = [_ending(*encoded[at : at + 2]) for at in range(0, len(encoded), 2)]
        recordings = [
            Recording(each.codes, endings[place // 2])
            for place, each in enumerate(encoded)
            if isinstance(each, EncodedUtterance)
        ]
        scores = iter(self._score(work, recordings))
        results = [next(scores) if isinstance(e, EncodedUtterance) else e for e in encoded]
        records = shard_rows(work, encoded, endings, results)
        write_part(work.path(self._config.output), records)
        self._count(work, len(records))  # Those that could not be read as well.
        return sum(record.status != "ok" for record in records)

    def _score(self, work: WorkItem, recordings: Sequence[Recording]) -> list[Score | Unscored]:
        config, longest = self._config, max((r.codes.shape[1] for r in recordings), default=0)
        silence = None
        if config.needs_silence and recordings:
            silence = self._models.silence(longest, self._cache)
        how = Scoring(
            streams=work.setting.streams,
            chunk=config.chunk,
            batch_items=config.batch_items,
            batch_frames=config.batch_frames,
        )
        lm = self._models.moshi(work.model.weights, work.model.inner).lm
        count = partial(self._count, work)
        scored = score(lm, recordings, how, silence, on_scored=count)
        return [Unscored("error", each) if isinstance(each, str) else each for each in scored]

    def _count(self, work: WorkItem, recordings: int) -> None:
        if self._count_recordings is not None:
            self._count_recordings(work.number, recordings)

    def _encode(self, utterance: Utterance) -> EncodedUtterance | Unscored:
        if not utterance.audio.exists():
            return Unscored("missing", f"{utterance.audio}: no such file")
        mimi = self._models.mimi()
        try:
            header = read_header(utterance.audio)
            if header.samples == 0:
                raise UserError(f"{utterance.audio}: holds no audio")
            piece = Piece(str(utterance.audio), 0, header.samples, header.rate)
            audio = FileIdentity.of(utterance.audio)
            made = encode_recording(
                mimi.mimi, utterance.item_id, (piece,), self._cache, mimi.weights_sha256
            )
            return EncodedUtterance(made.codes, made.sha256, audio)
        except Exception as error:
            raise_if_lost(error)
            if isinstance(error, UserError):
                return Unscored("error", str(error))
            traceback.print_exception(error, file=sys.stderr)
            return Unscored("error", f"{type(error).__name__}: {error}")


def _ending(
    positive: EncodedUtterance | Unscored, negative: EncodedUtterance | Unscored
) -> int | None:
    if isinstance(positive, Unscored) or isinstance(negative, Unscored):
        return None
    return first_difference(positive.codes, negative.codes)
