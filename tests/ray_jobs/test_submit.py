"""Submitting jobs: what is sent, what is refused, and a real head that demands its token."""

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from ray_jobs import submit
from ray_jobs.config.yaml_tree import read
from ray_jobs.runtime import job_server
from ray_jobs.runtime.job_server import LARGEST_MIB, describe_upload, files_to_upload
from tests.ports import free_ports
from ttt import records
from ttt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
EXCLUDES = read(ROOT / "cluster/runtime_env.yaml")["excludes"]
DECODE = ("decode_codes", "--config", "configs/decode.yaml", "output=/shared/wavs")


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_command_is_quoted_for_the_clusters_shell(at_root, capsys):
    words = ["output=/shared/a b; touch x", "input=$(touch x)`touch x`", "decoder=it's"]
    assert submit.main([*DECODE, "--resume", "--dry-run", *words]) == 0
    upload, command, job = capsys.readouterr().out.splitlines()
    assert upload.startswith("upload: ")
    line = command.removeprefix("command: ")
    expected = ["python", "-m", "ray_jobs.decode_codes", "--config", "configs/decode.yaml"]
    assert shlex.split(line) == [*expected, "--resume", DECODE[-1], *words]
    shown = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines() == shlex.split(line)
    assert job.startswith("job decode_codes-")


