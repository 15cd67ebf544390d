"""Importing the original project's cache."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from ttt.errors import UserError
from ttt.snac.cache.inputs import LeftOut, QualityConfig
from ttt.snac.cache.original import list_original, prepare_original
from ttt.snac.geometry import CodeGeometry

GEOMETRY = CodeGeometry.preset("snac_24khz")
N_COARSE = 12


def _row(name: str, audio_length: int = N_COARSE * 2048, n_coarse: int = N_COARSE) -> dict:
    rng = np.random.default_rng(len(name))
    return {
        "file_path": name,
        "audio_length": audio_length,
        **{
            f"codes_scale_{k}": rng.integers(0, 4096, n_coarse * count).tolist()
            for k, count in enumerate((1, 2, 4))
        },
        "shape_scale_0": [1, n_coarse],
    }


def _write_rows(folder: Path, batch: str, rows: list[dict]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), folder / f"codes_batch_{batch}.parquet")


def _write_wav(folder: Path, name: str, samples: int = N_COARSE * 4096) -> None:
    audio = np.random.default_rng(0).normal(0, 0.1, samples)
    soundfile.write(folder / name, audio, 48_000)


def _outcomes(folder: Path) -> dict[str, object]:
    inputs, _ = list_original(str(folder), str(folder), GEOMETRY)
    outcomes: dict[str, object] = {}
    for clip in inputs:
        try:
            outcomes[clip.clip_id] = prepare_original(clip, GEOMETRY, QualityConfig())
        except LeftOut as left_out:
            outcomes[clip.clip_id] = (left_out.reason, left_out.note)
    return outcomes


def test_codes_and_audio_are_taken_over_unchanged(tmp_path: Path) -> None:
    rows = [_row("a.wav"), _row("bb.wav", audio_length=N_COARSE * 2048 - 300)]
    _write_rows(tmp_path, "gpu0_0", rows)
    _write_wav(tmp_path, "a.wav")
    _write_wav(tmp_path, "bb.wav", N_COARSE * 4096 - 600)
    outcomes = _outcomes(tmp_path)
    for row in rows:
        clip = outcomes[row["file_path"]]
        for k in range(3):
            assert clip.codes[k].dtype == np.int16
            assert clip.codes[k].tolist() == row[f"codes_scale_{k}"]
        samples, _ = soundfile.read(tmp_path / row["file_path"], dtype="int16")
        assert np.array_equal(clip.audio, samples)


def test_rows_come_in_the_order_of_gpu_and_batch_numbers(tmp_path: Path) -> None:
    for batch in ("gpu10_0", "gpu2_10", "gpu2_9"):
        _write_rows(tmp_path, batch, [_row(f"{batch}.wav")])
    inputs, notes = list_original(str(tmp_path), str(tmp_path), GEOMETRY)
    assert [clip.clip_id for clip in inputs] == ["gpu2_9.wav", "gpu2_10.wav", "gpu10_0.wav"]
    assert notes == []


def test_its_metadata_is_ignored_with_a_note(tmp_path: Path) -> None:
    _write_rows(tmp_path, "gpu0_0", [_row("a.wav")])
    (tmp_path / "metadata.json").write_text(json.dumps({"vq_strides": [8, 4, 2, 1]}))
    _, notes = list_original(str(tmp_path), str(tmp_path), GEOMETRY)
    assert notes == ["metadata.json is ignored: its strides and counts contradict the codes"]


def test_rows_that_cannot_be_used_have_reasons(tmp_path: Path) -> None:
    uneven, negative, big = _row("uneven.wav"), _row("negative.wav"), _row("big.wav")
    uneven["codes_scale_2"] = uneven["codes_scale_2"][:-1]
    negative["codes_scale_1"][3] = -1
    big["codes_scale_0"][0] = 4096
    rows = [uneven, negative, big, _row("no_wav.wav"), _row("drift.wav", 2048), _row("cut.wav")]
    _write_rows(tmp_path, "gpu0_0", [*rows, _row("none.wav", 0, 0)])
    for name in ("uneven.wav", "negative.wav", "big.wav", "drift.wav", "none.wav"):
        _write_wav(tmp_path, name)
    _write_wav(tmp_path, "cut.wav", N_COARSE * 2048)
    outcomes = _outcomes(tmp_path)
    reasons = {name: outcome[0] for name, outcome in outcomes.items()}
    assert reasons == {
        "uneven.wav": "misaligned codes",
        "negative.wav": "codes out of range",
        "big.wav": "codes out of range",
        "no_wav.wav": "no partner",
        "drift.wav": "misaligned codes",
        "cut.wav": "misaligned codes",
        "none.wav": "misaligned codes",
    }
    assert "scale 1 runs from -1 to" in outcomes["negative.wav"][1]


def test_a_name_that_occurs_twice_is_used_once(tmp_path: Path) -> None:
    _write_rows(tmp_path, "gpu0_0", [_row("a.wav"), _row("a.wav")])
    first, second = list_original(str(tmp_path), str(tmp_path), GEOMETRY)[0]
    assert (first.clip_id, first.problem) == ("a.wav", None)
    assert second.clip_id == "a.wav (row 1 of codes_batch_gpu0_0.parquet)"
    assert second.problem == "duplicate"
    assert "row 0 of codes_batch_gpu0_0.parquet names the same wav" in second.problem_note


def test_what_is_no_original_cache_is_refused(tmp_path: Path) -> None:
    folder = str(tmp_path)
    with pytest.raises(UserError, match=r"holds no codes_batch_gpu\*\.parquet"):
        list_original(folder, folder, GEOMETRY)
    _write_rows(tmp_path, "gpu0_0", [{"file_path": "a.wav", "codes_scale_0": [1]}])
    with pytest.raises(UserError, match="lacks the columns codes_scale_1, codes_scale_2, audio_le"):
        list_original(folder, folder, GEOMETRY)
    (tmp_path / "codes_batch_gpu0_0.parquet").write_bytes(b"PAR1 truncated")
    with pytest.raises(UserError, match=r"gpu0_0\.parquet: not a readable parquet file"):
        list_original(folder, folder, GEOMETRY)
    with pytest.raises(UserError, match="no such folder"):
        list_original(folder, f"{folder}/none", GEOMETRY)
