"""A decoder's layers, of which each computes what the samples that are asked for depend on.

A slice decoded whole spends most of its work on samples next to its ends, which a stream throws
away. Each stage here is given the part of its input that the wanted samples depend on, so that
what comes out is what the whole slice would give there. Weight norm is folded in beforehand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from snac.layers import DecoderBlock
from torch import Tensor, nn

from ttt.snac.receptive_field import Reach

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Stage:
    """A piece of a chain of layers."""

    run: Callable[[Tensor], Tensor]
    """From [B, C, T] to [B, D, T * stride]."""
    stride: int
    """Outputs of an input."""
    reach: Reach
    """Of what lies outside a slice of its input, in its output."""

    @classmethod
    def of(cls, module: nn.Module) -> Stage:
        """A layer of SNAC's decoder. Raises TypeError where its reach is not known."""
        stride = 1
        if isinstance(module, DecoderBlock):
            up = next(layer for layer in module.block if isinstance(layer, nn.ConvTranspose1d))
            stride = int(up.stride[0])
        return cls(module, stride, Reach().through(module))


def run_span(stages: Sequence[Stage], x: Tensor, start: int, stop: int) -> Tensor:
    """The outputs [start, stop) of the stages one after the other, as of the whole x [B, C, T]."""
    lengths = [x.shape[-1]]
    for stage in stages[:-1]:
        lengths.append(lengths[-1] * stage.stride)
    wanted = [(start, stop)]
    for stage, length in zip(reversed(stages), reversed(lengths), strict=True):
        wanted.insert(0, stage.reach.needed(*wanted[0], stage.stride, length))
    first = 0
    for stage, (begin, end) in zip(stages, wanted, strict=False):
        x = stage.run(x[..., begin - first : end - first].contiguous())
        first = begin * stage.stride
    return x[..., start - first : stop - first]


def with_folded_weights(model: M) -> M:
    """A copy of the model as it is now, whose convolutions need not norm their weights anew."""
    folded = copy.deepcopy(model).requires_grad_(False)
    for parent in list(folded.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                setattr(parent, name, _plain(layer))
    return folded


def _plain(conv: nn.Conv1d | nn.ConvTranspose1d) -> nn.Module:
    """The convolution with its weight as a number of its own.

    Torch's remove_parametrizations would take the weight from the class, which copies share.
    """
    channels, kernel = (conv.in_channels, conv.out_channels), cast(tuple[int], conv.kernel_size)
    shape: dict[str, Any] = {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "device": "meta",  # Where no random number is drawn.
    }
    if isinstance(conv, nn.Conv1d):
        made = nn.Conv1d(*channels, kernel, **shape)
    else:
        made = nn.ConvTranspose1d(
            *channels, kernel, **shape, output_padding=cast(tuple[int], conv.output_padding)
        )
    made.weight = nn.Parameter(conv.weight.detach().clone(), requires_grad=False)
    if conv.bias is not None:
        made.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
    return made.train(conv.training)