def test_the_name_follows_the_values_and_not_the_words(at_root, capsys):
    def name(*words):
        assert submit.main([*DECODE, "--dry-run", *words]) == 0
        return capsys.readouterr().out.splitlines()[-1].split()[1]

    same = name("limit=3")
    assert same == name("limit=3", "--resume", "decoder=runs/train/export")
    assert same != name("limit=4")
    assert name("--id", "mine") == "mine:"


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["limt=3"], "limt: unknown key; did you mean limit?"),
        (["output=runs/x"], "output=runs/x: would lie in the copy of these files that Ray makes"),
        (["--id", "a/b"], "--id takes letters, digits and . _ -, got a/b"),
        (["--address", "http://10.0.0.1:8265"], "the token would be sent in the clear to http://"),
        (["--address", "os://x"], "--address must be http(s)://host:port, got os://x"),
        (["--address", "http://127.0.0.1:9"], "no Ray dashboard answers at http://127.0.0.1:9 ("),
    ],
)
def test_refusals_name_what_to_do(at_root, monkeypatch, capsys, words, sentence):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    assert submit.main([*DECODE, *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_configuration_that_does_not_travel_is_refused(at_root, tmp_path, capsys):
    copy = tmp_path / "decode.yaml"
    shutil.copy(ROOT / "configs/decode.yaml", copy)
    words = ["--config", str(copy), "output=/shared/wavs", "--dry-run"]
    assert submit.main(["decode_codes", *words]) == 2
    assert f"{copy}: does not travel with the job; put it under" in capsys.readouterr().err


def test_only_a_checkout_is_sent(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert submit.main(["decode_codes", "--dry-run"]) == 2
    assert "run this from the project's checkout" in capsys.readouterr().err


def test_the_files_counted_are_those_that_ray_packs(tmp_path):
    from ray._private.runtime_env.packaging import create_package

    for name in ("a.py", "runs/big.bin", "deep/b.py", "deep/__pycache__/c.pyc", "deep/skip/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "deep/.gitignore").write_text("skip/\n")
    sizes = files_to_upload(tmp_path, EXCLUDES)
    assert sizes == {"a.py": 4, "deep/b.py": 9, "deep/.gitignore": 6}
    packed = tmp_path.with_suffix(".zip")
    create_package(str(tmp_path), packed, include_gitignore=True, excludes=EXCLUDES)
    with zipfile.ZipFile(packed) as archive:
        assert sizes == {info.filename: info.file_size for info in archive.infolist()}


def test_a_data_set_in_the_checkout_is_named_and_refused(tmp_path):
    (tmp_path / "speech/wavs").mkdir(parents=True)
    with open(tmp_path / "speech/wavs/one.wav", "wb") as file:
        file.truncate((LARGEST_MIB + 1) * 2**20)
    (tmp_path / "code.py").write_text("x")
    with pytest.raises(UserError, match=r"33\.0 MiB would travel .*: speech/wavs \(33\.0 MiB\)"):
        describe_upload(tmp_path, files_to_upload(tmp_path, EXCLUDES))


def test_this_checkout_is_far_below_the_limit():
    sizes = files_to_upload(ROOT, EXCLUDES)
    assert {"ray_jobs/submit.py", "configs/decode.yaml", "cluster/runtime_env.yaml"} <= set(sizes)
    assert not [name for name in sizes if name.startswith((".git/", ".venv", "runs/", "tests/"))]
    assert sum(sizes.values()) < LARGEST_MIB * 2**20 / 2


@pytest.mark.parametrize(
    "status, code, expected",
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 1),
        ("SUCCEEDED", None, 0),
    ],
)
def test_exit_codes(status, code, expected):
    details = SimpleNamespace(status=status, driver_exit_code=code)
    assert job_server.exit_code(details) == expected


def test_a_job_without_the_repository_still_knows_its_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")  # no git
    monkeypatch.setenv(records.COMMIT_VARIABLE, "abc123")
    records.git_commit.cache_clear()
    try:
        assert records.git_commit() == "abc123"
    finally:
        records.git_commit.cache_clear()


# From here on a real head on loopback, with a token of its own.


@pytest.fixture(scope="module")
def head() -> Iterator[SimpleNamespace]:
    """A Ray head of this test alone: its dashboard's URL and the environment that may use it."""
    folder = Path(tempfile.mkdtemp(prefix="ttt-head-"))  # Ray's sockets need a short path
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    port, dashboard, agent, client = free_ports(4)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = (
        "ray start --head --block --node-ip-address=127.0.0.1 --num-cpus=2 --disable-usage-stats "
        f"--port={port} --dashboard-host=127.0.0.1 --dashboard-port={dashboard} "
        f"--dashboard-agent-listen-port={agent} --ray-client-server-port={client} "
        f"--temp-dir={folder}/ray"
    )
    with open(folder / "head.log", "wb") as log:
        process = subprocess.Popen(
            shlex.split(command), env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for(lambda: requests.get(f"{url}/api/version", timeout=5).status_code == 401)
        yield SimpleNamespace(url=url, address=f"127.0.0.1:{port}", environment=environment)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def test_without_the_token_nothing_can_be_submitted(head):
    job = {"entrypoint": "touch submitted"}
    wrong = {"Authorization": "Bearer wrong"}
    assert requests.post(f"{head.url}/api/jobs/", json=job, timeout=30).status_code == 401
    answer = requests.post(f"{head.url}/api/jobs/", json=job, headers=wrong, timeout=30)
    assert answer.status_code == 403
    right = {"Authorization": f"Bearer {Path(head.environment['RAY_AUTH_TOKEN_PATH']).read_text()}"}
    assert requests.get(f"{head.url}/api/jobs/", headers=right, timeout=30).json() == []
    words = [*DECODE, "--address", head.url]
    script = f"from ray_jobs.submit import main; assert main({words}) == 2"
    without = {name: head.environment[name] for name in head.environment if "TOKEN" not in name}
    without["HOME"] = "/nonexistent"
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(_client, [script] * 2, [without, {**without, "RAY_AUTH_TOKEN": "wrong"}])
    for done in both:
        assert f"error: the cluster at {head.url} refused this process; set" in done.stderr


def test_what_the_guide_exports_lets_ray_job_in(head, tmp_path):
    guide = (ROOT / "README.md").read_text(encoding="utf-8")
    (export,) = re.findall(r"^export .*RAY_AUTH_TOKEN_PATH=.*$", guide, flags=re.MULTILINE)
    (tmp_path / ".ray").mkdir()
    shutil.copy(head.environment["RAY_AUTH_TOKEN_PATH"], tmp_path / ".ray" / "auth_token")
    bare = {name: value for name, value in head.environment.items() if "RAY_AUTH" not in name}
    done = subprocess.run(
        ["bash", "-ec", f"{export}\nray job list --address {head.url}"],
        env={**bare, "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.faults
def test_a_driver_without_the_token_is_refused(head):
    script = f"""
        from ray_jobs.runtime.connection import ray_session
        from ttt.errors import UserError

        try:
            with ray_session({head.address!r}, None):
                raise SystemExit("connected")
        except UserError as error:
            print(error)
    """
    without = {name: head.environment[name] for name in head.environment if "TOKEN" not in name}
    without["HOME"] = "/nonexistent"
    others = [
        without,
        {**without, "RAY_AUTH_TOKEN": "wrong"},
        {**without, "RAY_AUTH_MODE": "disabled"},
    ]
    for environment in others:
        done = _client(script, environment)
        assert done.stdout.startswith(f"the Ray cluster at {head.address} refused this process;")


def test_a_job_runs_once_and_its_exit_code_comes_back(head, small_export, small_cache, tmp_path):
    words = [*DECODE, "--address", head.url, f"decoder={small_export}", f"input={small_cache}"]
    done = _client(
        f"""
        from ray_jobs.submit import main

        good = {words} + ["output={tmp_path}/wavs"]
        for command in (good, good, good + ["--resume"], good + ["limit=1"]):
            print(f"<{{main(command)}}>")
        """,
        head.environment,
    )
    first, second, again, other, _ = re.split(r"(?<=>)\n", done.stdout)
    assert ": started\n" in first
    assert first.endswith(": succeeded, exit code 0\n<0>")
    assert second.endswith(": has succeeded already; --id with another name runs it again\n<0>")
    # A training that was told to stop has succeeded too.
    assert "-2: started\n" in again
    assert again.endswith("-2: succeeded, exit code 0\n<0>")
    # The folder is not empty now: the job's own sentence and its own exit code.
    assert f"error: {tmp_path}/wavs" in other
    assert other.endswith(": failed, exit code 2\n<2>")
    assert len(list((tmp_path / "wavs").rglob("*.wav"))) == 2


@pytest.mark.faults
def test_failed_killed_and_repeated_jobs(head):
    done = _client(
        f"""
        from concurrent.futures import ThreadPoolExecutor

        from ray_jobs.runtime import job_server

        client = job_server.connect({head.url!r})

        def run(command):
            job_id, found = job_server.start_once(client, "same", command, again=False)
            return job_id, found, job_server.exit_code(job_server.follow(client, job_id))

        assert run("exit 7") == ("same", None, 7)
        assert run("kill -9 $$") == ("same-2", None, 137)
        with ThreadPoolExecutor(2) as pool:  # two at once: one starts it, the other finds it
            both = list(pool.map(run, ["sleep 3", "sleep 3"]))
        assert [(job_id, code) for job_id, _, code in both] == [("same-3", 0)] * 2
        assert sorted(found is None for _, found, _ in both) == [False, True]
        job_id, found = job_server.start_once(client, "same", "sleep 60", again=False)
        assert (job_id, found.status) == ("same-3", "SUCCEEDED")
        job_id, _ = job_server.start_once(client, "long", "sleep 60", again=False)
        client.stop_job(job_id)
        assert job_server.exit_code(job_server.follow(client, job_id)) != 0
        """,
        head.environment,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.faults
def test_a_log_is_followed_through_broken_connections(head):
    with _tunnel(head.url) as tunnel:
        script = f"""
            from ray_jobs.runtime import job_server

            client = job_server.connect({tunnel.url!r})
            command = "for i in $(seq 30); do echo line-$i; sleep 0.3; done; exit 3"
            job_id, _ = job_server.start_once(client, "broken", command, again=False)
            raise SystemExit(job_server.exit_code(job_server.follow(client, job_id)))
        """
        cutter = threading.Thread(target=tunnel.cut_after, args=(b"line-8", b"line-16"))
        cutter.start()
        done = _client(script, head.environment)
        cutter.join()
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("trying again]") == 2
    printed = [line for line in done.stdout.splitlines() if line.startswith("line-")]
    assert printed == [f"line-{number}" for number in range(1, 31)]


def test_an_open_cluster_is_refused(monkeypatch, open_server):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(UserError, match="runs the jobs of anybody who reaches it; start it"):
        job_server.connect(open_server)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert job_server.connect(open_server).list_jobs() == []


@pytest.mark.timeout(60)
def test_a_job_that_is_over_ends_though_its_log_cannot_be_followed(
    monkeypatch, open_server, capsys
):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    details = job_server.follow(job_server.connect(open_server), "over")
    assert job_server.exit_code(details) == 3
    assert "[the end of the log could not be read (" in capsys.readouterr().out


@pytest.fixture
def open_server(monkeypatch) -> Iterator[str]:
    """Answers as the job server of a cluster without authentication; it knows no websockets."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    job = {"type": "SUBMISSION", "status": "FAILED", "entrypoint": "", "driver_exit_code": 3}
    version = {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}
    answers = {"/api/jobs/": [], "/api/jobs/over": job, "/api/version": version}

    class Open(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path in answers
            self.send_response(200 if known else 502)
            self.end_headers()
            self.wfile.write(json.dumps(answers[self.path]).encode() if known else b"")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Open)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _client(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A process of its own: Ray reads its authentication once per process."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def _wait_for(condition, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if condition():
                return
        time.sleep(0.2)
    raise TimeoutError("the head did not come up")


class _Tunnel:
    """Forwards TCP to a head, and cuts all connections when told to."""

    def __init__(self, target: str) -> None:
        self._target = ("127.0.0.1", int(target.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._seen = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, *words: bytes) -> None:
        for word in words:
            while word not in self._seen:
                time.sleep(0.05)
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                self._seen += content
                sink.sendall(content)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _tunnel(target: str) -> Iterator[_Tunnel]:
    tunnel = _Tunnel(target)
    try:
        yield tunnel
    finally:
        tunnel.close()
