"""Caching chapters: the shards that are missing, then manifest, index and summary."""

from __future__ import annotations

import time
from typing import Any

from ray_jobs.moshi.cache.plan import CachePlan, claim_output, pending_shards, refuse_other_text
from ray_jobs.moshi.cache.worker import SILENCE, ChapterEncoder, Shard
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ray_jobs.runtime.items import Ask, Session, WorkerDied, worker_session
from ray_jobs.runtime.progress import Progress
from ttt import records, storage
from ttt.errors import UserError
from ttt.moshi.chapter_cache.index import build_index
from ttt.moshi.chapter_cache.write_shard import merge_manifest


def execute(plan: CachePlan, invocation: Invocation) -> None:
    """Cache what is missing, then write manifest, index and summary."""
    with run_folder.locked(plan.config.output):
        claim_output(plan)
        _cache(plan, invocation)


def _cache(plan: CachePlan, invocation: Invocation) -> None:
    config, pending = plan.config, pending_shards(plan)
    summary_uri = storage.join(config.output, "summary.json")
    if pending or not storage.exists(summary_uri):
        timing: dict[str, Any] = {"shards": 0}
        if pending:
            with worker_session(config.cluster, invocation.address, wanted=len(pending)) as session:
                timing = _encode(plan, pending, session)
            if missing := len(pending_shards(plan)):
                raise UserError(
                    f"{config.output}: {missing} shards that were written are not there; "
                    "output must be a folder that every node sees, or a URI such as s3://..."
                )
        records.write_json(summary_uri, _finish(plan, timing))
    else:
        print(f"{config.output}: already complete, nothing to do")
    _report(plan, records.read_json(summary_uri))


def _encode(plan: CachePlan, pending: list[int], session: Session) -> dict[str, Any]:
    """Cache the pending shards; returns what it took."""
    config = plan.config
    work: list[Shard] = [(number, plan.shards[number]) for number in pending]
    n_inputs = len(plan.inputs)
    done = n_inputs - sum(len(inputs) for _, inputs in work)
    audio_seconds, busy_seconds, began = 0.0, 0.0, time.monotonic()
    left_out = 0
    fields: dict[str, object] = {}
    text: dict[str, Any] | None = None

    def identify(ask: Ask) -> None:
        nonlocal text
        text = _text_identity(config.output, ask)

    with (
        Progress("caching", n_inputs, "chapters", done=done) as progress,
        session.exporting(progress, "cache_chapters", config.output),
        session.counting(progress, fields) as count,
        session.workers(ChapterEncoder, config, plan.codes, count) as workers,
    ):
        if config.text is not None:
            workers.prepare(identify, progress)
        for (number, _), status in workers.each("cache", work, text, progress=progress):
            if isinstance(status, WorkerDied):
                raise UserError(
                    f"{config.output}: shard {number} was not written, {status.reason}; give each "
                    "worker more memory or lower chapters_per_shard, and run the job again"
                )
            audio_seconds += status.audio_seconds
            busy_seconds += status.seconds
            if busy_seconds > 0:
                fields["x_real_time"] = audio_seconds / busy_seconds
            left_out += status.left_out
            if left_out:
                fields["left_out"] = left_out
    return {
        "shards": len(pending),
        "workers": min(workers.count, len(pending)),
        "audio_seconds": audio_seconds,
        "worker_seconds": busy_seconds,
        "seconds": time.monotonic() - began,
    }


def _text_identity(output: str, ask: Ask) -> dict[str, Any]:
    """Whose text it is, once it is known to be that of the finished shards."""
    uri, now = storage.join(output, "text.json"), ask("identify_text")
    if storage.exists(uri):
        refuse_other_text(output, records.read_json(uri), now)
    else:
        records.write_json(uri, now)
    return now


def _finish(plan: CachePlan, timing: dict[str, Any]) -> dict[str, Any]:
    config = plan.config
    storage.delete(storage.join(config.output, SILENCE))
    counts = merge_manifest(config.output, len(plan.shards))
    if counts["cached"]:
        build_index(config.output)
    return {
        **counts,
        "shards": len(plan.shards),
        "mimi": {"name": plan.codes.name, "weights_sha256": plan.codes.weights_sha256},
        "last_run": timing,
        "provenance": records.provenance(plan.given),
    }


def _report(plan: CachePlan, summary: dict[str, Any]) -> None:
    """Say how it ended. Raises UserError when too few chapters could be cached."""
    config = plan.config
    reasons = ", ".join(f"{n:,} {name}" for name, n in summary["left_out_by_reason"].items())
    manifest = storage.join(config.output, "manifest.jsonl")
    print(
        f"cached {summary['cached']:,} of {summary['inputs']:,} chapters, "
        f"{summary['hours']:.2f} h, {summary['frames']:,} frames"
        + (f"; left out: {reasons} (see {manifest})" if reasons else "")
    )
    share = summary["cached"] / summary["inputs"]
    if summary["cached"] == 0 or share < config.min_cached_share:
        raise UserError(
            f"{config.output}: only {share:.1%} of the chapters were cached ({reasons}), "
            f"min_cached_share is {config.min_cached_share:.1%}; see {manifest}"
        )
    print(config.output)
