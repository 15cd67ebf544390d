"""Moshi's own streaming state, with rings wide enough for chunks: moved back, saved and restored.

A stock ring holds exactly the frames that attention reaches back. It is written before it is read,
so a chunk of more than one frame destroys keys that the chunk's first queries need. Here every
ring is `max_chunk` frames wider, while the attention's mask stays as it was. That also makes taking
frames back exact: only the positions move, for what stays behind in the ring will be labelled
older than the window whenever it comes round.

Shapes: B streams, H key heads, n frames kept, d width of a head.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from moshi.models.lm import LMModel
from moshi.modules.transformer import RingKVCache
from torch import Tensor

from ttt.errors import UserError
from ttt.layers import TTTState
from ttt.moshi.insert import temporal_layers, ttt_layers


class StreamingState:
    """The streaming state of one model, from `__init__` to `close`.

    Args:
        max_steps: the most steps that will be heard in all: rings need not be longer than the
            recording. None: any number.

    Raises:
        UserError: the model streams already, has no attention window, needs conditions, or was
            given TTT layers after it first streamed.
    """

    def __init__(
        self, lm: LMModel, batch: int, max_chunk: int, max_steps: int | None = None
    ) -> None:
        _check_model(lm)
        self.position = 0
        """Steps heard so far."""
        self._mark = 0
        self._lm, self._ttt = lm, ttt_layers(lm)
        self._stack = ExitStack()
        attentions = [layer.self_attn for layer in temporal_layers(lm)]
        contexts = [int(attention.context or 0) for attention in attentions]
        try:
            for attention, context in zip(attentions, contexts, strict=True):
                attention.context = min(context, max_steps or context) + max_chunk
            self._stack.enter_context(lm.streaming(batch))
        finally:  # The rings are sized by now, and the mask reads the window from the same place.
            for attention, context in zip(attentions, contexts, strict=True):
                attention.context = context
        if not all(layer.is_streaming for layer in self._ttt.values()):
            self.close()
            raise UserError("TTT was inserted after this model first streamed: load the model anew")
        self.mark()
        self._parts = list(lm.get_streaming_state().values())
        rings: list[RingKVCache] = [
            part.kv_cache for part in self._parts if hasattr(part, "kv_cache")
        ]
        self._rings = list(zip(rings, contexts, strict=True))

    def close(self) -> None:
        """End the streaming; the model is as it was before."""
        self._stack.close()

    @property
    def since_mark(self) -> int:
        """Steps since the mark."""
        return self.position - self._mark

    def mark(self) -> None:
        """From here on, up to `max_chunk` steps can be taken back."""
        self._mark = self.position
        for layer in self._ttt.values():
            layer.mark()

    def count(self, steps: int) -> None:
        """The model has heard so many steps more."""
        self.position += steps

    def take_back(self, steps: int) -> None:
        """Forget the last steps counted since the mark, and any that were heard but not counted.

        So `take_back(0)` mends the state after a forward that was cut short.
        """
        self.position -= steps
        for layer in self._ttt.values():
            layer.rollback(max(0, layer.learnt.since_mark - self.since_mark))
        self._set_offsets()

    def reset_ttt(self) -> None:
        """The TTT layers have heard nothing; attention has. The mark is here."""
        for layer in self._ttt.values():
            learnt = layer.learnt
            rows = torch.ones(learnt.batch, dtype=torch.bool, device=layer.alpha.device)
            layer.learnt = layer.layer.reset(learnt, rows)
        self.mark()

    def reset(self) -> None:
        """Nothing heard; the mark is here."""
        self._lm.reset_streaming()
        self.position = 0
        self.mark()

    def to_tensors(self) -> dict[str, Tensor]:
        """What is needed to go on: `ring.0.keys` [B, H, n, d], `ttt.8.weights.0.weight`, ..."""
        tensors = {"position": torch.tensor(self.position)}
        for number, (ring, context) in enumerate(self._rings):
            slots = self._slots(ring, context)
            tensors[f"ring.{number}.keys"] = ring.cache[0].index_select(2, slots)
            tensors[f"ring.{number}.values"] = ring.cache[1].index_select(2, slots)
        for number, layer in self._ttt.items():
            unmarked = TTTState(layer.learnt.weights, layer.learnt.open)
            for name, tensor in unmarked.to_tensors().items():
                tensors[f"ttt.{number}.{name}"] = tensor
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `to_tensors` gave; bit for bit where `max_chunk` is the same.

        Raises:
            UserError: the tensors are of another model, batch or choice of TTT layers.
        """
        try:
            self.reset()
            self.position = int(tensors["position"])
            self._set_offsets()
            for number, (ring, context) in enumerate(self._rings):
                slots = self._slots(ring, context)
                for half, name in enumerate(("keys", "values")):
                    kept = tensors[f"ring.{number}.{name}"].to(ring.cache)
                    ring.cache[half].index_copy_(2, slots, kept)
            for number, layer in self._ttt.items():
                layer.learnt = self._saved_ttt(number, tensors)
            self.mark()
        except (KeyError, RuntimeError, IndexError, ValueError) as error:
            self.reset()
            raise UserError(
                f"the saved state does not fit this model and batch ({error}): "
                "start the chapter anew"
            ) from error

    def fast_weight_change(self) -> Tensor:
        """[layers with TTT, B] how far the committed fast weights have moved: |W - W0| / |W0|."""
        changes = [each.layer.fast_weight_change(each.learnt) for each in self._ttt.values()]
        return torch.stack(changes) if changes else torch.zeros(0)

    def _saved_ttt(self, number: int, tensors: dict[str, Tensor]) -> TTTState:
        start, layer = f"ttt.{number}.", self._ttt[number]
        own = {
            key.removeprefix(start): tensor.to(layer.alpha.device)
            for key, tensor in tensors.items()
            if key.startswith(start)
        }
        saved = TTTState.from_tensors(own)
        if _shapes(saved) != _shapes(layer.learnt):
            raise ValueError(f"layer {number} has other fast weights")
        return saved

    def _slots(self, ring: RingKVCache, context: int) -> Tensor:
        """Where a ring keeps the frames that attention can still reach, oldest first."""
        frames = torch.arange(max(0, self.position - context), self.position)
        return (frames % ring.capacity).to(ring.cache.device)

    def _set_offsets(self) -> None:
        for part in self._parts:
            for name in ("offset", "offsets"):
                if hasattr(part, name):
                    getattr(part, name).fill_(self.position)
            if hasattr(part, "offset_cpu"):
                part.offset_cpu = self.position
        for ring, _ in self._rings:
            ring.end_offset.fill_(self.position)


def _shapes(learnt: TTTState) -> list[torch.Size]:
    return [tensor.shape for affine in learnt.weights for tensor in affine]


def _check_model(lm: LMModel) -> None:
    if lm.is_streaming or any(layer.is_streaming for layer in temporal_layers(lm)):
        raise UserError("this model is streaming already: close the other session first")
    if any(not layer.self_attn.context for layer in temporal_layers(lm)):
        raise UserError("this model's attention has no window (context); load it with one")
    if lm.fuser is not None:
        raise UserError("this model needs conditions, which evaluation cannot give it")
