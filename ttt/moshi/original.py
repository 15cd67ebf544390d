"""The faults of the original evaluation, made again on purpose, so that their effect can be seen.

The original drove Moshi's generator a call per frame and scored each call's logits. Call t hears
frames up to t - 1 and says frame t, or would, but for

    the two-frame gap   its logits were scored on frame t + 2, all codebooks alike, and the
                        depformer was forced with the codes of that frame too
    undelayed codes     frame t was written for the next call to hear as it is, where the model
                        hears the acoustic codes of a frame one step after its semantic one
    stale text          the depformer was told the text of the call before

and the other voice said code 0, which is neither silence nor nothing. The generator returns nothing
from its first call, so that the original's list of losses begins with call 1: its entry i, and
frame i of a Block here, is call i + 1 scored on frame i + 3. Of the last three frames of a
recording there is none.

Shapes: B recordings, Q codebooks of a voice (8), T frames, n steps of these.
"""

from __future__ import annotations

import dataclasses

import torch
from moshi.models.lm import LMModel
from torch import Tensor

from ttt.errors import UserError
from ttt.moshi.streaming.delays import Delays
from ttt.moshi.streaming.evaluate import Evaluation
from ttt.moshi.streaming.heads import TemporalOutput
from ttt.moshi.streaming.streams import Streams

_GAP = 2


class OriginalEvaluation(Evaluation):
    """`Evaluation` with the original's faults, of recordings that are equally long.

    Args:
        codes: [B, Q, T] integers, 0 to card - 1.
        chunk: steps per pass of the temporal transformer.

    Raises:
        UserError: as `Evaluation`; a model of other streams than Moshi's; too few frames for one
            loss.
    """

    def __init__(self, lm: LMModel, codes: Tensor, *, chunk: int = 32) -> None:
        delays = Delays.of(lm)
        if lm.n_q != 2 * lm.dep_q or codes.shape[1] != lm.dep_q or delays.longest > _GAP:
            raise UserError(
                f"preset original hears a voice of {codes.shape[1]} codebooks through Moshi's "
                f"streams, and this model predicts {lm.dep_q} of {lm.n_q}: leave the preset out"
            )
        calls = codes.shape[2] - _GAP
        if calls <= delays.longest:
            raise UserError(
                f"a recording of {codes.shape[2]} frames is too short for preset original, which "
                f"scores none of fewer than {delays.longest + _GAP + 1}"
            )
        # Codes moved ahead by their delays are heard undelayed.
        heard = delays.by_frame(codes)[:, :, :calls]
        super().__init__(Streams(lm, heard, other_stream="zero_id"), chunk=chunk)
        self._codes, self._steps = codes, calls

    def _ready(self) -> TemporalOutput:
        heard = super()._ready()
        steps, first = heard.text.shape[1], self._scored + _GAP
        late = self._codes[:, :, first : first + steps].to(heard.forced)
        # Nobody reads the first call's losses, so that any text does before it.
        missing = self._delays.longest - self._text.shape[1]
        unread = heard.text.new_full((len(heard.text), missing), self._delays.text_initial)
        texts = torch.cat([unread, self._text.to(heard.text), heard.text], dim=1)
        other = heard.forced[:, 1 + self._delays.predicted :]
        forced = torch.cat([texts[:, None, :steps], late, other], dim=1)
        return dataclasses.replace(heard, forced=forced)

    def _by_frame(self, nll: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        unreturned = self._delays.longest
        return nll[:, :, unreturned:], text[:, unreturned:]
