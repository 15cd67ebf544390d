"""A group of chapters heard by one model, recorded frame by frame, continued where it was cut off.

Every `state_every_frames` the records written so far are put on the disk, and then the model's
state, in one rename. Whoever hears the group again goes on from there, and its records are those of
an uninterrupted run, but for the time they took.

Shapes: B chapters, T frames, P frames of the prefix.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from moshi.models.lm import LMModel
from torch import Tensor

from ttt.errors import UserError
from ttt.eval.chapters.records import (
    ChapterDetails,
    ChapterWriter,
    leftovers,
    read_record,
    record_path,
)
from ttt.eval.chapters.run import ORIGINAL_WARNING
from ttt.eval.config import BEGINNING_FRAMES
from ttt.files.errors import FileIdentity
from ttt.moshi.codes import codes_sha256, padded
from ttt.moshi.insert import ttt_layers
from ttt.moshi.original import OriginalEvaluation
from ttt.moshi.streaming.evaluate import Block, Evaluation
from ttt.moshi.streaming.state import load_state, save_state
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.verify import Verification, verify

_ACTIVITY_STEPS = 128


@dataclass(frozen=True, eq=False)
class EncodedChapter:
    """A chapter as codes."""

    chapter_id: str
    speaker: str
    codes: npt.NDArray[np.int16]
    """[8, T]"""
    joins: tuple[int, ...] = ()
    """Frames in which a later piece begins."""
    prefix: npt.NDArray[np.int16] | None = None
    """[8, P] heard before the chapter and not scored; equally long in all of a group."""
    audio: tuple[FileIdentity, ...] = ()
    """The files that the codes were made of, where there are any."""


@dataclass(frozen=True, kw_only=True)
class StreamingOptions:
    """How a model hears a group."""

    model: str
    """Its name in the run."""
    streams: dict[str, str]
    """text_stream, other_stream and stream of `ttt.moshi.streaming.streams`."""
    chunk: int
    state_every_frames: int
    reset_ttt_every: int | None = None
    preset: Literal["original"] | None = None
    """original: one chapter at a time with the faults and the streams of `ttt.moshi.original`."""


def record_group(
    lm: LMModel,
    chapters: Sequence[EncodedChapter],
    options: StreamingOptions,
    *,
    silence: Tensor | None,
    records_root: Path,
    state_path: Path,
    on_frames: Callable[[int], None] = lambda frames: None,
) -> float:
    """Hear the chapters together and write the record of each that has none yet.

    Args:
        silence: [8, P + T or more] codes of silence, where `options.streams` needs them.
        state_path: file for the state while the group is not finished.
        on_frames: called with the frames heard so far of all chapters.

    Returns:
        Share of the computed steps that stood.

    Raises:
        UserError: what does not fit the model, a loss that is not a number, too little memory.
    """
    group = _Group(chapters, options, records_root)
    kept = load_state(state_path, group.identity)
    began = time.perf_counter()
    with ExitStack() as stack:
        evaluation = stack.enter_context(_evaluation(lm, group, options, silence))
        if kept is not None:
            group.load(kept, lm)
            evaluation.load_state({k: t for k, t in kept.items() if not k.startswith("group.")})
            began -= float(kept["group.seconds"])
        group.open_writers(stack)
        saved = evaluation.frames_done
        for block in evaluation:
            group.append(block)
            group.measure_activity(evaluation)
            on_frames(group.frames_heard(evaluation.frames_done))
            unsaved = evaluation.frames_done - saved
            if unsaved + evaluation.block_steps > options.state_every_frames:
                saved = evaluation.frames_done
                own = group.save(time.perf_counter() - began, list(ttt_layers(lm)))
                save_state(state_path, group.identity, evaluation.save_state() | own)
        group.finish(evaluation, time.perf_counter() - began, list(ttt_layers(lm)))
    for path in leftovers(records_root, [c.chapter_id for c in chapters], state_path):
        path.unlink()
    return evaluation.acceptance.rate


def verify_group(
    lm: LMModel,
    chapters: Sequence[EncodedChapter],
    options: StreamingOptions,
    *,
    silence: Tensor | None,
    records_root: Path,
    spans: int,
    seed: int,
) -> Verification:
    """Hold the finished records of a group, heard without prefix or resets, to stepping."""
    codes, lengths = padded([chapter.codes for chapter in chapters])
    streams = Streams(lm, codes, silence=silence, lengths=lengths, **options.streams)
    nll = torch.full(codes.shape, torch.nan)
    text = torch.zeros(len(chapters), codes.shape[2], dtype=torch.long)
    for row, chapter in enumerate(chapters):
        record = read_record(record_path(records_root, chapter.chapter_id))
        nll[row, :, : record.frames] = torch.from_numpy(record.nll)
        text[row, : record.frames] = torch.from_numpy(record.text.astype(np.int64))
    return verify(
        *(lm, streams, nll, text),
        spans=spans,
        beginning_frames=BEGINNING_FRAMES,
        chunk=options.chunk,
        seed=seed,
    )


@dataclass
class _Group:
    """The records being written, and what else goes into them."""

    chapters: Sequence[EncodedChapter]
    options: StreamingOptions
    root: Path
    frames: list[int] = field(init=False)
    """Of each chapter, what counts as written."""
    activity_steps: list[int] = field(default_factory=list)
    activity: list[Tensor] = field(default_factory=list)
    """[layers, B] at each of `activity_steps`."""
    writers: list[ChapterWriter | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len({self._prefix_of(chapter).shape[1] for chapter in self.chapters}) != 1:
            raise UserError("the chapters of a group need prefixes of the same length")
        self.frames = [0] * len(self.chapters)

    @property
    def prefix(self) -> int:
        """P."""
        return self._prefix_of(self.chapters[0]).shape[1]

    @property
    def heard(self) -> list[npt.NDArray[np.int16]]:
        """[8, P + T] of each chapter."""
        return [np.concatenate([self._prefix_of(c), c.codes], axis=1) for c in self.chapters]

    @property
    def identity(self) -> str:
        """Of everything that a state belongs to."""
        how = self.options
        content = [how.model, how.streams, how.chunk, how.reset_ttt_every, how.preset]
        content += [[c.chapter_id for c in self.chapters], [codes_sha256(c) for c in self.heard]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def open_writers(self, stack: ExitStack) -> None:
        """One for each chapter without a record."""
        for chapter, frames in zip(self.chapters, self.frames, strict=True):
            if record_path(self.root, chapter.chapter_id).exists():
                self.writers.append(None)
            else:
                writer = ChapterWriter(self.root, chapter.chapter_id, frames)
                self.writers.append(stack.enter_context(writer))

    def append(self, block: Block) -> None:
        """Write a block's frames, without the prefix and what follows a chapter's end."""
        first, last = block.first_frame, block.first_frame + block.text.shape[1]
        for row, (chapter, writer) in enumerate(zip(self.chapters, self.writers, strict=True)):
            start = max(first, self.prefix)
            stop = min(last, self.prefix + chapter.codes.shape[1])
            if writer is not None and start < stop:
                part = slice(start - first, stop - first)
                writer.append(block.nll[row, :, part].numpy(), block.text[row, part].numpy())

    def measure_activity(self, evaluation: Evaluation) -> None:
        """Note how far the fast weights have moved, once in every so many steps.

        A pass may end some steps later. The round number stands for it, so that chapters share
        their positions and can be averaged.
        """
        step = evaluation.session.position // _ACTIVITY_STEPS * _ACTIVITY_STEPS
        if step > (self.activity_steps[-1] if self.activity_steps else 0):
            change = evaluation.session.fast_weight_change()
            if len(change):
                self.activity_steps.append(step)
                self.activity.append(change.float().cpu())

    def frames_heard(self, done: int) -> int:
        """Frames of the chapters themselves."""
        own = max(0, done - self.prefix)
        return sum(min(own, chapter.codes.shape[1]) for chapter in self.chapters)

    def save(self, seconds: float, layers: list[int]) -> dict[str, Tensor]:
        """Put the records on the disk; returns what the state must say of them."""
        self.frames = [writer.sync() if writer else 0 for writer in self.writers]
        rows = (0, len(layers), len(self.chapters))
        activity = torch.stack(self.activity) if self.activity else torch.zeros(rows)
        return {
            "group.frames": torch.tensor(self.frames),
            "group.seconds": torch.tensor(seconds, dtype=torch.float64),
            "group.activity_steps": torch.tensor(self.activity_steps, dtype=torch.long),
            "group.activity": activity,
        }

    def load(self, tensors: dict[str, Tensor], lm: LMModel) -> None:
        """Go on from what `save` gave."""
        self.frames = tensors["group.frames"].tolist()
        self.activity_steps = tensors["group.activity_steps"].tolist()
        self.activity = list(tensors["group.activity"]) if ttt_layers(lm) else []

    def finish(self, evaluation: Evaluation, seconds: float, layers: list[int]) -> None:
        """Turn what is written into records."""
        lengths = [chapter.codes.shape[1] for chapter in self.chapters]
        peak = _peak_bytes(evaluation.session.lm.device)
        for row, (chapter, writer) in enumerate(zip(self.chapters, self.writers, strict=True)):
            if writer is None:
                continue
            shown = [
                (step - self.prefix, change[:, row].tolist())
                for step, change in zip(self.activity_steps, self.activity, strict=True)
                if 0 < step - self.prefix <= lengths[row]
            ]
            details = ChapterDetails(
                chapter_id=chapter.chapter_id,
                speaker=chapter.speaker,
                model=self.options.model,
                codes_sha256=codes_sha256(chapter.codes),
                audio=chapter.audio,
                unscored_frames=lengths[row] - writer.frames,
                warning=None if self.options.preset is None else ORIGINAL_WARNING,
                joins=chapter.joins,
                chunks=tuple(evaluation.chunks),
                group=tuple(each.chapter_id for each in self.chapters),
                seconds=seconds * lengths[row] / sum(lengths),
                acceptance=evaluation.acceptance.rate,
                # Counted for the whole group: it would be wrong to count it for every chapter.
                near_ties=evaluation.acceptance.near_ties if row == 0 else None,
                peak_bytes=peak,
                activity_frames=tuple(frame for frame, _ in shown),
                activity={
                    str(layer): tuple(change[place] for _, change in shown)
                    for place, layer in enumerate(layers)
                },
            )
            writer.finish(details)

    @staticmethod
    def _prefix_of(chapter: EncodedChapter) -> npt.NDArray[np.int16]:
        return chapter.codes[:, :0] if chapter.prefix is None else chapter.prefix


def _evaluation(
    lm: LMModel, group: _Group, options: StreamingOptions, silence: Tensor | None
) -> Evaluation:
    codes, lengths = padded(group.heard)
    if lm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if options.preset == "original":
        if len(group.chapters) > 1 or group.prefix or options.reset_ttt_every:
            raise UserError("preset original hears one chapter at a time, without any control")
        return OriginalEvaluation(lm, codes, chunk=options.chunk)
    streams = Streams(lm, codes, silence=silence, lengths=lengths, **options.streams)
    return Evaluation(streams, chunk=options.chunk, reset_ttt_every=options.reset_ttt_every)


def _peak_bytes(device: torch.device) -> int | None:
    """None where the system does not say: `getrusage` would count the process that started us."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return None if found is None else int(found[1]) * 1024
