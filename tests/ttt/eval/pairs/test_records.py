"""Part files: what is written is read, nulls stay nulls, damage is named."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ttt.eval.scored_pairs import item, made_pairs, noisy, records
from ttt.errors import UserError
from ttt.eval.pairs.records import ItemRecord, part_path, read_part, read_parts, write_part

PAIRS = made_pairs(clusters=4).pairs


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = [*records(PAIRS, noisy(0)), item(PAIRS[0], "negative", None)]
    path = part_path(tmp_path, "swuggy", 12)
    write_part(path, written)
    assert path.relative_to(tmp_path).as_posix() == "swuggy/part-00012.parquet"
    assert read_part(path) == written
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_is_missing_is_null_on_disk(tmp_path: Path) -> None:
    write_part(tmp_path / "p.parquet", [item(PAIRS[0], "negative", None)])
    (row,) = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert row["status"] == "error"
    assert row["error"] == "cannot be decoded"
    assert row["nll_sum_cb0"] is row["n_cb7"] is row["ending_sum_cb3"] is row["n_frames"] is None


def test_sums_keep_their_last_bit(tmp_path: Path) -> None:
    record = item(PAIRS[0], "positive", 1 / 3)
    write_part(tmp_path / "p.parquet", [record])
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.schema.field("nll_sum_cb0").type == pa.float64()
    assert table["nll_sum_cb0"].to_pylist() == [record.nll_sum[0]]  # type: ignore[index]


def test_parts_are_read_in_order_and_temporary_files_are_not(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        write_part(part_path(tmp_path, "swuggy", number), records([PAIRS[number % 4]], noisy(0)))
    (tmp_path / "swuggy" / ".part-00001.parquet.0.tmp").write_bytes(b"half")
    found = [record.pair_id for record in read_parts(tmp_path, "swuggy")][::2]
    assert found == [PAIRS[0].pair_id, PAIRS[2].pair_id, PAIRS[2].pair_id]
    assert list(read_parts(tmp_path, "sblimp")) == []


def test_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"p.parquet: not readable records of pairs"):
        read_part(path)
    pq.write_table(pa.table({"frame": [1]}), path)
    with pytest.raises(UserError, match="not readable records of pairs"):
        read_part(path)
    write_part(path, records(PAIRS, noisy(0)))
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["seconds"]), path)
    with pytest.raises(UserError, match="other columns than a pair's"):
        read_part(path)
    pq.write_table(table.replace_schema_metadata({b"pairs": b"0"}), path)
    with pytest.raises(UserError, match="format is not 2"):
        read_part(path)


def test_a_record_has_a_score_or_a_reason() -> None:
    known = {"task": "t", "split": "s", "pair_id": "p", "cluster_id": "c", "item_id": "i",
             "role": "positive", "voice": "v"}  # fmt: skip
    with pytest.raises(ValueError, match="i: a scored utterance needs n_frames"):
        ItemRecord(**known)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="i: an utterance without a score needs its reason"):
        ItemRecord(**known, status="missing")  # type: ignore[arg-type]
