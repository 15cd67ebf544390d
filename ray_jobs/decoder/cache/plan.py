"""What a caching job will do, decided before any resource is taken; and whose folder it is.

The cache folder's cache.json says which settings and inputs its shards come from. The same ones
may be run again at any time and finish what is missing; others are refused.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import PurePosixPath
from typing import Any

from ray_jobs.config.load import dump_yaml
from ray_jobs.decoder.cache.encoder import Noted
from ray_jobs.decoder.cache_config import INPUT_FOLDERS, CacheConfig
from ttt import records, storage
from ttt.audio import read_header
from ttt.config import differences, fixed_part
from ttt.errors import UserError
from ttt.snac.cache.inputs import ClipFacts, ClipInput
from ttt.snac.cache.original import list_original
from ttt.snac.cache.shards import CodecIdentity
from ttt.snac.cache.sources import list_folder, list_pairs
from ttt.snac.cache.speakers import with_speakers
from ttt.snac.cache.write_shard import is_finished, refuse_replaced
from ttt.snac.geometry import TARGET_RATE, CodeGeometry
from ttt.snac.load import load_codec

_HEADERS_SAMPLED = 200


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
    inputs, notes = _list_inputs(config, geometry)
    inputs = with_speakers(inputs, config.input.speaker)
    size = config.clips_per_shard
    shards = tuple(tuple(inputs[at : at + size]) for at in range(0, len(inputs), size))
    identity = CodecIdentity(codec.name, codec.weights_sha256)
    plan = CachePlan(
        config=config,
        shards=shards,
        geometry=geometry,
        codec=identity,
        encoder_dim=codec.model.encoder_dim,
        notes=tuple(notes),
        seconds_per_clip=_mean_seconds(shards),
        finished=None,
    )
    if not _claimed(plan):
        return plan
    finished = {*range(len(shards))} - {*pending_shards(plan)}
    for number in sorted(finished):
        refuse_replaced(config.output, number, shards[number])
    return replace(plan, finished=len(finished))


def describe(plan: CachePlan) -> str:
    """The plan in words."""
    config = plan.config
    hours = plan.seconds_per_clip * plan.n_inputs / 3600
    weights = plan.codec.weights_sha256[:12]
    progress = (
        ""
        if plan.finished is None
        else f"; {plan.finished:,} are finished, the run goes on from there"
    )
    files = "index.arrow, codes.bin, manifest.jsonl, summary.json, config.yaml, cache.json"
    lines = [
        f"input    {plan.n_inputs:,} inputs ({_suffixes(plan)}), about {hours:.2f} h of audio",
        f"codec    {plan.codec.name} (weights {weights}): {_geometry(plan.geometry)}",
        f"shards   {len(plan.shards):,} of at most {config.clips_per_shard:,} inputs{progress}",
        f"workers  {_workers(config)}; each needs about {_worker_gib(plan):.1f} GiB",
        f"output   {config.output}: about {_written_gib(hours):.2f} GiB in shards/, and {files}",
    ]
    return "\n".join([*lines, *(f"note     {note}" for note in plan.notes)])


def claim_output(plan: CachePlan) -> None:
    """Make the output folder this configuration's, or see that it is already.

    Raises UserError when it holds a cache of other settings or inputs, or anything else.
    """
    config = plan.config
    if _claimed(plan):
        _remove_abandoned_files(config.output)
        return
    storage.write_bytes(storage.join(config.output, "config.yaml"), dump_yaml(config).encode())
    records.write_json(_claim_uri(config), _identity(plan))


def noted(config: CacheConfig) -> Noted:
    """What the shards of the claimed output note of each clip.

    A cache that was begun before something was noted goes on without it.
    """
    claim = records.read_json(_claim_uri(config))
    return Noted(facts=bool(claim.get("facts")), sizes=bool(claim.get("sizes")))


def pending_shards(plan: CachePlan) -> list[int]:
    """Numbers of the shards that are not finished."""
    return [
        number
        for number, inputs in enumerate(plan.shards)
        if not is_finished(plan.config.output, number, inputs)
    ]


def _list_inputs(config: CacheConfig, geometry: CodeGeometry) -> tuple[list[ClipInput], list[str]]:
    where = config.input
    if where.audio is not None:
        return list_folder(storage.absolute(where.audio)), []
    if where.source_24k is not None and where.target_48k is not None:
        return list_pairs(*map(storage.absolute, (where.source_24k, where.target_48k))), []
    codes, audio = (storage.absolute(str(folder)) for folder in (where.codes, where.audio_48k))
    return list_original(codes, audio, geometry)


def _claimed(plan: CachePlan) -> bool:
    """Whether the output is this configuration's already. Raises UserError when another's."""
    config = plan.config
    names = [name for name in storage.list_names(config.output) if not name.startswith(".")]
    if "cache.json" not in names:
        if names and names != ["config.yaml"]:
            raise UserError(
                f"{config.output}: holds {', '.join(names[:3])} but no cache.json, so it is no "
                "cache; choose an empty or new folder as output"
            )
        return False
    found, wanted = records.read_json(_claim_uri(config)), _identity(plan)
    for told in ("facts", "sizes"):  # What the shards tell is decided when they are begun.
        wanted[told] = found.get(told)
    if changed := sorted(differences(found, wanted), key=lambda each: each[0].split(".")):
        told = "; ".join(f"{key} was {was}, is {now}" for key, was, now in changed)
        raise UserError(
            f"{config.output}: holds a cache made with other settings or inputs ({told}); choose "
            "another output or delete it"
        )
    return True


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
            key: storage.absolute(value) if key in folders and value else value
            for key, value in tree["input"].items()
        },
        "facts": [field.name for field in fields(ClipFacts)],
        "sizes": True,
        "inputs": plan.n_inputs,
        "inputs_sha256": digest.hexdigest(),
        "codec": {"name": plan.codec.name, "weights_sha256": plan.codec.weights_sha256},
        "device": "gpu" if config.cluster.gpus_per_worker else "cpu",
    }


def _remove_abandoned_files(output: str) -> None:
    # A killed process leaves the temporary file that it was writing.
    if not storage.is_local(output):
        return
    for folder in (output, storage.join(output, "shards")):
        for name in storage.list_names(folder):
            if storage.is_temporary(name):
                storage.delete(storage.join(folder, name))


def _claim_uri(config: CacheConfig) -> str:
    return storage.join(config.output, "cache.json")


def _mean_seconds(shards: Iterable[Sequence[ClipInput]]) -> float:
    """Mean length of the audio, from the headers of some inputs, always the same ones."""
    clips = [clip for shard in shards for clip in shard if clip.problem is None]
    paths = [clip.target or clip.source for clip in clips]
    seconds = []
    for path in random.Random(0).sample(paths, min(_HEADERS_SAMPLED, len(paths))):
        try:
            seconds.append(read_header(path).seconds)
        except UserError:
            continue  # Only an estimate; the run itself records the file with its reason.
    return sum(seconds) / len(seconds) if seconds else 0.0


def _suffixes(plan: CachePlan) -> str:
    counts = Counter(
        PurePosixPath(clip.source or clip.target).suffix.lower() or "no file"
        for shard in plan.shards
        for clip in shard
    )
    return ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common())


def _geometry(geometry: CodeGeometry) -> str:
    return (
        f"{geometry.sample_rate:,} Hz, hop {geometry.hop_samples}, strides {geometry.strides}, "
        f"codebooks of {geometry.codebook_size:,}"
    )


def _workers(config: CacheConfig) -> str:
    share = config.cluster.gpus_per_worker
    kind = f"with {share:g} GPU each" if share else "on the CPU, one core each"
    if config.cluster.num_workers == 0:
        return f"one encoder in this process, {kind}"
    if config.cluster.num_workers is not None:
        return f"{config.cluster.num_workers} encoders {kind}"
    return f"encoders {kind}, " + ("one per GPU share" if share else "one per CPU but one")


def _worker_gib(plan: CachePlan) -> float:
    """The shard's audio (16-bit, and as float until it is encoded), the encoder, a row group."""
    config, rate = plan.config, plan.geometry.sample_rate
    clips = min(config.clips_per_shard, plan.n_inputs)
    audio_bytes = clips * plan.seconds_per_clip * (2 * TARGET_RATE + 4 * rate)
    encoder_bytes = config.encode.max_batch_seconds * rate * plan.encoder_dim * 4 * 5
    return (audio_bytes + encoder_bytes) / 2**30 + 0.7


def _written_gib(hours: float) -> float:
    return hours * 3600 * TARGET_RATE * 2 / 2**30
