"""A pretended CUDA device: code runs on shapes alone, and what a card would be asked is counted.

    with PretendedCuda() as card:
        model = on_card(model, card, dtype=torch.bfloat16)
        model(torch.zeros(8, 100, device="cuda"))
    print(card.launches.total(), card.moved_bytes, card.reads_back)

Tensors on "cuda" have a shape, a type and no values; those on the CPU are real. What mixes the two
raises, as on a card. What is read back is what `values` says of the place that reads, or else 1
and False.

Counted are launches (every operation that is no view and touches the card), the bytes that they
read and write, and the bytes that live at the same time; by place, reads back from the card, copies
to it, and those of them that wait (all but non-blocking ones from pinned memory). Not pretended:
which kernels cuDNN and attention choose, what compilers fuse, NCCL, graphs, the allocator's
rounding.

It needs `start` (tests/fake_cuda/start.py), which preloads a CUDA runtime without a card.
"""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten

_LAUNCHES_NOTHING = (
    aten._unsafe_view, aten.unsafe_split, aten.lift_fresh, aten._reshape_alias,
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided,
    aten.set_, aten.resize_, aten.unfold,
)  # fmt: skip
"""Beside what is a view by its signature."""

_LOOKS_UP = (aten.embedding, aten.index_select, aten.gather, aten.index)

_OURS = ("/ttt/", "/ray_jobs/", "/benchmarks/", "/moshi/", "/snac/", "/torchaudio/")


def is_there() -> bool:
    """Whether this process was started by `start`."""
    return "PRETENDED_CUDA" in os.environ


