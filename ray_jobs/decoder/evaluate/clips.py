"""What the clips of an evaluation were when they were measured, so that a resume measures the same.

OUTPUT/sources.jsonl has a line per measured clip: clip_id, codec_sha256 and `source`
(`FileIdentity` of the recording, or the clip's checksum in its cache). It is not in results.jsonl,
which is the same for a folder and for the cache made of it. Clips without a line were measured
before this was noted: they are kept, which is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray_jobs.decoder.evaluate.plan import Plan
from ttt import records, storage
from ttt.errors import UserError
from ttt.files.errors import FileIdentity
from ttt.snac.cache.index import CodeCache, DamagedClip, open_cache
from ttt.snac.evaluation.clips import CachedClip

LINES = "sources.jsonl"


def note(output: Path, clip_id: str, codec_sha256: str, source: dict[str, Any]) -> None:
    """Write what a clip is that is about to get its line in results.jsonl."""
    line = {"clip_id": clip_id, "codec_sha256": codec_sha256, "source": source}
    records.append_jsonl(output / LINES, line)


def refuse_other(output: Path, plan: Plan, codec_sha256: str, clip_ids: Iterable[str]) -> None:
    """Raise UserError where a measured clip's codec or audio is another now.

    Args:
        clip_ids: of the clips that results.jsonl holds.
    """
    known, unknown = _read_lines(output / LINES), 0
    item_of = {item.clip_id: item for item in plan.items}
    cache = None if plan.cache is None else open_cache(plan.cache)
    for clip_id in clip_ids:
        line, item = known.get(clip_id), item_of.get(clip_id)
        if line is None:
            unknown += 1
            continue
        if line["codec_sha256"] != codec_sha256:
            raise UserError(
                f"{output}: {clip_id} was measured with a codec of weights "
                f"{line['codec_sha256'][:12]}, and now they are {codec_sha256[:12]}; choose "
                "another output, or delete results.jsonl to measure again"
            )
        if item is None:
            continue  # A lower limit leaves it out.
        if isinstance(item, CachedClip):
            assert cache is not None
            same = line["source"].get("crc32") == _checksum(cache, item.row)
        else:
            source = line["source"]
            same = "sha256" in source and _is_file(FileIdentity.from_dict(source), item.source)
        if not same:
            raise UserError(
                f"{output}: the audio of {clip_id} has changed since it was measured; choose "
                "another output, bring the audio back, or delete results.jsonl to measure again"
            )
    if unknown:
        print(
            f"{output}: {unknown:,} clips were measured before the codec and audio of each were "
            "noted; they are kept without a check",
            flush=True,
        )


def _is_file(known: FileIdentity, path: str) -> bool:
    return Path(path).exists() and known.is_of(path)


def _checksum(cache: CodeCache, row: int) -> str | None:
    try:
        return cache.checksum(row)
    except DamagedClip:
        return None


def _read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """By clip_id; a line that a killed job left cut short is dropped, here and in the file."""
    found: dict[str, dict[str, Any]] = {}
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            found[line["clip_id"]] = line
        whole = "".join(json.dumps(line) + "\n" for line in found.values())
        storage.write_bytes(path, whole.encode())
    return found
