"""Which windows of a cache make which micro-batch of a run in stages: pure arithmetic.

A stage goes through the chapters as often as its steps ask for. Every pass is an epoch of
`ChapterWindowPlan` with a number of its own in the run, so that no two passes are cut alike: it
hears every frame of every chapter once. The pass under way when the stage ends is left unfinished.
"""

from __future__ import annotations

from collections.abc import Sequence

from ttt.moshi.chapter_cache.windows import ChapterWindowPlan, ChapterWindows, ChapterWindowShape
from ttt.moshi.training.config import MemoryConfig, WindowStageConfig
from ttt.training.local_source import EpochSize
from ttt.training.micro_batches import BatchId


def stage_shape(stage: WindowStageConfig, memory: MemoryConfig) -> ChapterWindowShape:
    """The windows of a stage; as many in a micro-batch as memory allows and a step divides into."""
    together = max(1, (memory.frames_per_micro_batch or 0) // stage.frames)
    per_step = stage.windows_per_step
    per_batch = max(count for count in range(1, together + 1) if per_step % count == 0)
    return ChapterWindowShape(stage.frames, per_batch, per_step // per_batch)


class StagedWindows:
    """The windows of every stage of a run."""

    def __init__(
        self,
        plan: ChapterWindowPlan,
        stages: Sequence[WindowStageConfig],
        shapes: Sequence[ChapterWindowShape],
    ) -> None:
        """`shapes[number - 1]` is the shape of a stage's windows.

        Raises UserError when no chapter is as long as a window.
        """
        self.plan = plan
        self.shapes = tuple(shapes)
        self._steps = [stage.steps for stage in stages]
        self._per_pass = [plan.steps(shape) for shape in shapes]
        passes = [
            -(-steps // each) for steps, each in zip(self._steps, self._per_pass, strict=True)
        ]
        self._first_pass = [1 + sum(passes[:index]) for index in range(len(passes))]

    @property
    def epochs(self) -> list[EpochSize]:
        """The micro-batches of each stage, which the training loop takes for epochs."""
        return [
            EpochSize(steps, shape.micro_batches_per_step)
            for steps, shape in zip(self._steps, self.shapes, strict=True)
        ]

    @property
    def passes(self) -> list[float]:
        """How often each stage hears all chapters."""
        return [steps / each for steps, each in zip(self._steps, self._per_pass, strict=True)]

    def windows(self, batch: BatchId) -> ChapterWindows:
        """The windows of a micro-batch of the run, whose epoch is the number of its stage.

        Raises IndexError past the stage's last step.
        """
        index = batch.epoch - 1
        if not 0 <= batch.step < self._steps[index]:
            raise IndexError(f"{batch} is not in a stage of {self._steps[index]} steps")
        nth, step = divmod(batch.step, self._per_pass[index])
        place = BatchId(self._first_pass[index] + nth, step, batch.micro)
        return self.plan.windows(self.shapes[index], place)
