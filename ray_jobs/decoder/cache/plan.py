"""What a caching job will do, decided before any resource is taken; and whose folder it is.

The cache folder's cache.json says which settings and inputs its shards come from. The same ones
may be run again at any time and finish what is missing; others are refused.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ray_jobs.decoder.cache.encoder import Noted
from ray_jobs.decoder.cache_config import INPUT_FOLDERS, CacheConfig
from ray_jobs.runtime.cache_folder import claim, is_claimed, read_claim, remove_abandoned_files
from ttt import storage
from ttt.audio import read_header
from ttt.config import fixed_part
from ttt.errors import UserError
from ttt.snac.cache.gain_copies import refuse_ids_of_copies
from ttt.snac.cache.inputs import ClipFacts, ClipInput, LeftOut
from ttt.snac.cache.original import list_original
from ttt.snac.cache.roots.listing import list_roots
from ttt.snac.cache.roots.places import open_clip
from ttt.snac.cache.shards import CodecIdentity
from ttt.snac.cache.sources import list_pairs
from ttt.snac.cache.speakers import with_speakers
from ttt.snac.cache.write_shard import is_finished, refuse_replaced
from ttt.snac.geometry import TARGET_RATE, CodeGeometry
from ttt.snac.load import load_codec

_HEADERS_SAMPLED = 200
_SOUNDS_SAMPLED = 20
"""Of sounds that are read whole for their header."""


@dataclass(frozen=True)
class CachePlan:
    """The inputs in order, cut into shards, and the codec they meet."""

    config: CacheConfig
    shards: tuple[tuple[ClipInput, ...], ...]
    geometry: CodeGeometry
    codec: CodecIdentity
    encoder_dim: int
    notes: tuple[str, ...]
    """What was ignored in the input, for the log and the summary."""
    roots: tuple[str, ...]
    """What each root holds, in words."""
    held_bytes: int
    """The most that an encoder's reader holds besides clips."""
    seconds_per_clip: float
    """Mean over a sample of headers."""
    finished: int | None
    """Shards that the output has already; None where it is new."""

    @property
    def n_inputs(self) -> int:
        """Inputs in all shards."""
        return sum(map(len, self.shards))


def make_plan(config: CacheConfig) -> CachePlan:
    """List the inputs and load the codec.

    Raises UserError for what is missing or unfit, and for an output that holds something else, or
    shards of files that were replaced by others of another size.
    """
    codec = load_codec(config.codec.name)
    geometry = codec.geometry
    if geometry.sample_rate * geometry.upsampling != TARGET_RATE:
        raise UserError(
            f"{config.codec.name}: a codec of {geometry.sample_rate:,} Hz has no whole ratio to "
            f"{TARGET_RATE:,} Hz; use one of 24,000 Hz"
        )
    found = _list_inputs(config, geometry)
    inputs = found.inputs
    if config.input.gain_copies_db is not None:
        refuse_ids_of_copies(inputs)
    size = config.clips_per_shard
    shards = tuple(tuple(inputs[at : at + size]) for at in range(0, len(inputs), size))
    identity = CodecIdentity(codec.name, codec.weights_sha256)
    plan = CachePlan(
        config=config,
        shards=shards,
        geometry=geometry,
        codec=identity,
        encoder_dim=codec.model.encoder_dim,
        notes=found.notes,
        roots=found.roots,
        held_bytes=found.held_bytes,
        seconds_per_clip=_mean_seconds(inputs, config.input.column),
        finished=None,
    )
    if not _claimed(plan):
        return plan
    finished = {*range(len(shards))} - {*pending_shards(plan)}
    for number in sorted(finished):
        refuse_replaced(config.output, number, shards[number])
    return replace(plan, finished=len(finished))


def claim_output(plan: CachePlan) -> None:
    """Make the output folder this configuration's, or see that it is already.

    Raises UserError when it holds a cache of other settings or inputs, or anything else.
    """
    config = plan.config
    if _claimed(plan):
        remove_abandoned_files(config.output)
        return
    claim(config.output, config, _identity(plan))


