"""Tokens of Orpheus-style speech models, and the SNAC codes that they stand for.

    codes, bad_frames = to_codes(ids)      # or the text <custom_token_N>...; three tensors [1, L_k]
    audio = decoder.decode(codes)
    assert from_codes(codes) == ids        # without bad frames

A frame is seven tokens, one coarsest code with all the codes of its time:

| place k | 0 | 1 | 2 | 3 | 4 | 5 | 6 |
|---|---|---|---|---|---|---|---|
| code | c0[i] | c1[2i] | c2[4i] | c2[4i+1] | c1[2i+1] | c2[4i+2] | c2[4i+3] |

A token's id is base + 4096 * k + code, with base 128266 for Orpheus, and its text is
`<custom_token_N>` with N = 10 + 4096 * k + code, whatever the base. Every code from 0 to 4095 is a
real one. `order` says for another family which column of an interleaved row (one coarse, two
middle, four fine codes) each place holds.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttt.snac.config import ORPHEUS_BASE, ORPHEUS_ORDER
from ttt.snac.geometry import CodeGeometry
from ttt.snac.orpheus.frames import (
    CODES_PER_PLACE,
    PLACES,
    BadFrame,
    FrameReader,
    Tokens,
    checked_order,
    first_text_number,
)

__all__ = ["BadFrame", "FrameReader", "Tokens", "from_codes", "to_codes", "to_text"]


def to_codes(
    ids: Tokens, base: int = ORPHEUS_BASE, order: Sequence[int] = ORPHEUS_ORDER
) -> tuple[list[Tensor], list[int]]:
    """Codes of one utterance, coarsest first, and the numbers of the frames that are not in them.

    The codes are int64 tensors [1, n], [1, 2n], [1, 4n], as a decoder takes them. A frame with a
    token outside the range, of the wrong place, missing or too many is left out and named, counted
    from 0 over all frames, and so is half a frame at the end; the frames after it are read as if it
    had been whole. Ids that are no audio before, between and after whole frames are passed over.

    Args:
        ids: whole numbers (a list, an array, a tensor) or text that holds `<custom_token_N>`.

    Raises:
        ValueError: ids that are no whole numbers, or none of which is a token of this base; text
            without a token. No ids and empty text are no error: their codes are empty.
    """
    reader = FrameReader(base, order)
    rows = reader.push(ids)
    reader.finish()
    reader.refuse_no_token()
    geometry = CodeGeometry.preset("snac_24khz")
    codes = [
        torch.from_numpy(np.ascontiguousarray(rows[:, columns]).astype(np.int64)).reshape(1, -1)
        for columns in geometry.columns()
    ]
    return codes, [frame.number for frame in reader.bad]


def from_codes(
    codes: Sequence[Any], base: int = ORPHEUS_BASE, order: Sequence[int] = ORPHEUS_ORDER
) -> list[int]:
    """The ids of one utterance's codes (three tensors, arrays or lists [L] or [1, L]).

    Raises ValueError for codes that do not cover the same time, are none (4096, -1) or no whole
    numbers.
    """
    geometry, places = CodeGeometry.preset("snac_24khz"), checked_order(order)
    rows = geometry.interleave([_one_scale(k, scale) for k, scale in enumerate(codes)])
    if rows.size and not 0 <= rows.min() <= rows.max() < CODES_PER_PLACE:
        raise ValueError(
            f"codes from {rows.min()} to {rows.max()}; a codebook has 0 to {CODES_PER_PLACE - 1}"
        )
    offsets = base + CODES_PER_PLACE * np.arange(len(places))
    return (rows[:, places].astype(np.int64) + offsets).flatten().tolist()


def to_text(ids: Sequence[int], base: int = ORPHEUS_BASE) -> str:
    """Ids as the text that a model's tokenizer has for them: `<custom_token_N><custom_token_M>`.

    Raises ValueError for an id that has no such text with this base, and for what is no id.
    """
    first, end = first_text_number(base), base + PLACES * CODES_PER_PLACE
    numbers = []
    for each in ids:
        try:
            number = operator.index(each)
        except TypeError as error:
            raise ValueError(f"{each!r} is no id; ids are whole numbers") from error
        if not first <= number < end:
            raise ValueError(
                f"id {number} has no <custom_token_N>, which {first} to {end - 1} have; give the "
                "base that the ids are counted from"
            )
        numbers.append(number - first)
    return "".join(f"<custom_token_{number}>" for number in numbers)


def _one_scale(index: int, scale: Any) -> np.ndarray:
    array = np.asarray(scale.cpu() if isinstance(scale, Tensor) else scale)
    if array.size == 0:
        array = array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"scale {index} of the codes holds {array.dtype}; codes are integers")
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1:
        raise ValueError(
            f"scale {index} of the codes has shape {array.shape}; needed is one utterance, [L] or "
            "[1, L] per scale"
        )
    return array
