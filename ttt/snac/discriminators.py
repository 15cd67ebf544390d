"""What tells decoded from recorded audio: many small networks, by periods and by FFT sizes.

    networks = Discriminators(DiscriminatorConfig())
    for maps, logits in networks(audio):                # [B, 1, T] at 48 kHz
        ...

A period's network folds the audio into that many columns and looks along each; a spectral one
looks at an STFT, whole (recipe `xcodec2`: magnitudes, hop half) or band by band (recipe `dac`: real
and imaginary parts, hop a quarter). All of them give logits, one for each place they look at, and
every map before. Nothing is normalised over a batch, so a row's result does not depend on the
others, and what they are fed must be real audio to its end: they would learn any padding.

They run in float32 whatever autocast says. `save` and `load` keep them in a folder of their own.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad
from torch.nn.utils.parametrizations import weight_norm

from ttt import records, storage
from ttt.errors import UserError
from ttt.numerics import refuse_nonfinite_weights
from ttt.snac.config import DiscriminatorConfig

Judgement = tuple[list[Tensor], Tensor]
"""Feature maps, [B, ...] each, and logits [B, ...] of one network."""

FORMAT = "ttt.snac.Discriminators"


class Discriminators(nn.Module):
    """All networks of a recipe; their first weights follow from `config.seed` alone."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        figures = config.figures
        kind = _Spectrum if config.recipe == "xcodec2" else _Bands
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.networks = nn.ModuleList(
                [
                    *(_Period(period, figures) for period in figures["periods"]),
                    *(kind(n_fft, figures) for n_fft in figures["n_ffts"]),
                ]
            )

    def forward(self, audio: Tensor) -> list[Judgement]:
        """Feature maps and logits of every network on 48 kHz audio [B, 1, T], real to its end.

        Raises ValueError when it is shorter than `shortest_samples`.
        """
        if audio.ndim != 3 or audio.shape[1] != 1 or audio.shape[2] < self.shortest_samples:
            raise ValueError(
                f"audio {tuple(audio.shape)} must be [B, 1, T] of {self.shortest_samples} samples "
                "or more"
            )
        with torch.autocast(audio.device.type, enabled=False):
            return [network(audio.float()) for network in self.networks]

    @property
    def shortest_samples(self) -> int:
        """Fewer samples than this cannot be mirrored at their ends, as periods and FFTs need."""
        figures = self.config.figures
        return max(*figures["periods"], *(n // 2 for n in figures["n_ffts"])) + 1

    @property
    def n_parameters(self) -> int:
        """Of all networks."""
        return sum(parameter.numel() for parameter in self.parameters())


def save(networks: Discriminators, folder: str | Path) -> None:
    """Write model.safetensors and, last, config.json into a folder or below a URI."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in networks.state_dict().items()}
    storage.write_bytes(storage.join(folder, "model.safetensors"), safetensors.torch.save(weights))
    fields = {"format": FORMAT, "format_version": 1, "discriminators": networks.config.to_dict()}
    records.write_json(storage.join(folder, "config.json"), fields)


def load(networks: Discriminators, folder: str | Path) -> None:
    """Fill `networks` from a folder that `save` wrote.

    Raises UserError when a file is missing or damaged, or when they are built otherwise.
    """
    try:
        fields = records.read_json(storage.join(folder, "config.json"))
        weights = safetensors.torch.load(
            storage.read_bytes(storage.join(folder, "model.safetensors"))
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no discriminators there; give the folder discriminators of an export"
        ) from error
    except (ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder}: the discriminators cannot be read ({error})") from error
    stored = fields.get("discriminators") if isinstance(fields, dict) else None
    if not isinstance(stored, dict) or fields.get("format") != FORMAT:
        raise UserError(f"{folder}/config.json: not of discriminators (no format {FORMAT!r} in it)")
    refuse_nonfinite_weights(weights, f"{folder}/model.safetensors")
    try:
        networks.load_state_dict(weights)
    except RuntimeError as error:
        names = [field.name for field in dataclasses.fields(DiscriminatorConfig)]
        ours = json.loads(json.dumps(networks.config.to_dict()))
        other = [name for name in names if name != "seed" and stored.get(name) != ours[name]]
        raise UserError(
            f"{folder}: these discriminators are built otherwise "
            f"({', '.join(other) or 'their weights have other shapes'}); give "
            f"adversarial.discriminators the keys of their config.json"
        ) from error


_SLOPE = 0.1
"""Of the leaky ReLU after every convolution but the last."""


class _Network(nn.Module):
    """Convolutions whose outputs are the feature maps, and a last one for the logits."""

    def _judge(self, x: Tensor, layers: nn.ModuleList, last: nn.Module) -> Judgement:
        maps = []
        for layer in layers:
            x = leaky_relu(layer(x), _SLOPE)
            maps.append(x)
        return maps, last(x)


class _Period(_Network):
    """Looks along the columns of audio folded by a period."""

    def __init__(self, period: int, figures: dict[str, Any]) -> None:
        super().__init__()
        self.period = period
        strides, kernel = figures["period_strides"], (figures["period_kernel"], 1)
        widths = [
            min(
                figures["period_channels"] * figures["period_growth"] ** depth,
                figures["period_max_channels"],
            )
            for depth in range(len(strides))
        ]
        self.layers = nn.ModuleList(
            _conv(before, after, kernel, (stride, 1))
            for before, after, stride in zip([1, *widths], widths, strides, strict=False)
        )
        self.last = _conv(widths[-1], 1, (3, 1))

    def forward(self, audio: Tensor) -> Judgement:
        missing = -audio.shape[2] % self.period
        whole = pad(audio, (0, missing), "reflect") if missing else audio
        return self._judge(whole.unflatten(2, (-1, self.period)), self.layers, self.last)


class _Spectrum(_Network):
    """Looks at a whole magnitude spectrum: first a kernel of 5, then kernels of 3."""

    def __init__(self, n_fft: int, figures: dict[str, Any]) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, n_fft // figures["hops_per_fft"]
        first, most = figures["spectral_channels"], figures["spectral_max_channels"]
        strides = figures["spectral_strides"]
        widths = [min(first * 2**depth, most) for depth in range(len(strides) + 1)]
        steps = [
            _conv(before, after, (3, 3), (stride, stride))
            for (before, after), stride in zip(itertools.pairwise(widths), strides, strict=True)
        ]
        self.layers = nn.ModuleList([_conv(1, widths[0], (5, 5)), *steps])
        self.last = _conv(widths[-1], 1, (3, 3))

    def forward(self, audio: Tensor) -> Judgement:
        spectrum = _stft(audio, self.n_fft, self.hop)
        power = torch.view_as_real(spectrum).square().sum(-1, keepdim=True)
        # The clamp keeps the root's slope finite where a bin is silent.
        magnitude = power.clamp(min=1e-10).sqrt().permute(0, 3, 2, 1)
        return self._judge(magnitude, self.layers, self.last)


class _Bands(_Network):
    """Looks at bands of a complex spectrum, each by convolutions of its own, and joins them."""

    def __init__(self, n_fft: int, figures: dict[str, Any]) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, n_fft // figures["hops_per_fft"]
        bins = n_fft // 2 + 1
        edges = [round(share * bins) for share in figures["band_edges"]]
        self.bands = list(itertools.pairwise(edges))
        width = figures["spectral_channels"]
        self.layers = nn.ModuleList(_band_layers(width, figures) for _ in self.bands)
        self.last = _conv(width, 1, (3, 3))

    def forward(self, audio: Tensor) -> Judgement:
        spectrum = _stft(audio, self.n_fft, self.hop)
        image = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # [B, 2, frames, bins]
        maps: list[Tensor] = []
        ends = []
        for (first, last), layers in zip(self.bands, self.layers, strict=True):
            assert isinstance(layers, nn.ModuleList)
            found, end = self._judge(image[..., first:last], layers, nn.Identity())
            maps += found
            ends.append(end)
        return maps, self.last(torch.cat(ends, dim=-1))


def _band_layers(width: int, figures: dict[str, Any]) -> nn.ModuleList:
    """Kernels of 3 by 9, and of 3 by 3 at last."""
    *down, last = figures["spectral_strides"]
    return nn.ModuleList(
        [
            _conv(2, width, (3, 9)),
            *(_conv(width, width, (3, 9), (1, stride)) for stride in down),
            _conv(width, width, (3, 3), (1, last)),
        ]
    )


def _stft(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """Complex [B, bins, frames], scaled to the audio's own magnitude whatever `n_fft` is."""
    window = torch.hann_window(n_fft, device=audio.device)
    return torch.stft(audio[:, 0], n_fft, hop, window=window, normalized=True, return_complex=True)


def _conv(
    before: int, after: int, kernel: Sequence[int], stride: Sequence[int] = (1, 1)
) -> nn.Module:
    height, width = kernel
    return weight_norm(
        nn.Conv2d(
            before,
            after,
            (height, width),
            (stride[0], stride[1]),
            padding=(height // 2, width // 2),
        )
    )
