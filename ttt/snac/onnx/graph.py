"""A decoder's layers as the operations of an ONNX graph, in float32.

Written layer by layer, as `ttt.snac.receptive_field` reads them, and not traced: nothing then
depends on the length or the batch that a tracer saw. All operations are the same in every opset
from 18 to 20.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from snac.layers import DecoderBlock, NoiseBlock, ResidualUnit, Snake1d
from snac.vq import VectorQuantize
from torch import Tensor, nn

from ttt.errors import UserError
from ttt.snac.geometry import CodeGeometry
from ttt.snac.heads import DenseHead, InterpHead, NobleHead
from ttt.snac.layers.resampler import Resampler
from ttt.snac.layers.snake import EPSILON
from ttt.snac.model import Decoder48k

AUDIO = "audio_values"


def input_names(geometry: CodeGeometry) -> list[str]:
    """The graph's inputs, coarsest codebook first, as onnx-community's SNAC calls them."""
    return [f"audio_codes.{scale}" for scale in range(len(geometry.strides))]


def decoder_graph(decoder: Decoder48k) -> Any:
    """An onnx.GraphProto from codes to 48 kHz audio [batch, 1, samples].

    The inputs are int64 [batch, tokens of the scale]; SNAC's noise is off. `decoder` is in float32
    on the CPU. Raises UserError for a layer that is not known here.
    """
    helper = importlib.import_module("onnx.helper")
    types = importlib.import_module("onnx").TensorProto
    geometry, graph = decoder.geometry, _Graph()
    names = input_names(geometry)
    hidden = graph.layer(decoder.body, graph.latents(decoder, names), "body")
    last = graph.head(decoder, hidden)
    counts = [*geometry.tokens_per_coarse, geometry.samples_48k(1)]
    *tokens, samples = (f"{count}*coarse" if count > 1 else "coarse" for count in counts)
    book = f"codes from 0 to {geometry.codebook_size - 1}"
    return helper.make_graph(
        [*graph.nodes, helper.make_node("Identity", [last], [AUDIO], AUDIO)],
        "Decoder48k",
        [
            helper.make_tensor_value_info(name, types.INT64, ["batch", length], book)
            for name, length in zip(names, tokens, strict=True)
        ],
        [helper.make_tensor_value_info(AUDIO, types.FLOAT, ["batch", 1, samples])],
        graph.weights,
    )


class _Graph:
    """Nodes so far; every method that adds some returns the name of what they give."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._make_node = importlib.import_module("onnx.helper").make_node
        self._from_array = importlib.import_module("onnx.numpy_helper").from_array

    def latents(self, decoder: Decoder48k, codes: Sequence[str]) -> str:
        """What `Decoder48k.latents` gives, its projections as one."""
        quantizers = [cast(VectorQuantize, each) for each in decoder.quantizer.quantizers]
        rows = [
            self._embedding(quantizer, name, f"codebook.{scale}")
            for scale, (quantizer, name) in enumerate(zip(quantizers, codes, strict=True))
        ]
        # Concat refuses scales of unequal length or batch, which an addition might broadcast.
        joined = self._op("Transpose", self._op("Concat", *rows, axis=2), perm=[0, 2, 1])
        projections = [quantizer.out_proj for quantizer in quantizers]
        weight = torch.cat([cast(Tensor, each.weight) for each in projections], dim=1)
        bias = torch.stack([cast(Tensor, each.bias) for each in projections]).sum(dim=0)
        inputs = self._weight("quantizer.weight", weight), self._weight("quantizer.bias", bias)
        return self._op("Conv", joined, *inputs)

    def _embedding(self, quantizer: VectorQuantize, codes: str, name: str) -> str:
        """Rows of the codebook for codes [batch, tokens]: [batch, latent frames, codebook_dim]."""
        book = quantizer.codebook.weight
        # Gather counts negative codes from the book's end; put past it they are refused as well.
        negative = self._op("Less", codes, self._constant([0]))
        codes = self._op("Where", negative, self._constant([len(book)]), codes)
        rows = self._op("Gather", self._weight(name, book), codes)
        if quantizer.stride == 1:
            return rows
        apart = self._op("Unsqueeze", rows, self._constant([2]))
        repeated = self._op("Expand", apart, self._constant([1, 1, quantizer.stride, 1]))
        return self._op("Reshape", repeated, self._constant([0, -1, book.shape[1]]))

    def head(self, decoder: Decoder48k, hidden: str) -> str:
        """What `decoder.head` makes of its body's output."""
        head = decoder.head
        if isinstance(head, InterpHead):
            audio_24k = self.layer(decoder.tail, hidden, "tail")
            detail = self.layer(head.output, self.layer(head.branch, hidden, "branch"), "output")
            return self._op("Add", self.layer(head.resample, audio_24k, "resample"), detail)
        if isinstance(head, NobleHead):
            layers = [head.snake, head.interpolate, head.units, head.output]
        elif isinstance(head, DenseHead):
            layers = [head.snake, head.block, head.output]
        else:
            raise UserError(f"a head of the class {type(head).__name__} has no form in ONNX here")
        return self._op("Tanh", self.layer(nn.Sequential(*layers), hidden, "head"))

    def layer(self, module: nn.Module, x: str, name: str) -> str:
        """One of SNAC's layers on x [batch, channels, time]."""
        if isinstance(module, nn.Sequential):
            for place, each in enumerate(module):
                x = self.layer(each, x, f"{name}.{place}")
            return x
        if isinstance(module, DecoderBlock):
            return self.layer(module.block, x, name)
        if isinstance(module, ResidualUnit):
            return self._op("Add", x, self.layer(module.block, x, name))
        if isinstance(module, Snake1d):
            return self._snake(module, x, name)
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            return self._convolution(module, x, name)
        if isinstance(module, Resampler):
            return self._resampler(module, x, name)
        if isinstance(module, nn.Tanh):
            return self._op("Tanh", x)
        if isinstance(module, NoiseBlock):
            return x
        raise UserError(f"a layer of the class {type(module).__name__} has no form in ONNX here")

    def _snake(self, module: Snake1d, x: str, name: str) -> str:
        alpha = module.alpha.detach().double()
        inverse = self._weight(f"{name}.inverse", (alpha + EPSILON).reciprocal())
        wave = self._op("Sin", self._op("Mul", x, self._weight(f"{name}.alpha", alpha)))
        return self._op("Add", x, self._op("Mul", self._op("Mul", wave, wave), inverse))

    def _convolution(self, conv: nn.Conv1d | nn.ConvTranspose1d, x: str, name: str) -> str:
        inputs = [x, self._weight(f"{name}.weight", conv.weight)]
        if conv.bias is not None:
            inputs.append(self._weight(f"{name}.bias", conv.bias))
        attributes: dict[str, Any] = {
            "strides": list(conv.stride),
            "dilations": list(conv.dilation),
            "pads": 2 * [int(conv.padding[0])],
            "group": conv.groups,
        }
        if isinstance(conv, nn.Conv1d):
            return self._op("Conv", *inputs, **attributes)
        padding = list(cast(tuple[int], conv.output_padding))
        return self._op("ConvTranspose", *inputs, output_padding=padding, **attributes)

    def _resampler(self, resampler: Resampler, x: str, name: str) -> str:
        """Its answer to an impulse, put in the place of every sample."""
        stride, length = resampler.to_rate // resampler.from_rate, 512
        impulse = torch.zeros(1, 1, length)
        impulse[0, 0, length // 2] = 1.0
        answer = Resampler(resampler.from_rate, resampler.to_rate)(impulse)[0, 0]
        first, last = answer.nonzero()[[0, -1], 0].tolist()
        before = length // 2 * stride - first
        after = last - length // 2 * stride - (stride - 1)
        return self._op(
            "ConvTranspose",
            x,
            self._weight(f"{name}.weight", answer[None, None, first : last + 1]),
            strides=[stride],
            pads=[before, after],
        )

    def _weight(self, name: str, tensor: Tensor) -> str:
        return self._array(name, tensor.detach().float().contiguous().numpy())

    def _constant(self, values: Sequence[int]) -> str:
        return self._array(f"constant.{len(self.weights)}", np.array(values, np.int64))

    def _array(self, name: str, array: np.ndarray) -> str:
        self.weights.append(self._from_array(array, name))
        return name

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}.{len(self.nodes)}"
        self.nodes.append(self._make_node(kind, inputs, [name], name, **attributes))
        return name
