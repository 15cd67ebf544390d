"""The 2x heads: from the last hidden layer of SNAC's decoder to 48 kHz audio, four inits.

Every head is called as head(h, y24): h [B, C, T24] is what SNAC's last decoder block puts out,
y24 [B, 1, T24] the untouched 24 kHz output; it returns y48 [B, 1, 2 * T24].

- `interp`: resample(y24) plus a branch whose last gain is zero. At step 0 the output is the
  resampled 24 kHz output, bit for bit.
- `noble`: the pretrained output layers behind a sinc interpolation of their own input (filter,
  then upsample by two, with the convolution dilated by two). Every second sample is y24's.
- `average`: the architecture of the original project (a dense 2x block, a convolution, tanh),
  its weights averaged from the last pretrained block as was meant there. What it averages are
  channels of the block's input, what it reads are channels of its output, so it starts far
  from the 24 kHz output; it is kept for comparison.
- `random`: the same architecture with fresh weights, which is what the original really ran.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast, get_args

import torch
from snac.layers import DecoderBlock, ResidualUnit, Snake1d, WNConv1d, WNConvTranspose1d
from torch import Tensor, nn

from ttt.snac.config import Init
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.layers.resampler import Resampler
from ttt.snac.receptive_field import Reach

_M = TypeVar("_M", bound=nn.Module)
_BASE_RATE = TARGET_RATE // 2


def build_head(init: Init, body: nn.Sequential, tail: nn.Sequential) -> Head:
    """The head `init` for a decoder split into `body` (..last block) and `tail` (its output).

    Fresh weights come from torch's global generator. Raises ValueError for an unknown init.
    """
    if init == "interp":
        return InterpHead(body)
    if init == "noble":
        return NobleHead(body, tail)
    if init == "average":
        head = DenseHead(body)
        head.average_from(body, tail)
        return head
    if init == "random":
        return DenseHead(body)
    raise ValueError(f"unknown init {init!r}; choose one of {', '.join(get_args(Init))}")


class Head(nn.Module):
    """What the decoder asks of every head."""

    reads_24k: bool = False
    """Whether y48 depends on y24, so that training y48 trains the 24 kHz output layers too."""

    def reach(self, hidden: Reach, audio_24k: Reach) -> Reach:
        """The reach at 48 kHz, given that of h and of y24."""
        raise NotImplementedError


class InterpHead(Head):
    """resample(y24) + output(snake(block(h))), the output's gain zero at first."""

    reads_24k = True

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        channels, groups = _channels(body), _groups(body)
        self.branch = nn.Sequential(
            DecoderBlock(channels, channels, stride=2, noise=False, groups=groups),
            Snake1d(channels),
        )
        self.output = WNConv1d(channels, 1, kernel_size=7, padding=3)
        self.resample = Resampler(_BASE_RATE, TARGET_RATE)
        self.to(_first(_layers(body[-1]), nn.ConvTranspose1d).weight)
        zero_gain(self.output)

    def forward(self, h: Tensor, y24: Tensor) -> Tensor:
        detail = self.branch(h)
        with full_precision(h):
            return self.resample(y24) + self.output(detail.to(y24.dtype))

    def reach(self, hidden: Reach, audio_24k: Reach) -> Reach:
        direct = audio_24k.through_resample(_BASE_RATE, TARGET_RATE)
        return direct.widest(hidden.through(self.branch).through(self.output))


class NobleHead(Head):
    """The pretrained Snake, a depthwise sinc interpolation, the pretrained output, dilated."""

    def __init__(self, body: nn.Sequential, tail: nn.Sequential) -> None:
        super().__init__()
        channels, groups = _channels(body), _groups(body)
        snake, output = _first(tail, Snake1d), _first(tail, nn.Conv1d)
        self.snake = Snake1d(channels)
        self.interpolate = WNConvTranspose1d(
            channels,
            channels,
            kernel_size=4 * _SINC_ZERO_CROSSINGS + 1,
            stride=2,
            padding=2 * _SINC_ZERO_CROSSINGS,
            output_padding=1,
            groups=channels,
        )
        self.units = nn.Sequential(
            *(ResidualUnit(channels, dilation=dilation, groups=groups) for dilation in (1, 3, 9))
        )
        self.output = WNConv1d(channels, 1, kernel_size=7, padding=6, dilation=2)
        self.to(output.weight)
        _copy(snake.alpha, self.snake.alpha)
        write_weight(self.interpolate, half_band_sinc().expand(channels, 1, -1))
        _zero_bias(self.interpolate)
        for unit in self.units:
            zero_gain(cast(ResidualUnit, unit).block[-1])
        write_weight(self.output, output.weight)
        _copy(_bias(output), _bias(self.output))

    def forward(self, h: Tensor, y24: Tensor) -> Tensor:
        hidden = self.units(self.interpolate(self.snake(h)))
        with full_precision(h):
            return torch.tanh(self.output(hidden.to(y24.dtype)))

    def reach(self, hidden: Reach, audio_24k: Reach) -> Reach:
        return hidden.through(self.interpolate).through(self.units).through(self.output)


