"""How well Moshi predicts recordings, at every frame: exact, streaming, in constant memory.

`evaluate_codes` scores codes that fit in memory. `Evaluation` yields the same numbers a stretch at
a time, and can be saved between any two of them and continued elsewhere:

    with Evaluation(Streams(lm, codes)) as evaluation:
        for block in evaluation:
            write(block); keep(evaluation.save_state())

The temporal transformer hears a chunk per pass; the depformer follows once a block of steps stands.
Chunk and batch are part of a result's identity: in float32 they move it by rounding (below 1e-5),
in bfloat16 by more.

Shapes: B recordings, Q codebooks of a voice (8), T frames, n frames or steps of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar, Unpack

import torch
from moshi.models.lm import LMModel
from torch import Tensor
from torch.nn import functional as F

from ttt.device_errors import is_out_of_memory
from ttt.errors import UserError
from ttt.moshi.streaming.delays import ZERO_TOKEN, Delays
from ttt.moshi.streaming.heads import TemporalOutput, join
from ttt.moshi.streaming.session import Session
from ttt.moshi.streaming.speculate import Acceptance
from ttt.moshi.streaming.state import cpu_copy
from ttt.moshi.streaming.streams import StreamChoices, Streams

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class ChapterNLL:
    """The score of every frame of B recordings."""

    nll: Tensor
    """[B, Q, T] float32 nats: -log p(codes[b, q, t]), aligned with codes; NaN after a recording's
    end."""
    text: Tensor
    """[B, T] text that the model was told; its own argmax by default."""
    acceptance: float
    """Share of the computed steps that stood; 1 where the text was known."""
    near_ties: int
    """Own text chosen where the two best logits were closer than 1e-4."""
    passes: int
    """Forward passes of the temporal transformer."""
    chunks: tuple[tuple[int, int], ...]
    """(step, chunk) from which step on which chunk was used: more than one pair when the memory
    did not suffice."""


@dataclasses.dataclass(frozen=True)
class Block:
    """The finished frames of one stretch; on the CPU."""

    first_frame: int
    nll: Tensor  # [B, Q, n] float32
    text: Tensor  # [B, n] int64


def evaluate_codes(
    lm: LMModel,
    codes: Tensor,
    *,
    chunk: int = 32,
    reset_ttt_every: int | None = None,
    **streams: Unpack[StreamChoices],
) -> ChapterNLL:
    """Score every code of B recordings; the arguments are those of `Streams` and `Evaluation`."""
    with Evaluation(
        Streams(lm, codes, **streams), chunk=chunk, reset_ttt_every=reset_ttt_every
    ) as evaluation:
        blocks = list(evaluation)
        acceptance = evaluation.acceptance
        return ChapterNLL(
            torch.cat([block.nll for block in blocks], dim=2),
            torch.cat([block.text for block in blocks], dim=1),
            acceptance.rate,
            acceptance.near_ties,
            acceptance.passes,
            tuple(evaluation.chunks),
        )


class Evaluation:
    """Recordings being scored: a context manager, and an iterator of Blocks in order.

    Args:
        streams: the recordings, and what stands beside them.
        chunk: steps per pass of the temporal transformer.
        reset_ttt_every: frames after which TTT layers forget, again and again, while attention does
            not (a control); None: never.

    Raises:
        UserError: what does not fit the model; while iterating, loss that is not a number, or a
            machine whose memory does not suffice even for one step at a time.
    """

    def __init__(
        self, streams: Streams, *, chunk: int = 32, reset_ttt_every: int | None = None
    ) -> None:
        self._streams, lm = streams, streams.lm
        if reset_ttt_every is not None and reset_ttt_every < 1:
            raise UserError(f"reset_ttt_every={reset_ttt_every} must be 1 or more frames, or None")
        self._reset_ttt_every = reset_ttt_every
        self._delays = Delays.of(lm)
        self._steps = self._delays.steps(self._streams.frames)
        self.session = Session(lm, self._streams.batch, max_chunk=chunk, max_steps=self._steps)
        self._start()

    def __enter__(self) -> Self:
        self._start()
        self.session.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.session.__exit__(kind, error, traceback)

    def __iter__(self) -> Iterator[Block]:
        while self._scored < self._steps:
            block = self._next_block()
            if block.text.shape[1]:
                yield block

    @property
    def acceptance(self) -> Acceptance:
        """Passes, steps computed and kept, near ties so far."""
        return self.session.acceptance

    @property
    def chunk(self) -> int:
        """Steps per pass now."""
        return self.chunks[-1][1]

    @property
    def block_steps(self) -> int:
        """Steps that the depformer takes at once: no block is longer."""
        return self.chunk * chunks_per_block(self._streams.batch, self.session.max_chunk)

    @property
    def frames_done(self) -> int:
        """Frames in the blocks so far."""
        return max(0, self._scored - self._delays.longest)

    def save_state(self) -> dict[str, Tensor]:
        """All that is needed to go on after the last block, as tensors by name."""
        counts = dataclasses.astuple(self.acceptance)
        own = {
            "scored": torch.tensor(self._scored),
            "chunks": torch.tensor(self.chunks),
            "acceptance": torch.tensor(counts),
            "nll": self._nll,
            "text": self._text,
        }
        own |= {f"pending.{name}": tensor for name, tensor in vars(join(self._pending)).items()}
        saved = {f"evaluation.{name}": cpu_copy(tensor) for name, tensor in own.items()}
        return saved | self.session.save_state()

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on with the block after the saved one: the same numbers, bit for bit.

        Raises:
            UserError: the state is of another model, batch or chapter.
        """
        start, device = "evaluation.", self.session.lm.device
        own = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
        if "scored" not in own or int(own["scored"]) > self._steps:
            raise UserError("the saved state is not of this chapter: start the chapter anew")
        self.session.load_state({k: t for k, t in tensors.items() if not k.startswith(start)})
        self._scored = int(own["scored"])
        self.chunks = [(int(step), int(chunk)) for step, chunk in own["chunks"]]
        self.session.acceptance = Acceptance(*own["acceptance"].tolist())
        self._nll, self._text = own["nll"].clone(), own["text"].clone()
        fields = [field.name for field in dataclasses.fields(TemporalOutput)]
        self._pending = [TemporalOutput(*(own[f"pending.{name}"].to(device) for name in fields))]

    def _start(self) -> None:
        self._scored = 0
        self.chunks = [(0, self.session.max_chunk)]
        self._pending = [self.session.nothing()]
        # Of the steps scored last: their delayed codebooks belong to the frames before.
        self._nll = torch.empty(self._streams.batch, self._delays.predicted, 0)
        self._text = torch.empty(self._streams.batch, 0, dtype=torch.long)

    def _next_block(self) -> Block:
        while self._pending_steps < min(self.block_steps, self._steps - self._scored):
            self._sparingly(self._listen)
        nll, text = self._sparingly(self._score)
        steps = text.shape[1]
        self._pending = [self._pending[0][steps:]]
        first = self.frames_done
        self._scored += steps
        nll, text = torch.cat([self._nll, nll], dim=2), torch.cat([self._text, text], dim=1)
        kept = min(self._delays.longest, text.shape[1])
        self._nll, self._text = nll[:, :, text.shape[1] - kept :], text[:, text.shape[1] - kept :]
        return self._finished(first, *self._by_frame(nll, text))

    def _listen(self) -> None:
        """Hear a chunk more."""
        first = self.session.position
        count = min(self.chunk, self._steps - first)
        if every := self._reset_ttt_every:
            if first % every == 0:
                self.session.reset_ttt()
            count = min(count, every - first % every)
        audio = self._streams.audio(first, count)
        if not self._streams.own_text:
            self._pending.append(self.session.listen(audio, self._streams.text(first, count)))
            return
        alive = self._streams.hears(first, count) if self._streams.any_ends(first, count) else None
        self._pending.append(self.session.listen_own(audio, alive))

    def _score(self) -> tuple[Tensor, Tensor]:
        """NLL [B, predicted, n] and text [B, n] of the next pending steps, on the CPU."""
        self._pending = [join(self._pending)]
        heard = self._ready()
        logits = self.session.audio_logits(heard)
        targets = self._delays.predicted_codes(heard.forced)
        return negative_log_likelihood(logits, targets).cpu(), heard.text.cpu()

    def _ready(self) -> TemporalOutput:
        """The next pending steps, as the depformer is to take them."""
        return self._pending[0][: self.block_steps]

    def _by_frame(self, nll: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """NLL [B, Q, n] and text [B, n] of whole frames, of NLL [B, predicted, S] by step."""
        by_frame = self._delays.by_frame(nll)[:, self._streams.predicted]
        return by_frame, text[:, : by_frame.shape[2]]

    def _finished(self, first: int, nll: Tensor, text: Tensor) -> Block:
        alive = self._streams.alive(first, text.shape[1])[:, None]
        if not (nll.isfinite() | ~alive).all():
            row, codebook, frame = (~nll.isfinite() & alive).nonzero()[0].tolist()
            raise UserError(
                f"the loss of codebook {codebook} of frame {first + frame} (recording {row} of its "
                "batch) is not a finite number: check the checkpoint, or evaluate in float32"
            )
        return Block(first, nll.masked_fill(~alive, torch.nan).float(), text)

    @property
    def _pending_steps(self) -> int:
        return sum(part.text.shape[1] for part in self._pending)

    def _sparingly(self, work: Callable[[], _Result]) -> _Result:
        """Do the work; with half the chunk, and again, as long as the memory does not suffice."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.chunk == 1:
                    raise UserError(
                        f"out of memory at step {self.session.position} with one step at a time: "
                        f"lower the batch ({self._streams.batch}) or use a larger device"
                    ) from error
            self.chunks.append((self.session.position, self.chunk // 2))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) of logits [..., card], in float32 or finer; NaN where the target is -1."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    nll = F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), reduction="none", ignore_index=ZERO_TOKEN
    )
    return nll.view_as(targets).masked_fill(targets == ZERO_TOKEN, torch.nan)


def chunks_per_block(batch: int, chunk: int) -> int:
    """Chunks that the depformer takes at once: it is small, and small batches leave it idle."""
    return max(1, _DEPFORMER_ROWS // (batch * chunk))


_DEPFORMER_ROWS = 128
