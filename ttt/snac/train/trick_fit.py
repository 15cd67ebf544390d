"""The cheap tricks' levels on a run's validation windows, for the export to carry."""

from __future__ import annotations

from collections.abc import Iterator

from ttt.audio import resample
from ttt.snac.evaluation.trick_levels import GRID, FittedTricks, Row, fit
from ttt.snac.evaluation.tricks import measure_grid, white_noise, zero_stuffed
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes
from ttt.snac.train.step import cut_cores
from ttt.snac.train.validation import SHORTEST_SAMPLES, ValidationSet
from ttt.snac.train.window_reader import MicroBatch


def fit_on_windows(untouched: Decoder48k, batches: ValidationSet) -> FittedTricks | None:
    """The strongest levels beside the 24 kHz output of `untouched`, a decoder before training.

    None when no window is long enough to be measured.
    """
    return fit([row for index in range(len(batches)) for row in _rows(untouched, batches[index])])


def _rows(untouched: Decoder48k, batch: MicroBatch) -> Iterator[Row]:
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
