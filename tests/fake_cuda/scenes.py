"""What the product does on a GPU, on the pretended one: a line of JSON per scene.

    python -m tests.fake_cuda.scenes small|mid|published [NAME ...]      (through `start`)

Sizes: `small` for tests; `published` is SNAC 24 kHz and Moshi 7B, with TTT-MLP in 16 layers; `mid`
has a Moshi between them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import snac.layers
import torch
from moshi.models import loaders
from snac import SNAC
from torch import Tensor

from benchmarks.gpu.__main__ import SECTIONS
from benchmarks.sizes import SIZES, Size
from tests.fake_cuda import chapters, listening, measuring, training
from tests.fake_cuda.pretended import PretendedCuda, on_card
from ttt.layers import TTTConfig
from ttt.moshi import codes, insert_ttt, tiny_lm
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.decode import decode_pieces
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.train.config import LossConfig
from ttt.snac.train.validation import validate
from ttt.snac.train.window_reader import MicroBatch
from ttt.training.micro_batches import BatchId
from ttt.training.ranks import SingleProcess


class Stage:
    """A card, models on it, and what is counted between `clear` and `counts`."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.card = PretendedCuda(self._value)

    def counts(self) -> dict[str, Any]:
        """What was counted since the last `clear`."""
        card = self.card
        return {
            "launches": card.launches.total(),
            "gigabytes": card.moved_bytes / 1e9,
            "most_live_bytes": card.most_bytes,
            "reads_back": dict(card.reads_back),
            "to_card": dict(card.to_card),
            "blocking_copies": dict(card.blocking_copies),
            "launches_by_file": dict(card.launches_by_file.most_common()),
            "kinds": dict(card.launches),
        }

    def _value(self, place: str) -> float | None:
        if "streaming/speculate.py" in place:  # How many steps of a pass stand.
            return self.size.kept_steps
        if "training/loop.py" in place:  # No rank asks for a checkpoint or a stop.
            return 0
        # All rows are reset; all numbers are finite.
        certain = ("layers/state.py", "ttt/numerics.py", "train/validation.py")
        return 1 if any(part in place for part in certain) else None

    def codec(self) -> SNAC:
        """SNAC on the CPU."""
        return SNAC(
            sampling_rate=24000,
            encoder_dim=self.size.encoder_dim,
            encoder_rates=[2, 4, 8, 8],
            decoder_dim=self.size.decoder_dim,
            decoder_rates=[8, 8, 4, 2],
            attn_window_size=None,
            codebook_size=self.size.codebook_size,
            codebook_dim=8,
            vq_strides=[4, 2, 1],
        )

    def decoder(self) -> Decoder48k:
        """A decoder on the card."""
        return on_card(Decoder48k.from_snac(self.codec()), self.card)

    def micro_batch(self, decoder: Decoder48k) -> MicroBatch:
        """Windows as the data path brings them, on the CPU."""
        clips, core = self.size.clips, self.size.coarse
        samples = decoder.geometry.samples_48k(core)
        return MicroBatch(
            id=BatchId(1, 0, 0),
            codes=torch.zeros(clips, core + 4, 7, dtype=torch.int16),
            audio=torch.zeros(clips, samples, dtype=torch.int16),
            core_start=torch.full((clips,), 2),
            valid_samples=torch.full((clips,), samples),
            clip_ids=["x"] * clips,
        )

    def moshi(self, ttt: bool) -> Any:
        """Moshi in bfloat16 on the card."""
        with torch.device("meta"):
            lm = tiny_lm(**self.size.moshi, device="meta", dtype=torch.bfloat16)
            if ttt:
                heads_of = self.size.moshi["num_heads"]
                config = TTTConfig(dim=lm.dim, num_heads=heads_of)
                insert_ttt(lm, self.size.ttt_layers, config)
        return on_card(lm, self.card)


# -- scenes ----------------------------------------------------------------------------------------


def validation(stage: Stage) -> dict[str, Any]:
    """One validation batch with all rows and an example."""
    model = stage.decoder()
    batch = stage.micro_batch(model)
    stage.card.clear()
    result = validate(
        model, [batch], LossConfig(), SingleProcess(), precision="bf16", untouched=model,
        n_examples=1,
    )  # type: ignore[arg-type]  # fmt: skip
    assert not result.examples[0].ours.is_cuda
    return stage.counts()


def encoding(stage: Stage) -> dict[str, Any]:
    """Clips to codes, where a small codec cuts one of them into chunks."""
    encoder = ClipEncoder(on_card(stage.codec(), stage.card), stage.size.encode)
    lengths = stage.size.to_encode
    clips = [np.zeros(round(24_000 * seconds), dtype=np.float32) for seconds in lengths]
    stage.card.clear()
    assert len(encoder.encode(clips)) == len(lengths)
    return {"audio_seconds": sum(lengths), **stage.counts()}


