"""What a TTT layer has learnt so far: a value that can be marked, taken back, saved and restored.

Weights and mini-batches are what `ttt.layers.inner_loop` says, of any flavour: tuples of named
tuples of tensors [B, H, ...], B streams and H heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ttt.layers.fast_weights import Affine, Tape
from ttt.layers.inner_loop import InnerLoop, MiniBatch, Weights, length, truncate
from ttt.layers.swiglu import Matrix, Taught


@dataclasses.dataclass(frozen=True)
class TTTState:
    """What one TTT layer has learnt from each of B streams; never part of the parameters.

    States are values: a layer returns a new one and leaves the old one as it was. `mark` names the
    place that `rollback` can go back to. From there on, one copy of the weights and the
    mini-batches committed since are kept; without a mark, nothing but the weights and
    the open mini-batch.
    """

    weights: Weights
    """The weights at the start of the open mini-batch, float32 (float64 in a float64 layer)."""
    open: MiniBatch
    """The tokens not committed yet, at most a whole mini-batch."""
    marked_weights: Weights | None = None
    """`weights` as they were at the mark; None when no mark was set."""
    closed: tuple[MiniBatch, ...] = ()
    """The mini-batches committed since the mark, oldest first."""
    since_mark: int = 0
    """Tokens since the mark."""

    @property
    def batch(self) -> int:
        """Number of streams."""
        return len(self.weights[0][0])

    @property
    def open_tokens(self) -> int:
        """Tokens in the open mini-batch."""
        return length(self.open)

    @property
    def nbytes(self) -> int:
        """Bytes of all distinct tensors of the state."""
        marked = self.marked_weights or ()
        parts = (
            *self.weights,
            *marked,
            *self.open,
            *(part for each in self.closed for part in each),
        )
        distinct = {id(tensor): tensor for part in parts for tensor in part}
        return sum(tensor.nbytes for tensor in distinct.values())

    def mark(self) -> TTTState:
        """This state, with every token from here on open to rollback."""
        return dataclasses.replace(self, marked_weights=self.weights, closed=(), since_mark=0)

    def after(
        self,
        tokens: int,
        weights: Weights,
        mini_batch: MiniBatch,
        committed: Sequence[MiniBatch],
    ) -> TTTState:
        """The state `tokens` later; the mini-batches committed are kept only behind a mark."""
        if self.marked_weights is None:
            return TTTState(weights, mini_batch)
        closed, since_mark = (*self.closed, *committed), self.since_mark + tokens
        return TTTState(weights, mini_batch, self.marked_weights, closed, since_mark)

    def reset(self, rows: Tensor, initial: Weights, loop: InnerLoop) -> TTTState:
        """This state with some rows as if they had heard nothing; see `TTTLayer.reset`."""
        weights = initial
        if not rows.all():
            size = loop.size
            if self.open_tokens not in (0, size):
                raise ValueError(
                    f"single rows can be reset only at a multiple of {size} tokens, "
                    f"and {self.open_tokens} more were heard; reset all rows, or wait"
                )
            kept = loop.committed(self.weights, self.open) if self.open_tokens else self.weights
            chosen = rows.to(kept[0][0].device).view(-1, 1, 1, 1)
            weights = tuple(
                type(new)(*(torch.where(chosen, *pair) for pair in zip(new, old, strict=True)))
                for new, old in zip(initial, kept, strict=True)
            )
        fresh = TTTState(weights, loop.no_tokens(weights))
        return fresh if self.marked_weights is None else fresh.mark()

    def rollback(self, tokens: int, loop: InnerLoop) -> TTTState:
        """The state before the last `tokens` tokens, bit for bit.

        Weights of an earlier mini-batch are committed anew from the marked ones: the same sums in
        the same order. Keeping them all instead would take six times the memory.

        Args:
            loop: the layer's.

        Raises:
            ValueError: the tokens reach back beyond the mark.
        """
        if not 0 <= tokens <= self.since_mark:
            raise ValueError(
                f"cannot take back {tokens} tokens: {self.since_mark} were heard since the mark "
                "(call state.mark() before the tokens that may have to go)"
            )
        mini_batch, closed, excess = self.open, [*self.closed], tokens
        while closed and excess >= length(mini_batch):
            excess -= length(mini_batch)
            mini_batch = closed.pop()
        weights = self.weights
        if len(closed) < len(self.closed) and self.marked_weights is not None:
            weights = self.marked_weights
            for earlier in closed:
                weights = loop.committed(weights, earlier)
        kept = truncate(mini_batch, length(mini_batch) - excess)
        since_mark = self.since_mark - tokens
        return TTTState(weights, kept, self.marked_weights, tuple(closed), since_mark)

    def to_tensors(self) -> dict[str, Tensor]:
        """The state as a flat dict (`weights.0.weight`, `open.1.steps`, ...) for saving."""
        marked = self.marked_weights is not None
        tensors = {"since_mark": torch.tensor(self.since_mark if marked else _NO_MARK)}
        groups: dict[str, Weights | MiniBatch] = {"weights": self.weights, "open": self.open}
        # Until a commit the marked weights are the weights themselves, and stored once.
        if self.marked_weights is not None and self.closed:
            groups["marked_weights"] = self.marked_weights
        groups |= {f"closed.{number}": batch for number, batch in enumerate(self.closed)}
        for group, parts in groups.items():
            for depth, part in enumerate(parts):
                for field, tensor in part._asdict().items():
                    tensors[f"{group}.{depth}.{field}"] = tensor.contiguous()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> TTTState:
        """The state that `to_tensors` described, exactly."""

        def read(group: str) -> Weights | MiniBatch:
            found: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"{group}."):
                    depth, field = key.removeprefix(f"{group}.").split(".")
                    found.setdefault(int(depth), {})[field] = tensor
            return tuple(_KINDS[frozenset(found[n])](**found[n]) for n in range(len(found)))

        closed_count = len({key.split(".")[1] for key in tensors if key.startswith("closed.")})
        since_mark = int(tensors["since_mark"])
        weights = read("weights")
        marked = None if since_mark == _NO_MARK else weights
        return cls(
            weights=weights,
            open=read("open"),
            marked_weights=read("marked_weights") if closed_count else marked,
            closed=tuple(read(f"closed.{number}") for number in range(closed_count)),
            since_mark=max(since_mark, 0),
        )


_KINDS: dict[frozenset[str], Any] = {
    frozenset(kind._fields): kind for kind in (Affine, Tape, Matrix, Taught)
}
"""What states are made of, by the names of its fields."""
_NO_MARK = -1