def noted(config: CacheConfig) -> Noted:
    """What the shards of the claimed output note of each clip.

    A cache that was begun before something was noted goes on without it.
    """
    told = read_claim(config.output)
    return Noted(facts=bool(told.get("facts")), sizes=bool(told.get("sizes")))


def pending_shards(plan: CachePlan) -> list[int]:
    """Numbers of the shards that are not finished."""
    return [
        number
        for number, inputs in enumerate(plan.shards)
        if not is_finished(plan.config.output, number, inputs)
    ]


@dataclass(frozen=True)
class _Inputs:
    """What `input` names; fields as in CachePlan."""

    inputs: Sequence[ClipInput]
    notes: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    held_bytes: int = 0


def _list_inputs(config: CacheConfig, geometry: CodeGeometry) -> _Inputs:
    where = config.input
    if where.kind == "pair":
        source, target = (
            storage.absolute(str(each)) for each in (where.source_24k, where.target_48k)
        )
        return _Inputs(with_speakers(list_pairs(source, target), where.speaker))
    if where.kind == "original":
        codes, audio = (storage.absolute(str(each)) for each in (where.codes, where.audio_48k))
        inputs, notes = list_original(codes, audio, geometry)
        return _Inputs(with_speakers(inputs, where.speaker), tuple(notes))
    places = _absolute(where.audio)
    places = [places] if isinstance(places, str) else places
    roots = list_roots(where.kind, places, where.column, where.speaker)
    return _Inputs(
        [clip for root in roots for clip in root.listing.inputs],
        tuple(note for root in roots for note in root.listing.notes),
        tuple(map(str, roots)),
        max(root.listing.held_bytes for root in roots),
    )


def _absolute(places: Any) -> str | list[str]:
    """One place, or several; a list of one is that one."""
    if isinstance(places, str):
        return storage.absolute(places)
    return [*map(storage.absolute, places)] if len(places) > 1 else storage.absolute(places[0])


def _claimed(plan: CachePlan) -> bool:
    """Whether the output is this configuration's already. Raises UserError when another's."""
    # What the shards tell is decided when they are begun.
    return is_claimed(plan.config.output, _identity(plan), told=("facts", "sizes"))


def _identity(plan: CachePlan) -> dict[str, Any]:
    """Everything that the bytes of the shards depend on."""
    config, tree = plan.config, fixed_part(plan.config.to_dict(), CacheConfig)
    folders = {key for keys in INPUT_FOLDERS.values() for key in keys}
    digest = hashlib.sha256()
    for inputs in plan.shards:
        for clip in inputs:
            digest.update(f"{clip.clip_id}\0{clip.problem}\n".encode())
    return {
        **tree,
        "input": {
            key: _absolute(value) if key in folders and value else value
            for key, value in tree["input"].items()
        },
        "facts": [field.name for field in fields(ClipFacts)],
        "sizes": True,
        "inputs": plan.n_inputs,
        "inputs_sha256": digest.hexdigest(),
        "codec": {"name": plan.codec.name, "weights_sha256": plan.codec.weights_sha256},
        "device": "gpu" if config.cluster.gpus_per_worker else "cpu",
    }


def _mean_seconds(inputs: Sequence[ClipInput], column: str | None) -> float:
    """Mean length of the audio, from the headers of some inputs, always the same ones."""
    clips = [clip for clip in inputs if clip.problem is None]
    seconds = []
    for clip in _sample(clips):
        try:
            sound = clip.target or open_clip(clip, column)
            seconds.append(read_header(sound).seconds)
        except (UserError, LeftOut):
            continue  # Only an estimate; the run itself records the file with its reason.
    return sum(seconds) / len(seconds) if seconds else 0.0


def _sample(clips: Sequence[ClipInput]) -> Sequence[ClipInput]:
    if clips and clips[0].row >= 0 and not clips[0].target:
        # Of a row group each row is behind those before it.
        middle, few = len(clips) // 2, _SOUNDS_SAMPLED // 2
        return [*clips[:few], *clips[max(middle, few) : middle + few]]
    whole = clips and (clips[0].span is not None or not storage.is_local(clips[0].source))
    most = _SOUNDS_SAMPLED if whole else _HEADERS_SAMPLED
    return random.Random(0).sample(clips, min(most, len(clips)))
