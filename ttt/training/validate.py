"""What a validation decides: the best step so far, and whether training turns back to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ttt import checkpoint
from ttt.training.hooks import Hook
from ttt.training.ranks import Communicator
from ttt.training.state import Training
from ttt.training.trainee import Validation


def validate(
    training: Training,
    validation: Validation,
    group: Communicator,
    hooks: Sequence[Hook],
    run: str,
) -> bool:
    """Validate, note the best value, tell the hooks, turn back where the trainee says so; whether
    this is the best trained model, or another than before."""
    state, trainee = training.state, training.trainee
    untrained = state.step == 0
    with training.averaged_weights():
        result = validation(group, untrained=untrained)
    if untrained:
        state.references = {
            name: row for name, row in result.rows.items() if name in validation.reference_rows
        }
    result.rows.update(state.references)
    lowest = math.inf if state.best_value is None else state.best_value
    result = dataclasses.replace(result, value=trainee.value(result))
    improved = not untrained and result.decides < lowest  # a value that is no number never is
    if improved:
        state.best_value, state.best_step = result.decides, state.step
    for hook in hooks:
        hook.on_validation(state, result)
    why = None if untrained else trainee.turns_back(result, state.step)
    if why is not None:
        training.turn_back(None if improved else checkpoint.best(run))
        for hook in hooks:
            hook.on_turn_back(state, why)
    return improved or why is not None
