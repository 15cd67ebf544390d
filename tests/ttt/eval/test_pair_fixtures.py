"""Made-up benchmarks: every task reads its own, and the recordings are what the names say."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ttt.audio import read_audio
from ttt.eval.pairs.find import TASKS, find_pairs
from ttt.eval.pairs.zerospeech import FREQUENCY_BANDS
from ttt.synthetic.pairs import RATE, say_by_arithmetic, say_by_espeak, write_fixtures


def _short(text: str, voice: int) -> np.ndarray:
    """Tells text and voice apart in no time."""
    return np.full(160 * len(text), 0.1 * (voice + 1), dtype=np.float32)


def test_every_task_finds_its_pairs(tmp_path: Path) -> None:
    roots = write_fixtures(tmp_path, _short)
    assert set(roots) == set(TASKS)
    found = {task: find_pairs(task, root) for task, root in roots.items()}
    assert {task: len(each.pairs) for task, each in found.items()} == {
        "swuggy": 40, "sblimp": 36, "sstory": 10, "tstory": 10, "salmon": 6,
    }  # fmt: skip
    assert not any(each.left_out for each in found.values())
    assert {p.strata["frequency"] for p in found["swuggy"].pairs} == set(FREQUENCY_BANDS)
    assert len({p.strata["type"] for p in found["sblimp"].pairs}) == 3
    for task in ("swuggy", "sblimp"):
        assert {pair.voice for pair in found[task].pairs} == {"A", "B"}
        assert len({pair.cluster_id for pair in found[task].pairs}) == len(found[task].pairs) / 2
    samples, rate = read_audio(found["salmon"].pairs[0].negative.audio)
    assert rate == RATE
    assert samples[0, 0] < samples[0, -1]  # Another voice goes on.
    samples, _ = read_audio(found["salmon"].pairs[0].positive.audio)
    assert samples[0, 0] == samples[0, -1]


@pytest.mark.parametrize("say", [say_by_arithmetic, say_by_espeak])
def test_both_voices_speak_and_repeat_themselves(say) -> None:
    if say is say_by_espeak and not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    spoken = say("the cat sleeps", 0)
    assert spoken.dtype == np.float32
    assert 0.3 * RATE < len(spoken) < 3 * RATE
    assert 0.05 < np.abs(spoken).max() <= 1
    assert np.array_equal(spoken, say("the cat sleeps", 0))
    for other in (say("the cat sleeps", 1), say("the cat sleep", 0)):
        assert not np.array_equal(spoken[:8000], other[:8000]) or len(spoken) != len(other)
