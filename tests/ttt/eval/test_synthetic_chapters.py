"""Synthetic chapters: a table that repeats beyond the window, and a control without one."""

import math

import numpy as np
import pytest

from ttt.synthetic.chapters import SyntheticChapterConfig, synthetic_chapter

TABLE = SyntheticChapterConfig()
NULL = SyntheticChapterConfig(structure="none")


def _cues_answers(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return codes[0, 0::2], codes[0, 1::2]


@pytest.mark.parametrize("config", [TABLE, NULL])
def test_shape_range_and_seed(config: SyntheticChapterConfig) -> None:
    codes = synthetic_chapter(config, 5, 1001)
    assert codes.shape == (8, 1001)
    assert codes.dtype == np.int64
    assert set(np.unique(codes)) <= set(range(64))
    assert np.array_equal(codes, synthetic_chapter(config, 5, 1001))
    assert not np.array_equal(codes, synthetic_chapter(config, 6, 1001))


def test_every_answer_follows_the_chapters_own_table() -> None:
    tables = []
    for seed in range(3):
        cues, answers = _cues_answers(synthetic_chapter(TABLE, seed, 2000))
        table = {cue: answers[cues == cue] for cue in range(32)}
        assert all(len(set(seen)) == 1 and len(seen) > 20 for seen in table.values())
        tables.append(tuple(seen[0] for seen in table.values()))
    assert len(set(tables)) == 3


@pytest.mark.parametrize("block", [1, 4, 32])
def test_a_cue_never_comes_back_within_the_lag(block: int) -> None:
    config = SyntheticChapterConfig(cues_per_block=block)
    nearest = 10**9
    for seed in range(30):
        cues, _ = _cues_answers(synthetic_chapter(config, seed, 2000))
        for cue in range(32):
            nearest = min(nearest, int(np.diff(np.flatnonzero(cues == cue)).min()) * 2)
    assert nearest == config.min_lag_frames


def test_without_structure_answers_are_independent_of_the_past() -> None:
    agree = []
    for seed in range(40):
        cues, answers = _cues_answers(synthetic_chapter(NULL, seed, 1280))
        for cue in range(32):
            seen = answers[cues == cue]
            agree.append(np.mean(seen[1:] == seen[:-1]))
    assert np.mean(agree) == pytest.approx(1 / 32, abs=0.004)


def test_short_stretches_look_the_same_with_and_without_structure() -> None:
    # Over chapters, a stretch below the lag holds answers that are uniform and independent.
    for config in (TABLE, NULL):
        drawn = [_cues_answers(synthetic_chapter(config, s, 300))[1][100:120] for s in range(2000)]
        answers = np.array(drawn) - 32
        assert answers.mean() == pytest.approx(15.5, abs=0.2)
        correlation = np.corrcoef(answers.T) - np.eye(20)
        assert np.abs(correlation).max() < 0.12
        assert np.mean(answers[:, 1:] == answers[:, :-1]) == pytest.approx(1 / 32, abs=0.004)


def test_acoustic_codes_follow_from_the_semantic_one() -> None:
    codes = synthetic_chapter(TABLE, 0, 3000)
    for book in range(1, 8):
        pairs = set(zip(codes[0], codes[book], strict=True))
        assert len(pairs) == len(np.unique(codes[0])) == len(np.unique(codes[book]))


def test_the_bounds_by_hand() -> None:
    cue = math.log(24) / 4  # one of four, of three, of two, the last
    assert TABLE.best_semantic_loss(remembers=True) == pytest.approx(cue / 2)
    forgetful = (cue + math.log(32)) / 2
    assert TABLE.best_semantic_loss(remembers=False) == pytest.approx(forgetful)
    assert NULL.best_semantic_loss(remembers=True) == pytest.approx(forgetful)
    assert (TABLE.min_lag_frames, TABLE.round_frames) == (58, 64)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of cues_per_block"):
        SyntheticChapterConfig(cues_per_block=5)
    with pytest.raises(ValueError, match="card must be at least 64"):
        SyntheticChapterConfig(card=48)
