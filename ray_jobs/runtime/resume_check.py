"""What goes on must be what began: the configuration, and what lies behind its names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ray_jobs.config.load import load_config
from ttt.config import Config, differences
from ttt.errors import UserError


def refuse_changed_config(config: Config, output: Path, free: Collection[str]) -> None:
    """Raise UserError where a key outside `free` differs from OUTPUT/config.yaml, if that exists.

    Args:
        free: keys, or what begins them, that may change, since no record depends on them.
    """
    path = output / "config.yaml"
    if not path.exists():
        return
    before, after = load_config(type(config), path).to_dict(), config.to_dict()
    changed = [
        (key, old, new)
        for key, old, new in differences(before, after)
        if not any(key == each or key.startswith(f"{each}.") for each in free)
    ]
    if changed:
        told = "; ".join(f"{key}={old!r}, and now it is {new!r}" for key, old, new in changed)
        back = "it" if len(changed) == 1 else "them"
        raise UserError(
            f"{output}: this run was made with {told}; choose another output for a new run, or set "
            f"{back} back"
        )


def refuse_changed_run(
    before: dict[str, Any], after: dict[str, Any], names: Collection[str], output: Path
) -> None:
    """Raise UserError where one of the named parts of two descriptions of the run differs.

    Weights or recordings may have changed behind an unchanged configuration.
    """
    for name in names:
        for key, was, now in differences(_by_place(before[name]), _by_place(after[name]), name):
            raise UserError(
                f"{output}: since this run began {key} has changed from {was!r} to {now!r}; choose "
                "another output for a new run, or bring it back"
            )


def _by_place(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return {str(place): _by_place(item) for place, item in enumerate(value)}
    if isinstance(value, dict):
        return {key: _by_place(item) for key, item in value.items()}
    return value
