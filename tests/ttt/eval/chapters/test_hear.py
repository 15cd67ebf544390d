"""Groups of chapters on disk: the numbers of evaluate_codes, whenever the hearing was cut off."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ttt.errors import UserError
from ttt.eval.chapters.hear import EncodedChapter, StreamingOptions, record_group, verify_group
from ttt.eval.chapters.records import read_record, record_path
from ttt.moshi import evaluate_codes

LISTENING = StreamingOptions(
    model="ttt",
    streams={"text_stream": "own", "other_stream": "masked", "stream": "moshi"},
    chunk=8,
    state_every_frames=64,
)


class Killed(Exception):
    """Stands for the moment at which a process dies."""


def chapters(speech, lengths=(400, 300), prefix=0):
    made = []
    for number, frames in enumerate(lengths):
        codes = speech(1, frames, seed=number)[0].numpy().astype(np.int16)
        before = speech(1, prefix, seed=50)[0].numpy().astype(np.int16) if prefix else None
        made.append(EncodedChapter(f"s/b/chapter_{number}", f"s{number}", codes, (7,), before))
    return made


def record(lm, folder: Path, group, listening=LISTENING, stop_at=None):
    """Hear a group; with `stop_at` die once so many frames are heard, as often as it takes."""

    def on_frames(heard):
        if stop_at is not None and heard >= stop_at:
            raise Killed

    return record_group(
        lm,
        group,
        listening,
        silence=None,
        records_root=folder / "records",
        state_path=folder / "state" / "group.safetensors",
        on_frames=on_frames,
    )


def records(folder: Path, group):
    return [read_record(record_path(folder / "records", each.chapter_id)) for each in group]


def untimed(record_):
    return asdict(replace(record_.details, seconds=None, peak_bytes=None))


@pytest.mark.parametrize("prefix", (0, 20))
def test_records_are_the_numbers_of_evaluate_codes(small_lm, speech, tmp_path, prefix):
    lm, group = small_lm(), chapters(speech, (90, 70), prefix)
    rate = record(lm, tmp_path, group)
    heard = [c.codes if c.prefix is None else np.concatenate([c.prefix, c.codes], 1) for c in group]
    padded = np.stack(
        [np.pad(codes, ((0, 0), (0, 90 + prefix - codes.shape[1]))) for codes in heard]
    )
    lengths = [codes.shape[1] for codes in heard]
    whole = evaluate_codes(lm, torch.from_numpy(padded), chunk=8, lengths=lengths)
    for row, (chapter, found) in enumerate(zip(group, records(tmp_path, group), strict=True)):
        stop = lengths[row]
        assert np.array_equal(found.nll, whole.nll[row, :, prefix:stop].numpy())
        assert np.array_equal(found.text, whole.text[row, prefix:stop].numpy())
        assert found.frames == chapter.codes.shape[1]
        assert found.details.joins == (7,)
        assert found.details.group == tuple(each.chapter_id for each in group)
        assert found.details.acceptance == rate == whole.acceptance
    assert [each.details.near_ties for each in records(tmp_path, group)] == [whole.near_ties, None]
    assert not (tmp_path / "state" / "group.safetensors").exists()


@pytest.mark.parametrize("stops", ((150,), (330, 331), (20, 500)))
def test_killed_anywhere_the_records_are_the_same(small_lm, speech, tmp_path, stops):
    lm, group = small_lm(), chapters(speech)
    record(lm, tmp_path / "whole", group)
    for stop_at in stops:
        with pytest.raises(Killed):
            record(lm, tmp_path / "cut", group, stop_at=stop_at)
        assert not list((tmp_path / "cut").rglob("*.parquet"))
    begun = []
    record_group(
        lm,
        group,
        LISTENING,
        silence=None,
        records_root=tmp_path / "cut" / "records",
        state_path=tmp_path / "cut" / "state" / "group.safetensors",
        on_frames=begun.append,
    )
    # At most one interval of each chapter is heard again.
    assert begun[0] > max(stops) - 2 * 64
    for whole, cut in zip(
        records(tmp_path / "whole", group), records(tmp_path / "cut", group), strict=True
    ):
        assert np.array_equal(whole.nll, cut.nll)
        assert np.array_equal(whole.text, cut.text)
        assert untimed(whole) == untimed(cut)
    assert set(whole.details.activity) == {"1", "2"}
    assert whole.details.activity_frames == (128, 256)
    assert min(whole.details.activity["1"]) > 0


def test_a_group_that_was_finished_in_part_is_completed(small_lm, speech, tmp_path):
    lm, group = small_lm(), chapters(speech, (60, 50))
    record(lm, tmp_path, group)
    first, second = records(tmp_path, group)
    path = record_path(tmp_path / "records", group[1].chapter_id)
    kept = record_path(tmp_path / "records", group[0].chapter_id).read_bytes()
    path.unlink()
    record(lm, tmp_path, group)
    assert np.array_equal(records(tmp_path, group)[1].nll, second.nll)
    assert record_path(tmp_path / "records", group[0].chapter_id).read_bytes() == kept
    assert first.details.group == second.details.group


def test_a_state_of_other_codes_is_not_taken(small_lm, speech, tmp_path):
    lm, group = small_lm(), chapters(speech, (300,))
    with pytest.raises(Killed):
        record(lm, tmp_path, group, stop_at=150)
    other = [replace(group[0], codes=group[0].codes[:, ::-1].copy())]
    record(lm, tmp_path, other)
    codes = torch.from_numpy(other[0].codes)[None]
    assert np.array_equal(
        records(tmp_path, other)[0].nll, evaluate_codes(lm, codes, chunk=8).nll[0]
    )


def test_a_damaged_state_is_named(small_lm, speech, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "group.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match=r"group\.safetensors: damaged .*delete it"):
        record(small_lm(), tmp_path, chapters(speech, (60,)))


def test_loss_that_is_not_a_number_leaves_no_record(small_lm, speech, tmp_path):
    lm = small_lm(ttt=None)
    with torch.no_grad():
        lm.text_linear.weight.fill_(0)
        lm.linears[3].weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"codebook 3 of frame 0 .*not a finite number"):
        record(lm, tmp_path, chapters(speech, (60,)))
    assert not list(tmp_path.rglob("*.parquet"))


def test_records_hold_to_stepping(small_lm, speech, tmp_path):
    lm, group = small_lm(), chapters(speech, (70, 50))
    record(lm, tmp_path, group)
    found = verify_group(
        lm, group, LISTENING, silence=None, records_root=tmp_path / "records", spans=2, seed=0
    )
    assert found.frames > 0
    assert found.largest_nll_difference < 1e-5
    assert found.unexplained_text_differences == 0


def test_resets_of_the_fast_weights_change_the_loss_after_them_only(small_lm, speech, tmp_path):
    lm, group = small_lm(), chapters(speech, (80,))
    record(lm, tmp_path / "plain", group)
    record(lm, tmp_path / "reset", group, replace(LISTENING, reset_ttt_every=40))
    (plain,), (reset,) = records(tmp_path / "plain", group), records(tmp_path / "reset", group)
    # Chunks are cut at a reset, which moves float32 by rounding.
    assert np.abs(plain.nll[:, :39] - reset.nll[:, :39]).max() < 1e-5
    assert np.abs(plain.nll[:, 48:] - reset.nll[:, 48:]).max() > 1e-3
