"""Codes to 48 kHz wav files, on workers, each file whole or not there."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ray_jobs.decoder.code_items import CodesItem, file_items, layout_of, refuse_few
from ray_jobs.decoder.decoded_folder import WITHOUT_FLOOR, DecodedFolder
from ray_jobs.decoder.evaluate_config import DecodeConfig
from ray_jobs.decoder.source import DecoderSource, find_decoder
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ray_jobs.runtime.items import WorkerDied, worker_session
from ray_jobs.runtime.progress import Progress
from ttt import records, retries, storage
from ttt.device_errors import raise_if_lost
from ttt.errors import UserError
from ttt.files.errors import FileIdentity, cause
from ttt.files.walk import suffix_of
from ttt.numerics import exact_float32
from ttt.snac.cache.index import DamagedClip, open_cache
from ttt.snac.code_files import CODE_SUFFIXES, list_code_files, read_codes, wav_names
from ttt.snac.decode import write_decoded
from ttt.snac.export import read_config, refuse_nonfinite_export
from ttt.snac.geometry import CodeGeometry
from ttt.snac.model import Decoder48k

BAD = "bad_frames"
"""Of a wav's source in decoded.jsonl: what was left out, as sentences."""


@dataclass(frozen=True)
class Plan:
    """What a decode will do; made without loading weights."""

    config: DecodeConfig
    decoder: DecoderSource
    cache: str | None
    items: tuple[CodesItem, ...]


@dataclass(frozen=True)
class Written:
    """A wav file that was written."""

    seconds: float
    source: dict[str, Any]
    """What its codes were, for `DecodedFolder`, and the damaged frames that are not in it."""


@dataclass(frozen=True)
class Failed:
    """A clip that was not decoded, and why."""

    reason: str


def plan_decode(config: DecodeConfig) -> Plan:
    """Find decoder and codes. Raises UserError when there is nothing to decode."""
    decoder = find_decoder(config.decoder)
    local = storage.is_local(config.input)
    found = list_code_files(storage.local_path(config.input)) if local else []
    is_cache = storage.exists(storage.join(config.input, "shards"))
    if any(each.problem is None for each in found) or (found and not is_cache):
        root = storage.local_path(config.input).absolute()
        root = root if root.is_dir() else root.parent
        geometry = None if decoder.export is None else read_config(decoder.export).geometry
        return Plan(config, decoder, None, tuple(file_items(config, found, root, geometry)))
    if not is_cache:
        raise UserError(
            f"{config.input}: neither a cache (no shards in it) nor files of codes "
            f"({', '.join(CODE_SUFFIXES)})"
        )
    if config.layout is not None:
        raise UserError(
            f"{config.input}: a cache, in which layout={config.layout} has no effect; remove it"
        )
    catalogue = open_cache(config.input).catalogue
    rows = catalogue.originals  # Copies at other levels are there to train on.
    ids = catalogue.clip_ids.at(rows)
    items = [
        CodesItem(clip_id, wav, row=row)
        for row, clip_id, wav in zip(rows.tolist(), ids, wav_names(ids), strict=True)
    ]
    _check_cache(config, decoder)
    return Plan(config, decoder, storage.absolute(config.input), tuple(items[: config.limit]))


def describe(plan: Plan) -> str:
    """The plan in words."""
    config = plan.config
    kind = "files of codes" if plan.cache is None else "clips of cache"
    problems = [f"{item.file}: {item.problem}" for item in plan.items if item.problem is not None]
    notes = [f"{len(problems):,} of them cannot be decoded ({problems[0]})"] if problems else []
    if bad_frames := sum(item.bad_frames for item in plan.items):
        notes.append(f"{bad_frames:,} damaged frames are left out; decoded.json will name them")
    return (
        f"decode {kind} {config.input}: {len(plan.items):,}\n"
        f"  decoder: {plan.decoder.kind} {plan.decoder.name}\n"
        f"  workers: {config.cluster.words} on {config.cluster.device}\n"
        f"  writes: {config.output}/*.wav, 48 kHz, 16 bit, decoded.jsonl and decoded.json"
        + "".join(f"\n  {note}" for note in notes)
    )


