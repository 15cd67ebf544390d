"""From what lies in a file to interleaved rows, once its layout is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

import numpy as np

from ttt.snac.code_files.contents import Content, UnnamedLayout
from ttt.snac.config import ORPHEUS_BASE, ORPHEUS_ORDER, CodeLayout
from ttt.snac.geometry import CodeGeometry
from ttt.snac.orpheus.frames import (
    CODES_PER_PLACE,
    PLACES,
    BadFrame,
    FrameReader,
    checked_order,
)


@dataclass(frozen=True)
class Layout:
    """What the caller says of the files."""

    name: CodeLayout | None = None
    """Of what does not tell it by itself; None where nothing is said."""
    base: int = ORPHEUS_BASE
    """Id of code 0 at place 0 of an Orpheus frame."""
    order: tuple[int, ...] = ORPHEUS_ORDER
    """Which column of an interleaved row each place of an Orpheus frame holds."""

    def of(self, content: Content) -> CodeLayout:
        """The layout of a file's content.

        Raises ValueError for one that is unknown, UnnamedLayout where none is named or two are.
        """
        said = content.layout
        if said is not None and said not in get_args(CodeLayout):
            raise ValueError(f"its layout is {said}; known are {', '.join(get_args(CodeLayout))}")
        if isinstance(content.value, list):
            if said not in (None, "scales"):
                raise ValueError(f"its layout is {said}, and it holds an array for each scale")
            return "scales"
        if isinstance(content.value, str):
            return "orpheus"
        if said is not None and self.name not in (None, said):
            raise UnnamedLayout(
                f"its own layout is {said}, and layout={self.name} is asked for; decode it by "
                "itself, without layout"
            )
        found = said or self.name
        if found is None:
            _refuse_no_integers(content.value)
            shape = "[n, 7]" if content.value.ndim == 2 else str(content.value.shape)
            raise UnnamedLayout(
                f"an array {shape} whose layout is not named; give layout=interleaved (rows of 1 "
                "coarse, 2 middle, 4 fine codes) or layout=orpheus (coarse, middle, fine, fine, "
                "middle, fine, fine), or name it in the file"
            )
        return cast(CodeLayout, found)

    def told(self, layout: CodeLayout) -> str:
        """What the codes depend on besides the file, on one line."""
        if layout != "orpheus":
            return layout
        return f"orpheus, base {self.base}, order {' '.join(map(str, self.order))}"


def rows_of(
    content: Content, layout: Layout, geometry: CodeGeometry
) -> tuple[np.ndarray, tuple[BadFrame, ...]]:
    """Interleaved int16 rows [n, codes_per_coarse], and the frames that are not among them.

    Raises ValueError with the reason, UnnamedLayout as `Layout.of` does.
    """
    name, value = layout.of(content), content.value
    if name == "orpheus":
        rows, bad = _from_tokens(value, layout)
    elif name == "scales":
        rows, bad = _from_scales(value, geometry), ()
    else:
        rows, bad = _from_rows(value, geometry), ()
    return _checked(rows, geometry), bad


def _from_tokens(
    value: str | np.ndarray | list[np.ndarray], layout: Layout
) -> tuple[np.ndarray, tuple[BadFrame, ...]]:
    assert not isinstance(value, list)
    if isinstance(value, np.ndarray):
        _refuse_no_integers(value)
        if value.size == 0:
            raise ValueError("holds no codes")
        if _are_codes(value, layout.base):
            return _from_frames(value, layout)
    reader = FrameReader(layout.base, layout.order)
    rows = reader.push(value)
    reader.finish()
    reader.refuse_no_token()
    if len(rows) == 0:
        raise ValueError(f"holds no whole frame ({reader.bad[0]})")
    return rows, tuple(reader.bad)


def _are_codes(numbers: np.ndarray, base: int) -> bool:
    """Whether rows of seven are codes whose offsets were taken off, and not ids."""
    if numbers.ndim != 2 or numbers.shape[1] != PLACES:
        return False
    offsets = base + CODES_PER_PLACE * np.arange(PLACES)
    of_codes = _frames_within(numbers, 0).sum()
    of_ids = _frames_within(numbers, offsets).sum()
    if of_codes == of_ids == 0:  # Each is damaged; 4096 is the common code that is none.
        return bool(numbers.max() <= CODES_PER_PLACE < base)
    return bool(of_codes > of_ids)


def _frames_within(numbers: np.ndarray, first: int | np.ndarray) -> np.ndarray:
    """Whether each row has every number among the codes that are counted from `first`."""
    inside = (numbers >= first) & (numbers < first + CODES_PER_PLACE)
    return np.asarray(inside.all(axis=1))


def _from_frames(frames: np.ndarray, layout: Layout) -> tuple[np.ndarray, tuple[BadFrame, ...]]:
    """Rows of frames of codes [n, 7], each by itself, and those with a number that is no code."""
    whole = _frames_within(frames, 0)
    bad = []
    for number in np.flatnonzero(~whole).tolist():
        alien = next(x for x in frames[number].tolist() if not 0 <= x < CODES_PER_PLACE)
        bad.append(BadFrame(number, f"code {alien} is none of 0 to {CODES_PER_PLACE - 1}"))
    if not whole.any():
        raise ValueError(f"holds no whole frame ({bad[0]})")
    return frames[whole][:, np.argsort(checked_order(layout.order))], tuple(bad)


def _from_scales(value: object, geometry: CodeGeometry) -> np.ndarray:
    if not isinstance(value, list):
        shape = getattr(value, "shape", None)
        raise ValueError(f"shape {shape}; layout scales needs an array for each scale")
    for array in value:
        _refuse_no_integers(array)
    shapes = [array.shape for array in value]
    value = [array[0] if array.ndim == 2 and len(array) == 1 else array for array in value]
    if any(array.ndim != 1 for array in value):
        raise ValueError(f"shapes {shapes}; needed is one clip, [L] or [1, L] per codebook")
    return geometry.interleave(value)


def _from_rows(rows: object, geometry: CodeGeometry) -> np.ndarray:
    assert isinstance(rows, np.ndarray)
    if rows.ndim != 2 or rows.shape[1] != geometry.codes_per_coarse:
        raise ValueError(
            f"shape {rows.shape}; needed is [n, {geometry.codes_per_coarse}], "
            "one row per coarsest token"
        )
    return rows


def _checked(codes: np.ndarray, geometry: CodeGeometry) -> np.ndarray:
    if codes.size == 0:
        raise ValueError("holds no codes")
    _refuse_no_integers(codes)
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= geometry.codebook_size:
        raise ValueError(
            f"codes from {low} to {high}; the codebook has 0 to {geometry.codebook_size - 1}"
        )
    return codes.astype(np.int16)


def _refuse_no_integers(array: np.ndarray) -> None:
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"holds {array.dtype}; codes are integers")
