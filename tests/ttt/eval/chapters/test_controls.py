"""Shuffled chapters keep every frame and every stretch."""

import numpy as np

from ttt.eval.chapters.controls import shuffle_stretches


def test_stretches_are_kept_whole_in_another_order():
    codes = np.tile(np.arange(47, dtype=np.int16), (8, 1))
    shuffled, joins = shuffle_stretches(codes, 10, seed=0, chapter_id="a")
    stretches = np.split(shuffled[0], joins)
    assert sorted(stretch.tolist() for stretch in stretches) == [
        list(range(first, min(first + 10, 47))) for first in range(0, 47, 10)
    ]
    assert shuffled[0].tolist() != codes[0].tolist()
    assert np.array_equal(shuffled, np.tile(shuffled[0], (8, 1)))


def test_the_order_is_the_seeds_and_the_chapters_own():
    codes = np.tile(np.arange(400, dtype=np.int16), (8, 1))
    one, again, other_seed, other_chapter = (
        shuffle_stretches(codes, 10, seed, chapter)[0]
        for seed, chapter in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other_seed)
    assert not np.array_equal(one, other_chapter)
