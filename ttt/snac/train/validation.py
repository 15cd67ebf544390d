"""Validation on windows that never change, with the rows that give its numbers a scale.

The windows are the same in every epoch, for every segment length and for any number of workers;
noise is off. Each batch's sums land in one table by batch, which is added up in one order, so the
result does not depend on who computed which batch. Beside our 48 kHz output stand two rows that do
not change during training and are computed once: the 24 kHz output of the untouched decoder,
resampled, and the true audio limited to the codec's rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttt.audio import resample, through_rate
from ttt.numerics import exact_float32
from ttt.snac.evaluation.trick_levels import GRID, FittedTricks, fit
from ttt.snac.evaluation.trick_levels import Row as GridRow
from ttt.snac.evaluation.tricks import measure_grid, white_noise, zero_stuffed
from ttt.snac.geometry import TARGET_RATE, CodeGeometry
from ttt.snac.metrics import METRICS, all_metrics
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes
from ttt.snac.train.config import LossConfig, Precision
from ttt.snac.train.losses import reconstruction_loss
from ttt.snac.train.step import DecodedWindows, cut_cores, decode_windows
from ttt.snac.train.window_places import Windows
from ttt.snac.train.window_reader import MicroBatch, WindowReader
from ttt.snac.verdict import BASELINE, CEILING, OURS
from ttt.training.ranks import Communicator
from ttt.training.trainee import Row, ValidationResult

REFERENCE_ROWS = (BASELINE, CEILING)
"""The rows that training does not change."""


class ValidationSet:
    """Fixed windows, read anew each time."""

    def __init__(self, reader: WindowReader, windows: Sequence[Windows]) -> None:
        self._reader = reader
        self._windows = windows

    @property
    def n_windows(self) -> int:
        """Windows in all batches."""
        return sum(len(windows) for windows in self._windows)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> MicroBatch:
        return self._reader.read(self._windows[index], None)


@dataclass(frozen=True)
class Example:
    """One validation window to look at and listen to; 48 kHz samples, [T] on the CPU."""

    clip_id: str
    reference: Tensor
    ours: Tensor
    resampled: Tensor


def validate(
    model: Decoder48k,
    batches: ValidationSet,
    loss_config: LossConfig,
    group: Communicator,
    *,
    precision: Precision,
    untouched: Decoder48k | None,
    n_examples: int = 0,
) -> ValidationResult:
    """Decode every window once, shared over the ranks, noise off.

    With `untouched`, a decoder before any training, the reference rows as well: it has the
    original 24 kHz output. It may be `model` itself.
    """
    sums: list[dict[str, tuple[float, float]]] = []
    examples: list[Example] = []
    with torch.no_grad(), deterministic(model), exact_float32():
        for index in range(group.rank, len(batches), group.world):
            batch = batches[index]
            wanted = untouched is model or (index == 0 and n_examples > 0)
            windows = decode_windows(model, batch, precision, with_resampled=wanted)
            original = None if untouched is None else windows
            if untouched is not None and untouched is not model:
                with deterministic(untouched):
                    original = decode_windows(untouched, batch, precision, with_resampled=True)
            baseline = None if original is None else original.resampled_24k
            sums.append(_sums(windows, loss_config, model.geometry, baseline))
            if index == 0:
                examples = _examples(batch, windows, n_examples)
    names = group.from_first("\n".join(sums[0]) if sums else None)
    assert names is not None, "rank 0 decodes the first batch"
    keys = names.split("\n")
    device = next(model.parameters()).device
    table = torch.zeros(len(batches), len(keys), 2, dtype=torch.float64, device=device)
    for place, mine in enumerate(sums):
        values = torch.tensor([mine[key] for key in keys], dtype=torch.float64)
        table[group.rank + place * group.world] = values
    totals = group.sum_(table).sum(0).tolist()
    tree: dict[str, Row] = {}
    for key, (total, weight) in zip(keys, totals, strict=True):
        row, _, name = key.partition("/")
        if weight > 0:
            tree.setdefault(row, {})[name] = total / weight
    terms = tree.pop("loss")
    return ValidationResult(loss=terms["total"], terms=terms, rows=tree, examples=examples)


SHORTEST_SAMPLES = 4096
"""Rows with a shorter valid prefix give no metrics: an STFT of 2,048 needs more than one frame."""


def _sums(
    windows: DecodedWindows,
    loss_config: LossConfig,
    geometry: CodeGeometry,
    baseline: Tensor | None,
) -> dict[str, tuple[float, float]]:
    """Key "row/name" -> (sum weighted by valid samples, weight) over one batch; with the reference
    rows where there is a baseline."""
    valid = windows.valid_samples
    terms = reconstruction_loss(windows.estimate, windows.target, valid, loss_config)
    sums = {
        f"loss/{name}": (float((valid * rows).double().sum()), float(valid.sum()))
        for name, rows in terms.items()
    }
    estimates = {OURS: windows.estimate}
    if baseline is not None:
        estimates[BASELINE] = baseline
        estimates[CEILING] = through_rate(windows.target, TARGET_RATE, geometry.sample_rate)
    for row, estimate in estimates.items():
        for name, pair in _metric_sums(estimate, windows.target, valid.tolist()).items():
            sums[f"{row}/{name}"] = pair
    return sums


def _metric_sums(
    estimate: Tensor, target: Tensor, valid: list[int]
) -> dict[str, tuple[float, float]]:
    """Metric -> (weighted sum, weight); values that are undefined (silence) carry no weight."""
    sums = dict.fromkeys(METRICS, (0.0, 0.0))
    for length in sorted(set(valid)):
        rows = [index for index, count in enumerate(valid) if count == length]
        if length < SHORTEST_SAMPLES:
            continue
        audio = estimate[rows, :length]
        sound = bool(audio.isfinite().all())
        for name, values in all_metrics(audio, target[rows, :length]).items():
            finite = [value for value in values.double().tolist() if math.isfinite(value)]
            total, weight = sums[name]
            if sound:
                sums[name] = (total + length * sum(finite), weight + length * len(finite))
            else:  # Left out, an output that is no number would better the mean of the others.
                sums[name] = (math.nan, weight + length * len(rows))
    return sums


def _examples(batch: MicroBatch, windows: DecodedWindows, count: int) -> list[Example]:
    resampled = windows.resampled_24k
    if resampled is None:
        return []
    return [
        Example(
            clip_id=batch.clip_ids[row],
            reference=windows.target[row].cpu(),
            ours=windows.estimate[row].cpu(),
            resampled=resampled[row].cpu(),
        )
        for row in range(min(count, len(batch.clip_ids)))
    ]


def fit_on_windows(untouched: Decoder48k, batches: ValidationSet) -> FittedTricks | None:
    """The strongest levels beside the 24 kHz output of `untouched`, a decoder before training.

    None when no window is long enough to be measured.
    """
    return fit([row for index in range(len(batches)) for row in _rows(untouched, batches[index])])


def _rows(untouched: Decoder48k, batch: MicroBatch) -> Iterator[GridRow]:
    geometry = untouched.geometry
    device = next(untouched.parameters()).device
    with deterministic(untouched):
        codes = interleaved_to_codes(batch.codes.to(device), geometry)
        audio_24k = untouched.decode_24k(codes)
    target = batch.audio.to(device).float() / 32768
    starts = [geometry.samples_48k(start) for start in batch.core_start.tolist()]
    baselines = cut_cores(
        resample(audio_24k, geometry.sample_rate, TARGET_RATE), starts, target.shape[1]
    )
    images = cut_cores(zero_stuffed(audio_24k), starts, target.shape[1])
    for row, clip_id in enumerate(batch.clip_ids):
        samples = int(batch.valid_samples[row])
        if samples < SHORTEST_SAMPLES:
            continue
        noise = white_noise(f"{clip_id} {starts[row]}", samples).to(device)
        baseline, image, truth = (each[row, :samples] for each in (baselines, images, target))
        yield {GRID: measure_grid(baseline, image, noise, truth).to_dict()}
