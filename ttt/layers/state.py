"""What a TTT layer has learnt so far: a value that can be marked, taken back, saved and restored.

Shapes: B streams, H heads, n tokens kept, i -> o the widths of one affine map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ttt.layers.fast_weights import (
    Affine,
    FastWeights,
    MiniBatch,
    Tape,
    TokenRule,
    commit,
    length,
    truncate,
)
from ttt.layers.inner_steps import commit_steps, no_tokens


@dataclasses.dataclass(frozen=True)
class TTTState:
    """What one TTT layer has learnt from each of B streams; never part of the parameters.

    States are values: a layer returns a new one and leaves the old one as it was. `mark` names the
    place that `rollback` can go back to. From there on, one copy of the weights and the
    tapes of the mini-batches committed since are kept; without a mark, nothing but the weights and
    the open mini-batch.
    """

    weights: FastWeights
    """The weights at the start of the open mini-batch, float32 (float64 in a float64 layer)."""
    open: MiniBatch
    """The tokens not committed yet, at most a whole mini-batch."""
    marked_weights: FastWeights | None = None
    """`weights` as they were at the mark; None when no mark was set."""
    closed: tuple[MiniBatch, ...] = ()
    """The mini-batches committed since the mark, oldest first."""
    since_mark: int = 0
    """Tokens since the mark."""

    @property
    def batch(self) -> int:
        """Number of streams."""
        return self.weights[0].weight.shape[0]

    @property
    def open_tokens(self) -> int:
        """Tokens in the open mini-batch."""
        return length(self.open)

    @property
    def nbytes(self) -> int:
        """Bytes of all distinct tensors of the state."""
        marked = self.marked_weights or ()
        pairs = (
            *self.weights,
            *marked,
            *self.open,
            *(tape for each in self.closed for tape in each),
        )
        distinct = {id(tensor): tensor for pair in pairs for tensor in pair}
        return sum(tensor.nbytes for tensor in distinct.values())

    def mark(self) -> TTTState:
        """This state, with every token from here on open to rollback."""
        return dataclasses.replace(self, marked_weights=self.weights, closed=(), since_mark=0)

    def after(
        self,
        tokens: int,
        weights: FastWeights,
        mini_batch: MiniBatch,
        committed: Sequence[MiniBatch],
    ) -> TTTState:
        """The state `tokens` later; the mini-batches committed are kept only behind a mark."""
        if self.marked_weights is None:
            return TTTState(weights, mini_batch)
        closed, since_mark = (*self.closed, *committed), self.since_mark + tokens
        return TTTState(weights, mini_batch, self.marked_weights, closed, since_mark)

    def reset(self, rows: Tensor, initial: FastWeights, rule: TokenRule) -> TTTState:
        """This state with some rows as if they had heard nothing; see `TTTLayer.reset`."""
        weights = initial
        if not rows.all():
            size = len(rule.factors)
            if self.open_tokens not in (0, size):
                raise ValueError(
                    f"single rows can be reset only at a multiple of {size} tokens, "
                    f"and {self.open_tokens} more were heard; reset all rows, or wait"
                )
            kept = _committed(self.weights, self.open, rule) if self.open_tokens else self.weights
            chosen = rows.to(kept[0].weight.device).view(-1, 1, 1, 1)
            weights = tuple(
                Affine(*(torch.where(chosen, *pair) for pair in zip(new, old, strict=True)))
                for new, old in zip(initial, kept, strict=True)
            )
        fresh = TTTState(weights, empty_mini_batch(weights, rule.inner_steps))
        return fresh if self.marked_weights is None else fresh.mark()

    def rollback(self, tokens: int, rule: TokenRule) -> TTTState:
        """The state before the last `tokens` tokens, bit for bit.

        Weights of an earlier mini-batch are committed anew from the marked ones: the same sums in
        the same order. Keeping them all instead would take six times the memory.

        Args:
            rule: the layer's.

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
                weights = _committed(weights, earlier, rule)
        kept = truncate(mini_batch, length(mini_batch) - excess)
        since_mark = self.since_mark - tokens
        return TTTState(weights, kept, self.marked_weights, tuple(closed), since_mark)

    def to_tensors(self) -> dict[str, Tensor]:
        """The state as a flat dict (`weights.0.weight`, `open.1.steps`, ...) for saving."""
        marked = self.marked_weights is not None
        tensors = {"since_mark": torch.tensor(self.since_mark if marked else _NO_MARK)}
        groups: dict[str, Sequence[Affine | Tape]] = {"weights": self.weights, "open": self.open}
        # Until a commit the marked weights are the weights themselves, and stored once.
        if self.marked_weights is not None and self.closed:
            groups["marked_weights"] = self.marked_weights
        groups |= {f"closed.{number}": batch for number, batch in enumerate(self.closed)}
        for group, pairs in groups.items():
            for depth, pair in enumerate(pairs):
                for field, tensor in pair._asdict().items():
                    tensors[f"{group}.{depth}.{field}"] = tensor.contiguous()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> TTTState:
        """The state that `to_tensors` described, exactly."""

        def count(group: str, fields: int) -> range:
            return range(sum(key.startswith(f"{group}.") for key in tensors) // fields)

        def maps(group: str) -> FastWeights:
            names = [f"{group}.{depth}" for depth in count("weights", len(Affine._fields))]
            return tuple(Affine(tensors[f"{at}.weight"], tensors[f"{at}.bias"]) for at in names)

        def tapes(group: str) -> MiniBatch:
            names = [f"{group}.{depth}" for depth in count("open", len(Tape._fields))]
            return tuple(Tape(tensors[f"{at}.inputs"], tensors[f"{at}.steps"]) for at in names)

        closed_count = sum(
            key.startswith("closed.") and key.endswith(".0.steps") for key in tensors
        )
        since_mark = int(tensors["since_mark"])
        weights = maps("weights")
        marked = None if since_mark == _NO_MARK else weights
        return cls(
            weights=weights,
            open=tapes("open"),
            marked_weights=maps("marked_weights") if closed_count else marked,
            closed=tuple(tapes(f"closed.{number}") for number in range(closed_count)),
            since_mark=max(since_mark, 0),
        )


def empty_mini_batch(weights: FastWeights, inner_steps: int = 1) -> MiniBatch:
    """A mini-batch with no tokens yet, for answers of so many steps each."""
    if inner_steps > 1:
        return no_tokens(weights)
    return tuple(
        Tape(
            weight.new_empty(*weight.shape[:2], 0, weight.shape[2]),
            weight.new_empty(*weight.shape[:2], 0, weight.shape[3]),
        )
        for weight, _ in weights
    )


def _committed(weights: FastWeights, batch: MiniBatch, rule: TokenRule) -> FastWeights:
    if rule.inner_steps > 1:
        return commit_steps(weights, batch, rule)
    return commit(weights, batch, rule.factors)


_NO_MARK = -1
