"""The importance of settings against SciPy's Kruskal-Wallis test."""

import numpy as np
import pytest
from scipy.stats import kruskal

from ray_jobs.sweep.importance import importance


def test_choices_have_the_share_of_the_kruskal_wallis_statistic():
    random = np.random.default_rng(0)
    words = random.choice(["a", "b", "c", "d"], 40).tolist()
    # Rounded, so that there are ties.
    losses = (random.normal(0, 1, 40) + [ord(word) - 97 for word in words]).round(1).tolist()
    groups = [[x for x, w in zip(losses, words, strict=True) if w == word] for word in "abcd"]
    found = importance(losses, {"word": words})["word"]
    assert found.share == pytest.approx(kruskal(*groups).statistic / 39, rel=1e-12)
    assert (found.chance, found.n, found.reason) == (3 / 39, 40, None)


def test_a_best_value_in_the_middle_is_seen():
    numbers = np.linspace(-1, 1, 30).tolist()
    losses = [x * x for x in numbers]
    groups = [losses[:10], losses[10:20], losses[20:]]
    found = importance(losses, {"rate": numbers, "none": numbers[::2] + numbers[1::2]})
    assert found["rate"].share == pytest.approx(kruskal(*groups).statistic / 29, rel=1e-12)
    assert found["rate"].share > 0.5
    assert abs(np.corrcoef(losses, numbers)[0, 1]) < 1e-12
    assert found["none"].share < 0.2


def test_what_has_no_effect_has_the_share_by_chance_on_average():
    random = np.random.default_rng(1)
    shares = []
    for _ in range(400):
        values = random.random(20).tolist()
        found = importance(random.random(20).tolist(), {"x": values})["x"]
        shares.append(found.share)
    assert np.mean(shares) == pytest.approx(2 / 19, abs=0.015)


def test_a_value_that_is_no_number_is_a_group_beside_the_thirds():
    losses = np.random.default_rng(2).random(31).tolist()
    numbers = np.linspace(-1, 1, 30).tolist()
    groups = [losses[:1], losses[1:11], losses[11:21], losses[21:]]
    for other in ("null", True):
        found = importance(losses, {"rate": [other, *numbers]})["rate"]
        assert found.share == pytest.approx(kruskal(*groups).statistic / 30, rel=1e-12)
        assert found.chance == 3 / 30


@pytest.mark.parametrize(
    ("losses", "values", "reason"),
    [
        ([1.0] * 9, list(range(9)), "9 trials are too few; 10 are needed"),
        ([float(n) for n in range(12)], ["a"] * 12, "all trials have the same value"),
        (list(range(12)), list("abcdefghijkl"), "no two trials have the same value"),
        ([1.0] * 12, list(range(12)), "all trials have the same loss"),
    ],
)
def test_too_little_gives_a_reason_and_no_number(losses, values, reason):
    found = importance(losses, {"x": values})["x"]
    assert (found.share, found.chance, found.reason) == (None, None, reason)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="12 losses cannot be paired with 11 values"):
        importance([1.0] * 12, {"x": [1] * 11})
