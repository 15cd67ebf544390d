"""What fills Moshi's streams while it listens: one vocabulary for chapters and pairs.

    text_stream    own            the model's own argmax
                   pad            the padding token, as in silence
                   masked         nothing (ZERO_TOKEN)
                   transcript     given tokens
                   silence_codes  the semantic codes of silence, in place of text: a confusion of
                                  two vocabularies that earlier evaluations made, for comparison
    stream         moshi | user   which voice the recording is
    other_stream   silence        Mimi's codes of silence, in the other voice
                   masked         nothing
                   zero_id        code 0, which is not silence
                   audio          the recording again

Streams are made a stretch at a time, from tokens that lie on the model's device.

Shapes: B recordings, Q codebooks of a voice (8), K tokens per frame, T frames, n frames of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict, get_args

import torch
from moshi.models.lm import LMModel
from torch import Tensor

from ttt.errors import UserError
from ttt.moshi.streaming.delays import ZERO_TOKEN

TextStream = Literal["own", "pad", "masked", "transcript", "silence_codes"]
OtherStream = Literal["silence", "masked", "zero_id", "audio"]
VoiceStream = Literal["moshi", "user"]


class StreamChoices(TypedDict, total=False):
    """What `Streams` may be told of one model's recordings."""

    text_stream: str | Tensor
    other_stream: str | Tensor
    stream: str
    silence: Tensor | None
    lengths: Sequence[int] | None


