"""Copies at other levels: which gains are drawn, what shards hold, how splits treat them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from snac import SNAC

from tests.code_caches import CODEC, GEOMETRY, write_impulse_cache
from ttt import records
from ttt.errors import UserError
from ttt.snac.cache.catalogue import Catalogue, held_out_rows
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.cache.gain_copies import (
    GainCopiesConfig,
    add_copies,
    copy_id,
    draw_gains_db,
    refuse_ids_of_copies,
)
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.inputs import ClipFacts, ClipInput, LeftOut, PreparedClip
from ttt.snac.cache.shards import Clip, build_index, read_shard_table, write_shard
from ttt.snac.cache.verify import verify_cache
from ttt.snac.cache.write_shard import (
    cache_shard,
    check_manifest,
    is_finished,
    merge_manifest,
    read_part,
    shard_uri,
)
from ttt.snac.config import EncodeConfig
from ttt.snac.geometry import Codes

SILENT_DB = -60.0


def _peak_db(peak: float) -> float:
    return 20 * np.log10(peak / 32768)


@pytest.mark.parametrize("peak", [1, 20, 33, 34, 100, 1_000, 8_191, 8_192, 29_000, 32_766, 32_768])
@pytest.mark.parametrize(
    ("lowest", "highest"), [(-12, 12), (0, 12), (-12, 0), (3.5, 4), (-6, -5.9)]
)
@pytest.mark.parametrize("copies", [1, 2, 5])
def test_gains_fit_the_range_and_the_clip(
    peak: int, lowest: float, highest: float, copies: int
) -> None:
    """Held to the samples: never past full scale, never below what counts as silent."""
    config = GainCopiesConfig(lowest=lowest, highest=highest, copies=copies)
    above = max(lowest, SILENT_DB - _peak_db(peak))
    below = min(highest, 20 * np.log10(32767 / peak))
    for clip in range(50):
        gains = draw_gains_db(config, f"clip {clip}", peak, SILENT_DB)
        assert len(gains) == len(set(gains)) <= copies
        assert list(gains) == sorted(gains)
        for gain in gains:
            assert above - 1e-6 <= gain <= below + 1e-6
            assert gain != 0
            loudest = round(peak * 10 ** (gain / 20))
            assert loudest <= 32767
            assert _peak_db(peak) + gain >= SILENT_DB - 1e-6
        room = below - above
        assert len(gains) == copies or room < 0.01 * (copies + 1), "copies lack without need"


@pytest.mark.parametrize(
    ("lowest", "highest", "peak", "count"),
    [
        (-12, 12, 0, 0),  # Silence.
        (3, 12, 32_767, 0),  # Full scale has no room above.
        (-12, -3, 33, 0),  # Just audible has none below.
        (-12, 12, 32_767, 2),
        (-12, 12, 33, 2),
        (0, 0.02, 100, 2),  # Two hundredths, for as many copies.
        (0, 0.02, 32_740, 0),  # .007 dB of room.
    ],
)
def test_a_clip_without_room_has_fewer(
    lowest: float, highest: float, peak: int, count: int
) -> None:
    config = GainCopiesConfig(lowest=lowest, highest=highest)
    assert len(draw_gains_db(config, "a", peak, SILENT_DB)) == count


def test_a_draw_depends_on_seed_clip_and_number_alone_and_spreads_over_the_range() -> None:
    config = GainCopiesConfig(copies=2)
    ids = [f"anna/{n}.flac" for n in range(2_000)]
    gains = np.array([draw_gains_db(config, each, 5_000, SILENT_DB) for each in ids])
    again = [draw_gains_db(config, each, 5_000, SILENT_DB) for each in ids[::-1]]
    assert np.array_equal(gains, again[::-1])
    other = [draw_gains_db(replace(config, seed=1), each, 5_000, SILENT_DB) for each in ids]
    assert (gains != other).mean() > 0.99
    # One in each half, evenly: of 2,000 the mean is within four standard errors.
    assert gains[:, 0].max() < 0 < gains[:, 1].min()
    assert gains.mean(axis=0) == pytest.approx([-6, 6], abs=4 * 12 / np.sqrt(12 * 2_000))
    assert np.abs(np.corrcoef(gains.T)[0, 1]) < 0.1
    counts, _ = np.histogram(gains, bins=12, range=(-12, 12))
    assert counts.min() > 0.7 * gains.size / 12


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"lowest": 3, "highest": 3}, "lowest must be below highest"),
        ({"lowest": 3, "highest": -3}, "got 3 and -3"),
        ({"lowest": float("nan")}, "from -60 to 60 dB"),
        ({"highest": 61}, "from -60 to 60 dB"),
        ({"copies": 0}, "set gain_copies_db: null"),
        ({"copies": 17}, "copies must be from 1 to 16"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GainCopiesConfig(**wrong)


def test_an_input_whose_id_could_be_a_copys_is_refused() -> None:
    fine = ["a.wav", "a@b.wav", "x@-7.31dB.wav", "a@7.31dB", "a@+7.3dB", "a@+7.31dBx"]
    refuse_ids_of_copies(map(ClipInput, fine))
    for gain in (-7.31, 0.05, 12):
        with pytest.raises(UserError, match=r"ends as those of copies .*; rename it"):
            refuse_ids_of_copies([ClipInput(copy_id("a.wav", gain))])


# -- shards ----------------------------------------------------------------------------------------


@pytest.fixture
def encoder(nano_snac: SNAC) -> ClipEncoder:
    return ClipEncoder(nano_snac, EncodeConfig())


class _Noting(ClipEncoder):
    """Keeps what it encodes and to what."""

    def encode(
        self, clips: Iterable[np.ndarray], on_batch: Callable[[int], None] | None = None
    ) -> list[Codes]:
        self.heard = list(clips)
        self.codes = super().encode(self.heard, on_batch)
        return self.codes


PEAKS = {"loud": 32_767, "speech": 9_000, "quiet": 40, "tail": 3_000}
CONFIG = GainCopiesConfig(lowest=2, highest=9, copies=3)


def _prepare(clip: ClipInput) -> PreparedClip:
    if clip.clip_id == "silent":
        raise LeftOut("silent", "peak zero everywhere", 1.0)
    rng = np.random.default_rng(len(clip.clip_id))
    samples = 20_000 if clip.clip_id == "tail" else 9_001
    audio = rng.normal(size=samples)
    audio = np.rint(audio / np.abs(audio).max() * PEAKS[clip.clip_id]).astype(np.int16)
    source = np.ascontiguousarray(audio[::2], np.float32) / 32768
    facts = ClipFacts(speaker="anna", bandwidth_hz=20_000)
    return PreparedClip(clip_id=clip.clip_id, source=source, audio=audio, facts=facts, gain_db=1.5)


def _cache(folder: Path, encoder: ClipEncoder, threads: int = 1) -> list[ClipInput]:
    prepare = functools.partial(add_copies, _prepare, CONFIG, SILENT_DB)
    inputs = [ClipInput(name) for name in ("loud", "silent", "speech", "quiet", "tail")]
    cache_shard(folder, 0, inputs, prepare, encoder, CODEC, threads)
    return inputs


def test_a_shard_holds_each_clip_and_its_copies_behind_it(tmp_path: Path, nano_snac: SNAC) -> None:
    encoder = _Noting(nano_snac, EncodeConfig())
    inputs = _cache(tmp_path, encoder)
    assert is_finished(tmp_path, 0, inputs)
    rows = read_shard_table(shard_uri(tmp_path, 0)).to_pylist()
    drawn = {
        name: draw_gains_db(CONFIG, name, PEAKS[name], SILENT_DB)
        for name in ("loud", "speech", "quiet", "tail")
    }
    assert [len(gains) for gains in drawn.values()] == [0, 3, 3, 3]
    assert [row["clip_id"] for row in rows] == [
        each for name, gains in drawn.items() for each in (name, *(copy_id(name, g) for g in gains))
    ]
    original: dict = {}
    for number, row in enumerate(rows):
        audio = np.frombuffer(row["audio"], "<i2").astype(np.float64)
        if row["copy_of"] is None:
            assert row["copy_gain_db"] is None
            original = row
            continue
        assert row["copy_of"] == original["clip_id"]
        assert copy_id(row["copy_of"], row["copy_gain_db"]) == row["clip_id"]
        # The audio is the clip's at the gain that the id names ...
        gain = 10 ** (float(row["clip_id"].partition("@")[2].removesuffix("dB")) / 20)
        wanted = np.frombuffer(original["audio"], "<i2") * gain
        assert np.abs(audio - wanted).max() <= 0.501
        for same in ("n_samples", "n_coarse", "speaker", "bandwidth_hz", "gain_db", "lag_samples"):
            assert row[same] == original[same], same
        # ... and what was encoded is its sound at that gain.
        source = _prepare(ClipInput(row["copy_of"])).source
        assert source is not None
        np.testing.assert_allclose(encoder.heard[number], source * gain, rtol=1e-6)
        for scale, codes in enumerate(encoder.codes[number]):
            assert row[f"codes_{scale}"] == codes.tolist()
    assert rows[0]["gain_db"] == 1.5


def test_the_manifest_tells_of_copies_and_hours_count_clips(
    tmp_path: Path, encoder: ClipEncoder
) -> None:
    inputs = _cache(tmp_path, encoder)
    counts = merge_manifest(tmp_path, 1)
    lines = {line["clip_id"]: line for line in records.read_jsonl(tmp_path / "manifest.jsonl")}
    assert list(lines) == [clip.clip_id for clip in inputs]
    assert lines["loud"]["copy_gains_db"] == []
    assert lines["loud"]["note"] == (
        "0 of 3 copies at other levels: with a peak of -0.00 dB, +2 to +9 dB would clip or be "
        "silent"
    )
    assert lines["speech"]["note"] is None
    assert "copy_gains_db" not in lines["silent"]
    seconds = [lines[name]["seconds"] for name in ("loud", "speech", "quiet", "tail")]
    assert counts["hours"] == pytest.approx(sum(seconds) / 3600)
    assert (counts["inputs"], counts["cached"], counts["left_out"]) == (5, 4, 1)
    assert sum(counts["bandwidth"]["hours"].values()) == pytest.approx(counts["hours"])
    assert counts["gain_copies"]["copies"] == 9
    assert counts["gain_copies"]["hours"] == pytest.approx(3 * sum(seconds[1:]) / 3600)
    assert counts["gain_copies"]["clips_by_copies"] == {"0": 1, "3": 3}
    build_index(tmp_path)
    assert verify_cache(tmp_path) == []
    assert check_manifest(tmp_path) == []
    manifest = tmp_path / "manifest.jsonl"
    text = manifest.read_text()
    gain = lines["tail"]["copy_gains_db"][-1]
    manifest.write_text(text.replace(f", {gain}]", "]"))
    missing = copy_id("tail", gain)
    assert check_manifest(tmp_path) == [f"{manifest}: clip {missing} of the shards is not listed"]


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, encoder: ClipEncoder) -> None:
    for name, threads in (("a", 1), ("b", 4)):
        _cache(tmp_path / name, encoder, threads)
    for name in ("shard-00000.parquet", "shard-00000.jsonl"):
        a, b = (tmp_path / cache / "shards" / name for cache in "ab")
        assert a.read_bytes() == b.read_bytes()


def test_a_shard_that_lacks_a_copy_is_not_finished(tmp_path: Path, encoder: ClipEncoder) -> None:
    inputs = _cache(tmp_path, encoder)
    clips = _clips(tmp_path)
    write_shard(shard_uri(tmp_path, 0), clips[:-1], GEOMETRY, CODEC)
    assert not is_finished(tmp_path, 0, inputs)
    write_shard(shard_uri(tmp_path, 0), clips, GEOMETRY, CODEC)
    assert is_finished(tmp_path, 0, inputs)


def test_without_copies_lines_and_columns_are_as_they_were(
    tmp_path: Path, encoder: ClipEncoder
) -> None:
    cache_shard(tmp_path, 0, [ClipInput("speech")], _prepare, encoder, CODEC)
    assert "copy_gains_db" not in read_part(tmp_path, 0)[0]
    assert not {"copy_of", "copy_gain_db"} & set(
        read_shard_table(shard_uri(tmp_path, 0)).schema.names
    )
    assert merge_manifest(tmp_path, 1)["gain_copies"] is None


# -- verifying -------------------------------------------------------------------------------------


def _clips(cache: Path) -> list[Clip]:
    """What the shard of `_cache` holds."""
    names = {field.name for field in dataclasses.fields(Clip)}
    clips = []
    for row in read_shard_table(shard_uri(cache, 0)).to_pylist():
        audio = np.frombuffer(row["audio"], np.int16)[: row["n_samples"]]
        codes = tuple(np.array(row[f"codes_{k}"], np.int16) for k in range(3))
        known = {name: value for name, value in row.items() if name in names - {"audio"}}
        clips.append(Clip(**known, codes=codes, audio=audio))
    return clips


def _louder(clips: list[Clip]) -> list[Clip]:
    audio = clips[3].audio.copy()
    audio[17] += 1
    return [*clips[:3], replace(clips[3], audio=audio), *clips[4:]]


def _other_gain(clips: list[Clip]) -> list[Clip]:
    gain = clips[3].copy_gain_db
    assert gain is not None
    return [*clips[:3], replace(clips[3], copy_gain_db=gain + 0.05), *clips[4:]]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_louder, "its audio is not that of speech at"),
        (_other_gain, "its audio is not that of speech at"),
        (
            lambda clips: [*clips[:3], replace(clips[3], copy_gain_db=None), *clips[4:]],
            "its audio is not that of speech at an unknown gain",
        ),
        (lambda clips: [*clips[:1], *clips[2:]], "does not stand behind speech"),
        (lambda clips: clips[2:], "does not stand behind speech, which it is a copy of"),
        (
            lambda clips: [*clips[:3], replace(clips[3], copy_of="tail"), *clips[4:]],
            "does not stand behind tail",
        ),
    ],
    ids=["sample", "gain", "no gain", "no clip", "first", "whose"],
)
def test_verifying_finds_a_copy_that_is_none(
    tmp_path: Path,
    encoder: ClipEncoder,
    damage: Callable[[list[Clip]], list[Clip]],
    sentence: str,
) -> None:
    """Checksums fit: what is wrong was written so."""
    _cache(tmp_path, encoder)
    build_index(tmp_path)
    assert verify_cache(tmp_path) == []
    write_shard(shard_uri(tmp_path, 0), damage(_clips(tmp_path)), GEOMETRY, CODEC)
    build_index(tmp_path)
    problems = verify_cache(tmp_path)
    assert problems
    assert all(sentence in problem for problem in problems), problems


def test_a_copy_in_the_next_row_group_is_compared(tmp_path: Path, encoder: ClipEncoder) -> None:
    _cache(tmp_path, encoder)
    clips = _clips(tmp_path)
    filling = [replace(clips[0], clip_id=f"filling {n}") for n in range(62)]
    for rows, sound in ((clips, True), (_louder(clips), False)):
        write_shard(shard_uri(tmp_path, 0), [*filling, *rows], GEOMETRY, CODEC)
        build_index(tmp_path)
        assert (verify_cache(tmp_path) == []) == sound


# -- splits ----------------------------------------------------------------------------------------


def _catalogue(seed: int, copies_at_most: int) -> tuple[Catalogue, list[str]]:
    """Of clips with 0 to some copies each, and whose each row is."""
    rng = np.random.default_rng(seed)
    owners, copy_of = [], []
    for number in range(int(rng.integers(2, 60))):
        count = int(rng.integers(0, copies_at_most + 1))
        owner = f"speaker {rng.integers(9)}/{seed}-{number}"
        owners += [owner] * (1 + count)
        copy_of += [None, *[owner] * count]
    ids = [
        owner if of is None else copy_id(owner, row / 100)
        for row, (owner, of) in enumerate(zip(owners, copy_of, strict=True))
    ]
    lengths = pa.array(rng.integers(1, 9, len(ids)), pa.int32())
    columns = {"clip_id": ids, "n_coarse": lengths, "n_samples": lengths}
    if any(copy_of):
        columns["copy_of"] = pa.array(copy_of, pa.string())
    return Catalogue.of(pa.table(columns)), owners


@pytest.mark.parametrize("share", [0.001, 0.1, 0.33, 0.5, 0.9])
def test_a_split_keeps_copies_with_their_clip(share: float) -> None:
    for seed in range(60):
        catalogue, owners = _catalogue(seed, copies_at_most=seed % 4)
        assert [owners[row] for row in catalogue.originals] == list(dict.fromkeys(owners))
        held_out = catalogue.held_out(share)
        assert not catalogue.is_copy[held_out].any()
        # The clips that are held out are those of the cache without copies.
        alone = list(dict.fromkeys(owners))
        assert {owners[row] for row in held_out} == {alone[n] for n in held_out_rows(alone, share)}
        training = np.setdiff1d(catalogue.originals, held_out)
        rows = catalogue.with_copies(training)
        trained = {owners[row] for row in rows}
        assert not trained & {owners[row] for row in held_out}
        assert rows.tolist() == [row for row, owner in enumerate(owners) if owner in trained]
        assert trained == {owners[row] for row in training}


def test_clips_and_copies_are_counted_apart() -> None:
    catalogue, owners = _catalogue(3, copies_at_most=3)
    clips = len(set(owners))
    copies = len(owners) - clips
    assert copies > 0
    assert (
        catalogue.counted_in_words() == f"{clips} clips and {copies} copies of them at other levels"
    )
    assert catalogue.counted_in_words(catalogue.originals) == f"{clips} clips"


def test_a_cache_of_before_has_no_copies(tmp_path: Path) -> None:
    catalogue = open_cache(write_impulse_cache(tmp_path, [[3, 4], [5]])).catalogue
    assert catalogue.originals.tolist() == [0, 1, 2]
    assert catalogue.with_copies(np.array([0, 2])).tolist() == [0, 2]
    assert catalogue.counted_in_words() == "3 clips"