def decoding(stage: Stage) -> dict[str, Any]:
    """Codes of two pieces and a bit to audio."""
    model = stage.decoder()
    stage.card.clear()
    with deterministic(model):
        pieces = [*decode_pieces(model, np.zeros((130, 7), dtype=np.int64))]
    assert all(piece.is_cuda for piece in pieces)
    samples = sum(len(piece) for piece in pieces)
    assert samples == model.geometry.samples_48k(130)
    return {"audio_seconds": samples / 48_000, **stage.counts()}


def mimi(stage: Stage) -> dict[str, Any]:
    """Sound to Mimi's codes."""
    model = on_card(loaders.get_mimi(None, device="meta", num_codebooks=8), stage.card)
    stage.card.clear()
    audio = (np.zeros(1000, dtype=np.float32) for _ in range(96))
    made = np.concatenate([*codes._encode_stream(model, audio)], axis=1)
    assert made.shape == (8, 50)
    return {"audio_seconds": 4, **stage.counts()}


def mimi_decode(stage: Stage) -> dict[str, Any]:
    """Mimi's codes to sound."""
    model = on_card(loaders.get_mimi(None, device="meta", num_codebooks=8), stage.card)
    stage.card.clear()
    sound = codes.decode_codes(model, torch.zeros(8, 50, dtype=torch.int64))
    assert sound.shape == (50 * 1920,)
    return {"audio_seconds": 4, **stage.counts()}


def look_ups(stage: Stage) -> dict[str, Any]:
    """Five rows of a large table, looked up in two ways."""
    table = torch.zeros(100, 3, device="cuda")
    places = torch.zeros(5, dtype=torch.int64, device="cuda")
    stage.card.clear()
    torch.nn.functional.embedding(places, table)
    table.index_select(0, places)
    return stage.counts()


SCENES: dict[str, Callable[[Stage], dict[str, Any]]] = {
    "train_bf16": lambda stage: training.train(stage, "bf16"),
    "train_float32": lambda stage: training.train(stage, "float32"),
    "train_head": lambda stage: training.train(stage, "bf16", phase=1),
    "train_plain": training.train_plainly,
    "train_step": lambda stage: training.step(stage, world=1),
    "train_step_of_many": lambda stage: training.step(stage, world=2),
    "adversarial": training.adversarial,
    "validation": validation,
    "encoding": encoding,
    "decoding": decoding,
    "mimi": mimi,
    "mimi_decode": mimi_decode,
    "known_text": lambda stage: listening.listening(stage, "pad", ttt=False),
    "own_text": lambda stage: listening.listening(stage, "own", ttt=False),
    "known_text_ttt": lambda stage: listening.listening(stage, "pad", ttt=True),
    "own_text_ttt": lambda stage: listening.listening(stage, "own", ttt=True),
    "chunk": lambda stage: listening.chunk(stage, "pad"),
    "own_chunk": lambda stage: listening.chunk(stage, "own"),
    "pass_known": lambda stage: listening.one_pass(stage, "pad", ttt=False),
    "pass_own": lambda stage: listening.one_pass(stage, "own", ttt=False),
    "own_text_by_chunk": listening.own_text_by_chunk,
    "passes": listening.passes,
    "save": listening.save,
    "memory": listening.memory,
    "learning": listening.learning,
    "ttt_layer": listening.ttt_layer,
    "chapter_by_flavour": listening.chapter_by_flavour,
    "resumed": listening.resumed,
    "depformer": lambda stage: listening.depformer(stage, trained=True),
    "depformer_frozen": lambda stage: listening.depformer(stage, trained=False),
    "whole_chapter": chapters.whole_chapter,
    "sum_of_layers": chapters.sum_of_layers,
    "plain_and_sparing": chapters.plain_and_sparing,
    "estimates": chapters.estimates,
    "few_estimates": lambda stage: chapters.estimates(stage, few=True),
    "measured": lambda stage: {**measuring.measured(stage, *SECTIONS), **stage.counts()},
    "mixing": listening.mixing,
    "look_ups": look_ups,
}


def main(size: str, *names: str) -> None:
    """Play the scenes, all of them where none is named."""
    torch.set_num_threads(1)
    _untorchscripted()
    for name in names or SCENES:
        torch.manual_seed(0)
        stage = Stage(SIZES[size])
        with stage.card:
            counted = SCENES[name](stage)
        print(json.dumps({"scene": name, **counted}), flush=True)


def _untorchscripted() -> None:
    """Let SNAC's activation be the plain operations it is made of: compiled, it has no shapes."""

    def snake(x: Tensor, alpha: Tensor) -> Tensor:
        rows = x.reshape(x.shape[0], x.shape[1], -1)
        wave = rows + (alpha + 1e-9).reciprocal() * torch.sin(alpha * rows).pow(2)
        return wave.reshape(x.shape)

    snac.layers.snake = snake


if __name__ == "__main__":
    main(*sys.argv[1:])
