"""One optimizer step's arithmetic: decode the windows, weigh the loss, add up gradients.

A step's loss is the sum over all valid samples of all its micro-batches divided by their number,
never a mean of means; so the same step gives the same gradient however its micro-batches are
shared out. Noise inside the decoder is seeded from (seed, step, micro-batch), so no micro-batch
depends on what a process drew before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttt.audio import resample
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.model import Decoder48k, interleaved_to_codes
from ttt.snac.train.adversarial import JUDGED, Adversary, JudgedWindows
from ttt.snac.train.config import AdversarialConfig, BestBy, LossConfig, Precision
from ttt.snac.train.losses import reconstruction_loss
from ttt.snac.train.optim import OptimConfig
from ttt.snac.train.window_reader import MicroBatch
from ttt.training.device import fixed_shapes

VALID = "valid_samples"
"""Valid 48 kHz samples of a step, which its loss is divided by."""


@dataclass(frozen=True, kw_only=True)
class DecoderRecipe:
    """How a decoder is trained."""

    seed: int
    """Of the noise inside the decoder."""
    precision: Precision
    optim: OptimConfig
    loss: LossConfig
    adversarial: AdversarialConfig | None = None
    best_by: BestBy = "loss"


def accumulate_gradients(
    model: Decoder48k,
    micro_batches: Sequence[MicroBatch],
    recipe: DecoderRecipe,
    denominators: Mapping[str, float],
    *,
    step: int,
    adversary: Adversary | None = None,
) -> dict[str, Tensor]:
    """Run these micro-batches forward and backward; their share of the step's loss terms, [] each.

    `denominators` are the whole step's, over all ranks. With an `adversary` its discriminators get
    their gradients, too, and "total" holds what the decoder hears of them.
    """
    sums: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    ahead = [batch.ahead(device) for batch in micro_batches]
    with fixed_shapes():
        for batch, there in zip(micro_batches, ahead, strict=True):
            assert batch.id is not None, "a training batch carries its place in the plan"
            torch.manual_seed(draw_seed(recipe.seed, step, batch.id.micro))
            windows = decode_windows(model, there, recipe.precision)
            terms = reconstruction_loss(
                windows.estimate, windows.target, windows.valid_samples, recipe.loss
            )
            weighted = {
                name: (windows.valid_samples * rows).sum() / int(denominators[VALID])
                for name, rows in terms.items()
            }
            if adversary is None:
                weighted["total"].backward()
            else:
                lengths = batch.valid_samples.tolist()
                shown = JudgedWindows(
                    windows.estimate, windows.target, lengths, int(denominators[JUDGED])
                )
                pull, said = adversary.judge(shown, step=step)
                if pull is None:
                    weighted["total"].backward()
                else:
                    one = torch.ones_like(weighted["total"])
                    torch.autograd.backward([weighted["total"], windows.estimate], [one, pull])
                weighted = {**weighted, **said, "total": weighted["total"] + said["total"]}
            for name, value in weighted.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
    return sums


@dataclass(frozen=True)
class DecodedWindows:
    """The cores of a micro-batch, on the model's device in float32."""

    estimate: Tensor
    """[B, core samples at 48 kHz]"""
    target: Tensor
    """[B, core samples at 48 kHz], in -1..1"""
    valid_samples: Tensor
    """[B], the valid prefix of each row"""
    resampled_24k: Tensor | None = None
    """[B, core samples at 48 kHz], the 24 kHz output resampled, where asked for"""


def decode_windows(
    model: Decoder48k, batch: MicroBatch, precision: Precision, *, with_resampled: bool = False
) -> DecodedWindows:
    """Decode whole slices and cut out their cores, whose place differs by row."""
    geometry = model.geometry
    device = next(model.parameters()).device
    batch = batch.ahead(device)
    codes = interleaved_to_codes(batch.codes, geometry)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        y48, y24 = model(codes)
    target = batch.audio.float() / 32768
    starts = [geometry.samples_48k(start) for start in batch.core_start.tolist()]
    resampled = None
    if with_resampled:
        resampled = resample(y24.float(), geometry.sample_rate, TARGET_RATE)
    return DecodedWindows(
        estimate=cut_cores(y48, starts, target.shape[1]),
        target=target,
        valid_samples=batch.valid_samples,
        resampled_24k=None if resampled is None else cut_cores(resampled, starts, target.shape[1]),
    )


def draw_seed(seed: int, step: int, micro: int) -> int:
    """The seed of torch's generator for one micro-batch, below 2**63."""
    digest = hashlib.sha256(f"{seed}/{step}/{micro}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def cut_cores(decoded: Tensor, starts: Sequence[int], length: int) -> Tensor:
    """The cores [B, length] of decoded slices [B, 1, T], row b from sample starts[b] on."""
    rows = [row[start : start + length] for row, start in zip(decoded[:, 0], starts, strict=True)]
    return torch.stack(rows).float()


_PROBE_COARSE = 2


def activation_bytes_per_coarse(model: Decoder48k, phase: int) -> int:
    """Bytes that autograd keeps of one forward pass, per coarsest token of one clip, in float32.

    Counted on a short forward pass of `model`: every stored tensor that is not a parameter, once.
    The loss and the optimizer come on top. Leaves `model` unfrozen.
    """
    kept: dict[int, int] = {}
    parameters = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    codes = [
        torch.zeros(1, count, dtype=torch.int64, device=next(model.parameters()).device)
        for count in model.geometry.lengths(_PROBE_COARSE)
    ]
    model.freeze_body(phase == 1)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = model(codes)  # the graph lives until the count is done
    finally:
        model.freeze_body(False)
    del outputs
    return sum(kept.values()) // _PROBE_COARSE
