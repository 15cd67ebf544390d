"""Files on an object store: whole or absent, asked for again while the store errs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest

from tests.object_store import ObjectStore
from ttt import checkpoint, records, retries, storage
from ttt.checkpoint import Snapshot
from ttt.errors import UserError
from ttt.files.parquets import whole_file
from ttt.files.ranged import open_ranged, open_seekable
from ttt.retries import StorageUnavailable

TRIES = 4
"""One, and one after each pause."""


@pytest.fixture
def store(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setattr(retries, "RETRY_PAUSES_SECONDS", (0.01,) * (TRIES - 1))
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
    monkeypatch.setattr(retries, "RETRY_PAUSES_SECONDS", (0.01,))
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


def test_names_with_special_characters_come_back_as_they_were(store: ObjectStore) -> None:
    names = sorted(["a b", "100%", "run#2", "why?", "ü", "a%20b"])
    for name in names:
        storage.write_bytes(storage.join(store.uri("folder"), name), name.encode())
    assert storage.list_names(store.uri("folder")) == names
    for name in names:
        assert storage.read_bytes(storage.join(store.uri("folder"), name)) == name.encode()


def test_a_uri_with_a_hash_overwrites_nothing(store: ObjectStore) -> None:
    """The client would drop what follows the #, and make one object of all files of a run."""
    storage.write_bytes(store.uri("run"), b"sound")
    for run in (store.uri("run#2"), store.uri("run") + "#2"):
        with pytest.raises(UserError, match="write %23"):
            storage.write_bytes(f"{run}/config.yaml", b"other")
    assert storage.list_names(store.uri("")) == ["run"]
    assert storage.read_bytes(store.uri("run")) == b"sound"


def without_region(uri: str) -> str:
    return uri.replace("&region=us-east-1", "")


def test_a_uri_without_a_region_works(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a server in the URI, and with one in the environment."""
    bare = store.uri("a.bin").partition("?")[0]
    storage.write_bytes(without_region(store.uri("a.bin")), b"there")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{store.host}")
    assert storage.read_bytes(bare) == b"there"
    store.fail_for(TRIES - 1)
    assert storage.file_bytes(bare) == 5


NOT_RESOLVED = (
    "When resolving region for bucket 'b': AWS Error NETWORK_CONNECTION during HeadBucket "
    "operation: curlCode: 6, Could not resolve hostname"
)


class FirstQuestion:
    """pyarrow's from_uri where the store answers the question for a bucket's region so."""

    def __init__(self, *errors: OSError) -> None:
        self.errors = list(errors)
        self.asked = 0
        self._real = pafs.FileSystem

    def from_uri(self, uri: str) -> tuple[pafs.FileSystem, str]:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return self._real.from_uri(f"{uri}?region=us-east-1")


@pytest.mark.parametrize(
    "errors, asked",
    [
        ([OSError(NOT_RESOLVED)] * (TRIES - 1), TRIES),
        ([OSError("When resolving region for bucket 'b': AWS Error UNKNOWN (HTTP status 503)")], 2),
    ],
)
def test_the_first_question_to_a_store_is_asked_again(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, errors: list[OSError], asked: int
) -> None:
    first = FirstQuestion(*errors)
    monkeypatch.setattr(pafs, "FileSystem", first)
    assert storage.resolve("s3://b/x")[1] == "b/x"
    assert first.asked == asked


@pytest.mark.parametrize(
    "error, tries, sentence",
    [
        (NOT_RESOLVED, TRIES, r"correct the bucket's name, or name its region.*s3://b/x\?region="),
        ("Bucket 'b' not found", 1, "there is no such bucket: correct its name or create it"),
        (
            "When resolving region for bucket 'b': AWS Error ACCESS_DENIED during HeadBucket",
            1,
            "give this machine credentials",
        ),
        ("Unable to load libjvm" + " no such file" * 999, 1, "install what this library"),
    ],
)
def test_a_first_question_that_fails_is_one_sentence(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, error: str, tries: int, sentence: str
) -> None:
    first = FirstQuestion(*[OSError(error)] * TRIES)
    monkeypatch.setattr(pafs, "FileSystem", first)
    with pytest.raises(StorageUnavailable, match=sentence) as caught:
        storage.exists("s3://b/x")
    assert first.asked == tries
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    "status, sentence",
    [("403 Forbidden", "give this machine credentials"), ("301 Moved", "lies in another region")],
)
def test_a_store_that_refuses_or_lies_elsewhere_is_not_asked_again(
    store: ObjectStore, status: str, sentence: str
) -> None:
    store.status = status
    store.fails = lambda _method, _path: True
    file = store.uri("a.bin")
    for operation in (
        lambda: storage.exists(file),
        lambda: storage.read_bytes(file),
        lambda: storage.list_names(store.uri("folder")),
        lambda: storage.write_bytes(file, b"x"),
    ):
        before = len(store.requests)
        with pytest.raises(StorageUnavailable, match=sentence):
            operation()
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
