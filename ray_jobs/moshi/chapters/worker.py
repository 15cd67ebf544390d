"""The actor of a chapter evaluation: holds one model, encodes chapters, hears them, records."""

from __future__ import annotations

import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.chapters.plan import (
    ModelVariant,
    Outcome,
    WorkItem,
    is_verified,
)
from ray_jobs.moshi.chapters.recordings import Recording
from ray_jobs.moshi.models import LoadedModels
from ray_jobs.moshi.synthetic import SyntheticChapter
from ray_jobs.runtime.items import Count
from ttt.device_errors import raise_if_lost
from ttt.errors import UserError
from ttt.eval.chapters.cached import CachedRecording, read_cached
from ttt.eval.chapters.controls import shuffle_stretches
from ttt.eval.chapters.find import Chapter
from ttt.eval.chapters.hear import EncodedChapter, StreamingOptions, record_group, verify_group
from ttt.eval.chapters.records import NonFiniteLoss, leftovers, record_path
from ttt.eval.chapters.run import records_root
from ttt.eval.run import ModelIdentity
from ttt.files.errors import FileIdentity
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.codes import encode_recording
from ttt.moshi.load import LoadedMoshi
from ttt.numerics import exact_float32
from ttt.synthetic.chapters import SYNTHETIC


class ChapterWorker:
    """Hears groups of chapters; loads another model when a group is another's."""

    def __init__(self, config: EvaluateChaptersConfig, count: Count | None) -> None:
        torch.set_num_threads(config.cluster.threads)
        exact_float32()
        self._config, self._count_frames = config, count
        self._models = LoadedModels(config.model, config.cluster.device)
        self._cache: ChapterCache | None = None

    def identify(self, variant: ModelVariant) -> ModelIdentity:
        """Load the model and say what it is. Raises UserError when it cannot be loaded."""
        return self._models.identity(variant.name, variant.weights, variant.controls)

    def identify_codec(self) -> dict[str, str]:
        """Name and hash of what makes the codes."""
        made = self._config.synthetic
        if made is not None:
            name = f"synthetic codes, structure {made.language.structure}"
            return {"name": name, "weights_sha256": made.language.digest()}
        if self._config.model.mimi == SYNTHETIC:
            codes = self._opened_cache().codes
            return {"name": codes.name, "weights_sha256": codes.weights_sha256}
        mimi = self._models.mimi()
        return {"name": mimi.name, "weights_sha256": mimi.weights_sha256}

    def hear(self, work: WorkItem) -> Outcome:
        """Encode, hear and record a group. What is wrong with a chapter is its reason, no error."""
        failures: list[tuple[str, str]] = []
        chapters: list[EncodedChapter] = []
        for place, recording in enumerate(work.recordings):
            try:
                chapters.append(self._chapter(work, place))
            except Exception as error:
                raise_if_lost(error)
                failures.append((recording.chapter_id, _reason(error)))
        if not chapters:
            return Outcome(failures=tuple(failures))
        moshi = self._models.moshi(work.variant.weights, work.variant.inner)
        try:
            outcome = self._record(work, moshi, chapters)
        except Exception as error:
            raise_if_lost(error)
            reason = _reason(error)
            root = records_root(self._config.output, work.variant.name)
            names = [c.chapter_id for c in chapters if not record_path(root, c.chapter_id).exists()]
            together = f" (heard together: {', '.join(names)})" if len(names) > 1 else ""
            failures += [(name, reason + together) for name in names]
            return Outcome(failures=tuple(failures))
        return Outcome(outcome.frames, outcome.acceptance, tuple(failures), outcome.verification)

    def _record(
        self, work: WorkItem, moshi: LoadedMoshi, chapters: list[EncodedChapter]
    ) -> Outcome:
        config, variant = self._config, work.variant
        streams = config.streams
        options = StreamingOptions(
            model=variant.name,
            streams={
                "text_stream": streams.text,
                "other_stream": streams.other,
                "stream": streams.voice,
            },
            chunk=config.chunk,
            state_every_frames=config.state_every_frames,
            reset_ttt_every=variant.reset_every_frames,
            preset=config.preset,
        )
        frames = [chapter.codes.shape[1] for chapter in chapters]
        silence = self._silence(max(frames) + (variant.prefix_frames or 0))
        root = records_root(config.output, variant.name)
        state_path = Path(config.output) / work.state_name
        names = [chapter.chapter_id for chapter in chapters]
        acceptance = None
        if all(record_path(root, name).exists() for name in names):
            # Killed after the last record, its worker could not tidy up.
            for path in leftovers(root, names, state_path):
                path.unlink()
        else:
            acceptance = record_group(
                moshi.lm,
                chapters,
                options,
                silence=silence,
                records_root=root,
                state_path=state_path,
                on_frames=lambda heard: self._count(work, heard),
            )
        verification = None
        if is_verified(config, variant):
            verification = self._verify(moshi, chapters, options, silence)
        return Outcome(sum(frames), acceptance, (), verification)

    def _verify(
        self,
        moshi: LoadedMoshi,
        chapters: list[EncodedChapter],
        options: StreamingOptions,
        silence: torch.Tensor | None,
    ) -> dict[str, Any]:
        """Hold records to stepping. They stand whatever becomes of it."""
        try:
            found = verify_group(
                moshi.lm,
                chapters,
                options,
                silence=silence,
                records_root=records_root(self._config.output, options.model),
                spans=self._config.verify_spans,
                seed=self._config.seed,
            )
        except Exception as error:
            raise_if_lost(error)
            return {"error": _reason(error)}
        return asdict(found)

    def _chapter(self, work: WorkItem, place: int) -> EncodedChapter:
        config, recording = self._config, work.recordings[place]
        codes, joins = self._codes(recording)
        codes = codes[:, : config.max_frames]
        stretch = work.variant.shuffle_frames
        if stretch is not None:
            codes, joins = shuffle_stretches(codes, stretch, config.seed, recording.chapter_id)
        prefix = None
        if work.prefixes:
            prefix = self._codes(work.prefixes[place])[0][:, : work.variant.prefix_frames]
        inside = tuple(int(frame) for frame in joins if frame < codes.shape[1])
        audio: tuple[FileIdentity, ...] = ()
        if isinstance(recording, Chapter):
            audio = tuple(map(FileIdentity.of, recording.files))
        elif isinstance(recording, CachedRecording):
            audio = (recording.codes,)
        return EncodedChapter(recording.chapter_id, recording.speaker, codes, inside, prefix, audio)

    def _codes(self, recording: Recording) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
        """Codes [8, T] and the frames at which a later piece begins."""
        if isinstance(recording, SyntheticChapter):
            return recording.codes(), np.zeros(0, dtype=np.int64)
        if isinstance(recording, CachedRecording):
            return read_cached(self._opened_cache(), recording)
        mimi = self._models.mimi()
        cache, sha256 = self._config.codes_cache, mimi.weights_sha256
        made = encode_recording(mimi.mimi, recording.chapter_id, recording.pieces, cache, sha256)
        return made.codes, made.joins

    def _opened_cache(self) -> ChapterCache:
        if self._cache is None:
            data = self._config.data
            assert data is not None
            assert data.cache is not None
            self._cache = ChapterCache.open(data.cache)
        return self._cache

    def _silence(self, frames: int) -> torch.Tensor | None:
        cache = self._config.codes_cache
        if not self._config.streams.needs_silence or cache is None:
            return None
        return self._models.silence(frames, cache)

    def _count(self, work: WorkItem, frames: int) -> None:
        if self._count_frames is not None:
            self._count_frames(work.number, frames)


def _reason(error: Exception) -> str:
    if isinstance(error, UserError | NonFiniteLoss):
        return str(error)
    traceback.print_exception(error, file=sys.stderr)
    return f"{type(error).__name__}: {error}"
