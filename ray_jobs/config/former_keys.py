"""Keys of another program that a configuration takes as its own.

A configuration class names them in `__aliases__`; `load_config` moves their values to where they
belong before anything is checked, so that they replace what a base file says there. A dotted name
is one that this program itself has called otherwise before.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_jobs.config import yaml_tree

_GROUP = "paper_metrics"


@dataclass(frozen=True)
class Alias:
    """What an old key means."""

    key: str
    """The key that it is now."""
    values: Mapping[Any, Any] | None = None
    """Old value -> new one, None for nothing to set; None takes every value as it is."""

    def move(self, tree: dict[str, Any], value: Any) -> str | None:
        """Set the key in `tree`, in place, to what the old `value` means; or the reason why not."""
        if self.values is not None:
            if not isinstance(value, bool | str) or value not in self.values:
                wanted = " or ".join(map(yaml_tree.show, self.values))
                return f"expected {wanted}, got {yaml_tree.show(value)}"
            value = self.values[value]
            if value is None:
                return None
        return self.put(tree, value)

    def put(self, tree: dict[str, Any], value: Any) -> str | None:
        """Set the key in `tree`, in place, to a new value; or the reason why not."""
        return yaml_tree.set_value(tree, self.key, value)


def former_keys(tree: Mapping[str, Any], aliases: Mapping[str, Alias]) -> list[str]:
    """A sentence for each old key of this program in `tree`: those of a dotted name."""
    found = []
    for name, alias in aliases.items():
        *path, last = name.split(".")
        if path and last in functools.reduce(_inside, path, dict(tree)):
            found.append(f"{name} is called {alias.key} now")
    return found


def translate(
    tree: Mapping[str, Any], aliases: Mapping[str, Alias]
) -> tuple[dict[str, Any], list[str]]:
    """`tree` with its old keys, at the top or below `paper_metrics`, moved; a line per problem.

    They are moved in the order of `aliases`, wherever they lie.
    """
    moved = copy.deepcopy(dict(tree))
    problems: list[str] = []
    holders = {"": moved}
    if isinstance(group := moved.get(_GROUP), dict):
        holders[f"{_GROUP}."] = group
    for name, alias in aliases.items():
        *path, last = name.split(".")
        for prefix, top in holders.items():
            holder = functools.reduce(_inside, path, top)
            problem = alias.move(moved, holder.pop(last)) if last in holder else None
            problems += [f"{prefix}{name}: {problem}"] if problem else []
            if path and top.get(path[0]) == {}:
                del top[path[0]]
    if group == {}:
        del moved[_GROUP]
    return moved, problems


def _inside(node: dict[str, Any], key: str) -> dict[str, Any]:
    inner = node.get(key)
    return inner if isinstance(inner, dict) else {}
