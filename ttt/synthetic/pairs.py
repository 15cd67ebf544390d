"""Small made-up recordings in the layouts of the published benchmarks, for tests and the demo.

    python -m ttt.synthetic.pairs FOLDER

makes FOLDER/sLM21/{lexical,syntactic}/dev, sStoryCloze, tStoryCloze and salmon in a few seconds:
20 words and non-words, 18 sentences of three types, each by two voices, 10 stories, one part of
SALMon. espeak-ng speaks where it is installed, a voice made of arithmetic where not. The recordings
say something about programs that read and score them, and nothing about a model.
"""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch

from ttt.audio import resample, write_wav
from ttt.synthetic.voice import utterance

RATE = 16_000
Samples = npt.NDArray[np.float32]
Say = Callable[[str, int], Samples]
"""(text, voice number) -> samples [T] at 16 kHz; the same arguments give the same samples."""


def write_fixtures(folder: str | Path, say: Say | None = None) -> dict[str, Path]:
    """Write all fixtures; returns task -> root, as `ttt.eval.pairs.find.find_pairs` takes them.

    Args:
        say: who speaks; None takes espeak-ng or, where it is not installed, `say_by_arithmetic`.
    """
    say = say or (say_by_espeak if shutil.which("espeak-ng") else say_by_arithmetic)
    folder = Path(folder)
    roots = {
        "swuggy": folder / "sLM21" / "lexical",
        "sblimp": folder / "sLM21" / "syntactic",
        "sstory": folder / "sStoryCloze",
        "tstory": folder / "tStoryCloze",
        "salmon": folder / "salmon",
    }
    _write_words(roots["swuggy"] / "dev", say)
    _write_sentences(roots["sblimp"] / "dev", say)
    _write_stories(roots["sstory"], say, _OTHER_ENDINGS)
    # In the topic version, the ending is that of another story.
    _write_stories(roots["tstory"], say, [*_ENDINGS[3:], *_ENDINGS[:3]])
    _write_spliced(roots["salmon"] / "speaker_consistency", say)
    return roots


def say_by_espeak(text: str, voice: int) -> Samples:
    """Speech by espeak-ng. Raises CalledProcessError when it fails."""
    command = ["espeak-ng", "-v", f"en-us+{('m1', 'f2')[voice]}", "--stdout", text]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    audio, rate = soundfile.read(io.BytesIO(spoken), dtype="float32")
    return resample(torch.from_numpy(audio), rate, RATE).numpy()


def say_by_arithmetic(text: str, voice: int) -> Samples:
    """The synthetic voice, word by word: equal words sound equal. It is no language."""
    words = [
        utterance(zlib.crc32(word.encode()), 0.1 + 0.05 * len(word), RATE, speaker=voice)
        for word in text.lower().split()
    ]
    return np.concatenate(words)


def _write_words(folder: Path, say: Say) -> None:
    rows = []
    for number, (word, non_word) in enumerate(_WORDS):
        for voice in (0, 1):
            for correct, spoken in ((1, word), (0, non_word)):
                name = f"{spoken}_{'AB'[voice]}"
                _write(folder / f"{name}.wav", say(spoken, voice))
                frequency = _FREQUENCIES[number % len(_FREQUENCIES)]
                phones = " ".join(spoken)
                rows.append(
                    [name, number, "AB"[voice], frequency, spoken, phones, len(spoken), correct]
                )
    columns = ("filename", "id", "voice", "frequency", "word", "phones", "length", "correct")
    _write_gold(folder, columns, rows)


def _write_sentences(folder: Path, say: Say) -> None:
    rows = []
    for kind, right, wrong in _SENTENCES:
        for number, noun in enumerate(_NOUNS):
            for voice in (0, 1):
                for correct, pattern in ((1, right), (0, wrong)):
                    name = f"{kind}_{number}_{'AB'[voice]}_{correct}"
                    text = pattern.format(noun=noun)
                    _write(folder / f"{name}.wav", say(text, voice))
                    rows.append([name, number, "AB"[voice], kind, f"{kind}_1", correct, text])
    columns = ("filename", "id", "voice", "type", "subtype", "correct", "transcription")
    _write_gold(folder, columns, rows)


def _write_stories(folder: Path, say: Say, wrong_endings: Iterable[str]) -> None:
    endings = zip(_NAMES, _ENDINGS, wrong_endings, strict=True)
    for number, (name, right, wrong) in enumerate(endings):
        beginning = f"{name} woke up early. It was a long day."
        story_id = uuid.uuid5(uuid.NAMESPACE_URL, f"{name} {right}")
        for word, ending in (("correct", right), ("incorrect", wrong)):
            spoken = say(f"{beginning} {name} {ending}", 1)
            _write(folder / f"{number}_{story_id}_{word}.wav", spoken)


def _write_spliced(folder: Path, say: Say) -> None:
    """A sentence that goes on in its voice, and the same that goes on in another."""
    for number, noun in enumerate(_NOUNS):
        beginning = say(f"I saw the {noun}", 0)
        for role in (0, 1):
            spliced = np.concatenate([beginning, say("and went back home", role)])
            _write(folder / f"sample_{number}_{role}.wav", spliced)


def _write(path: Path, samples: Samples) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, samples, RATE)


def _write_gold(folder: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with open(folder / "gold.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


_WORDS = (
    ("brick", "blick"), ("garden", "gorbin"), ("window", "wimbow"), ("paper", "pafer"),
    ("river", "rivel"), ("yellow", "yeppow"), ("table", "tasle"), ("summer", "sunner"),
    ("bottle", "bostle"), ("market", "marlet"), ("finger", "finkel"), ("letter", "lemmer"),
    ("orange", "orance"), ("pocket", "ponket"), ("rabbit", "ragbit"), ("silver", "silder"),
    ("ticket", "timket"), ("butter", "bulter"), ("candle", "camble"), ("forest", "fomest"),
)  # fmt: skip
_FREQUENCIES = (0, 1, 4, 5, 19, 20, 99, 100, 400)
"""Inside and at the edges of the official bands."""

_NOUNS = ("cat", "teacher", "driver", "doctor", "farmer", "singer")
_SENTENCES = (
    ("agreement", "the {noun} sleeps", "the {noun} sleep"),
    ("order", "the old {noun} left", "the {noun} old left"),
    ("polarity", "no {noun} ever slept", "the {noun} ever slept"),
)
_NAMES = ("Ann", "Ben", "Carl", "Dora", "Eve", "Fred", "Gina", "Hugo", "Ida", "John")
_ENDINGS = (
    "caught the train.", "baked the bread.", "fed the horses.", "won the race.",
    "painted the wall.", "fixed the bike.", "sang the song.", "found the keys.",
    "read the letter.", "climbed the hill.",
)  # fmt: skip
_OTHER_ENDINGS = (
    "ate the train.", "drove the bread.", "read the horses.", "drank the race.",
    "married the wall.", "cooked the bike.", "washed the song.", "fed the keys.",
    "baked the letter.", "sold the moon.",
)  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    for task, root in write_fixtures(sys.argv[1]).items():
        print(f"{task:8} {root}")
