"""Epochs, phases and segment lengths in numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ttt.errors import UserError
from ttt.snac.geometry import CodeGeometry
from ttt.snac.train.curriculum import (
    CurriculumConfig,
    StageConfig,
    as_planned,
    plan_epochs,
    require_even_shares,
)
from ttt.snac.train.windows import WindowPlan

GEOMETRY = CodeGeometry.preset("snac_24khz")


def window_plan(n_clips: int) -> WindowPlan:
    n_coarse = np.full(n_clips, 60, np.int32)
    n_samples = n_coarse * GEOMETRY.samples_48k(1)
    return WindowPlan(n_coarse, n_samples, GEOMETRY, 10_000, seed=0)


def test_the_default_is_the_schedule_that_was_asked_for() -> None:
    epochs = plan_epochs(CurriculumConfig(windows_per_clip=1), window_plan(200))
    assert [epoch.phase for epoch in epochs] == [1] + [2] * 14
    seconds = [epoch.segment_seconds for epoch in epochs]
    assert seconds == [1.0] * 3 + [2.0] * 3 + [3.0] * 3 + [4.0] * 6
    assert [epoch.shape.core_coarse for epoch in epochs] == [11] * 3 + [23] * 3 + [35] * 3 + [
        46
    ] * 6
    assert {epoch.shape.context_coarse for epoch in epochs} == {2}
    assert [epoch.steps for epoch in epochs] == [3] * 3 + [6] * 3 + [8] * 3 + [12] * 6
    assert [epoch.first_step for epoch in epochs] == list(
        np.cumsum([0] + [epoch.steps for epoch in epochs[:-1]])
    )
    assert (epochs[0].phase_first_step, epochs[0].phase_steps) == (0, 3)
    assert {(epoch.phase_first_step, epoch.phase_steps) for epoch in epochs[1:]} == {(3, 120)}


def test_by_default_the_steps_follow_from_all_windows() -> None:
    """60 tokens hold 5, 2, 1 and 1 windows of 11, 23, 35 and 46."""
    assert CurriculumConfig().windows_per_clip == "length"
    epochs = plan_epochs(CurriculumConfig(), window_plan(200))
    assert {epoch.shape.windows_per_clip for epoch in epochs} == {"length"}
    assert [epoch.steps for epoch in epochs] == [15] * 3 + [12] * 3 + [8] * 3 + [12] * 6
    assert {(epoch.phase_first_step, epoch.phase_steps) for epoch in epochs[1:]} == {(15, 162)}


@pytest.mark.parametrize(
    ("stored", "planned"),
    [
        ({"curriculum": {"epochs": 3}}, {"curriculum": {"windows_per_clip": 1, "epochs": 3}}),
        ({"curriculum": {"windows_per_clip": "length"}, "seed": 1}, None),
        ({"curriculum": {"windows_per_clip": 1}}, None),
        ({"seed": 1}, None),
        ({"curriculum": "a word"}, None),
        ({}, None),
    ],
)
def test_what_was_stored_without_the_key_meant_one_window(stored: Any, planned: Any) -> None:
    assert as_planned(stored) == (stored if planned is None else planned)


def test_the_seeds_table_of_tokens() -> None:
    config = CurriculumConfig(token_rule="floor_per_second", token_geometry="seed")
    cores = {
        config.stage(epoch).segment_seconds: config.shape(epoch, GEOMETRY).core_coarse
        for epoch in range(1, 16)
    }
    assert cores == {1.0: 6, 2.0: 12, 3.0: 18, 4.0: 24}


def test_memory_stays_level_while_segments_grow() -> None:
    config = CurriculumConfig()
    shapes = [config.shape(epoch, GEOMETRY) for epoch in (1, 4, 7, 10)]
    tokens = [s.clips_per_micro_batch * (s.core_coarse + 2 * s.context_coarse) for s in shapes]
    assert max(tokens) <= 1.25 * min(tokens)


def test_all_epochs_may_be_of_one_phase() -> None:
    for head_only, phase in ((0, 2), (15, 1)):
        config = CurriculumConfig(head_only_epochs=head_only, windows_per_clip=1)
        epochs = plan_epochs(config, window_plan(64))
        assert {epoch.phase for epoch in epochs} == {phase}
        assert epochs[0].phase_steps == sum(epoch.steps for epoch in epochs)


def stage(first: int, last: int, clips: int = 8) -> StageConfig:
    return StageConfig(
        first_epoch=first, last_epoch=last, segment_seconds=1.0, clips_per_step=clips
    )


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((stage(1, 2),), "stages cover epochs 1-2; together they must cover 1 to 3 once, in order"),
        ((stage(1, 2), stage(2, 3)), "stages cover epochs 1-2, 2-3"),
        ((stage(1, 1), stage(3, 3)), "stages cover epochs 1-1, 3-3"),
        ((stage(1, 4),), "stages cover epochs 1-4"),
        ((), "stages cover epochs none"),
        ((stage(1, 3, clips=12),), r"stages\[0\]\.clips_per_step 12 is not a multiple of"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: tuple[StageConfig, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CurriculumConfig(epochs=3, stages=stages)


def test_too_few_clips_name_the_stage() -> None:
    said = r"63 training clips are fewer than the 64 of one step: lower curriculum\.stages\[0\]"
    with pytest.raises(UserError, match=said):
        plan_epochs(CurriculumConfig(windows_per_clip=1), window_plan(63))


def test_too_few_windows_name_the_stage_that_has_them() -> None:
    """12 clips of 60 tokens: 60 windows of 1 s are too few, 13 clips have enough of each length."""
    said = (
        r"60 windows of 0\.94 s in 12 training clips are fewer than the 64 of one step: lower "
        r"curriculum\.stages\[0\]"
    )
    with pytest.raises(UserError, match=said):
        plan_epochs(CurriculumConfig(), window_plan(12))
    stages = (stage(1, 2), dataclasses.replace(stage(3, 3, clips=24), segment_seconds=3.0))
    said = r"13 windows of 2\.99 s in 13 training clips .*the 24 .* curriculum\.stages\[1\]"
    with pytest.raises(UserError, match=said):
        plan_epochs(CurriculumConfig(epochs=3, stages=stages), window_plan(13))


def test_workers_must_share_a_step_evenly() -> None:
    for workers in (1, 2, 4, 8):
        require_even_shares(CurriculumConfig(), workers)
    with pytest.raises(
        UserError, match=r"num_workers 3 does not divide .*micro_batches_per_step 8"
    ):
        require_even_shares(CurriculumConfig(), 3)
