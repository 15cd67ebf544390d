"""The 48 kHz decoder: SNAC's own decoder with a new 2x head.

    model = Decoder48k.from_snac(snac_model)            # or .from_pretrained(folder or "USER/NAME")
    with deterministic(model):
        audio = model.decode(codes)                     # [B, 1, T48]

SNAC's decoder is split by type at its last DecoderBlock: `body` (.. last block -> h) and `tail`
(Snake, convolution, tanh -> the 24 kHz audio). `head` makes 48 kHz audio of both; see
`ttt.snac.heads` for the four inits. The quantizer turns codes into latents and is never trained.

Codes are a list of integer tensors [B, n * tokens_per_coarse[k]], coarsest scale first.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import torch
from snac import SNAC
from snac.layers import DecoderBlock, NoiseBlock
from snac.vq import ResidualVectorQuantize, VectorQuantize
from torch import Tensor, nn

from ttt.snac import export
from ttt.snac.config import Init
from ttt.snac.evaluation.trick_levels import FittedTricks
from ttt.snac.geometry import TARGET_RATE, CodeGeometry, refuse_unfit
from ttt.snac.heads import Head, build_head, full_precision
from ttt.snac.hub import export_folder, push_export
from ttt.snac.layers.units import with_own_layers
from ttt.snac.load import weights_sha256
from ttt.snac.noise_floor import NoiseFloor
from ttt.snac.receptive_field import Reach


@contextmanager
def deterministic(model: nn.Module) -> Iterator[None]:
    """Switch the noise of every NoiseBlock in `model` off inside a `with`.

    SNAC's NoiseBlocks ignore eval(): outside, two decodes of the same codes differ (their draws
    come from torch's global generator). Works on Decoder48k, on snac.SNAC and on wrappers of
    either; may be nested; ends also when the block raises. No random number is drawn inside.
    """
    blocks = [block for block in _noise_blocks(model) if "forward" not in vars(block)]
    for block in blocks:
        block.forward = _without_noise
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def interleaved_to_codes(interleaved: Tensor, geometry: CodeGeometry) -> list[Tensor]:
    """Codes as stored, [B, n, codes_per_coarse], as one int64 tensor per scale, coarsest first."""
    return [interleaved[:, :, columns].flatten(1).long() for columns in geometry.columns()]


class Decoder48k(nn.Module):
    """Decodes SNAC 24 kHz codes to 48 kHz audio; built by `from_snac` or `from_pretrained`."""

    head: Head
    noise_floor: NoiseFloor | None = None
    """Added by `decode`, where an export has one; training and `forward` know nothing of it."""

    def __init__(
        self,
        quantizer: ResidualVectorQuantize,
        decoder_layers: nn.Sequential,
        *,
        init: Init,
        snac_config: dict[str, Any],
        geometry: CodeGeometry,
        codec_sha256: str,
    ) -> None:
        super().__init__()
        layers = list(decoder_layers)
        last = max(i for i, layer in enumerate(layers) if isinstance(layer, DecoderBlock))
        self.quantizer = quantizer.requires_grad_(False)
        self.body = nn.Sequential(*layers[: last + 1])
        self.tail = nn.Sequential(*layers[last + 1 :])
        self.head = build_head(init, self.body, self.tail)
        with_own_layers(self)
        self.init: Init = init
        self.snac_config = snac_config
        self.geometry = geometry
        self.codec_sha256 = codec_sha256
        self.freeze_body(False)

    @classmethod
    def from_snac(
        cls,
        snac_model: SNAC,
        init: Init = "interp",
        *,
        seed: int = 0,
        codec_sha256: str | None = None,
    ) -> Self:
        """A decoder with copies of `snac_model`'s weights and a new head.

        The head's fresh weights follow from `seed` alone. `snac_model` is left as it is;
        `codec_sha256` is its `weights_sha256`, where that is known. Raises UserError for a codec
        that is not at 24 kHz or that uses local attention.
        """
        geometry = CodeGeometry.of(snac_model)
        refuse_unfit(geometry)
        layers = copy.deepcopy(snac_model.decoder.model)
        for block in _noise_blocks(layers):
            vars(block).pop("forward", None)  # copied inside deterministic(snac_model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(
                copy.deepcopy(snac_model.quantizer),
                layers,
                init=init,
                snac_config=export.snac_config(snac_model),
                geometry=geometry,
                codec_sha256=codec_sha256 or weights_sha256(snac_model),
            )
        return model.train(snac_model.training)

    def forward(self, codes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Audio (y48 [B, 1, T48], y24 [B, 1, T24]) with gradients, for training.

        Under torch.autocast the convolutions run in its type; the 24 kHz output layers, the
        resampling and the head's last convolution keep the weights' own precision, and so does
        the audio. Raises ValueError for codes of the wrong shape; values are not looked at.
        """
        return self.output(self.body(self.latents(codes)))

    def output(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (y48, y24) of what `body` makes [B, C, T24] of the latents."""
        audio_24k = self._output_24k(hidden)
        return self.head(hidden, audio_24k), audio_24k

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor], first_sample: int | Sequence[int] = 0) -> Tensor:
        """48 kHz audio [B, 1, T48]; noise as SNAC's unless inside `deterministic`.

        A noise floor is no such noise: it is the same each time. Of slices it needs to know where
        in their clips they begin: `first_sample`, at 48 kHz, one for all rows or one for each.

        Raises ValueError for codes of the wrong shape or out of the codebook's range.
        """
        return self.decode_both(codes, first_sample)[0]

    @torch.no_grad()
    def decode_24k(self, codes: Sequence[Tensor]) -> Tensor:
        """24 kHz audio [B, 1, T24], as SNAC's decode until the body is trained."""
        self.check_codes(codes)
        return self._output_24k(self.body(self.latents(codes)))

    @torch.no_grad()
    def decode_both(
        self, codes: Sequence[Tensor], first_sample: int | Sequence[int] = 0
    ) -> tuple[Tensor, Tensor]:
        """`decode` and `decode_24k` in one pass, from the same noise."""
        self.check_codes(codes)
        audio, audio_24k = self.forward(codes)
        if self.noise_floor is not None:
            # Of a head with several channels the first is what is heard.
            self.noise_floor.add_to(audio[:, 0], first_sample)
        return audio, audio_24k

    def check_codes(self, codes: Sequence[Tensor]) -> None:
        """Raise ValueError unless `codes` are tensors of this codec's scales, shapes and range."""
        for k, scale in enumerate(codes):
            if not isinstance(scale, Tensor):
                raise ValueError(
                    f"scale {k} is a {type(scale).__name__}; give tensors of whole numbers [B, T], "
                    "such as torch.from_numpy makes of an array"
                )
        self._check_shape(codes)
        size = self.geometry.codebook_size
        for k, scale in enumerate(codes):
            low, high = (int(bound) for bound in scale.aminmax())
            if low < 0 or high >= size:
                raise ValueError(
                    f"scale {k} holds codes from {low} to {high}; this codec has 0 to {size - 1}"
                )

    def freeze_body(self, frozen: bool) -> None:
        """Phase 1 (True) trains the head alone and keeps no activation of the body.

        Phase 2 (False) trains the body as well; the 24 kHz output layers only where the head
        reads their output (init `interp`), since nothing else would give them a gradient.
        """
        self.body.requires_grad_(not frozen)
        self.tail.requires_grad_(not frozen and self.head.reads_24k)

    def body_parameters(self) -> list[nn.Parameter]:
        """SNAC's own decoder, its 24 kHz output layers included."""
        return [*self.body.parameters(), *self.tail.parameters()]

    def head_parameters(self) -> list[nn.Parameter]:
        """The new layers."""
        return list(self.head.parameters())

    @property
    def sampling_rate(self) -> int:
        """Of the audio, in Hz; snac.SNAC's name for it."""
        return TARGET_RATE

    @property
    def hop_length(self) -> int:
        """Samples of audio per finest code, 1,024; snac.SNAC's name for it."""
        return self.geometry.samples_48k(1) // self.geometry.tokens_per_coarse[-1]

    @property
    def reach_samples_48k(self) -> int:
        """48 kHz samples at each end of a slice that depend on what lies outside it, at most."""
        hidden = Reach().through(self.body)
        reach = self.head.reach(hidden, hidden.through(self.tail))
        return max(reach.start, reach.end)

    def save_pretrained(
        self, folder: str | Path, card: str | None = None, tricks: FittedTricks | None = None
    ) -> None:
        """Write config.json, model.safetensors and README.md (`card`, or a short one).

        The noise floor goes with it. `tricks` are the levels that an evaluation holds this decoder
        to, besides its own.
        """
        export.save(self, Path(folder), card, tricks)

    def push_to_hub(
        self,
        repo: str,
        *,
        license: str | None = None,
        base_model: str | None = None,
        private: bool | None = None,
    ) -> str:
        """Push to the repository USER/NAME, made where there is none; returns the commit's address.

        See `ttt.snac.hub.push_export`, by which an evaluated export goes with its numbers. Raises
        UserError, also without a license, and then nothing was pushed.
        """
        options: dict[str, Any] = {"license": license, "base_model": base_model, "private": private}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_export(folder, repo, **options)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        noise_floor: bool = True,
    ) -> Self:
        """A decoder in eval mode from a folder that `save_pretrained` wrote, or from the hub.

        A name USER/NAME that is no folder here is the hub's; `revision` or @REVISION behind it is a
        branch, tag or commit; `local_files_only` takes what the cache has (`fetch_export`). Without
        `noise_floor` it adds none. Leaves the global random generator as it is. Raises UserError
        when a file is missing, damaged, or of another format, or the hub does not give it.
        """
        folder = export_folder(folder, revision, local_files_only=local_files_only)
        config = export.read_config(folder)
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are all replaced
            quantizer, decoder = export.build_base(config.snac)
            model = cls(
                quantizer,
                decoder.model,
                init=cast(Init, config.init),
                snac_config=config.snac,
                geometry=config.geometry,
                codec_sha256=config.codec_sha256,
            )
        export.load_weights(model, folder)
        model.noise_floor = config.noise_floor if noise_floor else None
        return model.eval().to(device)

    def _output_24k(self, hidden: Tensor) -> Tensor:
        with full_precision(hidden):
            return self.tail(hidden.to(_dtype(self.tail)))

    def latents(self, codes: Sequence[Tensor]) -> Tensor:
        """What SNAC's quantizer.from_codes gives, the same sums in the same order."""
        self._check_shape(codes)
        latents: list[Tensor] = []
        for module, scale in zip(self.quantizer.quantizers, codes, strict=True):
            quantizer = cast(VectorQuantize, module)
            indices = scale.to(quantizer.codebook.weight.device, torch.int64)
            projected = quantizer.out_proj(quantizer.decode_code(indices))
            latents.append(projected.repeat_interleave(quantizer.stride, dim=-1))
        return sum(latents[1:], start=latents[0])

    def _check_shape(self, codes: Sequence[Tensor]) -> None:
        strides = self.geometry.strides
        if len(codes) != len(strides):
            raise ValueError(f"codes of {len(codes)} scales given; this codec has {len(strides)}")
        if any(scale.ndim != 2 or scale.is_floating_point() for scale in codes):
            found = [f"{tuple(scale.shape)} {scale.dtype}" for scale in codes]
            raise ValueError(f"each scale's codes must be integers [batch, tokens], got {found}")
        if len({len(scale) for scale in codes}) > 1:
            raise ValueError(f"scales of unequal batch sizes: {[len(scale) for scale in codes]}")
        if self.geometry.n_coarse_of([scale.shape[1] for scale in codes]) == 0:
            raise ValueError("codes are empty; give at least one coarsest token")


def _noise_blocks(model: nn.Module) -> list[NoiseBlock]:
    return [module for module in model.modules() if isinstance(module, NoiseBlock)]


def _without_noise(x: Tensor) -> Tensor:
    return x


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
