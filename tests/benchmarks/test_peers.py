"""The benchmark of peers: what it counts, and that every way delivers the clips' own values."""

import dataclasses
import re
import subprocess
import sys

import pytest

from benchmarks.data_path import write_random_cache
from benchmarks.peers import driver
from benchmarks.peers.__main__ import measure
from benchmarks.peers.byte_counts import Count, bytes_between, bytes_read
from benchmarks.peers.child import in_a_line
from benchmarks.peers.clips import write_clips
from benchmarks.peers.driver import Refused, running
from benchmarks.peers.environments import PINS, is_ready
from benchmarks.peers.kills import Outcome, compare, kill_and_resume
from benchmarks.peers.loaders.protocol import Order
from benchmarks.peers.rates import per_window
from benchmarks.peers.tables import kills as kills_table
from benchmarks.peers.tables import rates as rates_table
from benchmarks.peers.ways import WAYS

CLIPS = 48
ORDER = Order(seed=3, batch=4)
A, B, C, D = ("a", 1), ("b", 2), ("c", 3), ("d", 4)
EPOCH = [[A, B], [C, D]]


@pytest.mark.parametrize(
    "heard,expected",
    [
        (EPOCH, Outcome(repeated=0, lost=0, moved=0, exact=True)),
        ([[C, D], [A, B]], Outcome(repeated=0, lost=0, moved=0, exact=False)),
        ([[A, B], [C, D], [D]], Outcome(repeated=1, lost=0, moved=0, exact=False)),
        ([[A, B], [C]], Outcome(repeated=0, lost=1, moved=0, exact=False)),
        ([[A, B], [B, A]], Outcome(repeated=2, lost=2, moved=0, exact=False)),
        ([[A, B], [C, ("d", 5)]], Outcome(repeated=0, lost=0, moved=1, exact=False)),
        ([[A, ("a", 9)], [B, C, D]], Outcome(repeated=1, lost=0, moved=0, exact=False)),
        ([], Outcome(repeated=0, lost=4, moved=0, exact=False)),
    ],
)
def test_what_a_resumed_epoch_repeats_and_loses(heard, expected):
    assert compare(EPOCH, heard) == expected


@pytest.mark.parametrize(
    "error,line",
    [
        (ValueError("no"), "ValueError: no"),
        (IndexError("Caught in worker 1.\nTraceback:\nIndexError: far"), "IndexError: far"),
    ],
)
def test_an_error_in_a_line(error, line):
    assert in_a_line(error) == line


def test_an_error_without_text_is_the_code_that_raised_it():
    workers = 1
    with pytest.raises(AssertionError) as caught:
        assert workers == 2
    caught.value.args = ()
    assert in_a_line(caught.value) == "AssertionError at `assert workers == 2`"


def test_what_workers_read_is_counted(tmp_path):
    file = tmp_path / "bytes"
    file.write_bytes(bytes(3_000_000))
    before = bytes_read()
    script = f"open({str(file)!r}, 'rb').read()"
    subprocess.run([sys.executable, "-S", "-c", script], check=True)
    counted = bytes_between(before, bytes_read())
    assert counted is not None
    assert 3_000_000 <= counted[0] < 4_500_000


ENDED = Count(40, 4)


@pytest.mark.parametrize(
    "before,after,expected",
    [
        ({1: Count(100, 10)}, {1: Count(150, 30)}, (50, 20)),
        ({1: Count(100, 10)}, {1: Count(100, 10), 2: Count(7, 3)}, (7, 3)),
        # Its parent is given 60 and 9 when a worker ends, of which 40 and 4 were read before.
        ({1: Count(100, 10), 2: ENDED}, {1: Count(160, 19)}, (20, 5)),
        ({1: Count(0, 0), 2: Count(40, 4, True)}, {1: Count(0, 0), 2: Count(90, 5, True)}, (50, 1)),
        ({1: Count(0, 0), 2: Count(40, 4, True)}, {1: Count(0, 0), 3: Count(90, 5, True)}, None),
    ],
)
def test_bytes_between_two_readings(before, after, expected):
    assert bytes_between(before, after) == expected


