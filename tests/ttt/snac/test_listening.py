"""Trials are equally loud, say not whose they are, and stay the same where they are made again."""

import json

import numpy as np
import pytest

from ttt.audio import from_int16
from ttt.snac.evaluation.listening import make_listening
from ttt.sound.loudness import loudness_lufs

SAMPLES = 30_000


def _clips(count: int = 8, louder_db: float = 3.0) -> dict[str, dict[str, np.ndarray]]:
    clips = {}
    for number in range(count):
        noise = np.random.default_rng(number).standard_normal((2, SAMPLES))
        a, b = noise[0] * 2000, noise[1] * 2000 * 10 ** (louder_db * (-1) ** number / 20)
        clips[f"clip {number}"] = {
            letter: np.clip(audio, -32768, 32767).astype(np.int16)
            for letter, audio in (("A", a), ("B", b))
        }
    return clips


@pytest.mark.parametrize("louder_db", [0.0, 0.5, 3.0, 12.0])
def test_the_louder_one_is_turned_down_to_the_other(louder_db: float) -> None:
    clips = _clips(louder_db=louder_db)
    made = make_listening(clips, "secret")
    assert made.residual_lu < 0.01
    for trial in made.trials:
        before = {
            letter: loudness_lufs(from_int16(audio))
            for letter, audio in clips[trial.clip_id].items()
        }
        after = [loudness_lufs(from_int16(audio)) for audio in trial.versions.values()]
        lowest = min(lufs for lufs in before.values() if lufs is not None)
        assert trial.lufs == lowest
        assert after == pytest.approx([lowest] * 2, abs=trial.residual_lu + 1e-9)
        for token, audio in trial.versions.items():
            original = clips[trial.clip_id][trial.made_by[token]]
            assert np.abs(audio.astype(int)).max() <= np.abs(original.astype(int)).max()
            if before[trial.made_by[token]] == lowest:
                assert np.array_equal(audio, original)


def test_nothing_but_the_key_says_whose_a_version_is() -> None:
    clips = _clips(40)
    made = make_listening(clips, "secret")
    first = [trial.made_by[next(iter(trial.versions))] for trial in made.trials]
    assert 8 < first.count("A") < 32, "which version comes first does not follow its decoder"
    order = [trial.clip_id for trial in made.trials]
    assert order != sorted(order, key=list(clips).index)
    for trial in made.trials:
        assert list(trial.versions) == sorted(trial.versions)
    other = make_listening(clips, "another")
    assert other.page != made.page
    tokens = {token for each in (made, other) for trial in each.trials for token in trial.versions}
    assert len(tokens) == 160, "another secret has other tokens"


def test_the_same_clips_and_secret_make_the_same_page() -> None:
    made, again = (make_listening(_clips(), "secret") for _ in range(2))
    assert made.page == again.page
    assert made.key({"A": {}, "B": {}}) == again.key({"A": {}, "B": {}})
    changed = _clips()
    changed["clip 3"]["B"][7] += 1
    assert make_listening(changed, "secret").page != made.page


def test_the_key_tells_all_and_is_json() -> None:
    clips = _clips(3)
    clips["silent"] = {"A": clips["clip 0"]["A"], "B": np.zeros(SAMPLES, np.int16)}
    clips["short"] = {letter: audio[:19_000] for letter, audio in clips["clip 0"].items()}
    made = make_listening(clips, "secret")
    key = json.loads(json.dumps(made.key({"A": {"name": "one"}, "B": {"name": "two"}})))
    assert {each["clip_id"] for each in key["trials"].values()} == {"clip 0", "clip 1", "clip 2"}
    for trial in made.trials:
        assert key["trials"][trial.trial_id]["versions"] == trial.made_by
        assert sorted(trial.made_by.values()) == ["A", "B"]
    assert key["left_out"] == {
        "silent": "B's version has no loudness, it is silent",
        "short": "shorter than the 0.4 s that a loudness needs",
    }


def test_two_versions_that_are_equal_are_still_two() -> None:
    audio = _clips(1)["clip 0"]["A"]
    (trial,) = make_listening({"same": {"A": audio, "B": audio}}, "secret").trials
    assert len(trial.versions) == 2
    assert trial.residual_lu == 0


def test_without_a_clip_there_is_nothing() -> None:
    made = make_listening({}, "secret")
    assert not made.trials
    assert made.residual_lu == 0
