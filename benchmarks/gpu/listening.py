"""Moshi listening: single passes, frames a second, and its state saved.

Where the text is the model's own, so many steps of every pass stand as the size says: a random
model's guesses mean nothing. What decides about them is computed all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal
from unittest import mock

import torch
from moshi.models.lm import LMModel
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import Case, Quantity
from benchmarks.gpu.profiled import profiled_case
from ttt.errors import UserError
from ttt.moshi import Evaluation
from ttt.moshi.insert import ttt_layers
from ttt.moshi.memory import memory_need
from ttt.moshi.streaming import session, speculate
from ttt.moshi.streaming.streams import Streams
from ttt.numerics import exact_float32

PASSES = 12
"""Passes that a rate is measured over, and steps at least."""
STEPS = 128
Text = Literal["pad", "own"]
NAMES = {False: "base", True: "TTT-MLP"}
TEXTS = {"pad": "text known", "own": "own text"}


def pass_cases(bench: Bench) -> Iterator[Case]:
    """One pass of batch 1, base and TTT, text known and own, as the device is asked for it.

    With TTT and own text the launches depend on where in a mini-batch a pass begins: the pass that
    is profiled launches 5,626 kernels, that of the estimate 5,733 (benchmarks/README.md).
    """
    passes: tuple[tuple[str, bool, Text], ...] = (
        ("known_text", False, "pad"),
        ("own_text", False, "own"),
        ("chunk", True, "pad"),
        ("own_chunk", True, "own"),
    )
    for name, ttt, text in passes:
        title = f"pass of {bench.size.chunk} steps, {NAMES[ttt]}, {TEXTS[text]}"
        yield profiled_case(bench, title, name, partial(_listening, bench, ttt, text))


@contextmanager
def _listening(bench: Bench, ttt: bool, text: Text) -> Iterator[Callable[[], None]]:
    """A pass of batch 1, to be called again and again."""
    chunk = bench.size.chunk
    with opened(bench, ttt, text, 1, chunk, 20 * chunk) as evaluation:
        yield evaluation._listen


def rate_cases(bench: Bench) -> Iterator[Case]:
    """Frames a second by batch and chunk, and of some what they take beyond the weights."""
    for ttt in (False, True):
        for shape in bench.size.known_text:
            yield _rate_case(bench, ttt, "pad", shape)
        for shape in bench.size.own_text:
            yield _rate_case(bench, ttt, "own", shape)


def _rate_case(bench: Bench, ttt: bool, text: Text, shape: tuple[int, int]) -> Case:
    batch, chunk = shape
    kept = f" {bench.size.kept_steps} kept," if text == "own" else ""
    title = f"{NAMES[ttt]}, {TEXTS[text]},{kept} batch {batch}, chunk {chunk}"
    estimate = bench.frames_per_second(ttt, text, batch, chunk)
    quantities = [Quantity(title, "frames/s", estimate)]
    if text == "pad" and batch * chunk >= bench.size.chunk:
        need = memory_need(bench.outline(ttt), batch, chunk).total / 1e9
        what = f"{title}: peak beyond the weights, `memory_need`"
        quantities.append(Quantity(what, "GB", need))
    measure = partial(_rate, bench, ttt, text, shape, len(quantities) > 1)
    return Case(tuple(quantities), measure)


def _rate(
    bench: Bench, ttt: bool, text: Text, shape: tuple[int, int], with_peak: bool
) -> list[float | None]:
    """Frames a second of all recordings after the first block, and GB beyond the weights."""
    device, (batch, chunk) = bench.on, shape
    bench.moshi(ttt)  # whose weights are not to be part of the peak
    device.free()
    found: list[float] = []

    def hear() -> None:
        wanted = max(PASSES * chunk, STEPS) if bench.full else 1
        with opened(bench, ttt, text, batch, chunk, 2 * (wanted + STEPS)) as evaluation:
            blocks = iter(evaluation)
            next(blocks)
            device.wait()
            first, began = evaluation.frames_done, time.perf_counter()
            while evaluation.frames_done < first + wanted:
                next(blocks)
            device.wait()
            seconds = time.perf_counter() - began
            found.append(batch * (evaluation.frames_done - first) / seconds)
            if len(evaluation.chunks) > 1:
                raise UserError(f"out of memory: passes were cut, {evaluation.chunks}")

    peak = device.peak(hear)
    beyond = None if peak is None else (peak.most - peak.before) / 1e9
    return [*found, beyond] if with_peak else [*found]


def state_cases(bench: Bench) -> Iterator[Case]:
    """A state of full rings copied to this machine's memory, with TTT."""
    for batch in (1, 8):
        counted = bench.counted("save_state") if batch == 8 else None
        title = f"save_state, TTT-MLP, batch {batch}"
        size = _state_bytes(bench.outline(True), batch) / 1e9
        yield Case(
            (
                Quantity(f"{title}: the state", "GB", size),
                Quantity(f"{title}: time", "s"),
                Quantity(
                    f"{title}: alive beyond the rings",
                    "GB",
                    None if counted is None else counted["extra_gigabytes"],
                ),
            ),
            partial(_save, bench, batch),
        )


def _state_bytes(lm: LMModel, batch: int) -> int:
    """Keys and values of attention's window in all layers, and what TTT layers have learnt."""
    rings = memory_need(lm, batch, 1).rings
    return rings + sum(each.layer.state_bytes(batch) for each in ttt_layers(lm).values())


def _save(bench: Bench, batch: int) -> list[float | None]:
    chunk = bench.size.chunk
    saved: list[dict[str, Tensor]] = []
    with opened(bench, True, "pad", batch, chunk, 2 * chunk) as evaluation:
        next(iter(evaluation))
        # Full rings: all of them is saved from there on.
        evaluation.session._state.position = 2 * (bench.moshi(True).context or 0)
        bench.on.wait()  # For the block, which is no part of saving.
        began = time.perf_counter()
        peak = bench.on.peak(lambda: saved.append(evaluation.save_state()))
        seconds = time.perf_counter() - began
        size = sum(each.nbytes for each in saved[0].values()) / 1e9
        extra = None if peak is None else (peak.most - peak.before) / 1e9
        return [size, seconds, extra]


@contextmanager
def opened(
    bench: Bench, ttt: bool, text: Text, batch: int, chunk: int, frames: int
) -> Iterator[Evaluation]:
    """An evaluation of random recordings that long, and longer where attention's window is: a
    shorter one is given shorter rings."""
    lm = bench.moshi(ttt)
    frames = max(frames, lm.context or 0) + chunk
    draw = torch.Generator().manual_seed(5)
    codes = torch.randint(lm.card, (batch, 8, frames), generator=draw)
    streams = Streams(lm, codes, silence=codes[0], text_stream=text, other_stream="silence")
    with ExitStack() as stack:
        stack.enter_context(exact_float32())
        if text == "own":
            stack.enter_context(_standing(bench.size.kept_steps))
        yield stack.enter_context(Evaluation(streams, chunk=chunk))


@contextmanager
def _standing(steps: int) -> Iterator[None]:
    """Inside, so many steps of a pass over own text stand, whatever was guessed."""

    def stand(
        guess: Tensor, chosen: Tensor, margin: Tensor, alive: Tensor | None
    ) -> tuple[int, int]:
        _, ties = speculate.steps_that_stand(guess, chosen, margin, alive)
        return min(steps, guess.shape[1]), ties

    with mock.patch.object(session, "steps_that_stand", stand):
        yield