class PretendedCuda(FakeTensorMode):
    """A card; a context manager inside which "cuda" is a device."""

    def __init__(self, values: Callable[[str], float | None] = lambda place: None) -> None:
        if not is_there():
            raise RuntimeError("start this script by tests/fake_cuda/start.py")
        _persuade_torch()
        super().__init__(allow_non_fake_inputs=True)
        self._values = values
        self._inside = False
        self._alive: dict[int, int] = {}
        self._pinned: set[int] = set()
        self.clear()

    def clear(self) -> None:
        """Begin to count anew; what lives stays alive."""
        self.launches: Counter[str] = Counter()
        self.launches_by_file: Counter[str] = Counter()
        self.moved_bytes = 0
        self.to_card: Counter[str] = Counter()
        self.blocking_copies: Counter[str] = Counter()
        self.reads_back: Counter[str] = Counter()
        self.live_bytes = sum(self._alive.values())
        self.most_in: dict[str, int] = {}
        self.enter("")

    def enter(self, stretch: str) -> None:
        """From here on, what lives at the most counts for the stretch of this name, too."""
        self._stretch = stretch
        self._note_most()

    @property
    def most_bytes(self) -> int:
        """The most that has lived at the same time since `clear`."""
        return max(self.most_in.values())

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, for real where nothing of it is the card's."""
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return self._read(args[0])
        if self._inside or not isinstance(func, OpOverload) or func.namespace == "prim":
            return super().dispatch(func, types, args, kwargs)
        if func in (aten._pin_memory.default, aten.is_pinned.default):
            return self._pin(func, args[0])
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        pretended = [each for each in given if isinstance(each, FakeTensor)]
        if not pretended and not _names_card(kwargs, args):
            with fake_tensor.unset_fake_temporarily():
                return func(*args, **kwargs)
        if func._can_decompose():  # as they arrive where no gradient is ever wanted
            with self:
                return func.decompose(*args, **kwargs)
        if pretended and func is aten._to_copy.default and str(kwargs.get("device")) == "cpu":
            return self._read_tensor(args[0], kwargs.get("dtype"))
        if pretended and func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            return args[0].copy_(self._read_tensor(args[1], None))
        _refuse_mixed_devices(func, given)
        with self._one_operation():
            args, kwargs = tree_map_only(Tensor, self._shape_of, (args, kwargs))
            out = self._pretend(func, types, args, kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        waits = not (
            kwargs.get("non_blocking") or (func is aten.copy_.default and args[2:] == (True,))
        )
        self._count(func, given, made, waits)
        return out

    # -- one operation -------------------------------------------------------------------------

    def _pretend(self, func: OpOverload, types: Any, args: Any, kwargs: Any) -> Any:
        if func is aten._weight_norm_interface_backward.default:  # torch has no shapes for it
            _, v, g, _, _ = args
            return torch.empty_like(v), torch.empty_like(g)
        if func is aten.nonzero.default:  # as if everything were true
            places = (max(1, args[0].numel()), args[0].dim())
            return torch.empty(places, dtype=torch.long, device=args[0].device)
        return super().dispatch(func, types, args, kwargs)

    def _shape_of(self, tensor: Tensor) -> Tensor:
        """The tensor without its values."""
        return tensor if isinstance(tensor, FakeTensor) else self.from_tensor(tensor)

    def _pin(self, func: OpOverload, tensor: Tensor) -> Any:
        """Memory from which a copy to the card needs nobody to wait for it."""
        if func is aten.is_pinned.default:
            return tensor.untyped_storage()._cdata in self._pinned
        with fake_tensor.unset_fake_temporarily():
            pinned = tensor.clone()
        storage = pinned.untyped_storage()
        self._pinned.add(storage._cdata)
        weakref.finalize(storage, self._pinned.discard, storage._cdata)
        return pinned

    def _count(
        self, func: OpOverload, given: list[Tensor], made: list[Tensor], waits: bool
    ) -> None:
        for tensor in made:
            self._note_storage(tensor)
        everyone = given + made
        if not any(each.is_cuda for each in everyone):
            return
        if func in (aten._to_copy.default, aten.copy_.default) and not given[-1].is_cuda:
            self.to_card[_place()] += 1
            if waits or given[-1].untyped_storage()._cdata not in self._pinned:
                self.blocking_copies[_place()] += 1
            return
        if func is aten.nonzero.default:
            self.reads_back[_place()] += 1
        if func.is_view or func.overloadpacket in _LAUNCHES_NOTHING:
            return
        self.launches[func.overloadpacket.__name__] += 1
        self.launches_by_file[_place().rpartition(":")[0]] += 1
        if func.overloadpacket in _LOOKS_UP:  # which reads the rows that it gives and no others
            everyone = [each for each in given[1:] if each.is_cuda] + 2 * made
        self.moved_bytes += sum(each.numel() * each.element_size() for each in everyone)

    def _read(self, tensor: Tensor) -> Any:
        return self._read_tensor(tensor.detach(), None).flatten()[0].item()

    def _read_tensor(self, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
        place = _place()
        self.reads_back[place] += 1
        value = self._values(place)
        if value is None:
            value = tensor.dtype != torch.bool
        with fake_tensor.unset_fake_temporarily():
            return torch.full(tensor.shape, value, dtype=dtype or tensor.dtype)

    def _note_storage(self, tensor: Tensor) -> None:
        if not tensor.is_cuda:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.live_bytes += storage.nbytes()
        self._note_most()
        weakref.finalize(storage, self._forget, key)

    def _note_most(self) -> None:
        self.most_in[self._stretch] = max(self.most_in.get(self._stretch, 0), self.live_bytes)

    def _forget(self, key: int) -> None:
        self.live_bytes -= self._alive.pop(key, 0)

    @contextmanager
    def _one_operation(self) -> Any:
        self._inside = True
        try:
            yield
        finally:
            self._inside = False


def on_card(module: nn.Module, card: PretendedCuda, dtype: torch.dtype | None = None) -> nn.Module:
    """The module with its tensors on the card; floating ones of `dtype` where it is given.

    A module with a rule of its own for types (`_apply`) keeps to it.
    """
    # Otherwise a module keeps its tensors and exchanges what they hold.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with card:
        moved = module.to_empty(device="cuda")
        return moved if dtype is None else moved.to(dtype)


def _refuse_mixed_devices(func: OpOverload, given: list[Tensor]) -> None:
    """A card computes with what lies on it, and with single numbers and places to look up."""
    takes_both = (aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_)
    devices = {each.device.type for each in given if each.dim()}
    if len(devices) > 1 and func.overloadpacket not in takes_both:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func} was given {devices} at "
            f"{_place()}"
        )


def _names_card(kwargs: dict[str, Any], args: Any) -> bool:
    devices = [leaf for leaf in (*kwargs.values(), *args) if isinstance(leaf, torch.device | str)]
    return any(str(device).startswith("cuda") for device in devices)


def _place() -> str:
    """File and line of ours, or of the packages we build on, that asks for the operation."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/fake_cuda/" not in file and "/site-packages/torch/" not in file:
            for part in _OURS:
                if part in file:
                    return f"{part[1:]}{file.rpartition(part)[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere:0"


def _through_the_cpu(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor`, which copies to a card without asking anybody."""

    @functools.wraps(make)
    def tensor(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        made = make(*args, **kwargs)
        return made if device is None else made.to(device)

    return tensor


@functools.cache
def _persuade_torch() -> None:
    """Of a card that is there, and that nothing must be started on."""
    fake_tensor.init_gpu_context = lambda device: None
    torch.cuda._lazy_init = lambda: None
    torch.cuda._lazy_call = lambda *_, **__: None
    torch.cuda.current_device = lambda: 0
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.tensor = _through_the_cpu(torch.tensor)
