"""Who speaks in a clip, taken from the folders that its file lies in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ttt.errors import UserError
from ttt.snac.cache.inputs import ClipInput


def folder_number(rule: str) -> int:
    """N of the rule `folder:N`. Raises ValueError for any other text."""
    kind, _, number = rule.partition(":")
    if kind != "folder" or not (number.isascii() and number.isdigit()) or int(number) < 1:
        raise ValueError(
            f"speaker must be null or folder:N, N counting the folders below the input from 1, "
            f"got {rule!r}"
        )
    return int(number)


def with_speakers(inputs: Sequence[ClipInput], rule: str | None) -> list[ClipInput]:
    """The inputs with their speakers: the N-th folder of a clip's id for the rule `folder:N`.

    An input that lies in fewer folders gets the problem "no speaker". Without a rule nothing
    changes. Raises UserError when no input at all has such a folder.
    """
    if rule is None:
        return list(inputs)
    number = folder_number(rule)
    named = [_with_speaker(clip, number) for clip in inputs]
    if named and not any(clip.speaker for clip in named):
        raise UserError(
            f"speaker: {rule} needs {_folders(number)} between the input folder and each file, and "
            f"none of the {len(named):,} inputs has them ({inputs[0].clip_id}); choose the folder "
            "above the speakers' as input, a smaller N, or speaker: null"
        )
    return named


def _with_speaker(clip: ClipInput, number: int) -> ClipInput:
    folders = clip.clip_id.split("/")[:-1]
    if len(folders) >= number:
        return replace(clip, speaker=folders[number - 1])
    if clip.problem is not None:
        return clip
    note = (
        f"speaker: folder:{number} needs {_folders(number)} above the file, it has {len(folders)}"
    )
    return replace(clip, problem="no speaker", problem_note=note)


def _folders(number: int) -> str:
    return "1 folder" if number == 1 else f"{number} folders"
