"""What there is to decode in files of codes, each utterance an item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_jobs.decoder.evaluate_config import DecodeConfig
from ttt.errors import UserError
from ttt.files.errors import reading
from ttt.files.walk import FoundFile
from ttt.snac.code_files import Layout, Place, UnnamedLayout, Utterance, utterances, wav_names
from ttt.snac.geometry import CodeGeometry


@dataclass(frozen=True)
class CodesItem:
    """Codes to decode and the file they become."""

    clip_id: str
    wav: str
    """Path of the wav file below the output folder."""
    file: Path | None = None
    """The file of codes, unless they are in the cache."""
    place: Place | None = None
    """The line of that file; None: all of it."""
    told: str | None = None
    """The layout that a file is read by, on one line."""
    bad_frames: int = 0
    """Damaged frames of tokens, which are left out."""
    row: int = -1
    """The clip's row in the cache."""
    problem: str | None = None
    """Why it cannot be read, where that is known beforehand."""


def file_items(
    config: DecodeConfig, found: Sequence[FoundFile], root: Path, geometry: CodeGeometry | None
) -> list[CodesItem]:
    """The utterances of the files below `root`, looked at (`geometry` is the decoder's).

    Raises UserError where a layout is not named, or no utterance can be decoded.
    """
    layout = layout_of(config)
    looked_at: list[tuple[str, Utterance]] = []
    for file in found:
        if file.problem is not None:
            looked_at.append((file.path, Utterance(problem=file.problem)))
        else:
            each_of = _looked_at(root / file.path, layout, geometry)
            looked_at += [(file.path, utterance) for utterance in each_of]
        if config.limit is not None and len(looked_at) >= config.limit:
            break
    looked_at = looked_at[: config.limit]
    ids = [path if each.name is None else f"{path}/{each.name}" for path, each in looked_at]
    items = [
        CodesItem(
            clip_id,
            wav,
            file=root / path,
            place=each.place,
            told=each.told,
            bad_frames=each.bad_frames,
            problem=each.problem,
        )
        for clip_id, wav, (path, each) in zip(ids, wav_names(ids), looked_at, strict=True)
    ]
    if not items:
        raise UserError(f"{config.input}: holds no utterance")
    if all(item.problem is not None for item in items):
        more = "" if len(items) == 1 else f"; none of the {len(items):,} utterances can be decoded"
        raise UserError(f"{items[0].file}: {items[0].problem}{more}")
    return items


def layout_of(config: DecodeConfig) -> Layout:
    """What the configuration says of files of codes."""
    return Layout(config.layout, config.orpheus.base, tuple(config.orpheus.order))


def _looked_at(path: Path, layout: Layout, geometry: CodeGeometry | None) -> list[Utterance]:
    try:
        with reading(path):
            return utterances(path, layout, geometry)
    except UserError as error:
        if isinstance(error.__cause__, UnnamedLayout):
            raise
        return [Utterance(problem=str(error).removeprefix(f"{path}: "))]


def refuse_few(items: Sequence[CodesItem], there: Sequence[CodesItem], least: float) -> None:
    """Raise UserError where fewer than the share `least` can be decoded or are `there` already."""
    kept = {item.wav for item in there}
    lost = [item for item in items if item.problem is not None and item.wav not in kept]
    if lost and 1 - len(lost) / len(items) < least:
        raise UserError(
            f"{len(lost):,} of {len(items):,} cannot be decoded ({lost[0].file}: "
            f"{lost[0].problem}), and min_coverage is {least:g}; mend or remove them, or lower it"
        )
