"""Roots of one kind as inputs of a cache: every clip with its place, its id and its speaker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ttt import storage
from ttt.errors import UserError
from ttt.snac.cache.inputs import ClipInput
from ttt.snac.cache.roots.files import Listing
from ttt.snac.cache.roots.manifests import list_manifest
from ttt.snac.cache.roots.parquets import list_parquets
from ttt.snac.cache.roots.tars import list_tars
from ttt.snac.cache.sources import list_folder
from ttt.snac.cache.speakers import with_speakers

Kind = Literal["folder", "parquet", "tar", "manifest"]


@dataclass(frozen=True)
class Root:
    """One place that holds clips, listed."""

    place: str
    listing: Listing

    def __str__(self) -> str:
        return f"{self.place}: {self.listing.words}"


def list_roots(
    kind: Kind, places: Sequence[str], column: str | None, speaker: str | None
) -> list[Root]:
    """The clips of several roots, in their order.

    A clip's id is its path below its root; of several roots that are folders it begins with the
    root's name. Raises UserError as the lister of each kind does, and when two clips have one id.
    """
    roots = [Root(place, _listing(kind, place, column, speaker)) for place in places]
    if len(roots) > 1:
        roots = [_named(root) for root in roots]
    _refuse_collisions(roots)
    return roots


def _listing(kind: Kind, place: str, column: str | None, speaker: str | None) -> Listing:
    if kind == "tar":
        listing = list_tars(place, speaker)
    elif kind == "parquet":
        listing = list_parquets(place, column, speaker)
    elif kind == "manifest":
        listing = list_manifest(place, speaker)
    else:
        inputs = list_folder(place)
        listing = Listing(inputs, f"{len(inputs):,} audio files")
    return replace(listing, inputs=with_speakers(listing.inputs, speaker))


def _named(root: Root) -> Root:
    """With ids that tell the root, as of several folders each may hold a train/1.wav."""
    name = storage.name(root.place)
    inputs = [
        clip if clip.clip_id.partition("/")[0] == name and storage.name(clip.source) == name
        else replace(clip, clip_id=f"{name}/{clip.clip_id}")
        for clip in root.listing.inputs
    ]  # fmt: skip
    return replace(root, listing=replace(root.listing, inputs=inputs))


def _refuse_collisions(roots: Sequence[Root]) -> None:
    seen: dict[str, ClipInput] = {}
    for root in roots:
        for clip in root.listing.inputs:
            other = seen.setdefault(clip.clip_id, clip)
            if other is not clip and _place(other) == _place(clip):
                raise UserError(
                    f"{clip.clip_id}: {_place(clip)} is given twice; name each input once"
                )
            if other is not clip:
                raise UserError(
                    f"{clip.clip_id}: two clips have this id, {_place(other)} and {_place(clip)}; "
                    "rename one or leave it out (an id is the path below a root, behind the root's "
                    "name where there are several)"
                )


def _place(clip: ClipInput) -> str:
    return clip.source if clip.span is None else f"{clip.source} at byte {clip.span[0]:,}"
