"""A model's own text of a recording, heard from its beginning: what caches keep beside codes.

The same passes as an evaluation with `text_stream="own"` makes, without its depformer.
"""

from __future__ import annotations

from typing import Unpack

import numpy as np
import numpy.typing as npt
import torch
from moshi.models.lm import LMModel
from torch import Tensor

from ttt.moshi.streaming.delays import Delays
from ttt.moshi.streaming.session import Session
from ttt.moshi.streaming.streams import StreamChoices, Streams


def own_text(
    lm: LMModel, codes: Tensor, *, chunk: int, **streams: Unpack[StreamChoices]
) -> npt.NDArray[np.int32]:
    """The text that the model chooses for each frame of one recording: int32 [T].

    Args:
        codes: [1, Q, T].
        chunk: steps of a pass; in bfloat16 part of what the text is.
        streams: as `Streams` takes them; the text is the model's own.

    Raises:
        UserError: codes or streams that do not fit the model.
    """
    heard = Streams(lm, codes, **{**streams, "text_stream": "own"})
    steps = Delays.of(lm).steps(heard.frames)
    parts: list[Tensor] = []
    with Session(lm, 1, max_chunk=chunk, max_steps=steps) as session:
        while session.position < steps:
            first = session.position
            count = min(chunk, steps - first)
            alive = heard.hears(first, count) if heard.any_ends(first, count) else None
            parts.append(session.listen_own(heard.audio(first, count), alive).text.cpu())
    return torch.cat(parts, dim=1)[0, : heard.frames].numpy().astype(np.int32)
