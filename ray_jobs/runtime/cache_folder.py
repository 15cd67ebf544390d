"""Whose a cache folder is: its cache.json says which settings and inputs its shards come from.

The same ones may be run again at any time and finish what is missing; others are refused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ray_jobs.config.load import dump_yaml
from ttt import records, storage
from ttt.config import Config, differences
from ttt.errors import UserError


def is_claimed(output: str, identity: dict[str, Any], told: Collection[str] = ()) -> bool:
    """Whether the folder is of this identity already.

    Keys that `told` names are as the folder has them. Raises UserError when it holds a cache of
    other settings or inputs, or anything else.
    """
    names = [name for name in storage.list_names(output) if not name.startswith(".")]
    if "cache.json" not in names:
        if names and names != ["config.yaml"]:
            raise UserError(
                f"{output}: holds {', '.join(names[:3])} but no cache.json, so it is no "
                "cache; choose an empty or new folder as output"
            )
        return False
    found = read_claim(output)
    wanted = {**identity, **{key: found.get(key) for key in told}}
    if changed := sorted(differences(found, wanted), key=lambda each: each[0].split(".")):
        how = "; ".join(f"{key} was {was}, is {now}" for key, was, now in changed)
        raise UserError(
            f"{output}: holds a cache made with other settings or inputs ({how}); choose "
            "another output or delete it"
        )
    return True


def claim(output: str, config: Config, identity: dict[str, Any]) -> None:
    """Make a folder that is not claimed yet this configuration's."""
    storage.write_bytes(storage.join(output, "config.yaml"), dump_yaml(config).encode())
    records.write_json(_claim_uri(output), identity)


def read_claim(output: str) -> dict[str, Any]:
    """The identity of a claimed folder."""
    return records.read_json(_claim_uri(output))


def remove_abandoned_files(output: str) -> None:
    """Delete what killed processes have left half written."""
    if not storage.is_local(output):
        return
    for folder in (output, storage.join(output, "shards")):
        for name in storage.list_names(folder):
            if storage.is_temporary(name):
                storage.delete(storage.join(folder, name))


def _claim_uri(output: str) -> str:
    return storage.join(output, "cache.json")
