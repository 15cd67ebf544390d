"""Who speaks in a clip: the folder that it lies in, or what stands beside it."""

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


BESIDE = {"column": ("parquet",), "json": ("tar", "manifest")}
"""Rules besides folder:N, such as column:NAME -> the kinds of input that have such a thing."""


def check_rule(rule: str, kind: str) -> None:
    """Raise ValueError for a rule that is none, or none for this kind of input."""
    if rule_name(rule, "column") is None and rule_name(rule, "json") is None:
        if rule.partition(":")[0] in BESIDE:
            raise ValueError(f"speaker names nothing behind the colon, got {rule!r}")
        folder_number(rule)
        return
    word = rule.partition(":")[0]
    if kind not in BESIDE[word]:
        raise ValueError(
            f"speaker: {rule} has no effect for kind {kind}; {word}: is for "
            f"{' and '.join(BESIDE[word])}, folder:N for every kind"
        )


def rule_name(rule: str | None, word: str) -> str | None:
    """NAME of the rule `word:NAME`; None for another rule."""
    begins, _, name = (rule or "").partition(":")
    return name if begins == word and name else None


def with_speaker(clip: ClipInput, value: object, lacking: str) -> ClipInput:
    """The clip with a value of its own as speaker; without one it has the problem "no speaker"."""
    if clip.problem is not None:
        return clip
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        return replace(clip, speaker=str(value).strip())
    return replace(clip, problem="no speaker", problem_note=lacking)


def with_speakers(inputs: Sequence[ClipInput], rule: str | None) -> list[ClipInput]:
    """The inputs with their speakers: the N-th folder of a clip's id for the rule `folder:N`.

    An input that lies in fewer folders gets the problem "no speaker". Without a rule nothing
    changes, and under another rule the inputs have their speakers. Raises UserError when no input
    at all has one.
    """
    if rule is None:
        return list(inputs)
    if rule.partition(":")[0] in BESIDE:
        if inputs and not any(clip.speaker for clip in inputs):
            raise UserError(
                f"speaker: {rule} is in none of the {len(inputs):,} inputs "
                f"({inputs[0].clip_id}: {inputs[0].problem_note}); correct the name, or set "
                "speaker: null"
            )
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
    # A manifest may name /absolute and ../relative paths.
    folders = [name for name in clip.clip_id.split("/")[:-1] if name not in ("", "..")]
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
