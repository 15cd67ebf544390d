"""The plan of a training in Moshi in words and numbers, for --dry-run and before a run starts."""

from __future__ import annotations

from ray_jobs.moshi.train.plan import TTTPlan
from ray_jobs.reports.words import counted
from ttt.errors import UserError
from ttt.eval.config import FRAME_RATE
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.load import outline_moshi
from ttt.moshi.training.estimate.cost import frame_flops, gpu_hours
from ttt.moshi.training.estimate.need import Advice, advice, training_bytes
from ttt.moshi.training.estimate.validation import validation_bytes
from ttt.moshi.training.stages import learning_rates


def describe(plan: TTTPlan) -> str:
    """The plan in words and numbers."""
    config, stream = plan.given, plan.stream()
    cache = ChapterCache.open(plan.config.data.cache)
    windows = stream.windows(cache)
    frames, workers = int(cache.n_frames[plan.rows].sum()), max(config.cluster.num_workers, 1)
    speakers = {cache.chapters[row].speaker for row in plan.rows.tolist()}
    groups = tuple(plan.trained)
    lines = [
        f"cache {config.data.cache}: {counted(len(cache), 'chapter')}, {len(plan.rows):,} by "
        f"{counted(len(speakers), 'speaker')} for training, {frames:,} frames, "
        f"{_hours(frames)} hours",
        f"base model {config.model.weights} ({plan.base_fingerprint}) in {config.model.dtype}, "
        f"never changed; text {config.text}, other voice {config.other}, weights {config.weights}",
        f"trained: {sum(plan.trained.values()):,} parameters in float32 ("
        + ", ".join(f"{group} {count:,}" for group, count in plan.trained.items())
        + ")",
        *([] if plan.match is None else [plan.match]),
        f"validation: {_heard(plan)}",
        f"{counted(plan.total_steps, 'step')} in {counted(len(plan.epochs), 'stage')}, "
        f"{counted(workers, 'worker')}",
        "",
        "stage frames  seconds windows/step  at once   steps passes  padding  hours heard  "
        + "  ".join(f"learning rate ({group})" for group in groups),
    ]
    for stage, shape, passes in zip(plan.epochs, stream.shapes, windows.passes, strict=True):
        first, last = (
            learning_rates(config.optim, step, plan.total_steps)
            for step in (stage.first_step, stage.first_step + stage.steps - 1)
        )
        lines.append(
            f"{stage.number:5d} {shape.frames:6,d} {shape.frames / FRAME_RATE:8.1f} "
            f"{shape.windows_per_step:12d} {shape.windows_per_micro_batch:8d} {stage.steps:7,d} "
            f"{passes:6.2f} {windows.plan.padding_share(shape):8.1%} "
            f"{_hours(passes * frames):>12}  "
            + "  ".join(f"{first[group]:.2e} to {last[group]:.2e}" for group in groups)
        )
    lines += [
        "",
        *_needs(plan),
        f"writes: {config.run}/ checkpoints, metrics.jsonl, config.yaml, provenance.json, export"
        + (", tensorboard" if config.tracking.tensorboard else ""),
    ]
    return "\n".join(lines)


def _heard(plan: TTTPlan) -> str:
    """What a validation hears."""
    if not plan.spans:
        return "none"
    held_out = "speakers" if plan.given.data.validation_chapters is None else "chapters"
    frames = sum(span.frames for span in plan.spans)
    return f"{counted(len(plan.spans), 'span')} of held-out {held_out}, {frames:,} frames"


def _needs(plan: TTTPlan) -> list[str]:
    """Memory of a worker by stage, and the arithmetic of the whole run."""
    config, model = plan.config, plan.config.model
    base = outline_moshi(model.weights, dtype=model.dtype, lm_kwargs=model.lm_kwargs)
    lines, hours = ["memory of a worker, by sum, without what libraries keep:"], 0.0
    try:
        for stage, shape in zip(plan.epochs, plan.stream().shapes, strict=True):
            asked = config, shape.frames, shape.windows_per_micro_batch
            lines.append(
                f"  stage {stage.number}: {training_bytes(base, *asked).sentence()}"
                + on_a_card(advice(base, *asked, CARD_BYTES))
            )
            heard = stage.steps * shape.windows_per_step * shape.frames / FRAME_RATE / 3600
            hours += gpu_hours(frame_flops(base, config, shape.frames), heard, SHARE_OF_PEAK)
        if plan.spans:
            frames = max(span.frames for span in plan.spans)
            need = validation_bytes(base, config, frames, config.validation.chunk)
            fits = "" if need.total <= CARD_BYTES else "; more than a card of 80 GB has"
            lines.append(f"  validation: {need.sentence()}{fits}")
    except UserError as error:  # of a flavour that nobody has summed
        return [f"memory of a worker: {error}"]
    return [
        *lines,
        f"arithmetic of the run: {hours:,.3g} hours of an H100 at {SHARE_OF_PEAK:.0%} of its peak; "
        "TTT layers wait for launches besides (docs/ttt.md)",
    ]


CARD_BYTES = 75 * 10**9
"""What a card of 80 GB has beside its libraries."""
SHARE_OF_PEAK = 0.4


def on_a_card(found: Advice) -> str:
    """What makes a stage fit a card of 80 GB; nothing where it does as it stands."""
    if not found.needed and found.fits:
        return ""
    keys = ", ".join(f"memory.{key}={value}" for key, value in found.needed.items()).replace(
        "True", "true"
    )
    if found.fits:
        return f"; for a card of 80 GB set {keys}: {found.need.total / 1e9:.1f} GB"
    return (
        f"; more than a card of 80 GB has, {found.need.total / 1e9:.1f} GB at the least"
        + (f" with {keys}" if keys else "")
        + ": take fewer frames in a micro-batch"
    )


def _hours(frames: float) -> str:
    hours = frames / FRAME_RATE / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
