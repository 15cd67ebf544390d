"""Keys of another program that a configuration takes as its own.

A configuration class names them in `__aliases__`; `load_config` moves their values to where they
belong before anything is checked, so that they replace what a base file says there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_jobs import yaml_tree

_GROUP = "paper_metrics"


@dataclass(frozen=True)
class Alias:
    """What an old key means."""

    key: str
    """The key that it is now."""
    values: Mapping[Any, Any] | None = None
    """Old value -> new one, None for nothing to set; None takes every value as it is."""


def translate(
    tree: Mapping[str, Any], aliases: Mapping[str, Alias]
) -> tuple[dict[str, Any], list[str]]:
    """`tree` with its old keys, at the top or below `paper_metrics`, moved; a line per problem."""
    moved = copy.deepcopy(dict(tree))
    problems: list[str] = []
    holders = {"": moved}
    if isinstance(group := moved.get(_GROUP), dict):
        holders[f"{_GROUP}."] = group
    for prefix, holder in holders.items():
        for name in [name for name in holder if name in aliases]:
            problem = _move(moved, aliases[name], holder.pop(name))
            problems += [f"{prefix}{name}: {problem}"] if problem else []
    if group == {}:
        del moved[_GROUP]
    return moved, problems


def _move(tree: dict[str, Any], alias: Alias, value: Any) -> str | None:
    if alias.values is not None:
        if not isinstance(value, bool | str) or value not in alias.values:
            wanted = " or ".join(map(yaml_tree.show, alias.values))
            return f"expected {wanted}, got {yaml_tree.show(value)}"
        value = alias.values[value]
        if value is None:
            return None
    return yaml_tree.set_value(tree, alias.key, value)