class Streams:
    """The tokens of B recordings for one model.

    Args:
        codes: [B, Q, T] integers, 0 to card - 1.
        text_stream, other_stream: a word of the vocabulary, or the tokens themselves: text [B, T],
            the other voice [B, Q, T]. "transcript" stands for tokens and is refused as a word.
        silence: [Q, T or more] codes of silence, for the words that need them.
        lengths: frames of each recording; what codes hold beyond them is ignored.

    Raises:
        UserError: codes, words or tokens that do not fit the model.
    """

    def __init__(
        self,
        lm: LMModel,
        codes: Tensor,
        *,
        text_stream: str | Tensor = "own",
        other_stream: str | Tensor = "masked",
        stream: str = "moshi",
        silence: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.lm, self.codes, self._silence = lm, codes, silence
        self._check_codes()
        self.batch, self.codebooks, self.frames = codes.shape
        self.lengths = torch.tensor(lengths or [self.frames] * self.batch)
        if self.lengths.shape != (self.batch,) or self.lengths.min() < 1:
            raise UserError(f"lengths={lengths}: {self.batch} recordings of 1 or more frames each")
        if self.lengths.max() > self.frames:
            raise UserError(f"lengths={lengths}, but the codes hold {self.frames} frames")
        self._check_words(text_stream, other_stream, stream)
        self._text, self._other, self._stream = text_stream, other_stream, stream
        self._shortest, self._on_device = int(self.lengths.min()), dict[str, Tensor]()
        alive = self.alive(0, self.frames)[:, None].to(codes.device)
        check_tokens("codes", codes if alive.all() else codes * alive, lm.card, lowest=0)

    @property
    def own_text(self) -> bool:
        """Whether the model chooses the text."""
        return isinstance(self._text, str) and self._text == "own"

    @property
    def predicted(self) -> slice:
        """Which of the codebooks that the model predicts are the recording's."""
        first = self.codebooks if self._stream == "user" else 0
        return slice(first, first + self.codebooks)

    def alive(self, first: int, count: int) -> Tensor:
        """[B, count] whether each recording has frames first, first + 1, ..."""
        return torch.arange(first, first + count) < self.lengths[:, None]

    def hears(self, first: int, count: int) -> Tensor:
        """`alive` on the model's device."""
        frames = torch.arange(first, first + count, device=self.lm.device)
        return frames < self._brought("lengths", self.lengths)[:, None]

    def any_ends(self, first: int, count: int) -> bool:
        """Whether some recording lacks one of the frames first, first + 1, ..."""
        return first + count > self._shortest

    def audio(self, first: int, count: int) -> Tensor:
        """[B, K - 1, count] int64 codes of both voices; ZERO_TOKEN after a recording's end."""
        codes = self._stretch("codes", self.codes, first, count)
        voices = [codes]
        if self.lm.n_q > self.codebooks:
            voices.append(self._other_voice(codes, first, count))
        if self._stream == "user":
            voices.reverse()
        ended = ~self.hears(first, count)[:, None]
        return torch.cat(voices, dim=1).masked_fill(ended, ZERO_TOKEN)

    def text(self, first: int, count: int) -> Tensor:
        """[B, count] int64 text; tokens that differ by frame end with their recording."""
        if isinstance(self._text, Tensor):
            given = self._stretch("text", self._text[:, None], first, count)[:, 0]
        elif self._text == "silence_codes" and self._silence is not None:
            given = self._stretch("silence", self._silence, first, count)[:1]
            given = given.expand(self.batch, -1)
        else:
            token = self.lm.text_padding_token_id if self._text == "pad" else ZERO_TOKEN
            return torch.full((self.batch, count), token, device=self.lm.device)
        # The last step is told the text after the end, which must not hang on the batch.
        return given.masked_fill(~self.hears(first, count), ZERO_TOKEN)

    def _other_voice(self, codes: Tensor, first: int, count: int) -> Tensor:
        if isinstance(self._other, Tensor):
            return self._stretch("other", self._other, first, count)
        if self._other == "silence" and self._silence is not None:
            silence = self._stretch("silence", self._silence, first, count)
            return silence.expand(self.batch, -1, -1)
        if self._other == "audio":
            return codes
        return torch.full_like(codes, 0 if self._other == "zero_id" else ZERO_TOKEN)

    def _stretch(self, name: str, tokens: Tensor, first: int, count: int) -> Tensor:
        """Frames of the tokens [..., T] of that name, ZERO_TOKEN after the last."""
        tokens = self._brought(name, tokens)
        part = tokens[..., first : min(first + count, self.frames)].long()
        return torch.nn.functional.pad(part, (0, count - part.shape[-1]), value=ZERO_TOKEN)

    def _brought(self, name: str, tokens: Tensor) -> Tensor:
        """What a whole recording needs on the model's device, copied once: then no pass waits.

        In the type it was given in, a few MB for hours of recordings.
        """
        if name not in self._on_device:
            self._on_device[name] = tokens.to(self.lm.device)
        return self._on_device[name]

    # -- what does not fit -----------------------------------------------------------------------

    def _check_codes(self) -> None:
        codes, lm = self.codes, self.lm
        voices = [q for q in (lm.n_q, lm.n_q // 2) if q <= lm.dep_q]
        if codes.dim() != 3 or codes.is_floating_point():
            raise UserError(f"codes are {codes.dtype} {list(codes.shape)}, not integers [B, Q, T]")
        if codes.shape[1] not in voices:
            raise UserError(
                f"codes have {codes.shape[1]} codebooks, and a voice of this model has "
                f"{voices[0] if voices else lm.dep_q}: encode them for this model"
            )
        if not codes.numel():
            raise UserError("the codes hold no frame: leave empty recordings out")

    def _check_words(self, text: str | Tensor, other: str | Tensor, stream: str) -> None:
        for name, value, words in (
            ("text_stream", text, get_args(TextStream)),
            ("other_stream", other, get_args(OtherStream)),
            ("stream", stream, get_args(VoiceStream)),
        ):
            if isinstance(value, str) and value not in words:
                raise UserError(f"{name}={value!r} is none of {', '.join(words)}")
        single = self.lm.n_q == self.codebooks
        if single and (stream == "user" or isinstance(other, Tensor) or other != "masked"):
            raise UserError(
                "this model has no user stream: use stream='moshi' and other_stream='masked'"
            )
        if stream == "user" and self.lm.dep_q < 2 * self.codebooks:
            raise UserError(
                f"stream='user' needs a model that predicts the user's codes, and this one "
                f"predicts {self.lm.dep_q} codebooks, its own: use stream='moshi'"
            )
        if isinstance(text, str) and text == "transcript":
            raise UserError("text_stream='transcript' needs its tokens: give them as a tensor")
        self._check_silence(text, other)
        if isinstance(text, Tensor):
            self._check_tokens("text_stream", text, self.codes[:, 0].shape, self.lm.text_card)
        if isinstance(other, Tensor):
            self._check_tokens("other_stream", other, self.codes.shape, self.lm.card)

    def _check_silence(self, text: str | Tensor, other: str | Tensor) -> None:
        words = [word for word in (text, other) if isinstance(word, str)]
        asked = [word for word in words if word.startswith("silence")]
        if not asked:
            return
        if self._silence is None:
            raise UserError(f"{asked[0]!r} needs the codes of silence: give silence=[Q, T]")
        codebooks, frames = self._silence.shape
        if codebooks != self.codebooks or frames < self.frames:
            raise UserError(
                f"silence is {[codebooks, frames]}: {[self.codebooks, self.frames]} are needed"
            )
        self._check_tokens("silence", self._silence, self._silence.shape, self.lm.card)
        if "silence_codes" in asked:
            check_tokens("silence as text", self._silence[0], self.lm.text_card)

    def _check_tokens(self, name: str, tokens: Tensor, shape: Sequence[int], card: int) -> None:
        if tokens.is_floating_point() or tokens.shape != torch.Size(shape):
            raise UserError(f"{name} is {tokens.dtype} {list(tokens.shape)}, not {list(shape)}")
        check_tokens(name, tokens, card)


def check_tokens(name: str, tokens: Tensor, vocabulary: int, lowest: int = ZERO_TOKEN) -> None:
    """Refuse tokens that the model does not know: on a GPU they would corrupt it unnoticed.

    Raises:
        UserError: naming the first token outside `lowest` to vocabulary - 1, and its place.
    """
    wrong = (tokens < lowest) | (tokens >= vocabulary)
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise UserError(
            f"{name} holds {int(tokens[tuple(place)])} at {place}: this model knows "
            f"{lowest} to {vocabulary - 1}"
        )
