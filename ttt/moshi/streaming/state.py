"""Moshi's own streaming state, with rings wide enough for chunks: moved back, saved and restored.

A stock ring holds exactly the frames that attention reaches back. It is written before it is read,
so a chunk of more than one frame destroys keys that the chunk's first queries need. Here every
ring is `max_chunk` frames wider, while the attention's mask stays as it was. That also makes taking
frames back exact: only the positions move, for what stays behind in the ring will be labelled
older than the window whenever it comes round.

Memory may run out anywhere, also while something is put back. What was begun and did not come to
its end is therefore remembered, and done before anything else is.

Shapes: B streams, H key heads, n frames kept, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from moshi.models.lm import LMModel
from moshi.modules.streaming import StreamingModule
from moshi.modules.transformer import RingKVCache
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ttt import storage
from ttt.device_errors import is_device_lost, is_out_of_memory
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
        self._unfinished: Callable[[], None] | None = None
        """What must be done before the state is whole again."""
        self._lm, self._ttt = lm, ttt_layers(lm)
        self._stack = ExitStack()
        attentions = [layer.self_attn for layer in temporal_layers(lm)]
        contexts = [int(attention.context or 0) for attention in attentions]
        try:
            for attention, context in zip(attentions, contexts, strict=True):
                attention.context = min(context, max_steps or context) + max_chunk
            self._stack.enter_context(start_streaming(lm, batch))
        finally:  # The rings are sized by now, and the mask reads the window from the same place.
            for attention, context in zip(attentions, contexts, strict=True):
                attention.context = context
        try:
            if not all(layer.is_streaming for layer in self._ttt.values()):
                raise UserError(
                    "TTT was inserted after this model first streamed: load the model anew"
                )
            self._parts = list(lm.get_streaming_state().values())
            rings = [part.kv_cache for part in self._parts if hasattr(part, "kv_cache")]
            self._rings: list[tuple[RingKVCache, int]] = list(zip(rings, contexts, strict=True))
            self.mark()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the streaming; the model is as it was before."""
        self._stack.close()

    @property
    def since_mark(self) -> int:
        """Steps since the mark."""
        return self.position - self._mark

    def mark(self) -> None:
        """From here on, up to `max_chunk` steps can be taken back."""
        self.mend()
        self._mark = self.position
        for layer in self._ttt.values():
            layer.mark()

    @contextmanager
    def hearing(self, steps: int) -> Iterator[None]:
        """The model hears so many steps inside the block, and none of them if it is cut short."""
        self.mend()
        self._unfinished = self._take_back_uncounted
        try:
            yield
        except BaseException:
            self.mend()  # Where this fails too, whatever comes next begins with it.
            raise
        self.position += steps
        self._unfinished = None

    def take_back(self, steps: int) -> None:
        """Forget the last steps since the mark."""
        self.position -= steps
        self._unfinished = self._take_back_uncounted
        self.mend()

    def mend(self) -> None:
        """Finish what an earlier call could not."""
        if self._unfinished is not None:
            self._unfinished()
            self._unfinished = None

    def reset_ttt(self) -> None:
        """The TTT layers have heard nothing; attention has. The mark is here."""
        self.mend()
        self._unfinished = self._reset_ttt
        self.mend()
        self.mark()

    def reset(self) -> None:
        """Nothing heard; the mark is here."""
        self._unfinished = self._reset
        self.mend()
        self.mark()

    def _take_back_uncounted(self) -> None:
        for layer in self._ttt.values():
            layer.rollback(max(0, layer.learnt.since_mark - self.since_mark))
        self._set_offsets()

    def _reset_ttt(self) -> None:
        for layer in self._ttt.values():
            learnt = layer.learnt
            rows = torch.ones(learnt.batch, dtype=torch.bool)  # Asked for where they are.
            layer.learnt = layer.layer.reset(learnt, rows)

    def _reset(self) -> None:
        self._lm.reset_streaming()
        self.position = 0

    def to_tensors(self) -> dict[str, Tensor]:
        """What is needed to go on: `ring.0.keys` [B, H, n, d], `ttt.8.weights.0.weight`, ...

        On the CPU, and brought there one after the other: together they would take the device's
        rings a second time.
        """
        self.mend()
        tensors = {"position": torch.tensor(self.position)}
        for number, (ring, context) in enumerate(self._rings):
            slots = self._slots(ring, context)
            tensors[f"ring.{number}.keys"] = ring.cache[0].index_select(2, slots).cpu()
            tensors[f"ring.{number}.values"] = ring.cache[1].index_select(2, slots).cpu()
        for number, layer in self._ttt.items():
            unmarked = TTTState(layer.learnt.weights, layer.learnt.open)
            for name, tensor in unmarked.to_tensors().items():
                tensors[f"ttt.{number}.{name}"] = tensor.cpu()
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
            if is_out_of_memory(error) or is_device_lost(error):
                raise
            raise UserError(
                f"the saved state does not fit this model and batch ({error}): "
                "start the chapter anew"
            ) from error

    def fast_weight_change(self) -> Tensor:
        """[layers with TTT, B] how far the committed fast weights have moved: |W - W0| / |W0|."""
        self.mend()
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


def start_streaming(module: StreamingModule[Any], batch: int) -> ExitStack:
    """Let a module of the published package stream until the stack is closed, or not at all.

    Left to itself it goes on streaming in part when one of its states does not fit the memory, and
    can then never stream again.
    """
    parts = [part for part in module.modules() if isinstance(part, StreamingModule)]
    still = [part for part in parts if not part.is_streaming]
    try:
        return module.streaming(batch)
    except BaseException:
        for part in still:
            part._streaming_state = None
        raise


def cpu_copy(tensor: Tensor) -> Tensor:
    """The values on the CPU, in memory that nothing else writes to."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _shapes(learnt: TTTState) -> list[torch.Size]:
    return [tensor.shape for affine in learnt.weights for tensor in affine]


def _check_model(lm: LMModel) -> None:
    if lm.is_streaming or any(layer.is_streaming for layer in temporal_layers(lm)):
        raise UserError("this model is streaming already: close the other session first")
    if any(not layer.self_attn.context for layer in temporal_layers(lm)):
        raise UserError("this model's attention has no window (context); load it with one")
    if lm.fuser is not None:
        raise UserError("this model needs conditions, which evaluation cannot give it")


_KEY = "group"


def save_state(path: Path, identity: str, tensors: dict[str, Tensor]) -> None:
    """Write the tensors in one rename; only who asks for `identity` gets them back."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with storage.atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: identity})


def load_state(path: Path, identity: str) -> dict[str, Tensor] | None:
    """The tensors saved under this identity; None when there are none.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            if file.metadata().get(_KEY) != identity:
                return None
            # Copies, because a tensor may begin anywhere in the file, and sums over unaligned
            # memory can differ in the last bit from those of a run that was not cut off.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); delete it to start the group anew") from error
