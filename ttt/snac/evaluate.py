"""One clip, measured: our 48 kHz beside resampling, on the clip's real samples.

Systems (the keys of every row):
- ours_48k: the trained decoder, with its noise floor where it has one;
- ours_48k_without_floor: the same without; only where it has one;
- ours_24k_tuned_resampled: the trained decoder's own 24 kHz output, resampled; only where
  training has changed that output;
- resampled_decode24: the untouched codec's 24 kHz output, resampled; what users have today;
- resampled_true24: the true audio through 24 kHz and back; what no 24 kHz codec can beat;
- silence: what metric silence would pass;
- tricks: no system but the grid of `ttt.snac.evaluation.tricks`, hiss and folding + hiss at every
  level.

Codes are decoded in pieces, so that memory grows with the audio alone; noise is off, so that the
same clip gives the same numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttt.audio import through_rate, to_int16
from ttt.errors import UserError
from ttt.snac.decode import decode_channels
from ttt.snac.evaluation.systems import OURS_WITHOUT_FLOOR
from ttt.snac.evaluation.trick_levels import GRID, Level, TrickGrid
from ttt.snac.evaluation.tricks import add_trick, measure_grid, white_noise, zero_stuffed
from ttt.snac.evaluation.visqol import NotScored, passage, require_scorable, visqol_score
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.heads import Head
from ttt.snac.load import LoadedCodec
from ttt.snac.metrics import all_metrics, lsd_hf_shape
from ttt.snac.model import Decoder48k
from ttt.snac.receptive_field import Reach
from ttt.snac.verdict import BASELINE, CEILING, OURS, OURS_24K, SILENCE, TRUE

SHORTEST_SAMPLES = 4096
"""A clip with fewer real samples is too short for a spectral distance and is left out."""


@dataclass(frozen=True, eq=False)
class EvaluationClip:
    """What a clip's numbers are made from."""

    clip_id: str
    codes: np.ndarray
    """Interleaved codes of the whole clip [n, codes_per_coarse], integers."""
    audio: np.ndarray
    """The true audio at 48 kHz, float32 [T], real samples only; T <= samples_48k(n)."""
    speaker: str | None = None
    """Who speaks; None when that is unknown."""

    @property
    def seconds(self) -> float:
        """Length of the real audio."""
        return len(self.audio) / TARGET_RATE


