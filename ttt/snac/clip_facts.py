"""What a cache tells of a clip besides its codes and audio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ttt.snac.clip_input import ClipFacts, ClipInput, PreparedClip


def add_facts(prepare: Callable[[ClipInput], PreparedClip], clip: ClipInput) -> PreparedClip:
    """What `prepare` makes of a clip, with its facts. Raises LeftOut as `prepare` does."""
    return replace(prepare(clip), facts=ClipFacts(speaker=clip.speaker))
