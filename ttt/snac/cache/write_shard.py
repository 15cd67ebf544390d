"""One shard of a cache from its inputs, and the records that account for every input.

A shard leaves two files: shards/shard-00000.parquet with its clips (none when no input was good)
and, written after it, shards/shard-00000.jsonl with one line per input. The .jsonl is the commit
point: a shard is finished when its .jsonl is there and the .parquet holds the clips it counts.
Both are pure functions of the inputs, so a shard done again has the same bytes. Copies of a clip at
other levels lie behind it in its shard, and its line names their gains.
"""

from __future__ import annotations

import json
import math
import statistics
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ttt import retries, storage
from ttt.device_errors import raise_if_lost
from ttt.errors import UserError
from ttt.files.parquets import open_parquet, whole_file
from ttt.files.shards import line_text, part_uri, read_part, refuse_other_size, shard_uri
from ttt.snac.cache.bandwidth import BandwidthHours
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.cache.gain_copies import at_gain, copy_id, factor
from ttt.snac.cache.inputs import ClipInput, InputChanged, LeftOut, PreparedClip, size_on_disk
from ttt.snac.cache.shards import Clip, CodecIdentity, read_catalogue, write_shard
from ttt.snac.cache.sources import NOTABLE_GAIN_DB
from ttt.snac.geometry import TARGET_RATE, Codes

Prepare = Callable[[ClipInput], PreparedClip]
"""Makes an input ready, or raises LeftOut."""


def cache_shard(
    cache_uri: str | Path,
    number: int,
    inputs: Sequence[ClipInput],
    prepare: Prepare,
    encoder: ClipEncoder,
    codec: CodecIdentity,
    read_threads: int = 1,
    on_batch: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Prepare, encode and write shard `number`; returns its lines of the manifest.

    Files are read in `read_threads` threads while the encoder works; `on_batch` hears how many
    clips and copies each of its batches had. What goes wrong with one
    input is that input's line; an encoder that fails, or a disk that is full, raises.
    """
    outcomes: list[PreparedClip | LeftOut] = []

    def sources() -> Iterator[Any]:
        for outcome in _in_order(inputs, prepare, read_threads):
            if isinstance(outcome, PreparedClip) and outcome.source is not None:
                yield outcome.source
                yield from (outcome.source * factor(gain) for gain in outcome.copy_gains_db or ())
                outcome = replace(outcome, source=None)
            outcomes.append(outcome)

    encoded = iter(encoder.encode(sources(), on_batch))
    clips = [
        clip
        for outcome in outcomes
        if isinstance(outcome, PreparedClip)
        for clip in _with_copies(outcome, encoded)
    ]
    if clips:
        write_shard(shard_uri(cache_uri, number), clips, encoder.geometry, codec)
    else:
        storage.delete(shard_uri(cache_uri, number))
    lines = [_line(clip, outcome, number) for clip, outcome in zip(inputs, outcomes, strict=True)]
    storage.write_bytes(part_uri(cache_uri, number), "".join(map(line_text, lines)).encode())
    return lines


def is_finished(cache_uri: str | Path, number: int, inputs: Sequence[ClipInput]) -> bool:
    """Whether a shard's two files are there and agree with each other and with `inputs`."""
    if not storage.exists(part_uri(cache_uri, number)):
        return False
    lines = read_part(cache_uri, number)
    n_clips = sum(len(_ids(line)) for line in lines)
    if len(lines) != len(inputs):
        return False
    if n_clips == 0:
        return True
    try:
        with open_parquet(shard_uri(cache_uri, number)) as shard:
            return shard.metadata.num_rows == n_clips
    except retries.StorageUnavailable:
        raise
    except UserError:
        return False


def refuse_replaced(cache_uri: str | Path, number: int, inputs: Sequence[ClipInput]) -> None:
    """Raise UserError where an input's files have another size than when its shard was made."""
    part = part_uri(cache_uri, number)
    for clip, line in zip(inputs, read_part(cache_uri, number), strict=True):
        place = clip.target or clip.source
        refuse_other_size(part, place, line.get("file_bytes"), size_on_disk(clip))


def merge_manifest(cache_uri: str | Path, n_shards: int) -> dict[str, Any]:
    """Join the shards' lines to manifest.jsonl, in input order, and count them.

    Returns inputs, cached, left_out, left_out_by_reason, hours, hours_left_out (of those whose
    length is known), gain_copies (copies at other levels, their hours, and how many clips have
    how many; null where none were asked for), bandwidth (hours by how far up they reach),
    speakers (null when none is known) and, where targets were aligned, the lags and gains that were
    found. Everything but gain_copies is of the inputs alone.
    """
    counts: Counter[str] = Counter()
    seconds_cached, seconds_left_out = 0.0, 0.0
    gains: list[float] = []
    lags: list[int] = []
    speakers: set[str | None] = set()
    samples, bandwidths = array("d"), array("d")
    copies: Counter[int] = Counter()
    seconds_copied = 0.0
    with whole_file(storage.join(cache_uri, "manifest.jsonl")) as sink:
        for number in range(n_shards):
            lines = read_part(cache_uri, number)
            sink.write("".join(map(line_text, lines)).encode())
            for line in lines:
                if line["status"] == "cached":
                    counts["cached"] += 1
                    seconds_cached += line["seconds"]
                    speakers.add(line.get("speaker"))
                    samples.append(line["seconds"] * TARGET_RATE)
                    bandwidths.append(line.get("bandwidth_hz") or math.nan)
                    if "copy_gains_db" in line:
                        copies[len(line["copy_gains_db"])] += 1
                        seconds_copied += line["seconds"] * len(line["copy_gains_db"])
                    if line["lag_samples"] is not None:
                        gains.append(line["gain_db"])
                        lags.append(line["lag_samples"])
                else:
                    counts[line["reason"]] += 1
                    seconds_left_out += line["seconds"] or 0.0
    n_cached = counts.pop("cached", 0)
    copied = {
        "copies": sum(each * clips for each, clips in copies.items()),
        "hours": seconds_copied / 3600,
        "clips_by_copies": {str(each): copies[each] for each in sorted(copies)},
    }
    left_out = sum(counts.values())
    hours = BandwidthHours.of(np.array(samples), np.array(bandwidths))
    return {
        "inputs": n_cached + left_out,
        "cached": n_cached,
        "left_out": left_out,
        "left_out_by_reason": dict(sorted(counts.items())),
        "hours": seconds_cached / 3600,
        "hours_left_out": seconds_left_out / 3600,
        "gain_copies": copied if copies else None,
        "bandwidth": {
            "share_reaching_16_khz": hours.share_reaching_16_khz,
            "hours": asdict(hours),
        },
        "speakers": len(speakers - {None}) or None,
        "alignment": _alignment(gains, lags),
    }


def check_manifest(cache_uri: str | Path) -> list[str]:
    """Sentences on where manifest.jsonl and the shards of a finished cache disagree."""
    uri = storage.join(cache_uri, "manifest.jsonl")
    if not storage.exists(uri):
        return [f"{uri}: missing, the job has not finished; run it again"]
    lines = (json.loads(line) for line in storage.read_bytes(uri).splitlines())
    listed = {clip_id for line in lines for clip_id in _ids(line)}
    stored = set(read_catalogue(cache_uri)["clip_id"].to_pylist())
    problems = [f"{uri}: clip {clip_id} is in no shard" for clip_id in sorted(listed - stored)]
    return problems + [
        f"{uri}: clip {clip_id} of the shards is not listed" for clip_id in sorted(stored - listed)
    ]


def _in_order(
    inputs: Sequence[ClipInput], prepare: Prepare, threads: int
) -> Iterator[PreparedClip | LeftOut]:
    """Outcomes in input order, a few of them made ahead in threads."""
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[PreparedClip | LeftOut]] = deque()
        for clip in inputs:
            ahead.append(pool.submit(_outcome, clip, prepare))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _outcome(clip: ClipInput, prepare: Prepare) -> PreparedClip | LeftOut:
    try:
        if clip.problem is not None:
            raise LeftOut(clip.problem, clip.problem_note)
        return prepare(clip)
    except LeftOut as left_out:
        return left_out
    except (retries.StorageUnavailable, InputChanged):
        raise  # The clip may well be sound.
    except Exception as error:
        raise_if_lost(error)
        # One odd file must not cost its shard; it is recorded and counted like every other.
        return LeftOut("failed", f"{type(error).__name__}: {error}")


