"""Write the small files of other libraries' formats that the tests read: parquet and tar.

    python -m venv formats && formats/bin/pip install datasets==5.2.0 webdataset==1.0.2 \
        soundfile==0.14.0 numpy==2.4.6 pyarrow==26.0.1
    formats/bin/python tests/input_formats/make.py

Made in an environment of their own: these libraries want other versions of what moshi pins, so
neither is in requirements.lock. All sounds are synthetic.
"""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import soundfile
import webdataset

HERE = Path(__file__).resolve().parent
RATE = 48_000
CLIPS = 6


def main() -> None:
    """Write speech.parquet by datasets, and two tars by webdataset."""
    sounds = [sound(number) for number in range(CLIPS)]
    rows = {
        "id": list(range(CLIPS)),
        "audio": [{"bytes": each, "path": f"{n}.flac"} for n, each in enumerate(sounds)],
        "speaker_id": [speaker(number) for number in range(CLIPS)],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    table.to_parquet(str(HERE / "speech.parquet"))
    for part in range(2):
        with webdataset.TarWriter(str(HERE / f"speech-{part:06d}.tar"), mtime=0) as tar:
            for number in range(CLIPS // 2 * part, CLIPS // 2 * (part + 1)):
                about = {"speaker": speaker(number), "text": "a tone"}
                tar.write({"__key__": f"{number:04d}", "flac": sounds[number], "json": about})


def speaker(number: int) -> str:
    """Who speaks in a clip: two speakers, three clips each."""
    return ("anna", "bela")[number % 2]


def sound(number: int) -> bytes:
    """A FLAC of half a second and a little more: a tone that comes and goes, and a little noise."""
    time = np.arange(RATE // 2 + 500 * number) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 220 * (1 + number) * time) * np.sin(2 * np.pi * 3 * time)
    noise = 0.001 * np.random.default_rng(number).standard_normal(len(time))
    out = io.BytesIO()
    soundfile.write(out, tone + noise, RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


if __name__ == "__main__":
    main()
