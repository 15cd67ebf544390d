"""A finished run made of arithmetic: a baseline that is flat and a ttt that keeps falling."""

from pathlib import Path

import numpy as np

from tests.ttt.eval.long_records import noisy_loss
from ttt.eval.chapters.records import ChapterDetails, ChapterWriter
from ttt.eval.chapters.run import ChapterRun, PlannedChapter
from ttt.eval.config import LongContextConfig
from ttt.eval.run import ModelIdentity
from ttt.records import provenance

SUMMARY = LongContextConfig(positions=(250, 500, 1000, 2000), window_frames=200, resamples=300)
CONTEXT = 250


def write_run(
    folder: Path,
    chapters: int = 12,
    speakers: int = 6,
    fall: float = -0.1,
    warnings: tuple[str, ...] = (),
    models: tuple[str, ...] = ("baseline", "ttt"),
) -> Path:
    """`fall` is what ttt gains in nats per doubling of the position beyond the window."""
    planned = []
    for number in range(chapters):
        speaker = str(number % speakers)
        chapter_id = f"{speaker}/book/chapter_{number}"
        frames = 900 + 150 * number
        planned.append(
            PlannedChapter(chapter_id=chapter_id, speaker=speaker, seconds=frames / 12.5)
        )
        rng = np.random.default_rng(number)
        shared = 3 + 0.3 * rng.normal() + 2 / (1 + np.arange(frames) / 20)
        noise = np.stack([noisy_loss(rng, frames, 0.5) for _ in range(8)])
        for model in models:
            gain = fall * np.log2(np.maximum(np.arange(frames), CONTEXT) / CONTEXT)
            own = gain if model == "ttt" else 0
            nll = (shared + own + noise + 0.02 * rng.normal(size=frames)).astype(np.float32)
            lowered = ((0, 32), (64, 16)) if (model, number) == ("ttt", 3) else ((0, 32),)
            details = ChapterDetails(
                chapter_id=chapter_id, speaker=speaker, model=model, codes_sha256=f"c{number}",
                joins=(400,), chunks=lowered, group=(chapter_id,), seconds=frames / 50,
                acceptance=0.75, near_ties=1, peak_bytes=(100 + number) << 20,
                activity_frames=tuple(range(100, frames, 100)) if model == "ttt" else (),
                activity=_activity(frames) if model == "ttt" else {},
            )  # fmt: skip
            with ChapterWriter(folder / "records" / model, chapter_id) as writer:
                writer.append(nll, np.full(frames, 3))
                writer.finish(details)
    ChapterRun(
        models=tuple(_identity(model) for model in models),
        chapters=tuple(planned),
        mimi={"name": "tiny", "weights_sha256": "e" * 64},
        seed=0,
        device="cpu",
        dtype="float32",
        chunk=32,
        batch=1,
        streams={"text_stream": "own", "other_stream": "silence"},
        summary=SUMMARY,
        provenance=provenance(SUMMARY),
        warnings=warnings,
    ).write(folder)
    return folder


def _identity(model: str) -> ModelIdentity:
    ttt = {"folder": "runs/ttt", "layers": [1, 2]} if model == "ttt" else None
    return ModelIdentity(
        model=model, source="tiny", fingerprint="ab" * 8, weights_sha256=None, context=CONTEXT,
        ttt=ttt,
    )  # fmt: skip


def _activity(frames: int) -> dict[str, tuple[float, ...]]:
    at = np.arange(100, frames, 100)
    return {layer: tuple((at / 4000) ** power) for layer, power in (("1", 0.5), ("2", 0.7))}
