"""What caching chapters will do, decided before any resource is taken; and whose folder it is."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ray_jobs.moshi.cache.config import CacheChaptersConfig
from ray_jobs.moshi.synthetic import synthetic_chapters
from ray_jobs.moshi.wanted import with_absolute_roots
from ray_jobs.runtime.cache_folder import claim, is_claimed, remove_abandoned_files
from ttt import storage
from ttt.config import fixed_part
from ttt.errors import UserError
from ttt.eval.chapters.choose import at_most
from ttt.eval.chapters.find import Chapter, find_chapters
from ttt.eval.config import FRAME_RATE, ChapterConfig
from ttt.moshi.chapter_cache.inputs import ChapterInput
from ttt.moshi.chapter_cache.shard_file import FORMAT_VERSION, CodesIdentity
from ttt.moshi.chapter_cache.write_shard import is_finished, refuse_replaced
from ttt.moshi.load import load_mimi

_FRAME_BYTES = 16
_TEXT_BYTES = 4


@dataclass(frozen=True)
class CachePlan:
    """The chapters in order, cut into shards, and what makes their codes."""

    given: CacheChaptersConfig
    """As the user gave it, which is what config.yaml keeps."""
    config: CacheChaptersConfig
    """With paths that mean the same in a worker's folder."""
    shards: tuple[tuple[ChapterInput, ...], ...]
    codes: CodesIdentity
    finished: int | None
    """Shards that the output has already; None where it is new."""

    @property
    def inputs(self) -> list[ChapterInput]:
        """Of all shards."""
        return [chapter for shard in self.shards for chapter in shard]


def make_plan(config: CacheChaptersConfig) -> CachePlan:
    """Find the chapters and load Mimi, where one is asked.

    Raises UserError for what is missing or unfit, and for an output that holds something else, or
    shards of files that were replaced by others of another size.
    """
    given, config = config, _with_absolute_paths(config)
    inputs = list_inputs(config)
    size = config.chapters_per_shard
    shards = tuple(tuple(inputs[at : at + size]) for at in range(0, len(inputs), size))
    plan = CachePlan(given, config, shards, _codes(config), None)
    if not is_claimed(config.output, _identity(plan)):
        return plan
    finished = {*range(len(shards))} - {*pending_shards(plan)}
    for number in sorted(finished):
        refuse_replaced(config.output, number, shards[number])
    return replace(plan, finished=len(finished))


def _codes(config: CacheChaptersConfig) -> CodesIdentity:
    """What makes the codes; loads Mimi, where one is asked."""
    if config.synthetic is not None:
        return CodesIdentity.of_language(config.synthetic.language)
    assert config.mimi is not None
    loaded = load_mimi(config.mimi)
    return CodesIdentity(
        name=loaded.name,
        weights_sha256=loaded.weights_sha256,
        device=config.cluster.device,
        precision="float32",
        card=loaded.mimi.cardinality,
        codebooks=loaded.mimi.num_codebooks,
    )


def list_inputs(config: CacheChaptersConfig) -> list[ChapterInput]:
    """Every chapter that is asked for: as it can be cached, or with its problem.

    Raises UserError as `find_chapters` does.
    """
    if config.synthetic is not None:
        made = synthetic_chapters(config.synthetic)
        return [ChapterInput(each.chapter_id, each.speaker) for each in made]
    assert config.data is not None  # The configuration has one of the two.
    return _list_recordings(config.data)


def _list_recordings(config: ChapterConfig) -> list[ChapterInput]:
    every = replace(config, min_seconds=0.0, max_chapters=None)
    chapters, unreadable = find_chapters(every)
    long = [each for each in chapters if each.seconds >= config.min_seconds]
    kept = {each.chapter_id for each in at_most(long, config.max_chapters)}
    inputs = [
        _input(each, config.min_seconds)
        for each in chapters
        if each.chapter_id in kept or each.seconds < config.min_seconds
    ]
    return inputs + [
        ChapterInput(each.chapter_id, problem="unreadable", note=each.reason) for each in unreadable
    ]


def claim_output(plan: CachePlan) -> None:
    """Make the output folder this configuration's, or see that it is already.

    Raises UserError when it holds a cache of other settings or chapters, or anything else.
    """
    output = plan.config.output
    if is_claimed(output, _identity(plan)):
        remove_abandoned_files(output)
    else:
        claim(output, plan.given, _identity(plan))


def pending_shards(plan: CachePlan) -> list[int]:
    """Numbers of the shards that are not finished."""
    return [
        number
        for number, inputs in enumerate(plan.shards)
        if not is_finished(plan.config.output, number, inputs)
    ]


