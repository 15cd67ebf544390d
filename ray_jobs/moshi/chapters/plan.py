"""What a chapter evaluation will do: which models hear which chapters, found without weights."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.chapters.recordings import (
    Recording,
    find_recordings,
    heard_frames,
    notes_on,
    place_in_words,
)
from ray_jobs.moshi.wanted import (
    NamedModel,
    loads_no_model,
    named_models,
    wanted_weights,
    with_absolute_paths,
    with_absolute_roots,
)
from ttt.errors import UserError
from ttt.eval.chapters.find import Unreadable
from ttt.eval.chapters.records import file_stem, leftovers, record_path
from ttt.eval.chapters.run import ORIGINAL_WARNING, records_root
from ttt.eval.chapters.summary import held_groups
from ttt.eval.config import FRAME_RATE
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.synthetic.chapters import SYNTHETIC

_LONGEST_STATE_STEM = 255 - len("..safetensors.12345678.tmp")


@dataclass(frozen=True, kw_only=True)
class ModelVariant(NamedModel):
    """One model of the run: weights, and what a control does to it."""

    reset_every_frames: int | None = None
    prefix_frames: int | None = None
    shuffle_frames: int | None = None

    @property
    def controls(self) -> dict[str, Any]:
        """The controls in force, for run.json."""
        controls = super().controls
        if self.reset_every_frames is not None:
            controls["reset_every_frames"] = self.reset_every_frames
        if self.prefix_frames is not None:
            controls["other_prefix_frames"] = self.prefix_frames
        if self.shuffle_frames is not None:
            controls["shuffle_frames"] = self.shuffle_frames
        return controls


@dataclass(frozen=True)
class WorkItem:
    """The unit of dispatch: a group of chapters heard together by one model."""

    number: int
    variant: ModelVariant
    recordings: tuple[Recording, ...]
    prefixes: tuple[Recording, ...]
    """For each of them the other speaker's chapter to hear first; empty without that control."""

    @property
    def chapter_ids(self) -> tuple[str, ...]:
        """Of its recordings."""
        return tuple(recording.chapter_id for recording in self.recordings)

    @property
    def state_name(self) -> str:
        """Path of its state below the run's folder."""
        stem = file_stem(self.recordings[0].chapter_id, _LONGEST_STATE_STEM)
        return f"state/{self.variant.name}/{stem}.safetensors"


@dataclass(frozen=True)
class Outcome:
    """What became of a group."""

    frames: int = 0
    """Frames heard."""
    acceptance: float | None = None
    """Share of the steps that stood; None when nothing was left to hear."""
    failures: tuple[tuple[str, str], ...] = ()
    """(chapter, reason) of those without a record."""
    verification: dict[str, Any] | None = None
    """`ttt.moshi.verify.Verification`, where it was asked for, or the `error` that kept it away."""


@dataclass(frozen=True)
class Plan:
    """Everything a run will do; paths in it are absolute, since workers have their own folder."""

    given: EvaluateChaptersConfig
    """As the user gave it, which is what config.yaml keeps."""
    config: EvaluateChaptersConfig
    variants: tuple[ModelVariant, ...]
    recordings: tuple[Recording, ...]
    """In natural order."""
    unreadable: tuple[Unreadable, ...]
    work: tuple[WorkItem, ...]
    """Model by model, the longest chapters first."""

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where descriptions of chapters were not taken as they stand."""
        changed = [(each, note) for each in self.recordings for note in notes_on(each)]
        if not changed:
            return ()
        chapter, note = changed[0]
        return (
            f"descriptions not taken as they stand: {len(changed):,}, the first "
            f"{chapter.chapter_id}: {note}",
        )

    def frames(self, recording: Recording) -> int:
        """How many frames of it are heard."""
        return heard_frames(recording, self.config.max_frames)

    def pending(self) -> list[WorkItem]:
        """What is not heard, or not held to stepping yet."""
        lines = held_groups(self.config.output)
        held = {group for group, line in lines.items() if "error" not in line}
        return [
            work
            for work in self.work
            if not self._is_done(work)
            or (
                is_verified(self.config, work.variant)
                and (work.variant.name, *work.chapter_ids) not in held
            )
        ]

    def _is_done(self, work: WorkItem) -> bool:
        """Whether all its records are there, and nothing else is left of hearing it."""
        root = records_root(self.config.output, work.variant.name)
        state_path = Path(self.config.output) / work.state_name
        recorded = all(record_path(root, name).exists() for name in work.chapter_ids)
        return recorded and not leftovers(root, work.chapter_ids, state_path)


def make_plan(config: EvaluateChaptersConfig) -> Plan:
    """Find chapters and models. Raises UserError for what cannot be found or does not fit."""
    with _keeping_everything():
        return _planned(config)


def _planned(config: EvaluateChaptersConfig) -> Plan:
    given, config = config, with_absolute_paths(config)
    if config.data is not None:
        config = replace(config, data=with_absolute_roots(config.data))
    recordings, unreadable = find_recordings(config)
    variants = _variants(config)
    longest_first = sorted(recordings, key=lambda item: -heard_frames(item, config.max_frames))
    size = config.group_size
    groups = [longest_first[at : at + size] for at in range(0, len(longest_first), size)]
    work: list[WorkItem] = []
    for variant in variants:
        for group in groups:
            prefixes = _prefixes(variant, group, longest_first)
            work.append(WorkItem(len(work), variant, tuple(group), prefixes))
    plan = Plan(given, config, variants, tuple(recordings), tuple(unreadable), tuple(work))
    if config.data is not None and config.data.cache is not None:
        _refuse_other_mimi(plan, config.data.cache)
    return plan


@contextlib.contextmanager
def _keeping_everything() -> Iterator[None]:
    """Collect no garbage inside the block: there is none, and to look for it among all that is
    imported takes a tenth of the time of planning 40,000 chapters."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def describe(plan: Plan) -> str:
    """The plan in words."""
    config = plan.config
    frames = sum(plan.frames(item) for item in plan.recordings)
    speakers = len({item.speaker for item in plan.recordings})
    by = "1 speaker" if speakers == 1 else f"{speakers:,} speakers"
    lines = [
        f"evaluate {', '.join(each.name for each in plan.variants)} on "
        f"{len(plan.recordings):,} chapters by {by} {place_in_words(config)}: {frames:,} frames, "
        f"{frames / FRAME_RATE / 3600:.2f} hours",
    ]
    if config.preset == "original":
        lines.insert(0, f"warning: {ORIGINAL_WARNING}")
    if plan.unreadable:
        first = plan.unreadable[0]
        lines.append(f"  unreadable: {len(plan.unreadable):,}, the first {first.reason}")
    lines += [f"  {note}" for note in plan.notes]
    streams, cluster = config.streams, config.cluster
    lines += [
        f"  streams: text {streams.text}, other {streams.other}, the recording is {streams.voice}",
        f"  steps per pass: {config.chunk}, chapters per batch: {config.group_size}",
        *_memory(plan),
        f"  workers: {cluster.words} on {cluster.device}, each {cluster.cpus_per_worker:g} "
        f"CPU and {cluster.gpus_per_worker:g} GPU",
        f"  writes: {config.output}/records ({_megabytes(plan, frames):,.1f} MB at most), "
        "summary.json, legacy.json, plots, report.html",
    ]
    return "\n".join(lines)


