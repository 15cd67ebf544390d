"""What the product does on a GPU, on the pretended one: a line of JSON per scene.

    python -m tests.fake_cuda.scenes small|published [NAME ...]      (through `start`)

Sizes: `small` for tests; `published` is SNAC 24 kHz and Moshi 7B, with TTT-MLP in 16 layers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import snac.layers
import torch
from moshi.models import loaders
from snac import SNAC
from torch import Tensor

from benchmarks.moshi_gpu import SHAPE_7B
from tests.fake_cuda import training
from tests.fake_cuda.pretended import PretendedCuda, on_card
from ttt.layers import TTTConfig, TTTLayer
from ttt.moshi import Evaluation, codes, insert_ttt, tiny_lm
from ttt.moshi.insert import ttt_layers
from ttt.moshi.memory import memory_need
from ttt.moshi.streaming import heads
from ttt.moshi.streaming.streams import Streams
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.config import EncodeConfig
from ttt.snac.decode import decode_pieces
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.train.config import LossConfig
from ttt.snac.train.validation import validate
from ttt.snac.train.window_reader import MicroBatch
from ttt.snac.train.windows import BatchId
from ttt.training.ranks import SingleProcess


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    encoder_dim: int
    decoder_dim: int
    codebook_size: int
    clips: int
    coarse: int
    """Coarsest tokens of a training window."""
    moshi: dict[str, Any]
    ttt_layers: range
    chunk: int
    kept_steps: int
    """Steps of own text that stand in every pass."""
    encode: EncodeConfig
    to_encode: tuple[float, ...]
    """Seconds of the clips to encode."""


# Clips of the same length share a batch of a minute.
PUBLISHED = Size(
    48, 1024, 4096, 8, 11, SHAPE_7B, range(8, 24), 64, 10, EncodeConfig(), 9 * (6.4,)
)  # fmt: skip
SMALL = Size(
    4, 64, 64, 2, 3,
    {"context": 24, "dim": 64, "num_layers": 3, "num_heads": 4, "depformer_dim": 32},
    range(1, 3), 64, 40, EncodeConfig(chunk_seconds=1, max_batch_seconds=2), (1.0, 3.0),
)  # fmt: skip


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
    """Mimi there and back."""
    model = on_card(loaders.get_mimi(None, device="meta", num_codebooks=8), stage.card)
    stage.card.clear()
    audio = (np.zeros(1000, dtype=np.float32) for _ in range(96))
    made = np.concatenate([*codes._encode_stream(model, audio)], axis=1)
    assert made.shape == (8, 50)
    encoded = stage.counts()
    stage.card.clear()
    sound = codes.decode_codes(model, torch.from_numpy(made))
    assert sound.shape == (50 * 1920,)
    return {"audio_seconds": 4, "decode": stage.counts(), **encoded}


def listening(stage: Stage, text: str, ttt: bool) -> dict[str, Any]:
    """The second pass of a chunk, a block scored, and the state saved and loaded again."""
    lm, chunk = stage.moshi(ttt), stage.size.chunk
    recording = torch.zeros(1, 8, 10 * chunk, dtype=torch.int64)
    silence = recording[0]
    words = {"text_stream": text, "other_stream": "silence"}
    with Evaluation(Streams(lm, recording, silence=silence, **words), chunk=chunk) as evaluation:
        blocks = iter(evaluation)
        first = next(blocks)
        assert not first.nll.is_cuda
        evaluation._listen()
        stage.card.clear()
        evaluation._listen()
        counted = {"pass": stage.counts()}
        next(blocks)
        change = evaluation.session.fast_weight_change()
        assert change.shape[0] == (len(stage.size.ttt_layers) if ttt else 0)
        stage.card.clear()
        before = stage.card.live_bytes
        state = evaluation.save_state()
        counted["save"] = {"extra_bytes": stage.card.most_bytes - before, **stage.counts()}
        assert not any(tensor.is_cuda for tensor in state.values())
        ring = lm.transformer.layers[0].self_attn._streaming_state.kv_cache.cache
        counted["half_ring_bytes"] = ring.nbytes // 2
        counted["rings_bytes"] = ring.nbytes * len(lm.transformer.layers)
        learnt = (each.layer.state_bytes(1) for each in ttt_layers(lm).values())
        counted["most_at_a_time"] = max([counted["half_ring_bytes"], *learnt])
        counted["working_bytes"] = memory_need(lm, 1, chunk).working
        next(blocks)
    assert stage.card.live_bytes < before
    return counted


def chunk(stage: Stage) -> dict[str, Any]:
    """A pass over known text with TTT layers, and how many launches it takes without them."""
    base = listening(stage, "pad", ttt=False)["pass"]
    return {"base_launches": base["launches"], **listening(stage, "pad", ttt=True)["pass"]}


def ttt_layer(stage: Stage) -> dict[str, Any]:
    """A TTT-MLP layer alone, half a mini-batch open: launches by its heads and by mini-batches."""
    launches = {}
    for num_heads, mini_batches in ((2, 4), (8, 4), (8, 8)):
        config = TTTConfig(dim=16 * num_heads, num_heads=num_heads)
        with torch.device("meta"):
            layer = TTTLayer(config)
        layer = on_card(layer, stage.card)
        with stage.card, torch.inference_mode():
            x = torch.zeros(1, config.mini_batch_size * mini_batches, config.dim, device="cuda")
            _, state = layer(x[:, : config.mini_batch_size // 2], layer.init_state(1))
            layer(x, state)  # The tables that it keeps are made once.
            stage.card.clear()
            layer(x, state)
        launches[f"{num_heads} heads, {mini_batches} mini-batches"] = stage.counts()["launches"]
    return {"launches_of": launches, **stage.counts()}


def resumed(stage: Stage) -> dict[str, Any]:
    """A state loaded into a new evaluation of the same recording, which goes on."""
    lm, chunk = stage.moshi(ttt=True), stage.size.chunk
    recording = torch.zeros(2, 8, 4 * chunk, dtype=torch.int64)
    with Evaluation(Streams(lm, recording), chunk=chunk) as evaluation:
        next(iter(evaluation))
        state = evaluation.save_state()
        position, scored = evaluation.session.position, evaluation._scored
    # Values that came from the card are all ones; those that the CPU knew are as they were.
    assert int(state["position"]) == position
    assert int(state["evaluation.scored"]) == scored
    stage.card.clear()
    with Evaluation(Streams(lm, recording), chunk=chunk) as evaluation:
        evaluation.load_state(state)
        assert evaluation.session.position == position
        next(iter(evaluation))
        evaluation.session.mark()
        evaluation.session.step_chunk(torch.zeros(2, 16, 3, dtype=torch.int64))
        evaluation.session.rollback(2)
        evaluation.session.reset_ttt()
        evaluation.session.reset()
    return stage.counts()


def depformer(stage: Stage, trained: bool) -> dict[str, Any]:
    """The depformer over 128 rows that lie apart in memory, as what was kept of a pass does."""
    lm = stage.moshi(ttt=False).requires_grad_(trained)
    rows = 128
    with stage.card:
        hidden = torch.zeros(2, rows, lm.dim, dtype=lm.dtype, device="cuda")[:, : rows // 2]
        forced = torch.zeros(2, 17, rows // 2, dtype=torch.int64, device="cuda")
    stage.card.clear()
    with torch.no_grad():
        logits: Tensor = heads.audio_logits(lm, forced, hidden)
    assert logits.dtype == torch.float32
    read = sum(
        each.nbytes
        for name, each in lm.named_parameters()
        if name.startswith(("depformer", "linears")) and "emb" not in name
    )
    return {"weights_gigabytes": read / 1e9, **stage.counts()}


def mixing(stage: Stage) -> dict[str, Any]:
    """Proof that a wrong device is seen: the model is given tokens that stayed behind."""
    lm = stage.moshi(ttt=False)
    try:
        lm.forward_text(torch.zeros(1, 17, 3, dtype=torch.int64))
    except RuntimeError as error:
        return {"error": str(error)}
    return {"error": None}


SCENES: dict[str, Callable[[Stage], dict[str, Any]]] = {
    "train_bf16": lambda stage: training.train(stage, "bf16"),
    "train_float32": lambda stage: training.train(stage, "float32"),
    "train_head": lambda stage: training.train(stage, "bf16", phase=1),
    "train_step": lambda stage: training.step(stage, world=1),
    "train_step_of_many": lambda stage: training.step(stage, world=2),
    "adversarial": training.adversarial,
    "validation": validation,
    "encoding": encoding,
    "decoding": decoding,
    "mimi": mimi,
    "known_text": lambda stage: listening(stage, "pad", ttt=False),
    "own_text": lambda stage: listening(stage, "own", ttt=False),
    "known_text_ttt": lambda stage: listening(stage, "pad", ttt=True),
    "own_text_ttt": lambda stage: listening(stage, "own", ttt=True),
    "chunk": chunk,
    "ttt_layer": ttt_layer,
    "resumed": resumed,
    "depformer": lambda stage: depformer(stage, trained=True),
    "depformer_frozen": lambda stage: depformer(stage, trained=False),
    "mixing": mixing,
}


def main(size: str, *names: str) -> None:
    """Play the scenes, all of them where none is named."""
    torch.set_num_threads(1)
    _untorchscripted()
    for name in names or SCENES:
        torch.manual_seed(0)
        stage = Stage({"small": SMALL, "published": PUBLISHED}[size])
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