def decode(plan: Plan, invocation: Invocation) -> None:
    """Write one wav file per clip, and decoded.json with counts and reasons.

    Files that exist are an error, or with --resume kept as long as the decoder and their codes are
    the same. Raises UserError, with everything else written, when fewer clips than `min_coverage`
    could be decoded.
    """
    output = storage.local_path(plan.config.output).resolve()
    with run_folder.locked(str(output)):
        _decode(plan, output, invocation)


def foresee(plan: Plan, _config: DecodeConfig, resume: bool) -> None:
    """Raise the UserError that `decode` is known to end with."""
    there = _there(plan, storage.local_path(plan.config.output).resolve(), resume)
    refuse_few(plan.items, there, plan.config.min_coverage)


def _there(plan: Plan, output: Path, resume: bool) -> list[CodesItem]:
    """Those whose wav exists. Raises UserError where some do without `resume`."""
    there = [item for item in plan.items if (output / item.wav).exists()]
    if there and not resume:
        raise UserError(
            f"{output}: {len(there)} of the {len(plan.items)} files exist, {there[0].wav} among "
            "them; give --resume to keep them and write the others, or choose another output"
        )
    return there


def _decode(plan: Plan, output: Path, invocation: Invocation) -> None:
    config = plan.config
    there = _there(plan, output, invocation.resume)
    with plan.decoder.exporting(output / "decoder") as made:
        refuse_nonfinite_export(made)
        exported = read_config(made)
        floor = exported.noise_floor if config.noise_floor else None
        made_by = {
            "decoder_sha256": FileIdentity.of(made / "model.safetensors").sha256,
            "codec_sha256": exported.codec_sha256,
            "device": config.cluster.device,
            "noise_floor": WITHOUT_FLOOR if floor is None else floor.digest,
        }
        decoded = DecodedFolder.open(
            output, made_by, [(item.clip_id, item.wav) for item in there], _is_same(plan)
        )
    folder = plan.decoder.exported(output / "decoder").resolve()
    for note in decoded.notes:
        print(f"{output}: {note}", flush=True)
    there = [item for item in there if item.wav in decoded.lines]
    kept = {item.clip_id for item in there}
    wanted = [item for item in plan.items if item.clip_id not in kept]
    failed = [
        {"clip_id": item.clip_id, "reason": f"{item.file}: {item.problem}"}
        for item in wanted
        if item.problem is not None
    ]
    items = [item for item in wanted if item.problem is None]
    written, seconds, cluster = 0, 0.0, config.cluster
    with (
        worker_session(cluster, invocation.address, wanted=len(items)) as session,
        Progress("decode", len(plan.items), "clips", done=len(there)) as progress,
        session.exporting(progress, "decode_codes", config.output),
        session.workers(DecodeWorker, config, str(folder), plan.cache, str(output)) as workers,
    ):
        for item, result in workers.each("decode", items, progress=progress):
            if isinstance(result, Failed | WorkerDied):
                failed.append({"clip_id": item.clip_id, "reason": result.reason})
            else:
                decoded.add(item.clip_id, item.wav, result.source)
                written += 1
                seconds += result.seconds
            progress.advance(1, failed=len(failed))
    damaged = {
        line["clip_id"]: frames
        for item in plan.items
        if (line := decoded.lines.get(item.wav)) and (frames := (line["source"] or {}).get(BAD))
    }
    failed.sort(key=lambda entry: entry["clip_id"])
    coverage = (written + len(there)) / len(plan.items)
    summary = {
        "decoder": {"name": plan.decoder.name, **made_by},
        "written": written,
        "kept": len(there),
        "coverage": coverage,
        "failed": failed,
        "bad_frames": damaged,
        "seconds_written": seconds,
        "provenance": records.provenance(config),
    }
    records.write_json(output / "decoded.json", summary)
    print(
        f"{written} wav files ({seconds:.1f} s) in {config.output}, {len(there)} kept", flush=True
    )
    if damaged:
        print(_damage_sentence(damaged, output), flush=True)
    if failed and coverage < config.min_coverage:
        raise UserError(_failure_sentence(failed, output))
    if failed:
        print(_failure_sentence(failed, output), flush=True)


