"""Records of pairs made of arithmetic: scorers that know what they give, and a finished run."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ttt.eval.config import PairSummaryConfig, StreamSetting
from ttt.eval.pairs.find import Pair, PairSet, Role, Utterance
from ttt.eval.pairs.records import ItemRecord, part_path, write_part
from ttt.eval.pairs.run import PairRun, PlannedTask, items_root
from ttt.eval.run import ModelIdentity
from ttt.records import provenance

SUMMARY = PairSummaryConfig(resamples=300)


def made_pairs(
    task: str = "swuggy", clusters: int = 12, voices: tuple[str, ...] = ("A", "B"), **strata: str
) -> PairSet:
    """Pairs without audio; every third cluster lacks the last voice."""
    pairs = []
    for cluster in range(clusters):
        for voice in voices[: len(voices) - (cluster % 3 == 0 and len(voices) > 1)]:
            name = f"dev/{cluster}/{voice}"
            pairs.append(
                Pair(
                    task=task,
                    split="dev",
                    pair_id=name,
                    cluster_id=f"dev/{cluster}",
                    voice=voice,
                    positive=Utterance(f"{name}/1", Path(f"{name}_1.wav")),
                    negative=Utterance(f"{name}/0", Path(f"{name}_0.wav")),
                    strata=strata or {"length": str(cluster % 4)},
                )
            )
    return PairSet(task, tuple(pairs))


Loss = Callable[[Pair, Role], float | None]
"""Nats per frame, the same in every codebook; None breaks the recording."""


def records(pairs: Iterable[Pair], loss: Loss) -> list[ItemRecord]:
    """What a scorer of this loss would store."""
    return [
        item(pair, role, loss(pair, role)) for pair in pairs for role in ("positive", "negative")
    ]


def item(pair: Pair, role: Role, loss: float | None) -> ItemRecord:
    """One recording whose every frame has the same loss; it is 20 or 23 frames long."""
    utterance = pair.positive if role == "positive" else pair.negative
    known = {
        "task": pair.task, "split": pair.split, "pair_id": pair.pair_id, "role": role,
        "cluster_id": pair.cluster_id, "item_id": utterance.item_id, "voice": pair.voice,
        "strata": pair.strata,
    }  # fmt: skip
    if loss is None:
        return ItemRecord(**known, status="error", error="cannot be decoded")  # type: ignore[arg-type]
    frames = 20 if role == "positive" else 23
    return ItemRecord(
        **known,  # type: ignore[arg-type]
        n_frames=frames,
        nll_sum=(loss * frames,) * 8,
        n_cb=(frames,) * 8,
        ending_first_frame=15,
        ending_sum=(loss * (frames - 15),) * 8,
        codes_sha256=f"codes of {utterance.item_id}",
        seconds=0.5,
        chunk=24,
        batch=8,
        as_planned=True,
    )


def noisy(seed: int, effect: float = 0.2) -> Loss:
    """Right a bit more often than not; the same every time for the same recording."""

    def loss(pair: Pair, role: Role) -> float:
        key = [seed, *f"{pair.task}/{pair.pair_id}/{role}".encode()]
        return 3 + np.random.default_rng(key).normal() + (effect if role == "negative" else 0)

    return loss


def write_run(
    folder: Path,
    losses: dict[str, Loss],
    found: Iterable[PairSet],
    pairs_per_part: int = 5,
    strict: bool = False,
) -> Path:
    """A finished run; `losses` is model -> loss, all under the setting paper."""
    found = list(found)
    planned = []
    for task in found:
        parts = [
            task.pairs[at : at + pairs_per_part] for at in range(0, len(task.pairs), pairs_per_part)
        ]
        for model, loss in losses.items():
            for number, pairs in enumerate(parts):
                root = items_root(folder, f"{model}-paper")
                write_part(part_path(root, task.task, number), records(pairs, loss))
        planned.append(
            PlannedTask(
                task=task.task,
                root="data",
                found=len(task.pairs),
                pairs=len(task.pairs),
                pairs_sha256=task.sha256,
                parts=len(parts),
                max_pairs=None,
                left_out=task.left_out,
            )
        )
    PairRun(
        models=tuple(
            ModelIdentity(model=m, source="tiny", fingerprint="ab", weights_sha256=None, context=40)
            for m in losses
        ),
        settings=(StreamSetting(name="paper", text="masked", other="silence", voice="moshi"),),
        tasks=tuple(planned),
        mimi={"name": "tiny", "weights_sha256": "e" * 64},
        seed=0,
        device="cpu",
        dtype="float32",
        chunk=32,
        batch_items=8,
        batch_frames=1000,
        strict=strict,
        summary=SUMMARY,
        provenance=provenance(SUMMARY),
    ).write(folder)
    return folder