class DenseHead(Head):
    """The original project's head: Snake, a dense 2x block, a convolution, tanh."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        channels = _channels(body)
        self.snake = Snake1d(channels)
        self.block = DecoderBlock(channels, channels, stride=2, noise=False, groups=1)
        self.output = WNConv1d(channels, 1, kernel_size=7, padding=3)
        self.to(_first(_layers(body[-1]), nn.ConvTranspose1d).weight)

    def forward(self, h: Tensor, y24: Tensor) -> Tensor:
        hidden = self.block(self.snake(h))
        with full_precision(h):
            return torch.tanh(self.output(hidden.to(y24.dtype)))

    def reach(self, hidden: Reach, audio_24k: Reach) -> Reach:
        return hidden.through(self.block).through(self.output)

    def average_from(self, body: nn.Sequential, tail: nn.Sequential) -> None:
        """Fill in the weights of the last pretrained block, its input channels averaged in pairs.

        Residual units, output Snake and output convolution are copied; depthwise kernels become
        the diagonals of the dense ones. Raises ValueError when the last block is not a 2x block
        that halves its channels.
        """
        source, target = _layers(body[-1]), _layers(self.block)
        up, new_up = _first(source, nn.ConvTranspose1d), _first(target, nn.ConvTranspose1d)
        halves = up.in_channels == 2 * up.out_channels
        if not halves or up.kernel_size != new_up.kernel_size or up.stride != new_up.stride:
            raise ValueError(
                f"init average needs a last block that halves its channels at stride 2, this one "
                f"has {up.in_channels} -> {up.out_channels} at stride {up.stride[0]}; use interp"
            )
        _copy(_first(tail, Snake1d).alpha, self.snake.alpha)
        alpha = _first(source, Snake1d).alpha
        _copy(alpha.unflatten(1, (-1, 2)).mean(dim=2), _first(target, Snake1d).alpha)
        # A transposed convolution's weight is (in, out, kernel).
        write_weight(new_up, up.weight.unflatten(0, (-1, 2)).mean(dim=1))
        _copy(_bias(up), _bias(new_up))
        units = (layer for layer in source if isinstance(layer, ResidualUnit))
        new_units = (layer for layer in target if isinstance(layer, ResidualUnit))
        for unit, new_unit in zip(units, new_units, strict=True):
            _copy_residual_unit(unit, new_unit)
        output = _first(tail, nn.Conv1d)
        write_weight(self.output, output.weight)
        _copy(_bias(output), _bias(self.output))


def full_precision(like: Tensor) -> torch.autocast:
    """A context without autocast on the tensor's device: output layers and resampling in it keep
    full precision while the convolutions around it run in bfloat16."""
    return torch.autocast(like.device.type, enabled=False)


def write_weight(conv: nn.Module, weight: Tensor) -> None:
    """Make `conv.weight` equal `weight` under weight norm.

    Assigning the attribute is the only way that does: `conv.weight.copy_` and torch.nn.init
    write into a temporary and change nothing. A row of zeros would become NaN: `zero_gain`.
    """
    like = cast(Tensor, conv.weight)
    conv.weight = weight.detach().to(like).clone(memory_format=torch.contiguous_format)


def zero_gain(conv: nn.Module) -> None:
    """Make a weight-norm convolution put out exactly 0 while every gradient stays finite.

    The gain (original0) becomes 0 beside the direction it had (original1), and the bias 0.
    """
    with torch.no_grad():
        cast(Any, conv).parametrizations.weight.original0.zero_()
    _zero_bias(conv)


def half_band_sinc() -> Tensor:
    """A Kaiser-windowed sinc that doubles the rate: float64 [4 * zero_crossings + 1], centred.

    Even taps are 0 but the centre's 1, so the samples of the lower rate are kept; odd taps sum
    to 1, so a constant stays constant.
    """
    half = 2 * _SINC_ZERO_CROSSINGS
    offset = torch.arange(-half, half + 1, dtype=torch.float64)
    window = torch.kaiser_window(
        2 * half + 1, periodic=False, beta=_SINC_KAISER_BETA, dtype=torch.float64
    )
    taps = torch.sinc(offset / 2) * window
    odd = offset.long() % 2 != 0
    taps[~odd] = 0.0
    taps[half] = 1.0
    taps[odd] /= taps[odd].sum()
    return taps


# Long enough to be flat over speech's part of the 12 kHz, short enough to add little reach.
_SINC_ZERO_CROSSINGS = 8
_SINC_KAISER_BETA = 6.0


def _copy_residual_unit(source: ResidualUnit, target: ResidualUnit) -> None:
    for layer, new_layer in zip(source.block, target.block, strict=True):
        if isinstance(layer, Snake1d):
            _copy(layer.alpha, cast(Snake1d, new_layer).alpha)
        elif isinstance(layer, nn.Conv1d):
            write_weight(new_layer, _dense(layer))
            _copy(_bias(layer), _bias(new_layer))


def _dense(conv: nn.Conv1d) -> Tensor:
    """The weight [out, in, kernel] of the ungrouped convolution that equals `conv`."""
    if conv.groups == 1:
        return conv.weight
    dense = conv.weight.new_zeros(conv.out_channels, conv.in_channels, *conv.kernel_size)
    diagonal = torch.arange(conv.out_channels)
    dense[diagonal, diagonal] = conv.weight[:, 0].detach()
    return dense


def _layers(block: nn.Module) -> nn.Sequential:
    return cast(DecoderBlock, block).block


def _channels(body: nn.Sequential) -> int:
    return _first(_layers(body[-1]), nn.ConvTranspose1d).out_channels


def _groups(body: nn.Sequential) -> int:
    unit = _first(_layers(body[-1]), ResidualUnit)
    return _first(unit.block, nn.Conv1d).groups


def _first(layers: nn.Sequential, kind: type[_M]) -> _M:
    return next(layer for layer in layers if isinstance(layer, kind))


def _bias(conv: nn.Module) -> Tensor:
    return cast(Tensor, conv.bias)


def _zero_bias(conv: nn.Module) -> None:
    with torch.no_grad():
        _bias(conv).zero_()


def _copy(source: Tensor, target: Tensor) -> None:
    with torch.no_grad():
        target.copy_(source)
