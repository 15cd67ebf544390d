"""The scenes of Moshi: passes over recordings, states saved and loaded, and memory counted."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.counted import ROWS
from tests.fake_cuda.pretended import PretendedCuda, on_card
from ttt.layers import InnerControls, TTTConfig, TTTLayer
from ttt.moshi import Evaluation
from ttt.moshi.insert import ttt_layers
from ttt.moshi.memory import learning_bytes, memory_need, taking_back_bytes
from ttt.moshi.streaming import heads
from ttt.moshi.streaming.evaluate import chunks_per_block
from ttt.moshi.streaming.session import Session
from ttt.moshi.streaming.streams import Streams

if TYPE_CHECKING:
    from tests.fake_cuda.scenes import Stage


def one_pass(stage: Stage, text: str, ttt: bool) -> dict[str, Any]:
    """The second pass over a chunk of a recording."""
    with _evaluation(stage, stage.moshi(ttt), text) as evaluation:
        evaluation._listen()
        stage.card.clear()
        evaluation._listen()
        return stage.counts()


def chunk(stage: Stage, text: str) -> dict[str, Any]:
    """A pass with TTT layers, and how many launches it takes without them."""
    base = one_pass(stage, text, ttt=False)
    return {"base_launches": base["launches"], **one_pass(stage, text, ttt=True)}


def own_text_by_chunk(stage: Stage) -> dict[str, Any]:
    """What one TTT layer adds to a pass of own text by its steps, in the mean of 16 passes.

    Seven steps of a pass stand, so that passes begin anywhere in a mini-batch.
    """
    size, passes = stage.size, 16
    means: dict[bool, dict[int, float]] = {False: {}, True: {}}
    stage.size = dataclasses.replace(
        size, moshi={**size.moshi, "num_layers": 2}, ttt_layers=range(1, 2), kept_steps=7
    )
    for ttt, mean in means.items():
        lm = stage.moshi(ttt)
        for steps in CHUNKS:
            stage.size = dataclasses.replace(stage.size, chunk=steps)
            with _evaluation(stage, lm, "own") as evaluation:
                evaluation._listen()
                stage.card.clear()
                for _ in range(passes):
                    evaluation._listen()
                mean[steps] = stage.card.launches.total() / passes
    return {"layer": {n: means[True][n] - means[False][n] for n in CHUNKS}, **stage.counts()}


def passes(stage: Stage) -> dict[str, Any]:
    """Passes by batch, chunk, TTT and text, and the depformer's blocks that belong to them.

    The mean over passes that begin at every place of a mini-batch that they can.
    """
    found: list[dict[str, Any]] = []
    for ttt in (False, True):
        lm = stage.moshi(ttt)
        cases = [("pad", *case) for case in stage.size.known_text]
        cases += [("own", *case) for case in stage.size.own_text]
        for text, batch, steps in cases:
            many = 8 if text == "own" else 16 if steps % 16 else 1
            many = many if ttt else 1
            frames = max((many + 2) * steps, lm.context)
            recording = torch.zeros(batch, 8, frames, dtype=torch.int64)
            streams = Streams(
                lm, recording, silence=recording[0], text_stream=text, other_stream="silence"
            )  # type: ignore[arg-type]  # fmt: skip
            with Evaluation(streams, chunk=steps) as evaluation:
                evaluation._listen()
                stage.card.clear()
                for _ in range(many):
                    evaluation._listen()
                counts = stage.counts()
            a_pass = {name: counts[name] / many for name in ("launches", "gigabytes")}
            found.append({"text": text, "batch": batch, "chunk": steps, "ttt": ttt, **a_pass})
    lm, heads_of = stage.moshi(ttt=False).requires_grad_(False), {}
    for batch, steps in stage.size.known_text:
        rows = batch * steps * chunks_per_block(batch, steps)
        heads_of[str(rows)] = _heads(stage, lm, batch, rows // batch)
    return {"passes": found, "depformer": heads_of, **stage.counts()}


def _heads(stage: Stage, lm: Any, batch: int, steps: int) -> dict[str, Any]:
    """The depformer over so many steps, which lie apart in memory where there are several rows."""
    with stage.card:
        hidden = torch.zeros(batch, 2 * steps, lm.dim, dtype=lm.dtype, device="cuda")[:, :steps]
        forced = torch.zeros(batch, 17, steps, dtype=torch.int64, device="cuda")
    stage.card.clear()
    with torch.no_grad():
        logits: Tensor = heads.audio_logits(lm, forced, hidden)
    assert logits.dtype == torch.float32
    counts = stage.counts()
    return {name: counts[name] for name in ("launches", "gigabytes")}


CHUNKS = (16, 24, 32, 48, 64)
LACT = TTTConfig(
    dim=4096,
    num_heads=4,
    flavour="lact",
    mini_batch_size=1024,
    base_lr=0.001,
    rope_theta=None,
    momentum=True,
)
"""LaCT's layer as its language models have it, of the width of the 7B, in chunks of 82 s."""


