"""The 48 kHz decoder as something to train: what the training loop asks of it.

Phase 1 trains the new head alone, phase 2 everything, each with an AdamW of its own. A step's loss
is divided by the valid samples of all its micro-batches on all ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttt import checkpoint
from ttt.snac.model import Decoder48k
from ttt.snac.train.config import LossConfig, Precision
from ttt.snac.train.curriculum import Epoch, as_planned
from ttt.snac.train.optim import OptimConfig, learning_rates, rate_factor
from ttt.snac.train.step import accumulate_gradients
from ttt.snac.train.validation import REFERENCE_ROWS, ValidationSet, validate
from ttt.snac.train.window_reader import MicroBatch
from ttt.training.optim import Update
from ttt.training.ranks import Communicator
from ttt.training.schedules import EpochPlan
from ttt.training.trainee import MAIN, Trainee, ValidationResult

DENOMINATOR = "valid_samples"
"""Valid 48 kHz samples of a step, which its loss is divided by."""


@dataclass(frozen=True, kw_only=True)
class DecoderRecipe:
    """How a decoder is trained."""

    seed: int
    """Of the noise inside the decoder."""
    precision: Precision
    optim: OptimConfig
    loss: LossConfig


class DecoderTrainee(Trainee[MicroBatch]):
    """A decoder and its recipe, epochs and validation."""

    item_name = "clips"
    rate_key = "optim.peak_lr"

    def __init__(
        self,
        model: Decoder48k,
        recipe: DecoderRecipe,
        epochs: Sequence[Epoch],
        windows: ValidationSet | None,
        n_examples: int = 0,
    ) -> None:
        """Validate on `windows`, and hand `n_examples` of them to the hooks to listen to."""
        self.model = model
        self.recipe = recipe
        self.epochs = epochs
        if windows is not None:
            self.validation = _Validation(model, recipe, windows, n_examples)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The whole state, codebooks included, as every decoder's checkpoint holds it."""
        return {MAIN: dict(self.model.state_dict())}

    def updates(self, phase: int) -> list[Update]:
        optimizer = build_optimizer(self.recipe.optim, self.model, phase)
        # The key that optimizer.pt has had since the first checkpoint.
        return [Update("optimizer", optimizer, self.recipe.optim.clip_norm)]

    def rates(self, epoch: EpochPlan, step: int) -> dict[str, float]:
        return learning_rates(
            self.recipe.optim,
            epoch.phase,
            step - epoch.phase_first_step,
            epoch.phase_steps,
            factor=rate_factor(self.recipe.optim, step),
        )

    def denominators(self, batches: Sequence[MicroBatch]) -> dict[str, float]:
        return {DENOMINATOR: sum(int(batch.valid_samples.sum()) for batch in batches)}

    def accumulate(
        self,
        batches: Sequence[MicroBatch],
        denominators: Mapping[str, float],
        *,
        step: int,
        due: Collection[str],
    ) -> dict[str, Tensor]:
        del due  # the one update moves in every step
        return accumulate_gradients(
            self.model,
            batches,
            self.recipe.loss,
            valid_samples=int(denominators[DENOMINATOR]),
            step=step,
            seed=self.recipe.seed,
            precision=self.recipe.precision,
        )

    def item_ids(self, batch: MicroBatch) -> Sequence[str]:
        return batch.clip_ids

    def replaced(self, batches: Sequence[MicroBatch]) -> list[str]:
        return [
            f"{replacement.wanted}: {replacement.reason}; used {replacement.used}"
            for batch in batches
            for replacement in batch.replaced
        ]


def build_optimizer(config: OptimConfig, model: Decoder48k, phase: int) -> torch.optim.AdamW:
    """A fresh AdamW for `phase`; freezes the body in phase 1 and frees it in phase 2.

    Its groups carry "name", by which the loop sets their rates before each step.
    """
    model.freeze_body(phase == 1)
    groups: list[dict[str, Any]] = [{"name": "head", "params": model.head_parameters()}]
    if phase == 2:
        body = [parameter for parameter in model.body_parameters() if parameter.requires_grad]
        groups.append({"name": "body", "params": body})
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, weight_decay=config.weight_decay)


def require_same_plan(folder: str, stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse to continue `folder` under another plan; raises what checkpoint's function raises.

    A plan of before `clips_sha256` was noted does not say which clips it was made with.
    """
    if "clips_sha256" not in stored:
        current = {key: value for key, value in current.items() if key != "clips_sha256"}
    checkpoint.require_same_plan(folder, as_planned(stored), as_planned(current))


@dataclass(frozen=True)
class _Validation:
    """Validation of the weights that the model has at the moment."""

    model: Decoder48k
    recipe: DecoderRecipe
    windows: ValidationSet
    n_examples: int
    reference_rows: Sequence[str] = REFERENCE_ROWS

    def __call__(self, group: Communicator, *, untrained: bool) -> ValidationResult:
        return validate(
            self.model,
            self.windows,
            self.recipe.loss,
            group,
            precision=self.recipe.precision,
            with_references=untrained,
            n_examples=self.n_examples,
        )