def test_bytes_that_are_unknown_are_left_out():
    rounds = [{"windows": 2, "asked": asked} for asked in (None, 20, 60)]
    assert per_window({"ours": rounds}, "ours", "asked") == 20
    assert per_window({"ours": rounds[:1]}, "ours", "asked") is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("peers")
    write_clips(write_random_cache(made / "cache", CLIPS, seconds=(2, 4)), made / "plain")
    return made


def test_our_own_ways_are_measured(tmp_path):
    names = ("ours_in_process", "mmap")
    result = measure(names, tmp_path, clips=CLIPS, repeats=2, rounds=2, cold_rounds=1)
    # Ours leaves out what fills no whole batch.
    assert [reading["windows"] for reading in result["warm"]["mmap"]] == [2 * CLIPS] * 2
    assert [reading["windows"] for reading in result["cold"]["ours_in_process"]] == [32]
    window = 12 * 4096 * 2
    for reading in (*result["warm"]["ours_in_process"], *result["cold"]["ours_in_process"]):
        assert window <= reading["asked"] / reading["windows"] < 1.3 * window
    assert result["warm"]["mmap"][0]["asked"] < 96 * window / 2  # Mapped files are not read.
    lines = rates_table(result).splitlines()
    assert sum(line.startswith(("| ours", "| plain mmap")) for line in lines) == 2
    (cells,) = (line.split(" | ") for line in lines if line.startswith("| ours"))
    assert [at for at, cell in enumerate(cells) if cell == "one batch"] == [3]  # The cold one.
    result["kills"] = {name: kill_and_resume(name, tmp_path, ORDER, 1) for name in names}
    ours = result["kills"]["ours_in_process"]
    assert (ours["batches"], ours["samples"], ours["reproducible"]) == (12, CLIPS, True)
    for outcome in (*ours["kills"], ours["one_worker"]):
        assert outcome["step"] >= 2
        assert outcome["exact"]
        assert outcome["repeated"] == outcome["lost"] == outcome["moved"] == 0
    assert result["kills"]["mmap"]["mechanism"] is False
    assert "no mechanism" in kills_table(result).splitlines()[-1]


def test_a_value_that_differs_is_refused(folder):
    with running("mmap", folder) as child:
        child.ask("write")
        audio = folder / "mmap" / "plain" / "audio.bin"
        content = bytearray(audio.read_bytes())
        content[::2] = bytes(len(content) // 2)
        audio.unlink()  # It is a link to what it is compared with.
        audio.write_bytes(content)
        with pytest.raises(Refused, match=r"ValueError: audio of speaker/\d+ from \d+ differ"):
            child.ask("check", order=dataclasses.asdict(ORDER), batches=1)


def test_a_child_that_does_not_answer_is_refused(folder, monkeypatch):
    monkeypatch.setattr(driver, "ANSWER_SECONDS", 0.0)
    refused = pytest.raises(Refused, match=r"no answer to versions in 0 s; see .*mmap\.log")
    with refused, running("mmap", folder) as child:
        child.ask("versions", packages=["torch"])


PEERS = [name for name, way in WAYS.items() if way.environment is not None]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_delivers_the_clips_and_is_resumed(name, folder):
    if not is_ready(WAYS[name].environment):
        pytest.skip("its environment is not there; python -m benchmarks.peers makes it")
    with running(name, folder) as child:
        child.ask("write")
    with running(name, folder) as child:
        assert child.ask("check", order=dataclasses.asdict(ORDER), batches=3) >= 8
        order = dataclasses.asdict(Order(seed=3, batch=4, repeats=2))
        reading = child.ask("rate", order=order, cold=False)
        assert reading["windows"] == 2 * CLIPS
    found = kill_and_resume(name, folder, ORDER, 1)
    assert found["samples"] == CLIPS
    if not name.startswith("hf_stream") and found["mechanism"]:
        (outcome,) = found["kills"]
        assert outcome["repeated"] == outcome["lost"] == 0


def test_pins_are_names_and_versions_alone():
    lists = {path.stem for path in PINS.glob("*.txt")}
    assert lists == {way.environment for way in WAYS.values()} - {None}
    for name in lists:
        for line in (PINS / f"{name}.txt").read_text().splitlines():
            assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line), f"{name}.txt: {line}"
