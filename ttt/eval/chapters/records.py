"""What an evaluation stores of a chapter: the loss of every frame and codebook, and nothing less.

One parquet file per chapter and model, ROOT/<chapter_id>.parquet, columns

    frame int32, nll_0 ... nll_7 float32 (codebook 0 is the semantic one), text int32 (the token the
    model's text stream held), join bool (a later piece of the chapter begins in this frame)

and the rest (`ChapterDetails`) as JSON in the schema's metadata. While a chapter is evaluated its
frames are appended to <chapter_id>.frames, records of fixed size. A job saves its state only after
`sync`, with the number of frames that returned; a restarted job opens the writer with that number,
and whatever was appended after it is cut off. So every frame is in the result exactly once,
whenever the job was killed; the parquet file appears whole, in one rename, and only then do the
appended frames go. Memory does not grow with the chapter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ttt import storage
from ttt.errors import UserError
from ttt.files.errors import FileIdentity, reading_column_types
from ttt.files.walk import fitting_name, natural_key

CODEBOOKS = 8
Floats = npt.NDArray[np.float32]

_FRAME = np.dtype([("nll", "<f4", (CODEBOOKS,)), ("text", "<i4")])
_SCHEMA = pa.schema(
    [pa.field("frame", pa.int32(), nullable=False)]
    + [pa.field(f"nll_{k}", pa.float32(), nullable=False) for k in range(CODEBOOKS)]
    + [
        pa.field("text", pa.int32(), nullable=False),
        pa.field("join", pa.bool_(), nullable=False),
    ]
)
_ROW_GROUP = 1 << 12
_FORMAT = 1
_KEY = b"chapter"
_LONGEST_NAME = 255  # Bytes that a file system takes.
_LONGEST_STEM = _LONGEST_NAME - len("..parquet.12345678.tmp")  # While it is being written.
_LONGEST_PATH = 2048  # Half of what the system takes: it lies below another folder.


@dataclass(frozen=True, kw_only=True)
class ChapterDetails:
    """Everything about a chapter's evaluation that is not per frame."""

    chapter_id: str
    speaker: str
    model: str
    """The model's name in this run, such as baseline."""
    codes_sha256: str
    """Of the codes that were scored."""
    audio: tuple[FileIdentity, ...] = ()
    """The files that the codes were made of, or the codes in a cache; empty where nobody noted
    them."""
    unscored_frames: int = 0
    """Frames at the chapter's end that have no loss."""
    warning: str | None = None
    """What is wrong with the losses; None where nothing is."""
    joins: tuple[int, ...] = ()
    """Frames in which a later piece begins."""
    chunks: tuple[tuple[int, int], ...] = ()
    """(first step, steps per chunk): more than one entry when memory ran out on the way."""
    group: tuple[str, ...] = ()
    """Chapters evaluated in the same batch, this one included."""
    seconds: float | None = None
    """Computing time of this chapter (its share of the group's)."""
    acceptance: float | None = None
    """Share of the computed steps that stood; 1 where the text was known."""
    near_ties: int | None = None
    """Frames whose two best text logits lay closer than 1e-4."""
    peak_bytes: int | None = None
    """Most memory in use."""
    activity_frames: tuple[int, ...] = ()
    """Frames after which the TTT layers' state was measured."""
    activity: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Layer -> ||W - W0|| / ||W0|| of its fast weights at those frames."""


@dataclass(frozen=True, eq=False)
class ChapterRecord:
    """A finished chapter."""

    details: ChapterDetails
    nll: Floats
    """[8, T] in nats."""
    text: npt.NDArray[np.int32]
    """[T]"""

    @property
    def frames(self) -> int:
        """T."""
        return self.nll.shape[1]


class NonFiniteLoss(Exception):
    """A loss is NaN or infinite; the chapter cannot be evaluated."""


def record_path(root: str | Path, chapter_id: str) -> Path:
    """Where the finished record of a chapter lies: under its id, as far as disks take names so
    long; which chapter a record is of stands in it."""
    return Path(root) / f"{file_stem(chapter_id, _LONGEST_STEM)}.parquet"


def file_stem(chapter_id: str, longest: int) -> str:
    """A chapter's id as a relative path, with a digest for what is too long of it.

    Args:
        longest: bytes for the last part, which suffixes are added to.
    """
    *folders, name = chapter_id.split("/")
    stem = "/".join([*(fitting_name(folder, _LONGEST_NAME) for folder in folders), name])
    if len(stem.encode()) > _LONGEST_PATH:
        return fitting_name(chapter_id.replace("/", "_"), longest)
    return "/".join([*stem.split("/")[:-1], fitting_name(name, longest)])


def leftovers(root: str | Path, chapter_ids: Iterable[str], state_path: Path) -> list[Path]:
    """What is there and of no use once all these chapters have their records; the state last."""
    records = [record_path(root, chapter_id) for chapter_id in chapter_ids]
    files = [path for record in records for path in storage.temporaries(record)]
    files += [_appended_path(record) for record in records]
    files += [*storage.temporaries(state_path), state_path]
    return [path for path in files if path.exists()]


class ChapterWriter:
    """Appends the frames of one chapter.

    with ChapterWriter(root, chapter_id, frames=state.frames) as writer:
        writer.append(nll, text)
        state.frames = writer.sync()     # then save the state
        ...
        writer.finish(details)
    """

    def __init__(self, root: str | Path, chapter_id: str, frames: int = 0) -> None:
        """Open a chapter of which `frames` frames count; later ones are cut off.

        Raises:
            UserError: fewer frames are on disk than the state has counted.
        """
        self._chapter_id = chapter_id
        self._path = record_path(root, chapter_id)
        self._appended = _appended_path(self._path)
        self._appended.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._appended, "ab")  # noqa: SIM115 (closed by `close`)
        on_disk = self._file.seek(0, os.SEEK_END) // _FRAME.itemsize
        if on_disk < frames:
            self._file.close()
            raise UserError(
                f"{self._appended}: holds {on_disk:,} frames and the chapter's state counts "
                f"{frames:,}; delete both to evaluate the chapter again"
            )
        self._file.truncate(frames * _FRAME.itemsize)
        storage.sync_folder(self._appended.parent)
        self.frames = frames
        """Frames appended so far."""

    def append(self, nll: Floats, text: npt.NDArray[np.integer[Any]]) -> None:
        """Add n frames: nll [8, n], text [n]. Raises NonFiniteLoss before writing any of them."""
        if nll.shape != (CODEBOOKS, len(text)):
            raise ValueError(f"nll {nll.shape} does not fit text of {len(text)} frames")
        bad = np.argwhere(~np.isfinite(nll.T))
        if len(bad):
            frame, codebook = bad[0]
            raise NonFiniteLoss(
                f"{self._chapter_id}: the loss of codebook {codebook} at frame "
                f"{self.frames + frame:,} is {nll[codebook, frame]}"
            )
        block = np.empty(len(text), dtype=_FRAME)
        block["nll"], block["text"] = nll.T, text
        self._file.write(block.tobytes())
        self.frames += len(text)

    def sync(self) -> int:
        """Put all appended frames on the disk; returns how many there are."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self.frames

    def finish(self, details: ChapterDetails) -> Path:
        """Turn the appended frames into the record and return its path.

        Raises:
            UserError: there are no frames, or the disk is full.
        """
        if self.frames == 0:
            raise UserError(f"{self._chapter_id}: no frame was evaluated")
        self.sync()
        with storage.atomic_path(self._path) as temporary:
            _convert(self._appended, temporary, details)
        self.discard()
        return self._path

    def discard(self) -> None:
        """Forget the appended frames."""
        self.close()
        self._appended.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the appended frames for the next writer."""
        self._file.close()

    def __enter__(self) -> ChapterWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_record(path: Path) -> ChapterRecord:
    """Read a finished chapter. Raises UserError when the file is damaged or something else."""
    try:
        with reading_column_types():
            table = pq.read_table(path, memory_map=False)
        details = _parse(table.schema.metadata[_KEY])
        if not table.schema.remove_metadata().equals(_SCHEMA):
            raise ValueError("other columns than a chapter's")
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a readable record of a chapter ({error})") from error
    nll = np.stack([table[f"nll_{k}"].to_numpy() for k in range(CODEBOOKS)])
    return ChapterRecord(details, nll, table["text"].to_numpy())


def read_details(path: Path) -> ChapterDetails:
    """What a finished chapter's record says beside its frames. Raises as `read_record` does."""
    try:
        with reading_column_types():
            return _parse(pq.read_schema(path, memory_map=False).metadata[_KEY])
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a readable record of a chapter ({error})") from error


