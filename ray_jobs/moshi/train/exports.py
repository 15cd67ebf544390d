"""What a training in Moshi leaves: the best of its TTT layers and LoRA, in one folder."""

from __future__ import annotations

import json

from ray_jobs.moshi.train.plan import TTTPlan
from ray_jobs.reports.words import counted
from ttt import checkpoint, records, storage
from ttt.errors import UserError
from ttt.eval.config import FRAME_RATE
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.load import base_arguments, load_moshi
from ttt.moshi.training.exported.card import TrainedFacts, card
from ttt.moshi.training.exported.save import save_trained
from ttt.moshi.training.freeze import freeze_base, insert_unset_trained, lora_rank
from ttt.training.trainee import MAIN, Row


def export_best(plan: TTTPlan) -> str:
    """Write the best checkpoint's TTT layers and LoRA (the newest's without validation) into
    RUN/export and return it. Raises UserError when there is no checkpoint, or one of other tensors.
    """
    config, model = plan.config, plan.config.model
    folder = checkpoint.best(plan.config.run) or checkpoint.newest_complete(plan.config.run)
    if folder is None:
        raise UserError(f"{plan.config.run}: no checkpoint to export")
    snapshot = checkpoint.load(folder)
    base = load_moshi(model.weights, dtype=model.dtype, lm_kwargs=model.lm_kwargs)
    rank = None if config.lora is None else lora_rank(base.lm, config.lora)
    insert_unset_trained(base.lm, config)
    wanted = {name for named in freeze_base(base.lm).values() for name in named}
    tensors = snapshot.tensors.get("ema", snapshot.tensors[MAIN])
    if other := sorted(wanted ^ tensors.keys()):
        raise UserError(
            f"{folder}: its tensors are not those that this run trains, {len(other)} differ, the "
            f"first {other[0]}; --resume from another checkpoint"
        )
    base.lm.load_state_dict(tensors, strict=False)
    export = storage.join(plan.config.run, "export")
    facts = TrainedFacts(
        base=plan.given.model.weights,
        base_fingerprint=plan.base_fingerprint,
        mimi=plan.given.model.mimi,
        dtype=model.dtype,
        lm_kwargs=model.lm_kwargs,
        start=plan.given.start_from,
        start_sha256=plan.start_sha256,
        config=config,
        lora_rank=rank,
        step=snapshot.step,
        **_data_in_words(plan),
        window=plan.window,
        rows=_rows(plan.config.run, snapshot.step),
        origin=_origin(plan),
    )
    save_trained(
        base.lm,
        export,
        base_arguments(model.weights, model.lm_kwargs),
        base_fingerprint=plan.base_fingerprint,
        card=card(facts),
    )
    return export


def _data_in_words(plan: TTTPlan) -> dict[str, str]:
    """What was heard, and what validation heard."""
    cache = ChapterCache.open(plan.config.data.cache)
    rows = plan.rows.tolist()
    hours = int(cache.n_frames[plan.rows].sum()) / FRAME_RATE / 3600
    speakers = len({cache.chapters[row].speaker for row in rows})
    held = {cache.chapters[span.row].speaker for span in plan.spans}
    spans = (
        f"{counted(len(plan.spans), 'chapter')} by {counted(len(held), 'speaker')}, from the "
        f"beginning for at most {max(span.frames for span in plan.spans):,} frames"
        if plan.spans
        else "nothing"
    )
    return {
        "data": f"{plan.given.data.cache}, {counted(len(rows), 'chapter')} by "
        f"{counted(speakers, 'speaker')}, {hours:,.3g} hours (codes of {cache.codes.name})",
        "held_out": spans,
    }


def _rows(run: str, step: int) -> dict[str, Row]:
    """The validation of a step, as metrics.jsonl has it; nothing without one."""
    lines = storage.read_bytes(storage.join(run, "metrics.jsonl")).decode().splitlines()
    for line in map(json.loads, lines):
        if line["kind"] == "validation" and line["step"] == step:
            return line["rows"]
    return {}


def _origin(plan: TTTPlan) -> dict[str, str]:
    """What else a reader must know to make it again."""
    made = records.provenance(plan.config)
    return {name: str(made[name]) for name in ("created", "git_commit", "config_digest")}
