"""Whether a change changes a number: twenty small training steps and one chapter, by their values.

    make same                 compares with tests/same_values.json, 1e-5 relative
    make same REWRITE=1       renews that file and prints the largest difference

Everything is random weights and made data from fixed seeds. Bits differ between machines, so the
values are losses, norms of weights and means, which rounding hardly moves. Norms of gradients are
left out: the logarithm of a silent bin has so steep a slope that rounding moves them by a percent.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tests.conftest import build_nano_snac
from tests.nano_cache import write_nano_cache
from ttt.layers import TTTConfig
from ttt.moshi import evaluate_codes, insert_ttt, tiny_lm
from ttt.snac.cache.index import open_cache
from ttt.snac.model import Decoder48k
from ttt.snac.train.config import LossConfig
from ttt.snac.train.curriculum import CurriculumConfig, StageConfig, plan_epochs
from ttt.snac.train.decoder import DecoderTrainee
from ttt.snac.train.optim import OptimConfig
from ttt.snac.train.step import DecoderRecipe
from ttt.snac.train.validation import ValidationSet
from ttt.snac.train.window_places import ClipPlaces
from ttt.snac.train.window_reader import LocalWindowSource, WindowReader
from ttt.snac.train.windows import WindowPlan, validation_windows
from ttt.training.config import CheckpointConfig
from ttt.training.hooks import Hook, StepRecord
from ttt.training.loop import LoopSettings, train
from ttt.training.ranks import SingleProcess
from ttt.training.state import TrainState
from ttt.training.trainee import ValidationResult

VALUES = Path(__file__).with_name("same_values.json")
LIMIT = 1e-5
Values = dict[str, float]


def main(arguments: list[str]) -> int:
    """Compare, or renew with --rewrite; 1 where a value is another one."""
    if arguments not in ([], ["--rewrite"]):
        print("usage: python -m tests.same [--rewrite]", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    return check(values(), VALUES, rewrite=bool(arguments))


def check(found: Values, file: Path, *, rewrite: bool) -> int:
    """Compare values with those in `file`, or put them there; say what differs most."""
    stored: Values = json.loads(file.read_text()) if file.exists() else {}
    apart = differences(stored, found)
    name, largest = max(apart.items(), key=lambda item: item[1])
    print(f"{len(found)} values; largest relative difference {largest:.2g} ({name})")
    if rewrite:
        file.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    changed = [name for name, difference in apart.items() if difference > LIMIT]
    for name in changed:
        print(f"{name}: was {stored.get(name)} and is {found.get(name)}")
    if changed:
        print(f"{len(changed)} values moved by more than {LIMIT:g}; meant? make same REWRITE=1")
    return 1 if changed else 0


def differences(stored: Mapping[str, float], found: Mapping[str, float]) -> Values:
    """Name -> relative difference; infinite where one side has no such value or no number."""
    apart: Values = {}
    for name in {**stored, **found}:
        old, new = stored.get(name, math.nan), found.get(name, math.nan)
        difference = 0.0 if old == new else abs(old - new) / max(abs(old), abs(new))
        apart[name] = difference if math.isfinite(difference) else math.inf
    return apart


def values() -> Values:
    """Every value, by name."""
    with tempfile.TemporaryDirectory() as folder:
        return {**training_values(Path(folder)), **chapter_values()}


def training_values(folder: Path) -> Values:
    """Twenty steps over both phases and a change of segment, with an average and validation."""
    cache = open_cache(str(write_nano_cache(folder / "cache", 11)))
    model = Decoder48k.from_snac(build_nano_snac())
    catalogue, rows = cache.catalogue, np.arange(11)
    arrays = (
        catalogue.n_coarse,
        catalogue.n_samples,
        cache.geometry,
        model.reach_samples_48k,
    )
    plan = WindowPlan(*arrays, seed=3, rows=rows[:8])
    curriculum = CurriculumConfig(
        epochs=6,
        windows_per_clip=1,
        stages=(
            StageConfig(first_epoch=1, last_epoch=2, segment_seconds=0.18, clips_per_step=4),
            StageConfig(first_epoch=3, last_epoch=6, segment_seconds=0.26, clips_per_step=2),
        ),
        context_coarse=1,
        micro_batches_per_step=2,
    )
    epochs = plan_epochs(curriculum, plan)
    assert sum(epoch.steps for epoch in epochs) == 20
    reader = WindowReader(cache, plan)
    windows = validation_windows(ClipPlaces(*arrays), 3, 1, 2, 5, rows=rows[8:])
    recipe = DecoderRecipe(
        seed=3,
        precision="float32",
        # Rates so low that AdamW does not blow rounding up: in arithmetic of another processor the
        # published ones move these values by 3e-4, these by 6e-6 at most.
        optim=OptimConfig(head_only_lr=5e-7, peak_lr=1e-6, ema_decay=0.5),
        loss=LossConfig(n_ffts=(512, 1024)),
    )
    trainee = DecoderTrainee(model, recipe, epochs, ValidationSet(reader, windows))
    settings = LoopSettings(
        run=str(folder / "run"),
        plan={},
        checkpoint=CheckpointConfig(every_steps=None, every_minutes=None),
        ema_decay=0.5,
    )
    source = LocalWindowSource(reader, plan, [epoch.shape for epoch in epochs])
    notes = _Notes()
    train(settings, trainee, source, SingleProcess(), [notes])
    parts = {"head": model.head_parameters(), "body": model.body_parameters()}
    norms = {
        f"training/norm/{part}": math.sqrt(
            sum(float((p.detach().double() ** 2).sum()) for p in parameters)
        )
        for part, parameters in parts.items()
    }
    return {**notes.values, **norms}


def chapter_values() -> Values:
    """A chapter of six windows through a tiny Moshi without and with TTT layers, in own text."""
    random = np.random.default_rng(1)
    codes = torch.from_numpy(random.integers(0, 64, (1, 8, 192)))
    found: Values = {}
    kinds: tuple[Literal["linear", "mlp"] | None, ...] = (None, "linear", "mlp")
    for kind in kinds:
        lm = tiny_lm(dim=64, depformer_dim=32, padding_bias=2.5)
        if kind is not None:
            config = TTTConfig(dim=64, num_heads=4, kind=kind)
            insert_ttt(lm, [1, 3], config, generator=torch.Generator().manual_seed(5))
        nll = evaluate_codes(lm, codes, chunk=17).nll[0].double()
        name = f"chapter/{kind or 'baseline'}"
        for codebook, losses in enumerate(nll):
            found[f"{name}/codebook {codebook}"] = float(losses.mean())
        for start in range(0, nll.shape[1], 32):
            found[f"{name}/frames from {start}"] = float(nll[:, start : start + 32].mean())
    return found


class _Notes(Hook):
    """The numbers of each step and validation."""

    def __init__(self) -> None:
        self.values: Values = {}

    def on_step(self, record: StepRecord) -> None:
        for name, value in record.terms.items():
            self.values[f"training/step {record.step}/{name}"] = value

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        for name, value in result.terms.items():
            self.values[f"training/validation {state.step}/{name}"] = value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
