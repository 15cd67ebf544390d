"""Clips to measure: out of a cache, or out of a folder of audio, encoded on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ttt.audio import from_int16
from ttt.files.errors import FileIdentity
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.cache.index import DamagedClip, open_cache
from ttt.snac.cache.inputs import ClipInput, LeftOut, QualityConfig
from ttt.snac.cache.sources import prepare_recording
from ttt.snac.config import EncodeConfig
from ttt.snac.evaluate import EvaluationClip, Unmeasurable
from ttt.snac.load import LoadedCodec


@dataclass(frozen=True)
class CachedClip:
    """A clip of a cache by its row."""

    clip_id: str
    row: int


class ClipReader:
    """Reads clips of one source; folders are encoded exactly as the cache would do it."""

    def __init__(self, codec: LoadedCodec, cache: str | None, quality: QualityConfig) -> None:
        """`cache` is needed for CachedClips. Raises UserError when it cannot be opened."""
        self._cache = None if cache is None else open_cache(cache)
        self._quality = quality
        self._geometry = codec.geometry
        self._encoder = ClipEncoder(codec.model, EncodeConfig())

    def read(self, clip: ClipInput | CachedClip) -> EvaluationClip:
        """The clip's codes and its true audio. Raises Unmeasurable with the reason."""
        try:
            if isinstance(clip, CachedClip):
                return self._from_cache(clip)
            return self._from_file(clip)
        except LeftOut as reason:
            raise Unmeasurable(f"{reason.reason}: {reason.note}") from reason
        except DamagedClip as reason:
            raise Unmeasurable(f"damaged: {reason}") from reason

    def source(self, clip: ClipInput | CachedClip) -> dict[str, Any]:
        """What a clip that can be read is: its file's identity, or its checksum in the cache."""
        if isinstance(clip, CachedClip):
            assert self._cache is not None
            return {"crc32": self._cache.checksum(clip.row)}
        return FileIdentity.of(clip.source).to_dict()

    def _from_cache(self, clip: CachedClip) -> EvaluationClip:
        assert self._cache is not None
        catalogue = self._cache.catalogue
        n_samples = int(catalogue.n_samples[clip.row])
        return EvaluationClip(
            clip.clip_id,
            self._cache.read_codes(clip.row, 0, int(catalogue.n_coarse[clip.row])),
            from_int16(self._cache.read_audio(clip.row, 0, n_samples)),
            catalogue.speakers[clip.row],
        )

    def _from_file(self, clip: ClipInput) -> EvaluationClip:
        if clip.problem is not None:
            raise LeftOut(clip.problem, clip.problem_note)
        prepared = prepare_recording(clip, self._geometry, self._quality)
        assert prepared.source is not None
        (scales,) = self._encoder.encode([prepared.source])
        n_coarse = self._geometry.n_coarse_of([len(scale) for scale in scales])
        rows = np.concatenate([scale.reshape(n_coarse, -1) for scale in scales], axis=1)
        return EvaluationClip(clip.clip_id, rows, from_int16(prepared.audio), clip.speaker)
