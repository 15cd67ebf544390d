"""Moshi listening to recordings, by the step or by the chunk, with all it predicts on the way.

    with Session(lm, batch=1) as session:
        for frame in codes:                       # [B, 16] each
            prediction = session.step(frame)

The forward that gives a prediction is the one that advances the state: attention's rings and what
TTT layers learn. Any cut into chunks gives the same numbers, and so does `LMModel.forward`.
Nothing of the published package is replaced or patched.

Shapes: B streams, K tokens per frame (text and K - 1 audio codebooks), Q codebooks predicted,
n steps, D width of the model, V text vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch
from moshi.models.lm import LMModel
from moshi.utils.compile import no_compile
from torch import Tensor

from ttt.errors import UserError
from ttt.moshi.streaming import heads
from ttt.moshi.streaming.delays import Delays
from ttt.moshi.streaming.heads import Prediction, TemporalOutput, join
from ttt.moshi.streaming.speculate import Acceptance, best_text, guess_text, steps_that_stand
from ttt.moshi.streaming.state import StreamingState, cpu_copy
from ttt.moshi.streaming.streams import check_tokens


class Session:
    """One model listening to B recordings in step; a context manager.

    Frame f is given at step f: the step hears the frames before it and predicts the undelayed
    codebooks of frame f and the delayed ones of the frame before (`ttt.moshi.streaming.delays`).
    One more frame of ZERO_TOKEN after the last one completes its prediction.

    Args:
        max_chunk: the most steps that one call may take and that can be taken back.
        max_steps: the most steps that will be heard in all, where that is known: a batch of short
            recordings then takes no rings for attention's whole window.

    Raises:
        UserError: on entering, when the model streams already or cannot stream.
    """

    def __init__(
        self, lm: LMModel, batch: int, *, max_chunk: int = 64, max_steps: int | None = None
    ) -> None:
        if batch < 1 or max_chunk < 1:
            raise UserError(f"batch={batch} and max_chunk={max_chunk} must both be 1 or more")
        self.lm, self.batch, self.max_chunk, self.max_steps = lm, batch, max_chunk, max_steps
        self.delays = Delays.of(lm)
        self.acceptance = Acceptance()
        self._open: StreamingState | None = None
        self._forget()

    def __enter__(self) -> Self:
        self._forget()
        with torch.no_grad():
            self._open = StreamingState(self.lm, self.batch, self.max_chunk, self.max_steps)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state.close()
        self._open = None

    @property
    def position(self) -> int:
        """Steps taken."""
        return self._state.position

    def step(self, audio: Tensor, text: Tensor | None = None) -> Prediction:
        """One step: `step_chunk` of audio [B, K - 1] and text [B]."""
        chunk = self.step_chunk(audio[:, :, None], None if text is None else text[:, None])
        return Prediction(
            chunk.text_logits[:, 0], chunk.text[:, 0], chunk.audio_logits[:, :, 0],
            chunk.targets[:, :, 0],
        )  # fmt: skip

    def step_chunk(self, audio: Tensor, text: Tensor | None = None) -> Prediction:
        """Hear n frames.

        Args:
            audio: [B, K - 1, n] codes of the frames, the model's own voice first; ZERO_TOKEN where
                a stream is silent to the model.
            text: [B, n] text of the frames; None lets the model choose its own.

        Raises:
            UserError: more than max_chunk steps, another number of streams, or tokens outside the
                model's vocabulary.
        """
        audio = audio.to(self.lm.device, torch.long)
        self._check(audio, text)
        parts, done = [], 0
        with self._taking_back_on_error():
            while done < audio.shape[2]:
                if text is None:
                    parts.append(self.listen_own(audio[:, :, done:]))
                else:
                    parts.append(self.listen(audio, text.to(audio)))
                done += parts[-1].hidden.shape[1]
            heard = join(parts)
            return Prediction(
                self.text_logits(heard.hidden),
                heard.text,
                self.audio_logits(heard),
                self.delays.predicted_codes(heard.forced),
            )

    @torch.no_grad()
    def listen(self, audio: Tensor, text: Tensor) -> TemporalOutput:
        """The temporal half of `step_chunk` where the text is known; tokens are not checked."""
        steps = audio.shape[2]
        hidden, _, forced = self._forward(audio, text)
        self.acceptance.count(steps, steps)
        return TemporalOutput(hidden, text, forced)

    @torch.no_grad()
    def listen_own(self, audio: Tensor, alive: Tensor | None = None) -> TemporalOutput:
        """One pass over n frames with the model's own text; the first 1 to n of its steps stand.

        Args:
            alive: see `ttt.moshi.streaming.speculate.steps_that_stand`.
        """
        steps = audio.shape[2]
        guess = guess_text(self._guess, steps, self.lm.text_padding_token_id)
        with self._taking_back_on_error():
            hidden, logits, forced = self._forward(audio, guess)
            chosen, margin = best_text(self._exact(hidden, logits))
            kept, ties = steps_that_stand(guess, chosen, margin, alive)
            self._take_back(steps - kept)
            hidden, chosen, rejected = hidden[:, :kept], chosen[:, :kept], chosen[:, kept:]
            # The newest frame's text was guessed, but not heard yet.
            self._tokens[:, 0, -1] = chosen[:, -1]
            forced = torch.cat([chosen[:, None], forced[:, 1:, :kept]], dim=1)
            self.acceptance.count(steps, kept, ties)
        self._guess = rejected
        return TemporalOutput(hidden, chosen, forced)

    @torch.no_grad()
    def audio_logits(self, heard: TemporalOutput) -> Tensor:
        """[B, Q, n, card] of `ttt.moshi.streaming.heads`; needs and changes no state."""
        return heads.audio_logits(self.lm, heard.forced, heard.hidden)

    @torch.no_grad()
    def text_logits(self, hidden: Tensor) -> Tensor:
        """[B, n, V] of hidden [B, n, D], as `ttt.moshi.streaming.heads` computes them."""
        return heads.text_logits(self.lm, hidden)

    def nothing(self) -> TemporalOutput:
        """What no steps give: where joining begins."""
        shape, device = (self.batch, 0, self.lm.dim), self.lm.device
        hidden = torch.empty(shape, dtype=self.lm.dtype, device=device)
        tokens = torch.empty(
            self.batch, len(self.delays.by_stream), 0, dtype=torch.long, device=device
        )
        return TemporalOutput(hidden, tokens[:, 0], tokens)

    def mark(self) -> None:
        """From here on, up to max_chunk steps can be taken back.

        When a call would go further than that from the mark, the mark moves to where it starts.
        """
        self._state.mark()
        surplus = self.position - self.delays.heard_frames - self._first_frame
        if surplus > 0:
            self._tokens = self._tokens[:, :, surplus:].clone()
            self._first_frame += surplus

    def rollback(self, steps: int) -> None:
        """Take back the last steps, exactly.

        Raises:
            UserError: they reach back beyond the mark.
        """
        if not 0 <= steps <= self._state.since_mark:
            raise UserError(
                f"cannot take back {steps} steps: {self._state.since_mark} were taken since the "
                "mark (call mark() before the steps that may have to go)"
            )
        self._take_back(steps)
        self._guess = self._guess[:, :0]

    def reset(self) -> None:
        """As if nothing had been heard."""
        self._forget()
        self._state.reset()

    @torch.no_grad()
    def reset_ttt(self) -> None:
        """What TTT layers have learnt is gone, what attention has heard is not; a mark is set."""
        self.mark()
        self._state.reset_ttt()

    def save_state(self) -> dict[str, Tensor]:
        """All that is needed to go on, as tensors by name on the CPU, for safetensors to keep."""
        self._state.mend()
        heard = self._tokens[:, :, -self.delays.heard_frames :]
        own = {"session.heard": heard, "session.guess": self._guess}
        return {name: cpu_copy(tensor) for name, tensor in own.items()} | self._state.to_tensors()

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `save_state` gave: the same numbers, bit for bit, as without the break.

        Raises:
            UserError: the state is of another model, batch or choice of TTT layers.
        """
        own = {"session.heard", "session.guess"}
        if not own <= tensors.keys():
            raise UserError("this is not the state of a session: start the chapter anew")
        self._forget()  # Should the rest fail, nothing has been heard.
        self._state.load_tensors({k: tensor for k, tensor in tensors.items() if k not in own})
        self._tokens = tensors["session.heard"].to(self.lm.device).clone()
        self._first_frame = self.position - self._tokens.shape[2]
        self._guess = tensors["session.guess"].to(self.lm.device).clone()

    @torch.no_grad()  # Kept with its graph, every measurement would hold copies of all weights.
    def fast_weight_change(self) -> Tensor:
        """[TTT layers, B] how far the fast weights have moved from where they started, relatively.

        Of the committed weights: the open mini-batch does not count yet.
        """
        return self._state.fast_weight_change()

    @property
    def _state(self) -> StreamingState:
        if self._open is None:
            raise RuntimeError("this session is not open: use it as `with Session(lm, batch)`")
        return self._open

    def _forget(self) -> None:
        self._tokens, self._guess = self.nothing().forced, self.nothing().text
        self._first_frame = 0

    def _forward(self, audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden [B, n, D], text logits [B, n, V] and forced columns [B, K, n] of the next steps.

        Hidden and logits are in the model's type.
        """
        self._state.mend()
        steps = audio.shape[2]
        if steps > self.max_chunk:
            raise UserError(
                f"a chunk of {steps} steps does not fit: this session's rings have room for "
                f"{self.max_chunk}; open it with a larger max_chunk"
            )
        if self.max_steps is not None and self.position + steps > self.max_steps:
            raise UserError(
                f"step {self.position + steps} does not fit: this session was opened for "
                f"{self.max_steps} steps; open it with a larger max_steps"
            )
        if self._state.since_mark + steps > self.max_chunk:
            self.mark()
        tokens = torch.cat([self._tokens, torch.cat([text[:, None], audio], dim=1)], dim=2)
        columns = self.delays.columns(tokens, self.position - self._first_frame, steps + 1)
        with self._state.hearing(steps), no_compile():
            hidden, logits = self.lm.forward_text(columns[:, :, :-1])
        self._tokens = tokens
        return hidden, logits[:, 0], columns[:, :, 1:]

    def _take_back(self, steps: int) -> None:
        if steps:
            self._tokens = self._tokens[:, :, :-steps]
            self._state.take_back(steps)

    @contextmanager
    def _taking_back_on_error(self) -> Iterator[None]:
        """What is heard inside the block has not been heard when it ends in an error."""
        start, guess = self.position, self._guess
        try:
            yield
        except BaseException:
            self._guess = guess
            self._take_back(self.position - start)
            raise

    def _exact(self, hidden: Tensor, logits: Tensor) -> Tensor:
        half = logits.dtype in (torch.float16, torch.bfloat16)
        return self.text_logits(hidden) if half else logits

    def _check(self, audio: Tensor, text: Tensor | None) -> None:
        streams = len(self.delays.by_stream) - 1
        if audio.dim() != 3 or audio.shape[:2] != (self.batch, streams) or not audio.shape[2]:
            raise UserError(
                f"audio is {list(audio.shape)}: this session hears [{self.batch}, {streams}, n] "
                "codes, n of 1 or more"
            )
        check_tokens("audio", audio, self.delays.audio_initial)
        if text is not None:
            if text.shape != (self.batch, audio.shape[2]):
                raise UserError(f"text is {list(text.shape)}, not [{self.batch}, {audio.shape[2]}]")
            check_tokens("text", text, self.delays.text_initial)
