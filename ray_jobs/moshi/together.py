"""What an evaluation of everything will do: the plans of chapters and pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_jobs.moshi.all_config import EvaluateAllConfig
from ray_jobs.moshi.chapters import plan as chapter_plan
from ray_jobs.moshi.pairs import plan as pair_plan

_PLANS = {"chapters": chapter_plan, "pairs": pair_plan}


@dataclass(frozen=True)
class Plan:
    """What both evaluations will do."""

    config: EvaluateAllConfig
    parts: dict[str, Any]
    """chapters and pairs, as far as they are wanted, each with a plan of its own."""


def make_plan(config: EvaluateAllConfig) -> Plan:
    """Plan both. Raises UserError as they do."""
    wanted = {name: getattr(config, name) for name in _PLANS}
    parts = {name: _PLANS[name].make_plan(part) for name, part in wanted.items() if part}
    return Plan(config, parts)


def describe(plan: Plan) -> str:
    """The plans of both, in words."""
    return "\n".join(_PLANS[name].describe(part) for name, part in plan.parts.items())
