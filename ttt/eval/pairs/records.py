"""What scoring pairs stores of an utterance: sums and counts per codebook, and nothing less.

One parquet part file per shard, ROOT/<task>/part-00012.parquet, one row per utterance:

    task split pair_id cluster_id item_id role voice string, strata string (JSON)
    status string (ok, missing or error), error string: why there is no score
    n_frames int32, nll_sum_cb0 ... 7 float64 (nats), n_cb0 ... 7 int32 (frames behind each sum)
    ending_first_frame int32: the first frame in which the codes of the pair's two utterances differ
    ending_sum_cb0 ... 7 float64: the sums from that frame on
    codes_sha256 string, seconds float64
    chunk int32: steps per pass, the fewest where memory ran out
    batch int32: recordings heard together
    as_planned bool: whether both are what run.json and the shard's lengths lead to
    audio string (JSON): sha256 and bytes of the file; not there in parts of before it was noted

A row without a score holds nulls, never zeros. Every reported number is computed from these rows; a
part file appears whole, in one rename.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ttt import storage
from ttt.errors import UserError
from ttt.eval.pairs.find import Role
from ttt.files.errors import FileIdentity, reading_column_types

CODEBOOKS = 8
Status = Literal["ok", "missing", "error"]


@dataclass(frozen=True, kw_only=True)
class ItemRecord:
    """One utterance of a pair, scored or not."""

    task: str
    split: str
    pair_id: str
    cluster_id: str
    item_id: str
    role: Role
    voice: str
    strata: Mapping[str, str] = field(default_factory=dict)
    status: Status = "ok"
    error: str | None = None
    """Why there is no score; None where status is ok."""
    n_frames: int | None = None
    nll_sum: tuple[float, ...] | None = None
    """Per codebook [8], in nats."""
    n_cb: tuple[int, ...] | None = None
    """Frames behind each sum [8]."""
    ending_first_frame: int | None = None
    """The first frame in which the two codes of the pair differ; None without a scored partner."""
    ending_sum: tuple[float, ...] | None = None
    """The sums [8] from that frame on."""
    codes_sha256: str | None = None
    seconds: float | None = None
    """Computing time of this utterance (its share of the batch's)."""
    chunk: int | None = None
    """Steps per pass; the fewest, where the memory did not suffice for more."""
    batch: int | None = None
    """Recordings heard together, this one included."""
    as_planned: bool | None = None
    """False where chunk or batch was made smaller, for want of memory or by a broken neighbour."""
    audio: FileIdentity | None = None
    """The file that the codes were made of; None where nobody noted it, or there was none."""

    def __post_init__(self) -> None:
        if self.status == "ok" and (self.n_frames is None or None in (self.nll_sum, self.n_cb)):
            raise ValueError(f"{self.item_id}: a scored utterance needs n_frames, nll_sum and n_cb")
        if self.status != "ok" and not self.error:
            raise ValueError(f"{self.item_id}: an utterance without a score needs its reason")


def part_path(root: str | Path, task: str, part: int) -> Path:
    """Where the records of a task's shard lie below the folder of one model and setting."""
    return Path(root) / task / f"part-{part:05d}.parquet"


def write_part(path: Path, records: Sequence[ItemRecord]) -> None:
    """Write the records of one shard, whole or not at all. Raises UserError on a full disk."""
    rows = [_row(record) for record in records]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata({_KEY: _FORMAT}))
    with storage.atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_part(path: Path) -> list[ItemRecord]:
    """The records of one shard. Raises UserError when the file is damaged or something else."""
    try:
        return [_record(row) for row in _read(path).to_pylist()]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not readable records of pairs ({error})") from error


def is_complete(path: Path) -> bool:
    """Whether a shard has its part file, and every utterance in it a score."""
    if not path.exists():
        return False
    try:
        status = _read(path, columns=["status"])["status"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it to score it again") from error
    return status.unique().to_pylist() == ["ok"]


def read_parts(root: str | Path, task: str) -> Iterator[ItemRecord]:
    """All records of one task below the folder of one model and setting, in the shards' order."""
    for path in sorted((Path(root) / task).glob("part-*.parquet")):
        yield from read_part(path)


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    with reading_column_types():
        part = pq.ParquetFile(path, memory_map=False)
    with part as file:
        if (file.schema_arrow.metadata or {})[_KEY] != _FORMAT:
            raise ValueError(f"format is not {_FORMAT.decode()}")
        # Before any value is read: one of another type may run code.
        if file.schema_arrow.remove_metadata() not in (_SCHEMA, _SCHEMA_WITHOUT_AUDIO):
            raise ValueError("other columns than a pair's")
        return file.read(columns)


def _per_codebook(name: str, kind: pa.DataType) -> list[pa.Field]:
    return [pa.field(f"{name}{k}", kind) for k in range(CODEBOOKS)]


_NAMES = ("task", "split", "pair_id", "cluster_id", "item_id", "role", "voice", "strata", "status")
_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in _NAMES]
    + [pa.field("error", pa.string()), pa.field("n_frames", pa.int32())]
    + _per_codebook("nll_sum_cb", pa.float64())
    + _per_codebook("n_cb", pa.int32())
    + [pa.field("ending_first_frame", pa.int32())]
    + _per_codebook("ending_sum_cb", pa.float64())
    + [pa.field("codes_sha256", pa.string()), pa.field("seconds", pa.float64())]
    + [pa.field("chunk", pa.int32()), pa.field("batch", pa.int32())]
    + [pa.field("as_planned", pa.bool_()), pa.field("audio", pa.string())]
)
_SCHEMA_WITHOUT_AUDIO = _SCHEMA.remove(_SCHEMA.get_field_index("audio"))
"""Of parts of before the audio was noted."""
_VECTORS = {"nll_sum": "nll_sum_cb", "n_cb": "n_cb", "ending_sum": "ending_sum_cb"}
_KEY, _FORMAT = b"pairs", b"2"


def _row(record: ItemRecord) -> dict[str, Any]:
    fields = dict(vars(record))
    fields["strata"] = json.dumps(dict(record.strata), sort_keys=True)
    fields["audio"] = None if record.audio is None else json.dumps(record.audio.to_dict())
    for name, columns in _VECTORS.items():
        values = fields.pop(name) or (None,) * CODEBOOKS
        fields |= {f"{columns}{k}": values[k] for k in range(CODEBOOKS)}
    return fields


def _record(row: dict[str, Any]) -> ItemRecord:
    for name, columns in _VECTORS.items():
        values = tuple(row.pop(f"{columns}{k}") for k in range(CODEBOOKS))
        row[name] = None if None in values else values
    audio = row.pop("audio", None)
    row["audio"] = None if audio is None else FileIdentity.from_dict(json.loads(audio))
    return ItemRecord(**{**row, "strata": json.loads(row["strata"])})
