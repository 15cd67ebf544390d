"""The files of a training in Moshi, written by arithmetic: no model is behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ttt import checkpoint
from ttt.records import append_jsonl, provenance, write_json
from ttt.training.config import CheckpointConfig

STAGES = [
    {"frames": 100, "steps": 20, "frames_per_step": 800},
    {"frames": 400, "steps": 20, "frames_per_step": 800},
]
WINDOW = 64
BINS = (0, 16, 32, 64, 128, 256)
FRAMES = 300
GAINS = {0: 0.0, 10: -0.02, 20: -0.08, 30: -0.1, 40: -0.09}
"""Step of a validation -> what training has changed beyond the window; 30 is the best."""
TTT = {"layers": [1, 3], "kind": "mlp"}
LORA = {"rank": 8, "targets": ["in_projs"]}


def plan(**changed: Any) -> dict[str, Any]:
    """What a checkpoint of a training in Moshi stores."""
    return {
        "model": {"dtype": "float32", "lm_kwargs": {}},
        "data": {"validation_share": 0.5},
        "ttt": TTT,
        "lora": None,
        "stages": STAGES,
        "optim": {"peak_rates": {"ttt": 1e-3, "gate": 1e-3, "lora": 1e-3}, "clip_norm": 1.0},
        "weights": "moshi",
        "validation": {"span_frames": FRAMES},
        "seed": 0,
        "base_fingerprint": "ab" * 8,
        "chapters_sha256": {"training": "12" * 32, "validation": "34" * 32},
        "start_sha256": {},
        "attention_window": WINDOW,
        "trained": {"ttt": 1000, "gate": 24},
        "steps": {"epoch 1": 20, "epoch 2": 20},
        **changed,
    }


def spans(speakers: int) -> list[dict[str, Any]]:
    """Two spans of each speaker; one of the first speaker's ends within the window."""
    return [
        {
            "chapter_id": f"speaker_{n % speakers}/a_long_name_of_a_chapter_{n}",
            "speaker": f"speaker_{n % speakers}",
            "frames": 40 if n == speakers else FRAMES,
        }
        for n in range(2 * speakers)
    ]


def heard(span: dict[str, Any], gain: float, place: int) -> tuple[dict[str, float], ...]:
    """Losses and curve of a span; `gain` is added beyond the window, a little of it inside."""
    rng = np.random.default_rng(place)
    level, own = 2 + 0.3 * rng.normal(), gain * (1 + 0.3 * rng.normal())
    curve = {
        f"from_{low}": level - 0.05 * at + (own if low >= WINDOW else 0.1 * own)
        for at, low in enumerate(BINS)
        if 2 * max(low, 8) <= span["frames"]
    }
    losses = {"mean": level + own / 2, "in_window": level + 0.1 * own}
    if span["frames"] > WINDOW:
        losses |= {
            name: level + own + extra
            for name, extra in (("beyond_window", 0.0), ("semantic", 0.1), ("acoustic", -0.2))
        }
    return losses, curve


def write_training(
    run: Path,
    *,
    speakers: int = 6,
    gains: dict[int, float] = GAINS,
    step: int = 40,
    layers: int = 2,
    **changed: Any,
) -> Path:
    """A run that has taken `step` steps; `changed` replaces parts of its plan."""
    stored = plan(**changed)
    if stored["ttt"] is None:
        layers = 0
    rows = spans(speakers)
    best = min((at for at in gains if at), key=gains.__getitem__, default=None)
    for at, gain in gains.items():
        told = [(heard(span, gain, n), heard(span, 0.0, n)) for n, span in enumerate(rows)]
        for n, (span, (trained, base)) in enumerate(zip(rows, told, strict=True)):
            line = {"step": at, **span, "trained": trained[0], "curve": trained[1]}
            if at == 0:
                line |= {"base": base[0], "base_curve": base[1]}
            if layers:
                line["fast_weight_change"] = _layers(layers, at + n)
            append_jsonl(run / "spans.jsonl", line)
        means = {
            "trained": _means([trained[0] for trained, _ in told]),
            "base": _means([base[0] for _, base in told]),
        }
        if layers:
            means |= {row: _layers(layers, at) for row in ("gate", "fast_weight_change")}
        validation = {"kind": "validation", "step": at, "rows": means, "best": at == best}
        append_jsonl(run / "metrics.jsonl", validation)
    for at in range(2, step + 1, 2):
        line = {
            "kind": "step", "step": at, "loss": None if at == 6 else 2 - 0.01 * at,
            "grad_norm": 1.0,
            "learning_rate": dict.fromkeys(("ttt", "gate", "lora"), 0.001 / at),
            "step_seconds": 0.25,
        }  # fmt: skip
        append_jsonl(run / "metrics.jsonl", line)
    train = {"step": step, "best_step": best, "skipped": 1}
    state = {"train": train, "plan": stored}
    checkpoint.save(str(run), checkpoint.Snapshot(step, {}, {}, state))
    config = {
        "run": str(run), "model": {"weights": "kyutai/moshiko-pytorch-bf16"},
        "data": {"cache": "caches/a_long_name_of_a_cache_of_chapters"}, "stages": STAGES,
        "ttt": stored["ttt"], "lora": stored["lora"],
    }  # fmt: skip
    write_json(run / "provenance.json", {**provenance(CheckpointConfig()), "config": config})
    return run


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    names = max(rows, key=len)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _layers(count: int, at: int) -> dict[str, float]:
    return {f"layer_{2 * n}": 0.1 + 0.01 * n + 0.001 * at for n in range(count)}