def is_verified(config: EvaluateChaptersConfig, variant: ModelVariant) -> bool:
    """Whether a model's records are held to stepping: not where a control cuts into the hearing."""
    plain = variant.reset_every_frames is None and variant.prefix_frames is None
    return config.verify_spans > 0 and plain


def _variants(config: EvaluateChaptersConfig) -> tuple[ModelVariant, ...]:
    wanted, controls = wanted_weights(config.model), config.controls
    variants = [ModelVariant(**vars(each)) for each in named_models(config.model, controls)]
    if controls.reset_every_frames is not None:
        every = controls.reset_every_frames
        variants.append(
            ModelVariant(name=f"ttt-reset-{every}", weights="ttt", reset_every_frames=every)
        )
    if controls.other_prefix_frames is not None:
        frames = controls.other_prefix_frames
        variants += [
            ModelVariant(name=f"{name}-other-prefix", weights=name, prefix_frames=frames)
            for name in wanted
        ]
    # A worker changes its model least often when variants of the same weights follow each other.
    variants.sort(key=lambda each: wanted.index(each.weights))
    return tuple(replace(each, shuffle_frames=controls.shuffle_frames) for each in variants)


def _prefixes(
    variant: ModelVariant, group: Sequence[Recording], longest_first: Sequence[Recording]
) -> tuple[Recording, ...]:
    if variant.prefix_frames is None:
        return ()
    found = []
    for recording in group:
        others = [item for item in longest_first if item.speaker != recording.speaker]
        if not others:
            raise UserError(
                "controls.other_prefix_frames needs chapters by two speakers, and all are by "
                f"{recording.speaker}"
            )
        if heard_frames(others[0], None) < variant.prefix_frames:
            raise UserError(
                f"controls.other_prefix_frames={variant.prefix_frames} is longer than any chapter "
                f"by another speaker than {recording.speaker}: lower it to "
                f"{heard_frames(others[0], None)} or less"
            )
        found.append(others[0])
    return tuple(found)


def _refuse_other_mimi(plan: Plan, cache: str) -> None:
    """Raise UserError where chapters of a cache are to be heard that another Mimi has encoded."""
    if loads_no_model(plan.config.output, plan.pending):
        return
    model, found = plan.config.model, ChapterCache.open(cache)
    if model.mimi == SYNTHETIC:
        found.require_synthetic()
        return
    if found.codes.is_synthetic:
        raise UserError(
            f"{cache}: its codes are synthetic, no Mimi made them; only a model that was trained "
            "on such codes knows them: say so by model.mimi=synthetic"
        )
    from ttt.moshi.load import load_mimi  # Brings torch, which a finished run does without.

    mimi = load_mimi(model.mimi or model.weights)
    found.require_mimi(mimi.name, mimi.weights_sha256)


def _memory(plan: Plan) -> list[str]:
    """A line per model that may be loaded."""
    if loads_no_model(plan.config.output, plan.pending):
        return ["  nothing is left to hear: no model is loaded"]
    # Brings torch and Moshi, which a finished run is described without.
    from ray_jobs.moshi.chapters.memory import memory_lines

    return [f"  memory beyond the weights, {line}" for line in memory_lines(plan.config)]


def _megabytes(plan: Plan, frames: int) -> float:
    """Uncompressed: nine numbers of four bytes, a frame's number and a flag."""
    return len(plan.variants) * frames * 41 / 1e6
