"""What comes of listening: hidden states and text, and from them the logits of text and audio.

Both heads compute in float32, whatever the model's type: logits rounded to bfloat16 move a loss by
a hundredth of a nat.

Shapes: B streams, K tokens per frame, Q codebooks predicted, n steps, D width of the model, d width
of the depformer, V text vocabulary.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from moshi.models.lm import LMModel
from moshi.utils.compile import no_compile
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def text_logits(lm: LMModel, hidden: Tensor) -> Tensor:
    """[B, n, V] of hidden [B, n, D], float32 (float64 in a float64 model)."""
    with _folding(lm.text_linear):
        return _exactly(lm.text_linear, hidden)


def audio_logits(lm: LMModel, forced: Tensor, hidden: Tensor) -> Tensor:
    """[B, Q, n, card] by the depformer in one parallel pass, float32 (float64 in a float64 model).

    The published `forward_depformer_training`, but for the precision of the heads.

    Args:
        forced: [B, K, n] what the depformer is told: the column after each step.
        hidden: [B, n, D]
    """
    batch, steps, _ = hidden.shape
    assert lm.depformer is not None  # Delays.of refuses a model without.
    with no_compile(), _folding(lm.depformer, lm.depformer_in, lm.linears):
        inputs = torch.stack([*_depformer_inputs(lm, forced, hidden)], dim=2)  # [B, n, Q, d]
        told = lm.depformer(inputs.view(batch * steps, lm.dep_q, -1))
        logits = [
            _exactly(cast(nn.Linear, head), norm(told[:, codebook])).view(batch, steps, -1)
            for codebook, (head, norm) in enumerate(
                zip(lm.linears, lm.depformer_norms, strict=True)
            )
        ]
        return torch.stack(logits, dim=1)


class FoldedLinears(TorchFunctionMode):
    """Inside the block every linear map takes all its rows as one matrix.

    PyTorch folds a batch of rows that lie apart in memory only where the weight wants a gradient.
    Otherwise each row multiplies a weight of its own, the same one, read again for every row: the
    depformer of a frozen 7B would read 122 GB in place of 1.6.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and args and args[0].dim() > 2:
            rows, *rest = args
            product = F.linear(rows.flatten(end_dim=-2), *rest, **kwargs)
            return product.view(*rows.shape[:-1], product.shape[-1])
        return func(*args, **kwargs)


def _folding(*modules: nn.Module) -> AbstractContextManager[object]:
    """FoldedLinears where PyTorch does not fold by itself; they ask Python of every operation."""
    parameters = itertools.chain.from_iterable(module.parameters() for module in modules)
    wanted = all(parameter.requires_grad for parameter in parameters)
    return nullcontext() if wanted else FoldedLinears()


def _depformer_inputs(lm: LMModel, forced: Tensor, hidden: Tensor) -> Iterable[Tensor]:
    """[B, n, d] for each codebook: what was heard, and the token before it."""
    assert lm.depformer_text_emb is not None
    assert lm.depformer_emb is not None
    schedule = lm.depformer_weights_per_step_schedule or range(lm.dep_q)
    for codebook in range(lm.dep_q):
        place = schedule[codebook] if lm.depformer_multi_linear else 0
        embedding = lm.depformer_emb[codebook - 1] if codebook else lm.depformer_text_emb
        # Stream 0 is the text, which comes before codebook 0.
        yield embedding(forced[:, codebook]) + lm.depformer_in[place](hidden)


def _exactly(head: nn.Linear, x: Tensor) -> Tensor:
    """The head's product in float32, a slice of the vocabulary at a time.

    A float32 copy of the whole text head would be half a gigabyte.
    """
    if x.dtype in (torch.float32, torch.float64):
        return head(x)
    bias = cast(Tensor | None, head.bias)
    exact = x.float()
    parts = [F.linear(exact, rows.float()) for rows in head.weight.split(_HEAD_ROWS)]
    logits = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
    return logits if bias is None else logits + bias.float()


_HEAD_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What steps predict; `step` leaves the dimension n out."""

    text_logits: Tensor  # [B, n, V] float32 or float64
    text: Tensor  # [B, n] what the depformer was told and the next step hears
    audio_logits: Tensor  # [B, Q, n, card]
    targets: Tensor  # [B, Q, n] the code each of them predicts; -1 where there is none


@dataclasses.dataclass(frozen=True)
class TemporalOutput:
    """What the temporal transformer gave for steps that stand."""

    hidden: Tensor  # [B, n, D]
    text: Tensor  # [B, n]
    forced: Tensor  # [B, K, n] what the depformer is to be told: the column after each step

    def __getitem__(self, steps: slice) -> TemporalOutput:
        """Some of the steps."""
        return TemporalOutput(self.hidden[:, steps], self.text[:, steps], self.forced[:, :, steps])


def join(parts: Sequence[TemporalOutput]) -> TemporalOutput:
    """Stretches heard one after the other, as one."""
    return TemporalOutput(
        torch.cat([part.hidden for part in parts], dim=1),
        torch.cat([part.text for part in parts], dim=1),
        torch.cat([part.forced for part in parts], dim=2),
    )
