"""Audio to SNAC codes, in batches of equal length, whatever the length of a clip.

The encoder only works on whole coarsest tokens, so every clip is padded up to one (as the snac
package's own `encode` does); clips are batched with clips of the same number of coarsest tokens
only, so that no clip carries padding that it would not have alone. Clips longer than
`chunk_seconds` are encoded piece by piece with more context than the encoder can see, which
gives the same codes with bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from snac import SNAC

from ttt.snac.config import EncodeConfig
from ttt.snac.geometry import CodeGeometry, Codes
from ttt.snac.layers.units import with_own_layers


class ClipEncoder:
    """The encoder half of a SNAC model, with batching that depends on the clips alone.

    The model's encoder is given our own layers, which have snac's bits on a CPU and hand a GPU one
    kernel for an activation.
    """

    def __init__(self, model: SNAC, config: EncodeConfig) -> None:
        self.model = model.eval()
        with_own_layers(model.encoder)
        self.geometry = CodeGeometry.of(model)
        self.device = next(model.parameters()).device
        self._unit = self.geometry.n_coarse_covering(1)
        self._max_batch_coarse = self._coarse_within(config.max_batch_seconds)
        self._chunk_coarse = self._coarse_within(config.chunk_seconds)
        self._context_coarse = self._round_up(
            self.geometry.n_coarse_covering(encoder_reach_samples(model))
        )

    def encode(
        self, clips: Iterable[np.ndarray], on_batch: Callable[[int], None] | None = None
    ) -> list[Codes]:
        """Codes of every clip (float32 [samples] at the codec's rate), in the clips' order.

        `clips` is consumed one by one: a batch runs as soon as it is full, and what is left runs
        at the end, so which clips share a batch follows from the sequence of lengths alone and
        the same sequence gives the same bytes. `on_batch` hears how many clips each batch had.
        """
        codes: dict[int, Codes] = {}
        waiting: dict[int, dict[int, np.ndarray]] = {}
        total = 0
        for total, audio in enumerate(clips, start=1):
            n_coarse = self.geometry.n_coarse_covering(len(audio))
            batch = waiting.setdefault(n_coarse, {})
            batch[total - 1] = audio
            if (len(batch) + 1) * n_coarse > self._max_batch_coarse:
                codes.update(self._encode_batch(n_coarse, waiting.pop(n_coarse), on_batch))
        for n_coarse in sorted(waiting):
            codes.update(self._encode_batch(n_coarse, waiting[n_coarse], on_batch))
        return [codes[position] for position in range(total)]

    def _encode_batch(
        self,
        n_coarse: int,
        batch: dict[int, np.ndarray],
        on_batch: Callable[[int], None] | None,
    ) -> dict[int, Codes]:
        padded = torch.zeros(len(batch), 1, self.geometry.samples(n_coarse))
        for row, audio in enumerate(batch.values()):
            padded[row, 0, : len(audio)] = torch.from_numpy(audio)
        scales = self._encode_padded(n_coarse, padded)
        if on_batch is not None:
            on_batch(len(batch))
        return {
            position: tuple(scale[row] for scale in scales) for row, position in enumerate(batch)
        }

    def _encode_padded(self, n_coarse: int, audio: torch.Tensor) -> list[np.ndarray]:
        """Codes [B, length] by scale of audio [B, 1, samples(n_coarse)]."""
        if n_coarse <= self._chunk_coarse:
            return [self._to_numpy(scale) for scale in self._encode_whole(audio)]
        chunks: list[list[np.ndarray]] = []
        for start in range(0, n_coarse, self._chunk_coarse):
            stop = min(start + self._chunk_coarse, n_coarse)
            first = max(start - self._context_coarse, 0)
            last = min(stop + self._context_coarse, n_coarse)
            piece = audio[..., self.geometry.samples(first) : self.geometry.samples(last)]
            begin, end = self.geometry.lengths(start - first), self.geometry.lengths(stop - first)
            chunks.append(
                [
                    self._to_numpy(scale[:, a:b])
                    for scale, a, b in zip(self._encode_whole(piece), begin, end, strict=True)
                ]
            )
        return [np.concatenate(scale, axis=1) for scale in zip(*chunks, strict=True)]

    def _encode_whole(self, audio: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode():
            return self.model.encode(audio.to(self.device))

    def _to_numpy(self, codes: torch.Tensor) -> np.ndarray:
        return codes.cpu().numpy().astype(np.int16)

    def _coarse_within(self, seconds: float) -> int:
        return self._round_up(self.geometry.tokens(seconds)[0])

    def _round_up(self, n_coarse: int) -> int:
        # Codecs with local attention need chunks that begin at a multiple of its window.
        return -(-n_coarse // self._unit) * self._unit


def encoder_reach_samples(model: SNAC) -> int:
    """Samples to each side (at the codec's rate) that a latent frame of the encoder depends on.

    An upper bound from the convolutions' shapes; with local attention, one window more, because
    a window with one wrong frame is wrong as a whole.
    """
    reach, samples_per_step = 0, 1
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Conv1d):
            span = module.dilation[0] * (module.kernel_size[0] - 1)
            padding = int(module.padding[0])
            reach += max(padding, span - padding) * samples_per_step
            samples_per_step *= module.stride[0]
    return reach + samples_per_step * (model.attn_window_size or 0)
