"""What an evaluation will do: which decoder, which clips; found without loading weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ray_jobs.decoder.evaluate_config import EvaluateConfig
from ray_jobs.decoder.source import DecoderSource, find_decoder
from ttt import storage
from ttt.errors import UserError
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.inputs import ClipInput
from ttt.snac.cache.sources import list_folder
from ttt.snac.cache.speakers import with_speakers
from ttt.snac.evaluation.clips import CachedClip
from ttt.snac.evaluation.visqol import is_installed

Item = ClipInput | CachedClip

VISQOL_NOT_INSTALLED = "it is not installed (make setup METRICS=1)"


@dataclass(frozen=True)
class Plan:
    """What an evaluation will do; made without loading weights."""

    config: EvaluateConfig
    decoder: DecoderSource
    codec: str
    """Name or folder; paths in a plan are absolute, since workers have their own folder."""
    kind: str
    """What the clips are, in words."""
    data: str
    """Folder or URI of the clips, as the user named it."""
    cache: str | None
    """The cache to read from, if it is one."""
    items: tuple[Item, ...]


def plan_evaluation(config: EvaluateConfig) -> Plan:
    """Find the one decoder of `config` and the clips.

    Raises UserError for whatever cannot be found or does not fit.
    """
    assert isinstance(config.decoder, str), "several are planned by several.plan"
    if config.report.visqol is True and not is_installed():
        raise UserError(f"report.visqol is true, but {VISQOL_NOT_INSTALLED}")
    decoder = find_decoder(config.decoder)
    codec = codec_name(config, decoder)
    if config.data.audio is not None:
        found = list_folder(os.path.expanduser(config.data.audio))
        items: Sequence[Item] = [
            replace(item, source=storage.absolute(item.source))
            for item in with_speakers(found, config.data.speaker)
        ]
        kind, data, cache = "folder of audio", config.data.audio, None
    elif config.data.cache is not None:
        kind, data, cache = "cache", config.data.cache, config.data.cache
        items = _cached(cache, None)
    else:
        kind, data, items = _held_out(decoder)
        cache = data
    if config.data.limit is not None:
        items = items[: config.data.limit]
    if Path(codec).is_dir():
        codec = os.path.abspath(codec)
    if cache is not None:
        cache = storage.absolute(cache)
    return Plan(config, decoder, codec, kind, data, cache, tuple(items))


def codec_name(config: EvaluateConfig, decoder: DecoderSource) -> str:
    """The codec that a decoder is measured with. Raises UserError where nothing names it."""
    codec = config.codec or (decoder.training.codec if decoder.training is not None else None)
    if codec is None:
        raise UserError(
            f"{decoder.name} does not say its codec by name; set codec to the hub name or folder "
            "of the codec it was trained from"
        )
    return codec


def describe(plan: Plan) -> str:
    """The plan in words."""
    config = plan.config
    writes_card = config.report.write_card and plan.decoder.takes_card
    return (
        f"measure {plan.kind} {plan.data}, clips: {len(plan.items):,}\n"
        f"  decoder: {plan.decoder.kind} {plan.decoder.name}, codec {plan.codec}\n"
        f"  workers: {config.cluster.words} on {config.cluster.device}\n"
        f"  writes: {config.output}/results.jsonl, summary.json, report.html"
        + (", and the export's README.md" if writes_card else "")
    )


def _cached(cache_uri: str, share: float | None) -> list[Item]:
    """All clips of a cache, or the held-out share of them; copies at other levels are no clips."""
    catalogue = open_cache(cache_uri).catalogue
    rows = catalogue.originals if share is None else catalogue.held_out(share)
    ids = catalogue.clip_ids.at(rows)
    return [CachedClip(clip_id, row) for clip_id, row in zip(ids, rows.tolist(), strict=True)]


def _held_out(decoder: DecoderSource) -> tuple[str, str, list[Item]]:
    if decoder.training is None:
        raise UserError(
            f"{decoder.name} is not part of a training run with held-out clips; set data.audio or "
            "data.cache"
        )
    data = decoder.training.data
    if data.validation is not None:
        return "the run's validation cache", data.validation, _cached(data.validation, None)
    if data.validation_share is None:
        raise UserError(
            f"{decoder.name}: the run held no clips out (data.validation_share is null); set "
            "data.audio or data.cache"
        )
    items = _cached(data.train, data.validation_share)
    return "the run's held-out clips", data.train, items