def chapter_by_flavour(stage: Stage) -> dict[str, Any]:
    """One layer over a whole chapter, half an hour: in passes, and in one call as in training."""
    size, found = stage.size, {}
    dim, heads = (size.moshi[name] for name in ("dim", "num_heads"))
    for name, config in (
        ("ttt_lm linear", TTTConfig(dim=dim, num_heads=heads, kind="linear")),
        ("ttt_lm mlp", TTTConfig(dim=dim, num_heads=heads)),
        ("lact", dataclasses.replace(LACT, dim=dim)),
    ):
        layer = _layer(stage.card, config, torch.bfloat16)
        with stage.card, torch.inference_mode():
            x = torch.zeros(1, size.chapter_frames, dim, device="cuda", dtype=torch.bfloat16)
            layer(x[:, : size.chunk], layer.init_state(1))  # Tables that it keeps are made once.
            for way, frames in (("passes", size.chunk), ("one call", size.chapter_frames)):
                stage.card.clear()
                state = layer.init_state(1)
                for piece in x.split(frames, dim=1):
                    _, state = layer(piece, state)
                counts = stage.counts()
                found[f"{name}, {way}"] = {k: counts[k] for k in ("launches", "gigabytes")}
    return {"layers": found, **stage.counts()}


def save(stage: Stage) -> dict[str, Any]:
    """The state of eight recordings saved once their rings are full: of four layers, two with TTT.

    Layers are saved one after the other, so that more of them take no more. What was saved lies in
    this machine's memory: 32 layers of the 7B would be 12.6 GB.
    """
    shape, batch = {**stage.size.moshi, "num_layers": 4}, 8
    stage.size = dataclasses.replace(stage.size, moshi=shape, ttt_layers=range(1, 3))
    with Session(stage.moshi(ttt=True), batch, max_chunk=stage.size.chunk) as session:
        session.step_chunk(torch.zeros(batch, 16, 1, dtype=torch.int64), _text(batch, 1))
        session._state.position = 2 * stage.size.moshi["context"]
        stage.card.clear()
        before = stage.card.live_bytes
        state = session.save_state()
        assert not any(tensor.is_cuda for tensor in state.values())
        rings = sum(t.nbytes for name, t in state.items() if name.startswith("ring."))
        extra = stage.card.most_bytes - before
    return {"extra_gigabytes": extra / 1e9, "rings_gigabytes": rings / 1e9, **stage.counts()}


def listening(stage: Stage, text: str, ttt: bool) -> dict[str, Any]:
    """The second pass of a chunk, a block scored, and the state saved and loaded again."""
    lm = stage.moshi(ttt)
    with _evaluation(stage, lm, text) as evaluation:
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
        counted["working_bytes"] = memory_need(lm, 1, stage.size.chunk).working
        next(blocks)
    assert stage.card.live_bytes < before
    return counted


def memory(stage: Stage) -> dict[str, Any]:
    """What two recordings take beyond the weights, counted and by `memory_need`; own text."""
    lm, batch, steps = stage.moshi(ttt=True), 2, stage.size.chunk
    weights = sum(each.nbytes for each in (*lm.parameters(), *lm.buffers()))
    recording = torch.zeros(batch, 8, 4 * steps, dtype=torch.int64)
    stage.card.clear()
    with Evaluation(Streams(lm, recording), chunk=steps) as evaluation:
        next(iter(evaluation))
        evaluation.save_state()
    need = memory_need(lm, batch, steps, 4 * steps + evaluation._delays.longest)
    counts = stage.counts()
    return {"need": need.total, "counted": counts["most_live_bytes"] - weights, **counts}