class Unmeasurable(Exception):
    """A clip that gives no numbers, and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Passage:
    """A stretch of a clip in all its versions, to look at and listen to."""

    start_seconds: float
    audio: dict[str, np.ndarray]
    """"true_48k" and every system -> int16 [T] at 48 kHz."""


class Evaluator:
    """A trained decoder and the untouched codec, ready to be compared clip by clip."""

    def __init__(self, decoder: Decoder48k, codec: LoadedCodec) -> None:
        """Raises UserError when the decoder was made from another codec's weights."""
        if decoder.codec_sha256 != codec.weights_sha256:
            raise UserError(
                f"the decoder was made from a codec with weights {decoder.codec_sha256[:12]}, "
                f"but codec {codec.name} has {codec.weights_sha256[:12]}; name the codec that it "
                "was trained from"
            )
        device = next(decoder.parameters()).device

        def reference() -> Decoder48k:
            """With init interp and an untrained head, decode() IS resample(decode_24k()), bit for
            bit; so these decoders make the reference rows, and are streamed like ours."""
            made = Decoder48k.from_snac(codec.model, codec_sha256=codec.weights_sha256)
            return made.eval().to(device)

        untouched = reference()
        untouched.head = _WithImage(untouched.head)
        self._decoders = {OURS: decoder.eval(), BASELINE: untouched}
        if decoder.noise_floor is not None:
            self._decoders[OURS] = copy.deepcopy(decoder)
            self._decoders[OURS].head = _Twice(decoder.head)
        if not _same_24k(decoder, untouched):
            tuned = reference()
            tuned.body.load_state_dict(decoder.body.state_dict())
            tuned.tail.load_state_dict(decoder.tail.state_dict())
            self._decoders[OURS_24K] = tuned

    def measure(self, clip: EvaluationClip) -> dict[str, dict[str, Any]]:
        """System -> metric -> value; None where a metric is undefined (SI-SDR of silence).

        "tricks" -> a TrickGrid's dictionary, the metrics of every pair of levels.

        Raises Unmeasurable when the clip is too short.
        """
        if len(clip.audio) < SHORTEST_SAMPLES:
            raise Unmeasurable(
                f"too short: {len(clip.audio):,} samples, at least {SHORTEST_SAMPLES:,} are needed"
            )
        truth = torch.from_numpy(clip.audio)[None]
        row: dict[str, dict[str, Any]] = {}
        for system, audio in self._outputs(clip):
            row[system] = _metrics(audio[0], truth)
            if system == BASELINE:
                row[GRID] = self._measure_tricks(clip, audio).to_dict()
        row[SILENCE] = _metrics(torch.zeros_like(truth[0]), truth)
        row[GRID] = row.pop(GRID)  # last: it is the long one
        return row

    def visqol(self, clip: EvaluationClip, tricks: Mapping[str, Level]) -> dict[str, float | None]:
        """System -> ViSQOL on the middle of the clip; None where an output is silent.

        `tricks` names further systems: the cheap tricks at these levels. Raises NotScored when
        the clip itself has no score.
        """
        heard = passage(len(clip.audio), TARGET_RATE)
        truth = clip.audio[heard]
        require_scorable("true audio", truth)
        scores: dict[str, float | None] = {}
        for system, audio in self._with_tricks(clip, tricks):
            try:
                scores[system] = visqol_score(audio[heard].numpy(), truth)
            except NotScored:
                scores[system] = None
        return scores

    def render(self, clip: EvaluationClip) -> dict[str, np.ndarray]:
        """System -> 48 kHz audio float32 [T], for pictures and players."""
        return {system: audio[0].numpy() for system, audio in self._outputs(clip)}

    def passage(self, clip: EvaluationClip, seconds: float, tricks: Mapping[str, Level]) -> Passage:
        """The middle of a clip, at most `seconds` long.

        `tricks` names further systems: the cheap tricks at these levels.
        """
        count = min(len(clip.audio), int(seconds * TARGET_RATE))
        start = (len(clip.audio) - count) // 2
        shown = slice(start, start + count)
        versions = {TRUE: to_int16(clip.audio[shown])}
        for system, audio in self._with_tricks(clip, tricks):
            versions[system] = to_int16(audio[shown].numpy())
        return Passage(start / TARGET_RATE, versions)

    def _outputs(self, clip: EvaluationClip) -> Iterator[tuple[str, Tensor]]:
        """Systems and their audio [1, T] on the CPU; the baseline's is [2, T], with its image."""
        floor = self._decoders[OURS].noise_floor
        samples = len(clip.audio)
        for system, decoder in self._decoders.items():
            pieces = [p.cpu() for p in decode_channels(decoder, clip.codes) if p.shape[1]]
            audio = torch.cat(pieces, dim=1)[:, :samples]
            if system == OURS and floor is not None:
                yield OURS, audio[:1]
                yield OURS_WITHOUT_FLOOR, audio[1:]
            else:
                yield system, audio
        rate = self._decoders[OURS].geometry.sample_rate
        yield CEILING, through_rate(torch.from_numpy(clip.audio)[None], TARGET_RATE, rate)

    def _with_tricks(
        self, clip: EvaluationClip, tricks: Mapping[str, Level]
    ) -> Iterator[tuple[str, Tensor]]:
        """Systems, the tricks at their levels among them, and their audio [T]."""
        for system, audio in self._outputs(clip):
            yield system, audio[0]
            if system == BASELINE:
                resampled, image = audio
                noise = white_noise(clip.clip_id, len(resampled))
                for name, level in tricks.items():
                    trick = add_trick(resampled, image, noise, level.folding, level.hiss_db)
                    yield name, trick

    def _measure_tricks(self, clip: EvaluationClip, baseline: Tensor) -> TrickGrid:
        device = next(self._decoders[BASELINE].parameters()).device
        resampled, image = baseline.to(device)
        noise = white_noise(clip.clip_id, len(clip.audio)).to(device)
        return measure_grid(resampled, image, noise, torch.from_numpy(clip.audio).to(device))


class _Twice(Head):
    """A head's audio twice: a noise floor goes to the first, so one decode gives both rows."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self._head = head
        self.reads_24k = head.reads_24k

    def forward(self, h: Tensor, y24: Tensor) -> Tensor:
        audio = self._head(h, y24)
        return torch.cat([audio, audio], dim=1)

    def reach(self, hidden: Reach, audio_24k: Reach) -> Reach:
        return self._head.reach(hidden, audio_24k)


class _WithImage(Head):
    """A head's audio and, as a second channel, the 24 kHz output stuffed with zeros."""

    reads_24k = True

    def __init__(self, head: Head) -> None:
        super().__init__()
        self._head = head

    def forward(self, h: Tensor, y24: Tensor) -> Tensor:
        return torch.cat([self._head(h, y24), zero_stuffed(y24)], dim=1)

    def reach(self, hidden: Reach, audio_24k: Reach) -> Reach:
        return self._head.reach(hidden, audio_24k)


def _metrics(audio: Tensor, truth: Tensor) -> dict[str, float | None]:
    numbers = all_metrics(audio[None], truth)
    numbers["lsd_hf_shape"] = lsd_hf_shape(audio[None], truth)
    return {name: _number(value) for name, value in numbers.items()}


def _same_24k(decoder: Decoder48k, untouched: Decoder48k) -> bool:
    return all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(decoder.body_parameters(), untouched.body_parameters(), strict=True)
    )


def _number(value: Tensor) -> float | None:
    number = float(value[0])
    return number if math.isfinite(number) else None