def _with_copies(prepared: PreparedClip, encoded: Iterator[Codes]) -> Iterator[Clip]:
    """A clip and its copies; their codes come next in `encoded`."""
    clip = Clip(
        clip_id=prepared.clip_id,
        codes=prepared.codes or next(encoded),
        audio=prepared.audio,
        n_samples=len(prepared.audio),
        gain_db=prepared.gain_db or 0.0,
        lag_samples=prepared.lag_samples or 0,
        **({} if prepared.facts is None else asdict(prepared.facts)),
    )
    yield clip
    for gain_db in prepared.copy_gains_db or ():
        yield replace(
            clip,
            clip_id=copy_id(clip.clip_id, gain_db),
            codes=next(encoded),
            audio=at_gain(clip.audio, gain_db),
            copy_of=clip.clip_id,
            copy_gain_db=gain_db,
        )


def _ids(line: dict[str, Any]) -> list[str]:
    """The ids in the shard of what a line of the manifest stands for: a clip and its copies."""
    if line["status"] != "cached":
        return []
    clip_id = line["clip_id"]
    return [clip_id, *(copy_id(clip_id, gain) for gain in line.get("copy_gains_db", ()))]


def _line(clip: ClipInput, outcome: PreparedClip | LeftOut, number: int) -> dict[str, Any]:
    line: dict[str, Any] = {"clip_id": clip.clip_id}
    size = {} if clip.file_bytes is None else {"file_bytes": clip.file_bytes}
    if isinstance(outcome, LeftOut):
        return {
            **line,
            "status": "left_out",
            "reason": outcome.reason,
            "note": outcome.note,
            "shard": None,
            "seconds": outcome.seconds,
            **size,
        }
    return {
        **line,
        "status": "cached",
        "reason": None,
        "note": "; ".join(outcome.notes) or None,
        "shard": number,
        "seconds": len(outcome.audio) / TARGET_RATE,
        "gain_db": outcome.gain_db,
        "lag_samples": outcome.lag_samples,
        **({} if outcome.facts is None else asdict(outcome.facts)),
        **({} if outcome.copy_gains_db is None else {"copy_gains_db": outcome.copy_gains_db}),
        **size,
    }


def _alignment(gains_db: list[float], lags: list[int]) -> dict[str, Any] | None:
    if not gains_db:
        return None
    return {
        "clips": len(gains_db),
        "gain_db": _spread(gains_db),
        "lag_samples": _spread(lags),
        "clips_with_gain_beyond_1_db": sum(abs(gain) >= NOTABLE_GAIN_DB for gain in gains_db),
        "clips_with_lag": sum(lag != 0 for lag in lags),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
