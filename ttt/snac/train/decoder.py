"""The 48 kHz decoder as something to train: what the training loop asks of it.

Phase 1 trains the new head alone, phase 2 everything, each with an AdamW of its own. A step's loss
is divided by the valid samples of all its micro-batches on all ranks. With `adversarial` the
discriminators have an update of their own before the decoder's, from a step of the run on.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttt import checkpoint
from ttt.device_errors import is_out_of_memory
from ttt.errors import UserError
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.model import Decoder48k
from ttt.snac.train.adversarial import JUDGED, NAME, Adversary
from ttt.snac.train.curriculum import Epoch, as_planned
from ttt.snac.train.guards import TRICKS, failing, guarded_value
from ttt.snac.train.optim import OptimConfig, learning_rates, rate_factor
from ttt.snac.train.step import VALID, DecoderRecipe, accumulate_gradients
from ttt.snac.train.validation import REFERENCE_ROWS, ValidationSet, fit_on_windows, validate
from ttt.snac.train.window_reader import MicroBatch
from ttt.training.optim import Update
from ttt.training.ranks import Communicator
from ttt.training.schedules import EpochPlan
from ttt.training.trainee import MAIN, Row, Trainee, ValidationResult


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
        *,
        untouched: Decoder48k | None = None,
    ) -> None:
        """Validate on `windows`, and hand `n_examples` of them to the hooks to listen to.

        `untouched` is the decoder before any training, where `model` is not: the reference rows
        are measured with it.
        """
        self.model = model
        self.recipe = recipe
        self.epochs = epochs
        self.adversary: Adversary | None = None
        self._guards_failed = 0
        """Validations in a row in which they did under the adversarial loss."""
        if recipe.adversarial is not None:
            self.adversary = Adversary(recipe.adversarial, epochs, self.device)
        if windows is not None:
            self.validation = _Validation(
                model, recipe, windows, n_examples, (untouched or model).to(self.device)
            )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The whole state, codebooks included, as every decoder's checkpoint holds it."""
        tensors = {MAIN: dict(self.model.state_dict())}
        if self.adversary is not None:
            tensors[NAME] = dict(self.adversary.networks.state_dict())
        return tensors

    def updates(self, phase: int) -> list[Update]:
        optimizer = build_optimizer(self.recipe.optim, self.model, phase)
        # The key that optimizer.pt has had since the first checkpoint.
        updates = [Update("optimizer", optimizer, self.recipe.optim.clip_norm)]
        if self.adversary is not None and not self.adversary.given_up:
            updates.insert(0, self.adversary.update)
        return updates

    def rates(self, epoch: EpochPlan, step: int) -> dict[str, float]:
        rates = learning_rates(
            self.recipe.optim,
            epoch.phase,
            step - epoch.phase_first_step,
            epoch.phase_steps,
            factor=rate_factor(self.recipe.optim, step),
        )
        return rates if self.adversary is None else {**rates, NAME: self.adversary.rate(step)}

    def denominators(self, batches: Sequence[MicroBatch]) -> dict[str, float]:
        counts: dict[str, float] = {VALID: sum(int(batch.valid_samples.sum()) for batch in batches)}
        if self.adversary is not None:
            lengths = [length for batch in batches for length in batch.valid_samples.tolist()]
            counts[JUDGED] = self.adversary.judged(lengths)
        return counts

    def accumulate(
        self,
        batches: Sequence[MicroBatch],
        denominators: Mapping[str, float],
        *,
        step: int,
        due: Collection[str],
    ) -> dict[str, Tensor]:
        try:
            return accumulate_gradients(
                self.model,
                batches,
                self.recipe,
                denominators,
                step=step,
                adversary=self.adversary if NAME in due else None,
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"step {step + 1}: out of memory with {len(batches[0].clip_ids)} clips of "
                f"{batches[0].audio.shape[1] / TARGET_RATE:.2g} s in a micro-batch; start a new "
                f"run with a lower curriculum.stages[..].clips_per_step, or a higher "
                f"curriculum.micro_batches_per_step ({error})"
            ) from error

    def value(self, result: ValidationResult) -> float | None:
        return guarded_value(result) if self.recipe.best_by == "guarded" else None

    def turns_back(self, result: ValidationResult, step: int) -> str | None:
        adversary = self.adversary
        if adversary is None or adversary.given_up or not adversary.heard(step - 1):
            return None
        failed = failing(result.rows)
        self._guards_failed = self._guards_failed + 1 if failed else 0
        limit = adversary.config.give_up_after
        if limit is None or self._guards_failed < limit:
            return None
        adversary.given_up = True
        return (
            f"step {step}: {', '.join(failed)} failed their guards in {limit} validations in a row "
            f"under the adversarial loss; training is back at the best checkpoint and goes on "
            f"without discriminators"
        )

    def own_state(self) -> dict[str, Any]:
        if self.adversary is None:
            return {}
        return {"guards_failed": self._guards_failed, "given_up": self.adversary.given_up}

    def take_state(self, stored: Mapping[str, Any]) -> None:
        if self.adversary is not None:
            self._guards_failed = stored["guards_failed"]
            self.adversary.given_up = stored["given_up"]

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
    on_gpu = next(model.parameters()).is_cuda
    return torch.optim.AdamW(
        groups,
        lr=0.0,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True if on_gpu else None,  # None, so that a CPU's checkpoints keep their bytes
    )


def require_same_plan(folder: str, stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse to continue `folder` under another plan; raises what checkpoint's function raises.

    A plan of before `clips_sha256` was noted does not say which clips it was made with.
    """
    if "clips_sha256" not in stored:
        current = {key: value for key, value in current.items() if key != "clips_sha256"}
    then, now = (plan.get("starts_sha256", {}) for plan in (stored, current))
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            was, given = (each.get(key, "none")[:12] for each in (then, now))
            raise UserError(
                f"{folder}: {key} names other weights than this run was begun with (sha256 {was} "
                f"then, {given} now); a resumed run keeps its plan: name the same export, or "
                "choose another run folder"
            )
    checkpoint.require_same_plan(folder, as_planned(stored), as_planned(current))


@dataclass(frozen=True)
class _Validation:
    """Validation of the weights that the model has at the moment."""

    model: Decoder48k
    recipe: DecoderRecipe
    windows: ValidationSet
    n_examples: int
    untouched: Decoder48k
    """Before any training."""
    reference_rows: Sequence[str] = (*REFERENCE_ROWS, TRICKS)

    def __call__(self, group: Communicator, *, untrained: bool) -> ValidationResult:
        result = validate(
            self.model,
            self.windows,
            self.recipe.loss,
            group,
            precision=self.recipe.precision,
            untouched=self.untouched if untrained else None,
            n_examples=self.n_examples,
        )
        if untrained and (self.recipe.best_by == "guarded" or self.recipe.adversarial is not None):
            result.rows.update(self._tricks(group))
        return result

    def _tricks(self, group: Communicator) -> dict[str, Row]:
        """Their row: the best value that either of them has at its strongest level; none where no
        window is long enough. The first rank measures them."""
        text = None
        if group.rank == 0:
            fitted = fit_on_windows(self.untouched, self.windows)
            levels = [] if fitted is None else [fitted.hiss, fitted.folding_hiss]
            known = [level.env_r for level in levels if level.env_r is not None]
            row = {"lsd_hf": min(level.lsd_hf for level in levels)} if levels else {}
            text = json.dumps(row | ({"env_r": max(known)} if known else {}))
        row = json.loads(group.from_first(text) or "{}")
        return {TRICKS: row} if row else {}
