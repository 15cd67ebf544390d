"""Speakers stay themselves, syllables fill their time, tracks hold and glide."""

import numpy as np
import pytest

from ttt.synthetic.phones import Phone, Score, Voice, syllables


def test_a_speaker_is_always_the_same_and_speakers_differ() -> None:
    assert Voice.of(5) == Voice.of(5)
    voices = [Voice.of(speaker) for speaker in range(200)]
    assert len({voice.pitch_hertz for voice in voices}) == 200
    assert all(85 <= voice.pitch_hertz <= 260 for voice in voices)
    assert all(0.75 < voice.tract_scale < 1.35 for voice in voices)


def test_high_voices_have_short_tracts() -> None:
    voices = [Voice.of(speaker) for speaker in range(200)]
    pitch, scale = ([getattr(v, name) for v in voices] for name in ("pitch_hertz", "tract_scale"))
    assert np.corrcoef(np.log(pitch), scale)[0, 1] > 0.8


@pytest.mark.parametrize("seconds", [0.1, 3.0, 20.0])
def test_syllables_fill_their_time_and_end_in_a_pause(seconds: float) -> None:
    phones = syllables(np.random.default_rng(0), Voice.of(0), seconds)
    assert sum(phone.seconds for phone in phones) >= seconds
    assert all(phone.seconds > 0 for phone in phones)
    assert phones[-1].voicing == phones[-1].frication == phones[-1].aspiration == 0


def test_tracks_hold_their_targets_and_glide_across_the_border() -> None:
    score = Score(
        [
            Phone(seconds=1.0, f1=300.0, glide_seconds=0.2),
            Phone(seconds=1.0, f1=700.0, glide_seconds=0.2),
        ]
    )
    track = score.track("f1", np.array([0.0, 0.9, 1.0, 1.1, 1.9, 5.0]))
    np.testing.assert_allclose(track, [300, 300, 500, 700, 700, 700])
