"""The plan of a training in words and numbers, for --dry-run and before a run starts."""

from __future__ import annotations

from collections.abc import Sequence

from ray_jobs.decoder.train.plan import TrainPlan
from ray_jobs.decoder.train_config import TrainConfig
from ttt.snac.cache.bandwidth import BandwidthHours
from ttt.snac.discriminators import Discriminators
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.train.adversarial import (
    first_step,
    judged_bytes_per_sample,
    judged_flops_per_second,
)
from ttt.snac.train.curriculum import CurriculumConfig
from ttt.snac.train.optim import learning_rates, rate_factor
from ttt.snac.train.step import activation_bytes_per_coarse

GOES_ON = "was begun with one window of each clip, and goes on so"
"""What a plan says of a run that `as_begun` has changed."""


def describe(plan: TrainPlan) -> str:
    """The plan in words and numbers."""
    config, setup, curriculum = plan.given, plan.setup, plan.given.curriculum
    workers = max(config.cluster.num_workers, 1)
    rate, catalogue = setup.cache.geometry, setup.cache.catalogue
    originals = plan.rows[~catalogue.is_copy[plan.rows]]
    audio = (setup.windows.audio_samples(), int(catalogue.n_samples[originals].sum(dtype="int64")))
    heard = [setup.windows.heard_samples(epoch.shape, epoch.number) for epoch in plan.epochs]
    lines = [
        f"cache {config.data.train}: {catalogue.counted_in_words()}, {len(originals):,} train"
        + (", and their copies with them" if len(originals) < len(plan.rows) else ""),
        BandwidthHours.of(
            *(column[originals] for column in (catalogue.n_samples, catalogue.bandwidth_hz))
        ).sentence(),
        f"validation: {len(plan.validation_rows)} clips, "
        f"{0 if setup.validation is None else setup.validation.n_windows} windows of "
        f"{config.validation.segment_seconds:g} s",
        f"{plan.total_steps} steps in {curriculum.epochs} epochs, {workers} worker(s) with "
        f"{curriculum.micro_batches_per_step // workers} micro-batches of each step",
        *_heard_in_words(curriculum, heard, *audio),
        *([f"{config.run}: {GOES_ON}"] * plan.goes_on_as_begun),
        *_discriminators_in_words(config, plan),
        *_floor_in_words(config, plan),
        "",
        "epoch phase segment  core  clips/step  steps  left over  learning rate (head)  memory"
        "   heard",
    ]
    model_bytes = 4 * sum(tensor.numel() for tensor in setup.model.parameters())
    kept = {phase: activation_bytes_per_coarse(setup.model, phase) for phase in (1, 2)}
    networks, begins = _networks(config), plan.total_steps
    if config.adversarial is not None:
        begins = first_step(config.adversarial, plan.epochs)
    judged_bytes = 0 if networks is None else judged_bytes_per_sample(networks)
    for epoch, samples in zip(plan.epochs, heard, strict=True):
        shape, offset = epoch.shape, epoch.first_step - epoch.phase_first_step
        first, last = (
            learning_rates(
                config.optim,
                epoch.phase,
                step,
                epoch.phase_steps,
                factor=rate_factor(config.optim, epoch.phase_first_step + step),
            )["head"]
            for step in (offset, offset + epoch.steps - 1)
        )
        slices = shape.clips_per_micro_batch * (shape.core_coarse + 2 * shape.context_coarse)
        # Weights, gradients and AdamW's two moments.
        memory = 4 * model_bytes + kept[epoch.phase] * slices
        if networks is not None:
            memory += 16 * networks.n_parameters
            if epoch.first_step + epoch.steps > begins:
                core = rate.samples_48k(shape.core_coarse)
                memory += judged_bytes * core * shape.clips_per_micro_batch
        lines.append(
            f"{epoch.number:5d} {epoch.phase:5d} {epoch.segment_seconds:5g} s "
            f"{rate.seconds(shape.core_coarse):5.2f} {shape.clips_per_step:11d} {epoch.steps:6d} "
            f"{setup.windows.count(shape) - epoch.steps * shape.clips_per_step:10d} "
            f"  {first:.2e} to {last:.2e} {memory / 1e9:6.2f} GB {_hours(samples)} h"
        )
    lines += [
        "",
        "memory: weights, gradients, optimizer and float32 activations of one micro-batch, per",
        "worker; counted from a short forward pass, the loss comes on top; where it is more than a",
        "GPU has, lower clips_per_step of the epoch's stage",
        f"writes: {config.run}/ checkpoints, metrics.jsonl, config.yaml, provenance.json, export"
        + (", tensorboard" if config.tracking.tensorboard else ""),
    ]
    return "\n".join(lines)


def _networks(config: TrainConfig) -> Discriminators | None:
    adversarial = config.adversarial
    return None if adversarial is None else Discriminators(adversarial.discriminators)


def _discriminators_in_words(config: TrainConfig, plan: TrainPlan) -> list[str]:
    """How large they are, when they begin, and what they cost."""
    networks, adversarial = _networks(config), config.adversarial
    if networks is None or adversarial is None:
        return []
    begins = first_step(adversarial, plan.epochs)
    steps = plan.total_steps - begins
    return [
        f"discriminators: {adversarial.discriminators.recipe}, {len(networks.networks)} networks "
        f"of {networks.n_parameters:,} parameters; they begin after step {begins}, learn alone for "
        f"{adversarial.hold_steps} steps, and {steps} of {plan.total_steps} steps have them",
        f"cost: such a step has {judged_flops_per_second(networks) / 1e9:,.1f} billion "
        "multiplications and additions for a second of audio more",
    ]


def _floor_in_words(config: TrainConfig, plan: TrainPlan) -> list[str]:
    """What the noise floor is fitted on, and what that costs."""
    if config.noise_floor is None:
        return []
    if not plan.folds:
        most, clips = config.noise_floor.max_windows, len(plan.validation_rows)
        return [f"noise floor: fitted on at most {most} windows of {clips} validation clips"]
    steps = sum(fold.total_steps for fold in plan.folds)
    times = 1 + steps / plan.total_steps
    return [
        f"noise floor: fitted on {len(plan.folds)} folds of the training clips by as many more "
        f"trainings, {steps} steps more; all together costs {times:.2g} times this training",
    ]


def _heard_in_words(
    config: CurriculumConfig, heard: Sequence[int], samples: int, original_samples: int
) -> list[str]:
    """How much of the audio the loss counts, by epoch and in the whole run.

    `samples` are of all that trains, `original_samples` without copies at other levels.
    """
    shares = [100 * each / max(samples, 1) for each in heard]
    rule = (
        "an epoch hears a clip's samples once, but for less than a segment at its ends and the "
        "windows left over after the last step"
        if config.windows_per_clip == "length"
        else "an epoch hears one window of each clip; curriculum.windows_per_clip=length takes all"
    )
    copies = samples - original_samples
    return [
        f"heard: {_hours(sum(heard))} hours in the run, {_hours(min(heard))} to "
        f"{_hours(max(heard))} of {_hours(original_samples)} hours of audio "
        + (f"and {_hours(copies)} of copies at other levels " if copies else "")
        + f"in an epoch ({min(shares):.1f} to {max(shares):.1f} %)",
        rule + ("; a copy is heard like a clip" if copies else ""),
    ]


def _hours(samples_48k: int) -> str:
    hours = samples_48k / TARGET_RATE / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
