"""What every case is given: a size, a device and what was counted for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moshi.models.lm import LMModel

from benchmarks.cards import Card
from benchmarks.counted import ROWS, Counted, bandwidth, frames_per_second, kept_counts, seconds
from benchmarks.gpu.device import Device
from benchmarks.gpu.models import random_moshi
from benchmarks.sizes import PUBLISHED, Size
from ttt.moshi.streaming.evaluate import chunks_per_block


class Bench:
    """A device, the models on it, and estimates of what it will do with them.

    Args:
        device: None measures nothing and tells the estimates.
        card: what the device does at most; None takes an H100.
    """

    def __init__(self, size: Size, device: Device | None, card: Card | None = None) -> None:
        self.size, self.device = size, device
        self.full = size is PUBLISHED
        self._bytes_per_second = bandwidth(card)
        self._counts = kept_counts() if self.full else None
        self._held: tuple[bool, LMModel] | None = None
        self._outlines: dict[bool, LMModel] = {}

    @property
    def on(self) -> Device:
        """The device, where there is one."""
        assert self.device is not None, "a case was measured without a device"
        return self.device

    def moshi(self, ttt: bool) -> LMModel:
        """Moshi on the device, frozen; the one of before is forgotten where it was another."""
        if self._held is None or self._held[0] != ttt:
            self.forget()
            self._held = ttt, random_moshi(self.on.kind, self.size, ttt).requires_grad_(False)
        return self._held[1]

    def outline(self, ttt: bool) -> LMModel:
        """Moshi without weights, to ask what it takes."""
        if ttt not in self._outlines:
            self._outlines[ttt] = random_moshi("meta", self.size, ttt)
        return self._outlines[ttt]

    def forget(self) -> None:
        """Give back the memory of the model that is held."""
        self._held = None
        if self.device is not None:
            self.device.free()

    def seconds(self, work: Callable[[], object], rounds: int, warm_up: int = 1) -> float:
        """Of the work by the clock, in the median; tiny models do it once."""
        return self.on.seconds(work, *((rounds, warm_up) if self.full else (1, 0)))

    # -- estimates, None at another size than the published one -----------------------------------

    def counted(self, name: str) -> Counted | None:
        """What `benchmarks.launches` counted under this name."""
        return None if self._counts is None else self._counts.get(name)

    def launching(self, counted: Mapping[str, Any] | None) -> float | None:
        """Seconds that the launches take."""
        return None if counted is None else seconds(counted)[0]

    def moving(self, counted: Mapping[str, Any] | None) -> float | None:
        """Seconds that the bytes take on this card."""
        return None if counted is None else seconds(counted, self._bytes_per_second)[1]

    def least(self, counted: Mapping[str, Any] | None) -> float | None:
        """Seconds that both take at least."""
        return None if counted is None else max(seconds(counted, self._bytes_per_second))

    def frames_per_second(self, ttt: bool, text: str, batch: int, chunk: int) -> float | None:
        """Of Moshi with what `benchmarks.launches` counted of such passes."""
        counts = self.counted("passes")
        if counts is None:
            return None
        wanted = {"ttt": ttt, "text": text, "batch": batch, "chunk": chunk}
        (a_pass,) = (row for row in counts["passes"] if wanted.items() <= row.items())
        rows = batch * chunk * chunks_per_block(batch, chunk)
        kept = batch * (chunk if text == "pad" else self.size.kept_steps)
        # 120 rows, which a chunk of 24 makes, launch what 128 do.
        heads = counts["depformer"].get(str(rows), counts["depformer"][str(ROWS)])
        return frames_per_second(a_pass, kept, heads, rows, self._bytes_per_second)
