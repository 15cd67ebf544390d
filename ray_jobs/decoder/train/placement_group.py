"""The room (placement group) of Ray Train's workers, for when nobody is left to give it back.

Ray keeps the room of workers whose driver was an actor that was killed, as a sweep's scheduler
kills trials, until the whole job ends. Ray's own cleaner asks the dashboard, which may be off, and
on a machine with several Rays may be another one's. So the first worker notes its room in the run
folder, and whoever ends the trial gives it back.
"""

from __future__ import annotations

import ray
from ray.util.placement_group import PlacementGroup, get_current_placement_group

from ttt import storage

RAY_FOLDER = "ray_train"
"""What Ray Train keeps below a run's folder while it runs."""


def note(run: str) -> None:
    """Called by a worker: note the room it was placed in, if any."""
    group = get_current_placement_group()
    if group is not None:
        storage.write_bytes(_path(run), group.id.hex().encode())


def give_back(run: str) -> None:
    """Free the room that was noted last, with whatever still runs in it; nothing without a note."""
    if storage.exists(_path(run)):
        group = ray.PlacementGroupID(bytes.fromhex(storage.read_bytes(_path(run)).decode()))
        ray.util.remove_placement_group(PlacementGroup(group))


def _path(run: str) -> str:
    return storage.join(run, RAY_FOLDER, "placement_group")