class DecodeWorker:
    """Holds the decoder and writes files."""

    def __init__(self, config: DecodeConfig, folder: str, cache: str | None, output: str) -> None:
        torch.set_num_threads(config.cluster.threads)
        exact_float32()
        self._decoder = Decoder48k.from_pretrained(
            folder, config.cluster.device, noise_floor=config.noise_floor
        )
        self._cache = None if cache is None else open_cache(cache)
        self._layout = layout_of(config)
        self._output = Path(output)

    def decode(self, item: CodesItem) -> Written | Failed:
        """Write the item's file, or say why there is none."""
        geometry = self._decoder.geometry
        n_samples: int | None = None
        try:
            if item.file is not None:
                source = FileIdentity.of(item.file).to_dict() | {"layout": item.told}
                read = read_codes(item.file, geometry, self._layout, item.place)
                codes = read.rows
                if read.bad_frames:
                    source[BAD] = [str(frame) for frame in read.bad_frames]
            else:
                assert self._cache is not None
                catalogue = self._cache.catalogue
                n_coarse = int(catalogue.n_coarse[item.row])
                n_samples = int(catalogue.n_samples[item.row])
                codes = self._cache.read_codes(item.row, 0, n_coarse)
                source = {"crc32": self._cache.checksum(item.row)}
            path = self._output / item.wav
            return Written(write_decoded(self._decoder, codes, path, n_samples), source)
        except retries.StorageUnavailable:
            raise
        except (UserError, DamagedClip) as reason:
            raise_if_lost(reason)
            return Failed(str(reason))
        except Exception as error:
            raise_if_lost(error)
            # One odd clip must not cost the others; it is recorded and counted like every other.
            traceback.print_exception(error, file=sys.stderr)
            return Failed(f"{item.clip_id}: {cause(error)}")


def _is_same(plan: Plan) -> Callable[[str, Any], bool]:
    """Whether a clip's codes are still those that a line of decoded.jsonl names."""
    item_of = {item.clip_id: item for item in plan.items}
    cache = None if plan.cache is None else open_cache(plan.cache)

    def is_same(clip_id: str, source: dict[str, Any]) -> bool:
        item = item_of[clip_id]
        if item.file is not None:
            told = source.get("layout", _former_layout(item.file))
            if "sha256" not in source or told != item.told:
                return False
            known = FileIdentity(sha256=source["sha256"], bytes=source["bytes"])
            return known.is_of(item.file)
        assert cache is not None
        try:
            return source.get("crc32") == cache.checksum(item.row)
        except DamagedClip:
            return False

    return is_same


def _former_layout(file: Path) -> str:
    """What a file was read as before layouts were noted."""
    return "interleaved" if suffix_of(file.name) == ".npy" else "scales"


def _check_cache(config: DecodeConfig, decoder: DecoderSource) -> None:
    """Refuse codes of another codec; they would decode to noise."""
    if decoder.export is None:
        return
    cache, made = open_cache(config.input), read_config(decoder.export)
    _check_geometry(config.input, cache.geometry, made.geometry)
    if cache.codec.weights_sha256 != made.codec_sha256:
        raise UserError(
            f"{config.input}: its codes were made by {cache.codec.name} with weights "
            f"{cache.codec.weights_sha256[:12]}, the decoder is for a codec with "
            f"{made.codec_sha256[:12]}; decode it with a decoder of its own codec"
        )


def _check_geometry(name: str, cache: CodeGeometry, decoder: CodeGeometry) -> None:
    if cache != decoder:
        raise UserError(
            f"{name}: geometry {cache.to_json()} is not the decoder's, {decoder.to_json()}"
        )


def _damage_sentence(damaged: dict[str, list[str]], output: Path) -> str:
    clip_id, frames = next(iter(damaged.items()))
    count = sum(map(len, damaged.values()))
    return (
        f"{count:,} damaged frames of {len(damaged):,} clips are left out ({clip_id}, "
        f"{frames[0]}); {output}/decoded.json names them all"
    )


def _failure_sentence(failed: Sequence[dict[str, Any]], output: Path) -> str:
    reasons = Counter(entry["reason"] for entry in failed)
    first = next(iter(reasons))
    return f"{len(failed)} clips were not decoded ({first}); {output}/decoded.json lists them all"
