"""What a TTT layer is told; reading it imports no torch."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol, get_args

from ttt.config import Config

Flavour = Literal["ttt_lm", "video_dit", "lact"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TTTConfig(Config):
    """The shape of one TTT layer and how it learns."""

    dim: int
    """Width of the model the layer sits in."""
    num_heads: int
    """Heads, each with a small model of its own; must divide dim into even widths."""
    kind: Literal["linear", "mlp"] = "mlp"
    """The small model: one affine map, or an MLP, which is two with a GELU between and four times
    the width, and in lact a SwiGLU of the same width."""
    flavour: Flavour = "ttt_lm"
    """Which published layer to be: ttt-lm-pytorch's, ttt-video-dit's made causal, or LaCT's, whose
    tokens are answered by what the chunks before their own have taught."""
    mini_batch_size: int = 16
    """Tokens that share one point of linearisation (ttt_lm 16, video_dit 64, lact 2,048 as
    published)."""
    base_lr: float = 1.0
    """Inner learning rate before the learnt gate (ttt_lm 1.0, video_dit 0.1, lact 0.001 as
    published)."""
    rope_theta: float | None = 10_000.0
    """Base of the rotary embedding of keys and queries; None turns none of them, as lact asks."""
    momentum: bool = False
    """lact: steps go on in the direction of those before, by a learnt share (published: on)."""
    checkpoint_mini_batches: int = 0
    """Mini-batches computed anew together in the backward pass to save memory; 0 keeps them all."""

    def __post_init__(self) -> None:
        for field in ("dim", "num_heads", "mini_batch_size", "base_lr", "rope_theta"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise ValueError(f"{field} must be above 0, not {value}")
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"num_heads={self.num_heads} must divide dim={self.dim} into heads of even width"
            )
        if self.checkpoint_mini_batches < 0:
            raise ValueError("checkpoint_mini_batches must be 0 (keep all) or more")
        for field, choices in (("kind", ("linear", "mlp")), ("flavour", get_args(Flavour))):
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} must be one of {choices}, not {getattr(self, field)!r}")
        check_flavour(self)

    def stored(self) -> dict[str, Any]:
        """`to_dict` without what only another flavour has: what identifies the layer."""
        tree = self.to_dict()
        return tree if self.flavour == "lact" else {k: tree[k] for k in tree if k not in LACT_KEYS}

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.num_heads


class FlavourKeys(Protocol):
    """What `check_flavour` looks at."""

    @property
    def kind(self) -> str: ...
    @property
    def flavour(self) -> str: ...
    @property
    def mini_batch_size(self) -> int: ...
    @property
    def rope_theta(self) -> float | None: ...
    @property
    def momentum(self) -> bool: ...


def check_flavour(keys: FlavourKeys) -> None:
    """Raise a ValueError that says all that does not go with the flavour."""
    problems = []
    if keys.flavour != "lact":
        problems += [
            f"{name} belongs to flavour lact: leave it out with {keys.flavour}"
            for name in LACT_KEYS
            if getattr(keys, name)
        ]
    else:
        if keys.kind != "mlp":
            problems.append(f"kind must be mlp with flavour lact, not {keys.kind}")
        if keys.rope_theta is not None:
            problems.append(
                "rope_theta must be null with flavour lact: positions count from 0 in every "
                "chunk, and no query is answered by keys of its own chunk"
            )
        if keys.mini_batch_size > LONGEST_CHUNK:
            problems.append(
                f"mini_batch_size must be at most {LONGEST_CHUNK:,} with flavour lact, not "
                f"{keys.mini_batch_size:,}: in a longer chunk there would be frames that "
                "attention has lost and the fast weights have not seen yet"
            )
    if problems:
        raise ValueError("; ".join(problems))


LACT_KEYS = ("momentum",)
"""Keys that only lact has."""
LONGEST_CHUNK = 2048
"""Tokens of a chunk, below the 3,000 frames of Moshi's attention."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerControls:
    """What is done to a layer's inner loop on purpose, to see what its effect depends on.

    Whether key-value learning is memory or a linear attention in disguise is the question of
    arXiv 2602.21204, from which the last three are.
    """

    updates: bool = True
    """False: the layer answers with the weights it starts from, whatever it hears."""
    ascent: bool = False
    """Steps go the other way, up the loss."""
    query_is_key: bool = False
    """Queries are replaced by the tokens' own keys, also where the answer is added to them."""
    inner_steps: int = 1
    """Steps for each answer, in lact for each chunk, each gradient taken where the step before has
    led."""

    def __post_init__(self) -> None:
        if self.inner_steps < 1:
            raise ValueError(f"inner_steps must be 1 or more, not {self.inner_steps}")
        if not self.updates and (self.ascent or self.inner_steps > 1):
            raise ValueError("without updates there is no step that could be turned or repeated")

    @property
    def step_sign(self) -> float:
        """What the inner learning rate is multiplied by."""
        return (-1.0 if self.ascent else 1.0) if self.updates else 0.0

    def described(self) -> dict[str, Any]:
        """Those in force, for run.json."""
        told: dict[str, Any] = {} if self.updates else {"updates": "off"}
        if self.ascent:
            told["step"] = "ascent"
        if self.query_is_key:
            told["query"] = "key"
        return told if self.inner_steps == 1 else {**told, "inner_steps": self.inner_steps}