def describe(plan: CachePlan) -> str:
    """The plan in words."""
    config, inputs = plan.config, plan.inputs
    good = [each for each in inputs if each.problem is None]
    wrong = [each for each in inputs if each.problem is not None]
    seconds = _seconds(config, good)
    frames, speakers = seconds * FRAME_RATE, len({each.speaker for each in good})
    by = "1 speaker" if speakers == 1 else f"{speakers:,} speakers"
    each_bytes = _FRAME_BYTES + (0 if config.text is None else _TEXT_BYTES)
    goes_on = "" if plan.finished is None else f"; {plan.finished:,} are finished, it goes on there"
    codes, cluster = plan.codes, config.cluster
    lines = [
        f"cache {len(good):,} chapters by {by}, {seconds / 3600:.2f} hours, {frames:,.0f} frames",
        *_places(config),
    ]
    if wrong:
        lines.append(
            f"  left out: {len(wrong):,}, the first {wrong[0].chapter_id}: {wrong[0].note}"
        )
    lines += [
        f"  codes: {_codes_words(codes)}",
        "  text: none" if config.text is None else f"  text: {_text_words(config)}",
        f"  shards: {len(plan.shards):,} of at most {config.chapters_per_shard:,} chapters"
        + goes_on,
        f"  workers: {cluster.words} on {cluster.device}, each {cluster.cpus_per_worker:g} "
        f"CPU and {cluster.gpus_per_worker:g} GPU",
        f"  writes: {config.output}: {frames * each_bytes / 1e6:,.1f} MB of shards, index.arrow, "
        "manifest.jsonl, summary.json, config.yaml, cache.json",
    ]
    return "\n".join(lines)


def _seconds(config: CacheChaptersConfig, good: list[ChapterInput]) -> float:
    if config.synthetic is not None:
        return sum(each.seconds for each in synthetic_chapters(config.synthetic))
    return sum(each.seconds for each in good)


def _places(config: CacheChaptersConfig) -> list[str]:
    if config.data is not None:
        return [f"  in {root}" for root in config.data.roots]
    made = config.synthetic
    assert made is not None
    without = sum(each.language.structure == "none" for each in synthetic_chapters(made))
    return [f"  made from seed {made.first_seed:,} on, {without:,} of them without structure"]


def _codes_words(codes: CodesIdentity) -> str:
    digest = codes.weights_sha256[:12]
    if codes.is_synthetic:
        return f"synthetic (language {digest}), no Mimi is asked"
    return f"Mimi {codes.name} (weights {digest}) on {codes.device}, {codes.precision}"


def _text_words(config: CacheChaptersConfig) -> str:
    text = config.text
    assert text is not None
    return (
        f"{text.weights}'s own ({text.dtype}, {text.chunk} steps per pass), the other voice "
        f"{text.other}, the recording is {text.voice}"
    )


def _input(chapter: Chapter, min_seconds: float) -> ChapterInput:
    short = chapter.seconds < min_seconds
    note = f"{chapter.seconds:.2f} s, data.min_seconds is {min_seconds:g}"
    return ChapterInput(
        chapter.chapter_id,
        chapter.speaker,
        chapter.book,
        chapter.pieces,
        problem="too short" if short else None,
        note=note if short else "; ".join(chapter.notes),
    )


def _with_absolute_paths(config: CacheChaptersConfig) -> CacheChaptersConfig:
    text = config.text
    data = None if config.data is None else with_absolute_roots(config.data)
    if text is not None:
        text = replace(text, weights=_absolute(text.weights))
    output = storage.absolute(config.output)
    mimi = None if config.mimi is None else _absolute(config.mimi)
    return replace(config, data=data, output=output, mimi=mimi, text=text)


def _absolute(name: str) -> str:
    return storage.absolute(name) if Path(name).expanduser().is_dir() else name


def _identity(plan: CachePlan) -> dict[str, Any]:
    """Everything that the bytes of the shards depend on, but the base model's weights."""
    config = plan.config
    digest = hashlib.sha256()
    for chapter in plan.inputs:
        spans = [(piece.start, piece.stop) for piece in chapter.pieces]
        digest.update(f"{chapter.chapter_id}\0{chapter.problem}\0{spans}\n".encode())
    return {
        **fixed_part(config.to_dict(), CacheChaptersConfig),
        "inputs": len(plan.inputs),
        "inputs_sha256": digest.hexdigest(),
        "codes": asdict(plan.codes),
        "format": FORMAT_VERSION,
    }


def refuse_other_text(output: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError where the finished shards have the text of another base model."""
    if before != now:
        raise UserError(
            f"{output}: its text is that of {before['name']} ({before['fingerprint']}), and "
            f"text.weights is {now['name']} ({now['fingerprint']}) now; bring that model back, or "
            "choose another output"
        )
