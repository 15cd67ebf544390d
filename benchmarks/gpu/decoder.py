"""SNAC's 48 kHz decoder in training, and how fast it and the codecs encode and decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from moshi.models import loaders
from snac import SNAC

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import Case, Quantity
from benchmarks.gpu.models import plain_activation
from benchmarks.gpu.profiled import profiled_case
from benchmarks.training_step import training_step
from ttt.moshi import codes
from ttt.numerics import exact_float32
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.decode import decode_pieces
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.train.config import AdversarialConfig, LossConfig, Precision
from ttt.snac.train.decoder import DecoderTrainee
from ttt.snac.train.optim import OptimConfig
from ttt.snac.train.step import VALID, DecoderRecipe
from ttt.snac.train.window_reader import MicroBatch
from ttt.training.micro_batches import BatchId
from ttt.training.schedules import EpochPlan

ROUNDS = 5
MICRO_BATCHES = 8
"""Of a step."""
CONTEXT = 2
"""Coarsest tokens on both sides of a window."""
DECODED = 130
"""Coarsest tokens that are decoded: two pieces and a bit."""
MIMI_FRAMES = 50


def step_cases(bench: Bench) -> Iterator[Case]:
    """A micro-batch of training as the device is asked for it."""
    title = f"training, {bench.size.clips} windows, bfloat16"
    yield profiled_case(bench, title, "training_step", partial(_learning, bench))


@contextmanager
def _learning(bench: Bench) -> Iterator[Callable[[], None]]:
    bench.forget()
    trainee = _trainee(bench, "bf16")
    batches, updates = _micro_batches(trainee, bench, 1), trainee.updates(2)
    yield partial(training_step, trainee, updates, batches, move=False)


def training_cases(bench: Bench) -> Iterator[Case]:
    """Seconds of audio a second, and what lives at the most, of micro-batches and of a step."""
    for title, name, settings in (
        ("float32", "training_float32", {"precision": "float32"}),
        ("bfloat16", "training_step", {}),
        ("bfloat16, without the activation's kernel", "training_plain", {"plain": True}),
        ("bfloat16, the head alone", "training_head", {"phase": 1}),
        ("bfloat16, with XCodec2's discriminators", "adversarial_step", {"adversarial": True}),
        (f"bfloat16, a step of {MICRO_BATCHES} micro-batches", "step", {"whole_step": True}),
    ):
        counted, least = bench.counted(name), bench.least(bench.counted(name))
        what = f"training, {bench.size.clips} windows, {title}"
        rate = most = None
        if counted is not None and least is not None:
            audio = counted.get("audio_seconds", MICRO_BATCHES * _published_audio(bench))
            rate, most = audio / least, counted["most_live_bytes"] / 1e9
        yield Case(
            (
                Quantity(what, "audio s/s", rate),
                Quantity(f"{what}: peak", "GB", most),
            ),
            partial(_training, bench, **settings),
        )


def _published_audio(bench: Bench) -> float:
    """Seconds of audio of a micro-batch, as the published size was counted."""
    counted = bench.counted("training_step")
    return 0.0 if counted is None else counted["audio_seconds"]


def _training(
    bench: Bench,
    precision: Precision = "bf16",
    phase: int = 2,
    *,
    plain: bool = False,
    adversarial: bool = False,
    whole_step: bool = False,
) -> list[float | None]:
    """Valid seconds of audio a second, and GB that lived at the most."""
    bench.forget()
    trainee = _trainee(bench, precision, phase, adversarial=adversarial)
    updates = trainee.updates(phase)
    batches = _micro_batches(trainee, bench, MICRO_BATCHES if whole_step else 1)
    seconds: list[float] = []

    def work() -> None:
        training_step(trainee, updates, batches, move=whole_step)

    with ExitStack() as stack:
        if plain:
            stack.enter_context(plain_activation())
        peak = bench.on.peak(lambda: seconds.append(bench.seconds(work, ROUNDS, warm_up=2)))
    audio = trainee.denominators(batches)[VALID] / 48_000
    return [audio / seconds[0], None if peak is None else peak.most / 1e9]


_Timed = tuple[float, Callable[[], object]]
"""Seconds of audio, and what encodes or decodes them."""


def codec_cases(bench: Bench) -> Iterator[Case]:
    """Seconds of audio a second to codes and back, of SNAC and of Mimi."""
    for title, name, work in (
        ("SNAC, audio to codes", "encoding", _encode),
        ("SNAC, codes to 48 kHz audio", "decoding", _decode),
        ("Mimi, audio to codes", "mimi", _mimi_encode),
        ("Mimi, codes to audio", "mimi_decode", _mimi_decode),
    ):
        counted, least = bench.counted(name), bench.least(bench.counted(name))
        rate = None if counted is None or least is None else counted["audio_seconds"] / least
        yield Case((Quantity(title, "audio s/s", rate),), partial(_codec_rate, bench, work))


def _codec_rate(
    bench: Bench, work: Callable[[Bench], AbstractContextManager[_Timed]]
) -> list[float | None]:
    bench.forget()
    with torch.no_grad(), exact_float32(), work(bench) as (audio_seconds, once):
        return [audio_seconds / bench.seconds(once, ROUNDS)]


@contextmanager
def _encode(bench: Bench) -> Iterator[_Timed]:
    encoder = ClipEncoder(_codec(bench).to(bench.on.kind), bench.size.encode)
    lengths = bench.size.to_encode
    clips = [np.zeros(round(24_000 * seconds), dtype=np.float32) for seconds in lengths]
    yield sum(lengths), partial(encoder.encode, clips)


@contextmanager
def _decode(bench: Bench) -> Iterator[_Timed]:
    model = _decoder(bench)
    with deterministic(model):
        seconds = model.geometry.samples_48k(DECODED) / 48_000
        yield seconds, lambda: [*decode_pieces(model, np.zeros((DECODED, 7), dtype=np.int64))]


@contextmanager
def _mimi_encode(bench: Bench) -> Iterator[_Timed]:
    mimi = loaders.get_mimi(None, num_codebooks=8).to(bench.on.kind)
    zeros = np.zeros(mimi.frame_size, dtype=np.float32)
    # No public call takes audio that lies in no file.
    yield (
        MIMI_FRAMES / mimi.frame_rate,
        lambda: [*codes._encode_stream(mimi, (zeros for _ in range(MIMI_FRAMES)))],
    )


@contextmanager
def _mimi_decode(bench: Bench) -> Iterator[_Timed]:
    mimi = loaders.get_mimi(None, num_codebooks=8).to(bench.on.kind)
    given = torch.zeros(8, MIMI_FRAMES, dtype=torch.int64)
    yield MIMI_FRAMES / mimi.frame_rate, partial(codes.decode_codes, mimi, given)


def _codec(bench: Bench) -> SNAC:
    """SNAC with the published rates, on this machine's CPU."""
    shape: dict[str, Any] = {
        "sampling_rate": 24_000,
        "encoder_dim": bench.size.encoder_dim,
        "encoder_rates": [2, 4, 8, 8],
        "decoder_dim": bench.size.decoder_dim,
        "decoder_rates": [8, 8, 4, 2],
        "attn_window_size": None,
        "codebook_size": bench.size.codebook_size,
        "codebook_dim": 8,
        "vq_strides": [4, 2, 1],
    }
    return SNAC(**shape)


