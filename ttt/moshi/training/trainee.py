"""TTT layers or LoRA in a frozen Moshi as something to train: what the training loop asks of it.

A step's loss is the weighted sum over the codes of all its windows divided by the sum of their
weights on all ranks. Only what is trained is saved, averaged, compared and sent between ranks.

Shapes: B windows, Q codebooks of a voice (8), S frames.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from moshi.models.lm import LMModel
from torch import Tensor

from ttt.codebook_weights import FIRST_CODEBOOK_WEIGHT
from ttt.device_errors import is_out_of_memory
from ttt.errors import UserError
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.training.config import MoshiTrainingConfig
from ttt.moshi.training.forward import training_nll
from ttt.moshi.training.freeze import freeze_base
from ttt.moshi.training.loss import weighed
from ttt.moshi.training.memory import sparing
from ttt.moshi.training.stages import learning_rates, plan_stages
from ttt.training.optim import Update
from ttt.training.schedules import EpochPlan
from ttt.training.trainee import MAIN, Trainee, Validation

if TYPE_CHECKING:  # Training needs no pyarrow, which reading a cache does.
    from ttt.moshi.chapter_cache.reader import ChapterCache
    from ttt.moshi.chapter_cache.windows import ChapterBatch

FRAMES, WEIGHT = "frames", "weight"
"""What a step counts: frames in the loss, and the weights of their codes."""


@dataclass(frozen=True, eq=False)
class WindowBatch:
    """A micro-batch of windows, on the CPU."""

    ids: Sequence[str]
    """[B] names of the windows, for messages; empty for a row without one."""
    codes: Tensor
    """[B, Q, S] of any integer type."""
    counted: Tensor
    """[B, S] bool: the frames whose codes are in the loss. What lies after a row's last one is
    padding and not heard; a row without any is left out."""
    text: Tensor | None = None
    """[B, S] text tokens of any integer type, where training is told the own text."""

    @classmethod
    def of(cls, read: ChapterBatch, cache: ChapterCache) -> Self:
        """The windows of a micro-batch that was read from `cache`; a row without one has no name
        and no frames."""
        windows = read.windows
        ids = [
            f"{cache.chapters[row].chapter_id}[{start}:{start + frames}]" if frames else ""
            for row, start, frames in zip(
                windows.rows.tolist(), windows.start.tolist(), windows.frames.tolist(), strict=True
            )
        ]
        places = torch.arange(windows.length)
        return cls(
            ids,
            torch.from_numpy(read.codes).transpose(1, 2),
            places < torch.from_numpy(windows.frames)[:, None],
            None if read.text is None else torch.from_numpy(read.text),
        )


class MoshiTrainee(Trainee[WindowBatch]):
    """A Moshi with TTT layers or LoRA inserted, its stages, optimizer and validation."""

    item_name = "windows"
    rate_key = "optim.peak_rates"

    def __init__(
        self,
        lm: LMModel,
        config: MoshiTrainingConfig,
        validation: Validation | None = None,
        *,
        silence: Tensor | None = None,
    ) -> None:
        """Freeze the model but for what `insert_trained` has put into it.

        Args:
            silence: [Q, frames of the longest stage or more] codes of silence, for other: silence.

        Raises:
            UserError: nothing was inserted, or the codes of silence are missing or too few.
        """
        self.lm = lm
        self.config = config
        self.epochs = plan_stages(config.stages)
        self.validation = validation
        self.trained = freeze_base(lm)
        self._silence = silence
        longest = max(stage.frames for stage in config.stages)
        if config.other == "silence" and (silence is None or silence.shape[1] < longest):
            there = "none" if silence is None else f"{silence.shape[1]} frames"
            raise UserError(
                f"other: silence needs Mimi's codes of silence for {longest} frames, and there "
                f"are {there}; give them, or train with other: masked"
            )

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What is trained, in its own precision; nothing of the base."""
        named = (each for group in self.trained.values() for each in group.items())
        return {MAIN: {name: parameter.detach() for name, parameter in named}}

    def updates(self, phase: int) -> list[Update]:
        optim = self.config.optim
        groups = [
            {"name": group, "params": list(named.values())} for group, named in self.trained.items()
        ]
        optimizer = torch.optim.AdamW(
            groups,
            lr=0.0,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            fused=True if self.device.type == "cuda" else None,
        )
        return [Update("optimizer", optimizer, optim.clip_norm)]

    def rates(self, epoch: EpochPlan, step: int) -> dict[str, float]:
        rates = learning_rates(self.config.optim, step, epoch.phase_steps)
        return {group: rates[group] for group in self.trained}

    def denominators(self, batches: Sequence[WindowBatch]) -> dict[str, float]:
        frames = sum(int(batch.counted.sum()) for batch in batches)
        per_frame = self._first_weight + (batches[0].codes.shape[1] - 1 if batches else 0)
        return {FRAMES: frames, WEIGHT: frames * per_frame}

    def accumulate(
        self,
        batches: Sequence[WindowBatch],
        denominators: Mapping[str, float],
        *,
        step: int,
        due: Collection[str],
    ) -> dict[str, Tensor]:
        # Nothing is drawn here, but a checkpoint holds torch's generator, which a process begins
        # with a seed of its own.
        torch.manual_seed(self.config.seed)
        names = ("total", "semantic", "acoustic")
        terms: dict[str, Tensor] = {name: torch.zeros((), device=self.device) for name in names}
        for batch in batches:
            if not batch.counted.any():
                continue  # The last step of an epoch may have windows for some ranks only.
            try:
                shares = self._learn(batch, denominators)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise self._out_of_memory(batch, step, error) from error
            for name, value in shares.items():
                terms[name] = terms[name] + value.detach()
        return terms

    def item_ids(self, batch: WindowBatch) -> Sequence[str]:
        return [name for name in batch.ids if name]

    @property
    def _first_weight(self) -> float:
        return FIRST_CODEBOOK_WEIGHT[self.config.weights]

    def _learn(self, batch: WindowBatch, denominators: Mapping[str, float]) -> dict[str, Tensor]:
        """Forward and backward of one micro-batch; its share of the step's terms."""
        streams, counted = self._streams(batch)
        memory = self.config.memory
        with sparing(self.lm, memory, streams.frames):
            nll = training_nll(self.lm, streams, head_block=memory.head_block)
            counted = counted[:, None].to(nll.device)
            total = weighed(nll, counted, self._first_weight).total / denominators[WEIGHT]
            total.backward()
        heard = torch.where(counted, nll.detach(), 0).sum(dim=(0, 2)) / denominators[FRAMES]
        return {"total": total, "semantic": heard[0], "acoustic": heard[1:].mean()}

    def _streams(self, batch: WindowBatch) -> tuple[Streams, Tensor]:
        """What the model hears of a batch, and which of its frames count [B, S].

        Rows and frames in which nothing counts any more are cut off.
        """
        rows = batch.counted.any(dim=1)
        counted = batch.counted[rows]
        places = torch.arange(1, counted.shape[1] + 1)
        lengths = (counted * places).amax(dim=1)
        frames = int(lengths.max())
        text: str | Tensor = self.config.text
        if text == "own":
            if batch.text is None:
                raise UserError(
                    "text: own needs the text that the base model chose, and the windows have "
                    "none; cache it with the codes, or train with text: pad or masked"
                )
            text = batch.text[rows, :frames]
        streams = Streams(
            self.lm,
            batch.codes[rows, :, :frames],
            text_stream=text,
            other_stream=self.config.other,
            silence=self._silence,
            lengths=lengths.tolist(),
        )
        return streams, counted[:, :frames]

    def _out_of_memory(self, batch: WindowBatch, step: int, error: RuntimeError) -> UserError:
        memory = self.config.memory
        return UserError(
            f"step {step + 1}: out of memory with {len(batch.ids)} windows of "
            f"{batch.codes.shape[2]} frames in a micro-batch; the last checkpoint is intact: "
            f"continue with fewer windows in a micro-batch, memory.checkpoint_layers=true, "
            f"memory.checkpoint_mini_batches=auto, or lower memory.head_block "
            f"({memory.head_block}) and memory.attention_block ({memory.attention_block}) ({error})"
        )
