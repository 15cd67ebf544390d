"""Files on an object store: whole or absent, asked for again while the store errs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.object_store import ObjectStore
from ttt import checkpoint, records, storage
from ttt.checkpoint import Snapshot
from ttt.errors import UserError
from ttt.snac.ranged_file import open_ranged, open_seekable
from ttt.snac.shard_file import whole_file
from ttt.storage import StorageUnavailable

TRIES = 4
"""One, and one after each pause."""


@pytest.fixture
def store(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setattr(storage, "RETRY_PAUSES_SECONDS", (0.01,) * (TRIES - 1))
    return object_store


def test_every_operation_outlasts_a_store_that_errs_for_a_while(
    store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, folder = store.uri("folder/a.bin"), store.uri("folder")
    content = os.urandom(100_000)
    (tmp_path / "local").write_bytes(content)

    def write_staged() -> None:
        with whole_file(store.uri("folder/c.bin")) as sink:
            sink.write(content)

    def read_part() -> bytes:
        out = np.empty(50, np.uint8)
        assert open_ranged(file).read_into(1000, out) == 50
        return out.tobytes()

    def read_seekable() -> bytes:
        with open_seekable(file) as stream:
            stream.seek(-20, os.SEEK_END)
            return stream.read()

    for operation, result in (
        (lambda: storage.write_bytes(file, content), None),
        (lambda: storage.upload(tmp_path / "local", store.uri("folder/b.bin")), None),
        (write_staged, None),
        (lambda: storage.read_bytes(file), content),
        (read_part, content[1000:1050]),
        (read_seekable, content[-20:]),
        (lambda: storage.list_names(folder), ["a.bin", "b.bin", "c.bin"]),
        (lambda: storage.file_sizes(folder), dict.fromkeys(("a.bin", "b.bin", "c.bin"), 100_000)),
        (lambda: storage.exists(file), True),
        (lambda: storage.file_bytes(file), 100_000),
        (lambda: storage.delete(folder), None),
        (lambda: storage.exists(file), False),
    ):
        caplog.clear()
        store.fail_for(TRIES - 1)
        assert operation() == result
        assert "trying again in" in caplog.text


def test_a_store_that_stays_away_is_a_clear_stop(store: ObjectStore) -> None:
    file = store.uri("a.bin")
    storage.write_bytes(file, b"sound")
    store.fails = lambda _method, _path: True
    for operation in (lambda: storage.read_bytes(file), lambda: storage.write_bytes(file, b"x")):
        with pytest.raises(StorageUnavailable, match=rf"a\.bin.* failed {TRIES} times in a row"):
            operation()
    store.fails = lambda _method, _path: False
    assert storage.read_bytes(file) == b"sound", "nothing but the old content or the new"


def test_google_storage_that_stays_away_is_a_clear_stop_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its client goes on for 15 minutes in each try when it is not told otherwise."""
    monkeypatch.setattr(storage, "RETRY_PAUSES_SECONDS", (0.01,))
    monkeypatch.setattr(storage, "_GCS_RETRY_SECONDS", 1)
    nobody = "gs://anonymous@bucket/a.bin?scheme=http&endpoint_override=127.0.0.1:1"
    with pytest.raises(StorageUnavailable, match=r"a\.bin.* failed 2 times in a row"):
        storage.read_bytes(nobody)


@pytest.mark.faults
def test_a_store_that_is_gone_for_seconds_is_waited_for(
    object_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    """With the pauses of real runs: connections are refused for longer than pyarrow waits."""
    file = object_store.uri("a.bin")
    object_store.close()
    comes_back = threading.Timer(15, object_store.open)
    comes_back.start()
    began = time.monotonic()
    storage.write_bytes(file, b"arrived")
    print(f"written {time.monotonic() - began:.1f} s after the store went away for 15 s")
    comes_back.join()
    assert "trying again in" in caplog.text
    assert storage.read_bytes(file) == b"arrived"


def test_what_waiting_cannot_mend_is_refused_at_once(store: ObjectStore) -> None:
    absent = store.uri("a").replace("s3://", "s3://no-such-")
    before = len(store.requests)
    with pytest.raises(StorageUnavailable, match=r"the storage refuses \(.*NO_SUCH_BUCKET"):
        storage.write_bytes(absent, b"x")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(store.uri("absent"))
    assert len(store.requests) - before < TRIES


def test_a_file_that_is_not_finished_is_never_seen(store: ObjectStore) -> None:
    """An upload that ends halfway would else be completed by its closing."""

    def write_half() -> None:
        with whole_file(store.uri("half.bin")) as sink:
            sink.write(b"x" * 100)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert storage.list_names(store.uri("")) == []


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(store: ObjectStore) -> None:
    run = store.uri("run")
    first, second = (Snapshot(step, {"model": {}}, {}, {"step": step}) for step in (1, 2))
    checkpoint.save(run, first)
    store.fails = lambda method, path: method == "PUT" and "00000002/optimizer" in path
    with pytest.raises(UserError, match=r"step-00000002/optimizer\.pt.* continue with --resume"):
        checkpoint.save(run, second)
    store.fails = lambda _method, _path: False
    assert checkpoint.complete_steps(run) == [1]
    assert checkpoint.remove_incomplete(run) == ["step-00000002"]
    newest = checkpoint.newest_complete(run)
    assert newest is not None
    assert checkpoint.load(newest).state == {"step": 1}
    checkpoint.save(run, second)
    assert checkpoint.complete_steps(run) == [1, 2]


def test_parts_of_addresses(tmp_path: Path) -> None:
    for uri, parent, name in (
        ("s3://b/x/run?region=r", "s3://b/x?region=r", "run"),
        ("memory://b/run/", "memory://b", "run"),
        (str(tmp_path / "is it a run?"), str(tmp_path), "is it a run?"),
    ):
        assert (storage.parent(uri), storage.name(uri)) == (parent, name)
    assert storage.join("s3://b/x?region=r", "run") == "s3://b/x/run?region=r"


def test_a_line_on_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/dev/full: could not be written \(No space left on dev"):
        records.append_jsonl(Path("/dev/full"), {"step": 1})
    path, code = (
        tmp_path / "lines.jsonl",
        (
            "import resource, signal, sys; from pathlib import Path; from ttt import records; "
            "path = Path(sys.argv[1]); records.append_jsonl(path, {'step': 1}); "
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20)); "
            "records.append_jsonl(path, {'step': 2, 'reason': 'longer than there is room'})"
        ),
    )
    cut = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "could not be written (File too large)" in cut.stderr
    assert list(records.read_jsonl(path)) == [{"step": 1}]