def read_records(root: str | Path) -> Iterator[ChapterRecord]:
    """All finished chapters below a folder, one at a time, in natural order of their ids."""
    paths = sorted(Path(root).rglob("*.parquet"), key=lambda path: natural_key(str(path)))
    for path in paths:
        if path.is_file() and not path.name.startswith("."):  # A writer's temporary file.
            yield read_record(path)


def _appended_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".parquet") + ".frames")


def _convert(appended: Path, target: Path, details: ChapterDetails) -> None:
    """Write the parquet file row group by row group."""
    described = json.dumps({"format": _FORMAT, **asdict(details)}, allow_nan=False)
    schema = _SCHEMA.with_metadata({_KEY: described.encode()})
    joins = np.array(details.joins, dtype=np.int64)
    first = 0
    with pq.ParquetWriter(target, schema, compression="zstd") as writer, open(appended, "rb") as f:
        while content := f.read(_ROW_GROUP * _FRAME.itemsize):
            block = np.frombuffer(content, dtype=_FRAME)
            frame = np.arange(first, first + len(block), dtype=np.int32)
            columns = [frame, *block["nll"].T, block["text"], np.isin(frame, joins)]
            arrays = [
                pa.array(np.ascontiguousarray(column), type=field.type)
                for column, field in zip(columns, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            first += len(block)


def _parse(described: bytes) -> ChapterDetails:
    fields = json.loads(described)
    if fields.pop("format") != _FORMAT:
        raise ValueError(f"format is not {_FORMAT}")
    for name in ("joins", "group", "activity_frames"):
        fields[name] = tuple(fields[name])
    fields["audio"] = tuple(map(FileIdentity.from_dict, fields.get("audio", ())))
    fields["chunks"] = tuple((first, chunk) for first, chunk in fields["chunks"])
    fields["activity"] = {layer: tuple(line) for layer, line in fields["activity"].items()}
    return ChapterDetails(**fields)
