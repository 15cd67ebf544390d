"""A TTT layer: a layer whose state is a small model that learns while it listens.

A token's key, value and query are projections of x. The small model is taught by keys and values,
then asked for the query. What is learnt, how, and what is made of the answer is the flavour's:

    ttt_lm, video_dit   `ttt.layers.affine`: TTT-Linear and TTT-MLP, a token sees those before it
    lact                `ttt.layers.lact`: a SwiGLU, a token sees the chunks before its own

Shapes: B streams, T tokens, H heads, d = dim / H width of a head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from ttt.errors import UserError
from ttt.layers.affine import AffineFlavour
from ttt.layers.config import InnerControls, TTTConfig
from ttt.layers.flavour import Flavour, Projected, state_dtype
from ttt.layers.lact import LactFlavour
from ttt.layers.state import TTTState


class TTTLayer(nn.Module):
    """One TTT layer: parameters only; what it learns on the way lives in a `TTTState`.

    `controls` changes what the inner loop does, for control experiments; to be set between streams.

    `generator` draws the parameters (None: torch's own). Those that the small model starts from and
    learns by (matrices, its norm, the rates) stay float32 when the layer is moved to half
    precision: rounded, they would move all that it learns.
    """

    def __init__(self, config: TTTConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.controls = InnerControls()
        self.flavour: Flavour = _FLAVOURS[config.flavour](config)
        bias = self.flavour.has_bias
        self.q_proj = nn.Linear(config.dim, config.dim, bias=bias)
        self.k_proj = nn.Linear(config.dim, config.dim, bias=bias)
        self.v_proj = nn.Linear(config.dim, config.dim, bias=bias)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=bias)
        self.post_norm: nn.Module = nn.Identity()
        if self.flavour.has_post_norm:
            self.post_norm = nn.LayerNorm(config.dim, eps=1e-6)
        for name, shape in self.flavour.shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self._draw_parameters(generator)

    def _draw_parameters(self, generator: torch.Generator | None) -> None:
        """Draw the parameters as the references do: projections N(0, 0.02), norms 1, rest 0."""
        for name, parameter in self.named_parameters():
            if name in ("post_norm.weight", "ttt_norm_weight"):
                nn.init.ones_(parameter)
            elif name.startswith("W"):
                nn.init.normal_(parameter, std=self.flavour.spread, generator=generator)
            elif name.endswith("weight") and "norm" not in name:
                nn.init.normal_(parameter, std=0.02, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `half` and `bfloat16` do to every tensor."""

        def unrounded(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            is_half = moved.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(moved.device, torch.float32) if is_half else moved

        for child in self.children() if recurse else ():
            child._apply(fn)
        return super()._apply(unrounded, recurse=False)

    def init_state(self, batch: int) -> TTTState:
        """The state of streams that have heard nothing; gradients reach W and b through it."""
        weights = self.flavour.initial_weights(self, batch)
        loop = self.flavour.loop(self, self.controls)
        return TTTState(weights=weights, open=loop.no_tokens(weights))

    def forward(self, x: Tensor, state: TTTState) -> tuple[Tensor, TTTState]:
        """Listen to more tokens.

        Args:
            x: [B, T, dim], any T; output t depends on the tokens up to t alone.
            state: of the tokens before; left unchanged.

        Returns:
            y [B, T, dim] and the state after the T tokens. However a sequence is cut into calls,
            the results are the same up to rounding.
        """
        batch, count, dim = x.shape
        if (batch, dim) != (state.batch, self.config.dim):
            raise ValueError(
                f"x is {tuple(x.shape)}: this state has {state.batch} streams, this layer width "
                f"{self.config.dim}"
            )
        if not count:
            return x, state
        projected = Projected(self.q_proj(x), self.k_proj(x), self.v_proj(x))
        # The small model computes in its own precision, also under autocast.
        with torch.autocast(x.device.type, enabled=False):
            flavour, controls = self.flavour, self.controls
            tokens = flavour.tokens(self, controls, x, projected, state.open_tokens)
            group = self.config.checkpoint_mini_batches
            heard = flavour.loop(self, controls).hear(tokens, state.weights, state.open, group)
            mixed = flavour.output(self, tokens, heard.answers).transpose(1, 2)
            mixed = mixed.to(x.dtype, memory_format=torch.contiguous_format).reshape(x.shape)
        y = self.o_proj(self.post_norm(mixed))
        return y, state.after(count, heard.weights, heard.open, heard.committed)

    def rollback(self, state: TTTState, tokens: int) -> TTTState:
        """The state as it was before the last `tokens` tokens, exactly.

        Raises:
            ValueError: the tokens reach back beyond the state's mark.
        """
        return state.rollback(tokens, self.flavour.loop(self, self.controls))

    def reset(self, state: TTTState, rows: Tensor) -> TTTState:
        """The state with some streams as if they had heard nothing.

        Args:
            rows: [B] bool, true for the streams to reset. A mark moves to here.

        Raises:
            ValueError: only some rows are to go while a mini-batch is under way: all streams
                share its boundaries, so single rows can be reset only between mini-batches.
        """
        initial = self.flavour.initial_weights(self, state.batch)
        return state.reset(rows, initial, self.flavour.loop(self, self.controls))

    def state_bytes(self, batch: int, rollback_tokens: int = 0) -> int:
        """Bytes that a state of `batch` streams holds at most, `rollback_tokens` after its mark."""
        counts = self.flavour.counts(self.controls)
        copies = 2 if rollback_tokens else 1
        tokens = self.config.mini_batch_size + rollback_tokens
        per_head = copies * counts.weights + tokens * counts.token
        return batch * self.config.num_heads * per_head * self.state_dtype.itemsize

    def learning_bytes(self, batch: int) -> int:
        """Bytes beyond its state, at most, while `batch` streams learn from one mini-batch."""
        values = self.config.mini_batch_size * self.flavour.counts(self.controls).learning
        return batch * self.config.num_heads * values * self.state_dtype.itemsize

    @property
    def learns_at_commit(self) -> bool:
        """Whether that is where a mini-batch ends, not where its tokens are heard."""
        return self.flavour.counts(self.controls).learns_at_commit

    def fast_weight_change(self, state: TTTState) -> Tensor:
        """How far each stream's committed weights have moved, [B]: |W - W0| / |W0|."""
        moved = start = torch.zeros((), device=state.weights[0].weight.device)
        initial = self.flavour.initial_weights(self, 1)
        for now, before in zip(state.weights, initial, strict=True):
            for name, tensor_now, tensor_before in zip(now._fields, now, before, strict=True):
                if name != "velocity":  # Where a matrix goes, not where it is.
                    moved = moved + (tensor_now - tensor_before).square().sum(dim=(1, 2, 3))
                    start = start + tensor_before.square().sum(dim=(1, 2, 3))
        return (moved / start).sqrt()

    @property
    def updates(self) -> bool:
        """Whether the layer learns; set to False it answers with the weights it starts from."""
        return self.controls.updates

    @updates.setter
    def updates(self, learns: bool) -> None:
        self.controls = dataclasses.replace(self.controls, updates=learns)

    @property
    def state_dtype(self) -> torch.dtype:
        """float32 whatever the model's type, except in a float64 layer."""
        return state_dtype(self)


_FLAVOURS: dict[str, type[Flavour]] = {
    "ttt_lm": AffineFlavour,
    "video_dit": AffineFlavour,
    "lact": LactFlavour,
}


def load_reference_parameters(layer: TTTLayer, tensors: dict[str, Tensor]) -> None:
    """Copy one layer's parameters of ttt-lm-pytorch (TTTLinear, TTTMLP) into `layer`.

    Raises:
        UserError: the names or shapes are not this layer's; the layer is then unchanged.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != given:
        wrong = sorted(name for name in wanted | given if wanted.get(name) != given.get(name))
        listed = "; ".join(
            f"{name}: needed {wanted.get(name, 'nothing')}, given {given.get(name, 'nothing')}"
            for name in wrong
        )
        raise UserError(f"these are not the parameters of a {layer.config.kind} layer: {listed}")
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(tensors[name])