def ttt_layer(stage: Stage) -> dict[str, Any]:
    """A TTT-MLP layer alone, half a mini-batch open: launches by its heads and by mini-batches."""
    launches = {}
    for num_heads, mini_batches in ((2, 4), (8, 4), (8, 8)):
        config = TTTConfig(dim=16 * num_heads, num_heads=num_heads)
        layer = _layer(stage.card, config)
        with stage.card, torch.inference_mode():
            x = torch.zeros(1, config.mini_batch_size * mini_batches, config.dim, device="cuda")
            _, state = layer(x[:, : config.mini_batch_size // 2], layer.init_state(1))
            layer(x, state)  # The tables that it keeps are made once.
            stage.card.clear()
            layer(x, state)
        launches[f"{num_heads} heads, {mini_batches} mini-batches"] = stage.counts()["launches"]
    return {"launches_of": launches, **stage.counts()}


def learning(stage: Stage) -> dict[str, Any]:
    """What a TTT layer alone takes while it listens and is taken back, counted and by sum.

    The counts are those of the last layer while it listens: taking back launches nothing there.
    """
    rows, counted = [], {}
    for kind, dim, num_heads, batch, steps, dtype, *inner_steps in (
        ("mlp", 4096, 32, 1, 64, torch.bfloat16),
        ("mlp", 4096, 32, 8, 64, torch.bfloat16),
        ("mlp", 4096, 32, 1, 1024, torch.bfloat16),
        ("mlp", 4096, 32, 1, 1, torch.float32),
        ("mlp", 256, 4, 3, 48, torch.float64),
        ("linear", 4096, 32, 1, 64, torch.bfloat16),
        ("linear", 4096, 32, 4, 24, torch.float32),
        ("mlp", 4096, 32, 2, 64, torch.bfloat16, 4),
        ("linear", 256, 4, 3, 40, torch.float32, 2),
        ("linear", 256, 4, 8, 512, torch.bfloat16),
        ("lact", 4096, 4, 1, 64, torch.bfloat16),
        ("lact", 4096, 4, 1, 3000, torch.float32),
        ("lact", 4096, 32, 8, 64, torch.bfloat16),
        ("lact", 256, 4, 3, 48, torch.float64, 3),
    ):
        if kind == "lact":
            config = dataclasses.replace(LACT, dim=dim, num_heads=num_heads)
        else:
            config = TTTConfig(dim=dim, num_heads=num_heads, kind=kind)
        layer = _layer(stage.card, config, dtype)
        layer.controls = InnerControls(inner_steps=sum(inner_steps) or 1)
        with stage.card, torch.inference_mode():
            x = torch.zeros(batch, steps, dim, device="cuda", dtype=dtype)
            open_tokens = config.mini_batch_size - min(config.mini_batch_size, steps) // 2
            opening = torch.zeros(batch, open_tokens, dim, device="cuda", dtype=dtype)
            _, state = layer(opening, layer.init_state(batch))
            del opening
            layer(x, state)
            state = state.mark()
            room = layer.state_bytes(batch, rollback_tokens=steps) - state.nbytes
            before = stage.card.live_bytes
            stage.card.clear()
            heard = layer(x, state)[1]
            listening, counted = stage.card.most_bytes - before, stage.counts()
            del state
            before = stage.card.live_bytes
            stage.card.clear()
            layer.rollback(heard, steps // 2)
            taking_back = stage.card.most_bytes - before
            rows.append(
                {
                    "layer": f"{kind} {dim} batch {batch} steps {steps} {dtype} {inner_steps}",
                    "launches": counted["launches"],
                    "listening": [listening, room + learning_bytes(layer, batch, steps, dtype)],
                    "taking back": [taking_back, taking_back_bytes(layer, batch)],
                }
            )
            del heard, x
    return {"rows": rows, **counted}


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
    """The depformer over rows that lie apart in memory, as what was kept of a pass does."""
    lm = stage.moshi(ttt=False).requires_grad_(trained)
    _heads(stage, lm, batch=2, steps=ROWS // 2)
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


def _evaluation(stage: Stage, lm: Any, text: str) -> Evaluation:
    # No shorter than attention's window: a shorter one is given shorter rings.
    frames = max(10 * stage.size.chunk, lm.context)
    recording = torch.zeros(1, 8, frames, dtype=torch.int64)
    streams = Streams(lm, recording, silence=recording[0], text_stream=text, other_stream="silence")  # type: ignore[arg-type]
    return Evaluation(streams, chunk=stage.size.chunk)


def _text(batch: int, steps: int) -> Tensor:
    return torch.full((batch, steps), 3)


def _layer(card: PretendedCuda, config: TTTConfig, dtype: torch.dtype | None = None) -> Any:
    with torch.device("meta"):
        layer = TTTLayer(config)
    return on_card(layer if dtype is None else layer.to(dtype), card)
