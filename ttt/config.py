"""The base of every configuration: frozen dataclasses beside their owner.

A configuration class subclasses `Config`, is a frozen keyword-only dataclass, and puts one
sentence under each field: editors, `--print-config` and configs/schema.json show it. Ranges and
silent settings are checked in `__post_init__` with `ValueError`s that name the field and the
fix. `ray_jobs.config.load` reads YAML into these classes with pydantic; nothing here imports it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A node of the configuration tree; the YAML tree has the same shape."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    __free_on_resume__: ClassVar[tuple[str, ...]] = ()
    """Keys, or what begins them, that may change when a run goes on: no result depends on them."""

    def to_dict(self) -> dict[str, Any]:
        """The plain tree (dicts, lists, numbers, strings) that YAML and JSON can hold."""
        return _plain(dataclasses.asdict(self))

    def digest(self) -> str:
        """Twelve hex digits that identify this configuration's values."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def differences(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each key in which two trees differ, with its value before and after (None: not there)."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            inner = f"{key}.{name}" if key else name
            yield from differences(before.get(name), after.get(name), inner)
    elif before != after:
        yield key, before, after


def fixed_part(tree: dict[str, Any], config_class: type[Config]) -> dict[str, Any]:
    """A configuration's tree without what the class lets change when a run goes on."""
    kept = copy.deepcopy(tree)
    for key in config_class.__free_on_resume__:
        *above, last = key.split(".")
        node = kept
        for name in above:
            node = node[name] or {}
        node.pop(last, None)
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