def _decoder(bench: Bench) -> Decoder48k:
    return Decoder48k.from_snac(_codec(bench)).to(bench.on.kind)


def _trainee(
    bench: Bench, precision: Precision, phase: int = 2, *, adversarial: bool = False
) -> DecoderTrainee:
    recipe = DecoderRecipe(
        seed=0,
        precision=precision,
        optim=OptimConfig(),
        loss=LossConfig(),
        adversarial=AdversarialConfig(hold_steps=0, ramp_steps=1) if adversarial else None,
    )
    epoch = EpochPlan(
        number=1, phase=phase, steps=9, first_step=0, phase_first_step=0, phase_steps=9
    )
    return DecoderTrainee(_decoder(bench), recipe, [epoch], None)  # type: ignore[list-item]


def _micro_batches(trainee: DecoderTrainee, bench: Bench, count: int) -> list[MicroBatch]:
    """Windows as the data path brings them, on the CPU."""
    clips, core = bench.size.clips, bench.size.coarse
    samples = trainee.model.geometry.samples_48k(core)
    draw = torch.Generator().manual_seed(0)
    slices = clips, core + 2 * CONTEXT, 7
    return [
        MicroBatch(
            id=BatchId(1, 0, micro),
            codes=torch.randint(bench.size.codebook_size, slices, generator=draw).short(),
            audio=torch.randint(-9000, 9000, (clips, samples), generator=draw).short(),
            core_start=torch.full((clips,), CONTEXT),
            valid_samples=torch.full((clips,), samples),
            clip_ids=["x"] * clips,
        )
        for micro in range(count)
    ]
