"""The adversarial phase of a training: discriminators that learn beside the decoder, and teach it.

Both learn from the same forward pass of the decoder: its output as it was before this step, judged
by the discriminators as they were before it. They are shown real samples alone, the cores of the
windows as far as these are audio: rows are grouped by length and cut there, so that padding
teaches nothing. A row counts by its samples, and a step's sums are divided by those of all ranks.
Everything here is float32.

Least squares: recorded audio shall be judged 1 and decoded audio 0, and the decoder wants 1. The
signals are scaled by what brings the recorded one to a fixed level; so the level is heard, which
scaling each by itself would hide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ttt.errors import UserError
from ttt.snac.discriminators import Discriminators, Judgement, load
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.train.config import AdversarialConfig
from ttt.training.hooks import Hook, StepRecord
from ttt.training.optim import Update
from ttt.training.schedules import EpochPlan
from ttt.training.state import TrainState

NAME = "discriminators"
"""Of their file in a checkpoint, of their update and of their learning rate."""
JUDGED = "judged_samples"
"""Samples of a step that they are shown: rows long enough for all of them."""
LOSS = "discriminator"
"""The term that they minimise."""

_QUIETEST_RMS = 1e-3
"""Recorded audio below it is not scaled up further: silence says nothing."""


def first_step(config: AdversarialConfig, epochs: Sequence[EpochPlan]) -> int:
    """The step of the run at which the phase begins.

    Raises UserError where the run ends before the decoder hears of it.
    """
    total, begins = sum(epoch.steps for epoch in epochs), config.first_step
    if begins is None:
        if config.first_epoch > len(epochs):
            raise UserError(
                f"adversarial.first_epoch {config.first_epoch} lies beyond the run's {len(epochs)} "
                f"epochs; begin earlier or set adversarial to null"
            )
        begins = epochs[config.first_epoch - 1].first_step
    if begins + config.hold_steps >= total:
        raise UserError(
            f"the adversarial phase begins after step {begins} and the decoder hears of it "
            f"adversarial.hold_steps {config.hold_steps} later, beyond the run's {total} steps; "
            f"begin earlier, hold it back for less, or set adversarial to null"
        )
    return begins


class Adversary:
    """The discriminators, their optimizer and what they say."""

    def __init__(
        self, config: AdversarialConfig, epochs: Sequence[EpochPlan], device: torch.device
    ) -> None:
        """Raises UserError where the phase never begins or `start_from` does not fit."""
        self.config = config
        self.first_step = first_step(config, epochs)
        self.given_up = False
        """Whether training goes on without them."""
        self.networks = Discriminators(config.discriminators)
        if config.start_from is not None:
            load(self.networks, config.start_from)
        self.networks.to(device)
        self._total_steps = sum(epoch.steps for epoch in epochs)
        self._parameters = list(self.networks.parameters())
        # One for the whole run: the decoder's phases are none of theirs.
        self.update = Update(
            NAME,
            torch.optim.AdamW(
                [{"name": NAME, "params": self._parameters}],
                lr=0.0,
                betas=config.betas,
                weight_decay=config.weight_decay,
                fused=True if device.type == "cuda" else None,
            ),
            clip_norm=config.clip_norm,
            first_step=self.first_step,
        )

    def rate(self, step: int) -> float:
        """Their learning rate in the run's step (from 0): a rise and a cosine."""
        config, done = self.config, step - self.first_step
        if done < 0:
            return 0.0
        share = done / max(self._total_steps - self.first_step, 1)
        fallen = (
            config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * share)) / 2
        )
        return fallen * min(1.0, (done + 1) / config.lr_rise_steps)

    def heard(self, step: int) -> float:
        """How much of its weights the decoder hears in the run's step, from 0 to 1."""
        after_hold = step - self.first_step - self.config.hold_steps
        return min(1.0, max(0.0, (after_hold + 1) / self.config.ramp_steps))

    def judged(self, lengths: Sequence[int]) -> int:
        """Samples of rows of these lengths that are shown to them."""
        return sum(length for length in lengths if length >= self.networks.shortest_samples)

    def judge(
        self, windows: JudgedWindows, *, step: int
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Add to their gradients; the decoder's gradient at its output, and this share's terms.

        The gradient is [B, T] as the windows' estimate, None where the decoder hears nothing.
        """
        heard = self.heard(step)
        weight, feature_weight = heard * self.config.weight, heard * self.config.feature_weight
        teaches = weight > 0 or feature_weight > 0
        pull = torch.zeros_like(windows.estimate) if teaches else None
        zero = windows.estimate.new_zeros(())
        terms = {LOSS: zero, "adversarial": zero, "feature": zero}
        done = step - self.first_step
        with_r1 = self.config.r1_gamma is not None and done % self.config.r1_every == 0
        for rows, length in _equal_lengths(windows.lengths, self.networks.shortest_samples):
            share = len(rows) * length / windows.judged_samples
            target = _cut(windows.target, rows, length)[:, None]
            rms = target.square().mean(dim=2, keepdim=True).sqrt().clamp(min=_QUIETEST_RMS)
            gain = self.config.discriminators.target_rms / rms
            decoded = _cut(windows.estimate.detach(), rows, length).requires_grad_(teaches)
            recorded = (gain * target).requires_grad_(with_r1)
            of_real, of_decoded = self.networks(recorded), self.networks(gain * decoded[:, None])
            losses = {
                "adversarial": _squares(of_decoded, 1.0),
                "feature": _features(of_real, of_decoded),
                LOSS: _squares(of_real, 1.0) + _squares(of_decoded, 0.0),
            }
            if pull is not None:
                wanted = weight * losses["adversarial"] + feature_weight * losses["feature"]
                (slope,) = torch.autograd.grad(share * wanted, decoded, retain_graph=True)
                for row, of_row in zip(rows, slope, strict=True):
                    pull[row, :length] = of_row
            minimised = losses[LOSS]
            if with_r1:
                minimised = minimised + self._r1(of_real, recorded)
            (share * minimised).backward(inputs=self._parameters)
            for name, value in losses.items():
                terms[name] = terms[name] + share * value.detach()
        taught = weight * terms["adversarial"] + feature_weight * terms["feature"]
        return pull, {**terms, "total": taught}

    def _r1(self, of_real: Sequence[Judgement], recorded: Tensor) -> Tensor:
        """The penalty on the squared slope of the networks' mean judgement of each row."""
        assert self.config.r1_gamma is not None
        judgement = sum((logits.flatten(1).mean(1) for _, logits in of_real), start=torch.zeros(()))
        (slope,) = torch.autograd.grad(judgement.sum(), recorded, create_graph=True)
        strength = self.config.r1_gamma / 2 * self.config.r1_every
        return strength * slope.square().sum(dim=(1, 2)).mean()


@dataclass(frozen=True)
class JudgedWindows:
    """Decoded cores of a micro-batch beside the recorded ones, float32 on one device."""

    estimate: Tensor
    """[B, T]"""
    target: Tensor
    """[B, T]"""
    lengths: Sequence[int]
    """Real samples at the beginning of each row."""
    judged_samples: int
    """Of the whole step, over all ranks."""


_PROBE_SAMPLES = 24_000


def judged_bytes_per_sample(networks: Discriminators) -> int:
    """Bytes that autograd keeps of a recorded and a decoded sample; counted on half a second."""
    kept: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in networks.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    audio = torch.zeros(1, 1, _PROBE_SAMPLES, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        judged = networks(audio)  # the graph lives until the count is done
    del judged
    return 2 * sum(kept.values()) // _PROBE_SAMPLES


def judged_flops_per_second(networks: Discriminators) -> int:
    """Operations of a step for a second of audio in it: recorded and decoded audio go through,
    and back as often as the networks' and the decoder's gradients ask for."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        networks(torch.zeros(1, 1, _PROBE_SAMPLES))
    forward = counter.get_total_flops() * TARGET_RATE // _PROBE_SAMPLES
    # Twice there; of each back pass the networks' gradients and what lies below are one each.
    return forward * (2 + 4 + 1)


class CollapseWarning(Hook):
    """Says once that the discriminators' loss does not move any more."""

    def __init__(self, config: AdversarialConfig, warn: Callable[[str], None]) -> None:
        self._steps = config.collapse_steps
        self._warn = warn
        self._low = self._high = math.nan
        self._since = 0
        self._warned = False

    def on_start(self, state: TrainState) -> None:
        self._since = state.step

    def on_step(self, record: StepRecord) -> None:
        loss = record.terms.get(LOSS)
        if loss is None or self._warned:
            return
        low, high = min(loss, self._low), max(loss, self._high)
        if not high - low <= 1e-4 * abs(high):  # NaN at first, and after a bad step
            low, high, self._since = loss, loss, record.step
        self._low, self._high = low, high
        if record.step - self._since >= self._steps:
            self._warned = True
            self._warn(
                f"step {record.step}: the discriminators' loss has stayed at {loss:.4g} for "
                f"{self._steps} steps, so they have collapsed and teach nothing; start a new run "
                f"with a lower adversarial.lr, with adversarial.r1_gamma, or without adversarial"
            )


def _equal_lengths(lengths: Sequence[int], shortest: int) -> list[tuple[list[int], int]]:
    """Rows by their length, without those that are too short to be judged."""
    return [
        ([row for row, other in enumerate(lengths) if other == length], length)
        for length in sorted(set(lengths))
        if length >= shortest
    ]


def _cut(audio: Tensor, rows: Sequence[int], length: int) -> Tensor:
    """These rows' beginnings; views and copies that no GPU waits for, as a list as index would."""
    if len(rows) == len(audio):
        return audio[:, :length]
    return torch.stack([audio[row, :length] for row in rows])


def _squares(judgements: Sequence[Judgement], wanted: float) -> Tensor:
    """Mean squared distance of the logits from `wanted`, summed over the networks."""
    return torch.stack([(logits - wanted).square().mean() for _, logits in judgements]).sum()


def _features(of_real: Sequence[Judgement], of_decoded: Sequence[Judgement]) -> Tensor:
    """Mean absolute difference of every feature map, summed over them all."""
    distances = [
        (ours - real.detach()).abs().mean()
        for (reals, _), (decoded, _) in zip(of_real, of_decoded, strict=True)
        for real, ours in zip(reals, decoded, strict=True)
    ]
    return torch.stack(distances).sum()
