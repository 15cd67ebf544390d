"""What a training in Moshi is told: refusals, stages, rates, and no torch."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch

from ttt.layers import TTTConfig
from ttt.moshi.training.config import (
    LoRAConfig,
    MoshiOptimConfig,
    MoshiTrainingConfig,
    PeakRatesConfig,
    TTTLayersConfig,
    WindowStageConfig,
)
from ttt.moshi.training.stages import learning_rates, plan_stages

STAGES = (
    WindowStageConfig(frames=375, steps=30, frames_per_step=3000),
    WindowStageConfig(frames=3000, steps=10, frames_per_step=3000),
)
TTT = TTTLayersConfig(layers=(1, 2))
LACT = TTTLayersConfig(layers=(1, 2), flavour="lact", mini_batch_size=375, rope_theta=None)


def test_it_imports_no_torch() -> None:
    script = "import sys, ttt.moshi.training.config as c; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_ttt_layers_have_the_defaults_of_a_ttt_layer() -> None:
    theirs = {f.name: f.default for f in dataclasses.fields(TTTConfig)}
    for field in dataclasses.fields(TTTLayersConfig):
        if field.name in theirs and field.name != "num_heads":
            assert field.default == theirs[field.name], field.name


BAD: tuple[tuple[type, dict[str, Any], str], ...] = (
    (TTTLayersConfig, {"layers": ()}, "layers must name one or more, each once, got"),
    (TTTLayersConfig, {"layers": (1, 1)}, "layers must name one or more, each once, got"),
    (TTTLayersConfig, {"layers": (1,), "base_lr": 0.0}, "base_lr must be above 0, got 0.0"),
    (TTTLayersConfig, {"layers": (1,), "num_heads": 0}, "num_heads must be above 0, got 0"),
    (TTTLayersConfig, {"layers": (1,), "momentum": True}, "momentum belongs to flavour lact"),
    (
        TTTLayersConfig,
        {"layers": (1,), "flavour": "lact", "rope_theta": None, "mini_batch_size": 4096},
        "mini_batch_size must be at most 2,048 with flavour lact, not 4,096: in a longer chunk",
    ),
    (TTTLayersConfig, {"layers": (1,), "flavour": "lact"}, "rope_theta must be null with flavour"),
    (LoRAConfig, {"rank": "match"}, "rank: match and match belong together"),
    (LoRAConfig, {"match": TTT}, "rank: match and match belong together"),
    (LoRAConfig, {"rank": 0}, "rank must be match, 1 or more, got 0"),
    (LoRAConfig, {"scaling": 0.0}, "scaling must be above 0, got 0.0"),
    (LoRAConfig, {"targets": ()}, "targets must name one or more, each once"),
    (
        WindowStageConfig,
        {"frames": 7, "steps": 1, "frames_per_step": 20},
        "frames_per_step 20 is not a multiple of frames 7",
    ),
    (
        WindowStageConfig,
        {"frames": 7, "steps": 0, "frames_per_step": 7},
        "steps must be at least 1, got 0",
    ),
    (PeakRatesConfig, {"gate": 0.0}, "gate must be above 0, got 0.0"),
    (MoshiOptimConfig, {"warmup_fraction": 1.0}, "warmup_fraction must lie in"),
    (MoshiOptimConfig, {"clip_norm": 0.0}, "clip_norm must be above 0 or null"),
    (MoshiOptimConfig, {"ema_decay": 1.0}, "ema_decay must lie in"),
    (MoshiOptimConfig, {"betas": (0.9, 1.0)}, "betas must lie in"),
    (MoshiOptimConfig, {"weight_decay": -0.1}, "weight_decay must not be negative"),
    (MoshiOptimConfig, {"final_div": 0.0}, "final_div must be above 0"),
    (MoshiOptimConfig, {"max_skipped_in_row": 0}, "max_skipped_in_row must be at least 1"),
    (MoshiTrainingConfig, {"stages": STAGES}, "ttt and lora are both null: there is nothing"),
    (MoshiTrainingConfig, {"stages": (), "ttt": TTT}, "stages must name at least one"),
    (
        MoshiTrainingConfig,
        {"stages": STAGES[:1], "ttt": LACT},
        "ttt.mini_batch_size 375 is no shorter than the longest windows of stages, 375 frames",
    ),
)


@pytest.mark.parametrize("kind, fields, sentence", BAD)
def test_what_cannot_be_is_refused(kind: type, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        kind(**fields)


def test_stages_follow_each_other_under_one_schedule() -> None:
    first, second = plan_stages(STAGES)
    assert (first.number, first.steps, first.first_step) == (1, 30, 0)
    assert (second.number, second.steps, second.first_step) == (2, 10, 30)
    assert {(each.phase, each.phase_first_step, each.phase_steps) for each in (first, second)} == {
        (1, 0, 40)
    }
    assert [each.config.windows_per_step for each in (first, second)] == [8, 1]


def test_one_cycle_is_torchs() -> None:
    config = MoshiOptimConfig(warmup_fraction=0.2, peak_rates=PeakRatesConfig(ttt=0.3))
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.3, total_steps=40, pct_start=0.2, cycle_momentum=False
    )
    for step in range(40):
        assert learning_rates(config, step, 40)["ttt"] == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_cosine_rises_in_a_straight_line_and_falls_as_one_cycle() -> None:
    rates = {
        name: [
            learning_rates(MoshiOptimConfig(schedule=name, warmup_fraction=0.25), step, 40)["ttt"]
            for step in range(40)
        ]
        for name in ("cosine", "one_cycle")
    }
    rising = rates["cosine"][:10]
    steps = [after - before for before, after in itertools.pairwise(rising)]
    assert rising[0] == pytest.approx(1e-4 / 25)
    assert max(rates["cosine"]) == pytest.approx(rising[-1]) == pytest.approx(1e-4)
    assert all(each == pytest.approx(steps[0]) for each in steps)
    assert rates["cosine"][10:] == rates["one_cycle"][10:]
    with pytest.raises(ValueError, match="step 40 lies outside a schedule of 40 steps"):
        learning_rates(MoshiOptimConfig(schedule="cosine"), 40, 40)
