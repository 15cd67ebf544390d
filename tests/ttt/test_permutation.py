"""Permutations that are computed place by place: each is one, and they look random."""

from __future__ import annotations

import numpy as np
import pytest

from ttt.permutation import permuted


@pytest.mark.parametrize("count", [*range(1, 70), 1000, 1023, 1024, 1025, 99_991])
def test_every_place_goes_somewhere_else(count: int) -> None:
    for key in ((0, 1), (7, 1), (7, 2)):
        assert np.array_equal(np.sort(permuted(np.arange(count), count, *key)), np.arange(count))


def test_a_place_goes_where_it_goes_alone_and_far_out() -> None:
    whole = permuted(np.arange(5000), 5000, 3, 1)
    for place in (0, 17, 4999):
        assert permuted(np.array([place]), 5000, 3, 1).tolist() == [whole[place]]
    far = 10**12 + np.arange(-50, 0)
    found = permuted(far, 10**12, 3, 1)
    assert len(set(found.tolist())) == 50
    assert (found >= 0).all()
    assert (found < 10**12).all()
    assert permuted(np.array([], np.int64), 10, 3, 1).tolist() == []


def test_places_go_everywhere_equally_often_and_neighbours_apart() -> None:
    count, draws = 40, 4000
    goes_to = np.stack([permuted(np.arange(count), count, 5, key) for key in range(draws)])
    apart = (goes_to[:, 1:] - goes_to[:, :-1]) % count - 1  # 0 to 38: no two go to one place
    for found, values in ((goes_to, count), (apart, count - 1)):
        for column in found.T:
            observed, expected = np.bincount(column, minlength=values), draws / values
            # Chi-squared with 39 or 38 degrees of freedom: 99.99 % lie below 80.
            assert ((observed - expected) ** 2 / expected).sum() < 80
    large = permuted(np.arange(100_000), 100_000, 5, 1)
    assert abs(np.corrcoef(large[1:], large[:-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(large, np.arange(100_000))[0, 1]) < 0.02
