"""The room (placement group) of Ray Train's workers, given back where nobody else does.

The room of workers whose driver was an actor that was killed, as a sweep's scheduler kills trials,
stays taken until the whole job ends. Ray's own cleaner asks the dashboard, which may be off, and
with several Rays may be another one's. So the first worker notes its room in the run folder, and
whoever ends the trial gives it back.
"""

from __future__ import annotations

import ray
import ray.util
from ray.util.placement_group import PlacementGroup, get_current_placement_group

from ttt import storage

RAY_FOLDER = "ray_train"
"""What Ray Train keeps below a run's folder while it runs."""


def note_room(run: str) -> None:
    """Called by a worker: note_room the room it was placed in, if any."""
    group = get_current_placement_group()
    if group is not None:
        storage.write_bytes(_room_note(run), group.id.hex().encode())


def give_room_back(run: str) -> None:
    """Free the room that was noted last, with whatever still runs in it; nothing without a note."""
    if storage.exists(_room_note(run)):
        group = ray.PlacementGroupID(bytes.fromhex(storage.read_bytes(_room_note(run)).decode()))
        ray.util.remove_placement_group(PlacementGroup(group))


def _room_note(run: str) -> str:
    return storage.join(run, RAY_FOLDER, "placement_group")
