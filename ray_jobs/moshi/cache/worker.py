"""The worker that caches chapters: holds Mimi, where one is asked, and the base model whose text is
wanted."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ray_jobs.moshi.cache.config import CacheChaptersConfig
from ray_jobs.moshi.config import ChapterModelsConfig
from ray_jobs.moshi.models import LoadedModels
from ray_jobs.moshi.synthetic import synthetic_chapters
from ray_jobs.runtime.items import Count
from ttt import storage
from ttt.device_errors import is_out_of_memory
from ttt.errors import UserError
from ttt.moshi.chapter_cache.inputs import ChapterInput, LeftOut
from ttt.moshi.chapter_cache.shard_file import (
    CodedChapter,
    CodesIdentity,
    ShardHeader,
    TextIdentity,
)
from ttt.moshi.chapter_cache.write_shard import cache_shard
from ttt.moshi.codes import encode_recording
from ttt.moshi.load import LoadedMimi
from ttt.moshi.own_text import own_text
from ttt.numerics import computed_with, exact_float32

Shard = tuple[int, tuple[ChapterInput, ...]]
"""A shard's number and its inputs."""


@dataclass(frozen=True)
class ShardStatus:
    """What a shard took; in seconds, since clocks of nodes differ and may be set back."""

    audio_seconds: float
    left_out: int
    """Inputs that are not cached."""
    seconds: float


class ChapterEncoder:
    """A worker: turns a shard's inputs into its files."""

    def __init__(self, config: CacheChaptersConfig, codes: CodesIdentity, count: Count) -> None:
        exact_float32()
        if config.cluster.device == "cpu":
            torch.set_num_threads(1)  # The same codes, however many CPUs a worker has.
        self._config, self._codes, self._count = config, codes, count
        text = config.text
        models = ChapterModelsConfig(mimi=config.mimi)
        if text is not None:
            models = replace(
                models, weights=text.weights, dtype=text.dtype, lm_kwargs=text.lm_kwargs
            )
        self._models = LoadedModels(models, config.cluster.device)
        made = [] if config.synthetic is None else synthetic_chapters(config.synthetic)
        self._made = {each.chapter_id: each for each in made}

    def identify_text(self) -> dict[str, Any]:
        """What the text is made by, as `TextIdentity`; loads the base model."""
        text = self._config.text
        assert text is not None
        made_by = self._models.identity("base", "baseline")
        return asdict(
            TextIdentity(
                name=made_by.source,
                fingerprint=made_by.fingerprint,
                weights_sha256=made_by.weights_sha256,
                dtype=text.dtype,
                device=self._config.cluster.device,
                context=made_by.context,
                other=text.other,
                voice=text.voice,
                chunk=text.chunk,
                card=self._models.moshi("baseline").lm.text_card,
            )
        )

    def cache(self, shard: Shard, text: dict[str, Any] | None) -> ShardStatus:
        """Write the shard's files; `text` is what `identify_text` gave.

        Raises UserError when this node's Mimi or base model is another.
        """
        if text is not None and (found := self.identify_text()) != text:
            raise UserError(
                f"{found['name']}: is {found['fingerprint']} on this node, and "
                f"{text['fingerprint']} on others; give every node the same base model"
            )
        number, inputs = shard
        began = time.monotonic()
        if not self._codes.is_synthetic:
            _ = self._mimi  # What is wrong with it is no chapter's fault.
        header = ShardHeader(self._codes, None if text is None else TextIdentity(**text))
        lines = cache_shard(
            self._config.output, number, inputs, self._encode, header,
            on_input=lambda done: self._count(number, done),
        )  # fmt: skip
        return ShardStatus(
            audio_seconds=sum(line["seconds"] for line in lines if line["status"] == "cached"),
            left_out=sum(line["status"] != "cached" for line in lines),
            seconds=time.monotonic() - began,
        )

    @functools.cached_property
    def _mimi(self) -> LoadedMimi:
        """Mimi, which must be the one that was planned."""
        mimi, codes = self._models.mimi(), self._codes
        device, precision = computed_with(next(mimi.mimi.parameters()))
        if (mimi.weights_sha256, device, precision) != (
            codes.weights_sha256,
            codes.device,
            codes.precision,
        ):
            raise UserError(
                f"{self._config.mimi}: is Mimi {mimi.weights_sha256[:12]} on {device} in "
                f"{precision} on this node, and {codes.weights_sha256[:12]} on {codes.device} in "
                f"{codes.precision} was planned; give every node the same Mimi"
            )
        return mimi

    def _encode(self, chapter: ChapterInput) -> CodedChapter:
        if self._codes.is_synthetic:
            return self._make(chapter)
        mimi = self._mimi
        made = encode_recording(
            mimi.mimi, chapter.chapter_id, chapter.pieces, None, mimi.weights_sha256
        )
        return CodedChapter(
            chapter_id=chapter.chapter_id,
            speaker=chapter.speaker,
            book=chapter.book,
            codes=np.ascontiguousarray(made.codes.T),
            seconds=chapter.seconds,
            joins=tuple(made.joins.tolist()),
            text=None if self._config.text is None else self._own_text(made.codes),
        )

    def _make(self, chapter: ChapterInput) -> CodedChapter:
        made = self._made[chapter.chapter_id]
        codes = made.codes()
        return CodedChapter(
            chapter_id=made.chapter_id,
            speaker=made.speaker,
            book="",
            codes=np.ascontiguousarray(codes.T),
            seconds=made.seconds,
            text=None if self._config.text is None else self._own_text(codes),
        )

    def _own_text(self, codes: np.ndarray) -> np.ndarray:
        text = self._config.text
        assert text is not None
        silence = None
        if text.other == "silence":
            folder = storage.join(self._config.output, SILENCE)
            silence = self._models.silence(codes.shape[1], folder)
        try:
            return own_text(
                self._models.moshi("baseline").lm,
                torch.from_numpy(codes)[None],
                chunk=text.chunk,
                other_stream=text.other,
                stream=text.voice,
                silence=silence,
            )
        except UserError as error:
            raise LeftOut("no text", str(error)) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise LeftOut(
                "no text", f"out of memory with text.chunk={text.chunk}: lower it"
            ) from error


SILENCE = "silence"
"""The folder of the codes of silence, below the output while the job works."""
