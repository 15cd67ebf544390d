"""What starting Ray and connecting to it can throw, each as one sentence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs.runtime import ray_start
from ray_jobs.runtime.connection import ray_session
from ttt.errors import UserError


def in_a_process(address: str | None, **environment: str) -> str:
    """What a session ends with in a process of its own: Ray reads its environment once."""
    script = f"""
        from ray_jobs.runtime.connection import ray_session
        from ttt.errors import UserError

        try:
            with ray_session({address!r}, 1):
                print("connected")
        except UserError as error:
            print(error)
    """
    unset = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_TMPDIR")
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**inherited, **environment}, check=True
    )
    return done.stdout


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_with_a_long_path_is_named(tmp_path: Path, variable: str) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    said = in_a_process(None, **{variable: str(folder)})
    assert said == (
        f"a local Ray cannot start: the path of {folder}, where its sockets would lie, is too "
        "long; set RAY_TMPDIR to a shorter folder, such as /tmp\n"
    )


def test_a_temporary_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = in_a_process(None, RAY_TMPDIR=str(tmp_path / "file"))
    assert said.startswith("a local Ray cannot start (Not a directory); its files lie below ")
    assert said.count("\n") == 1


def test_auto_says_that_nothing_runs_before_it_asks_for_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine on which a cluster has run may still have the note of where."""
    from ray._private import services

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)
    with pytest.raises(UserError, match=r"no Ray cluster answers at auto \(no Ray runs on this"):
        ray_start.connect("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with pytest.raises(UserError, match=r"no Ray cluster answers at auto \(Connection refused\)"):
        ray_start.connect("auto")


@pytest.fixture
def listener() -> Iterator[str]:
    """Something that listens on a port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "address, reason",
    [
        ("head:port", "it is not of the form host:port"),
        ("127.0.0.1", "it is not of the form host:port"),
        (":6379", "it is not of the form host:port"),
        ("127.0.0.1:1", "Connection refused"),
        ("no such host:1", "not known"),
        ("http://127.0.0.1:8265", "Invalid Ray address"),
        ("nosuch://head:1", "Module: nosuch does not exist"),
    ],
)
def test_an_address_that_is_none_is_one_sentence(address: str, reason: str) -> None:
    with pytest.raises(UserError, match="no Ray cluster answers at") as caught:
        ray_start.connect(address)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_process_without_a_token_is_told_of_tokens(listener: str) -> None:
    said = in_a_process(listener, RAY_AUTH_MODE="token", HOME="/nowhere")
    assert said.startswith(f"the Ray cluster at {listener} refused this process; set RAY_AUTH_MODE")


STARTING = [
    (
        Exception(
            "The current node timed out during startup. This could happen because some of the "
            "raylet failed to startup or the GCS has become overloaded."
        ),
        "did not start within its own limit of 30 s: this machine is busy",
    ),
    (
        RuntimeError("Failed to start GCS.  Last 0 lines of error files:\n.\nPlease check x"),
        "did not start within its own limit of 30 s",
    ),
    (RuntimeError("Timed out waiting for file /tmp/ray/gcs_port"), "its own limit of 30 s"),
    (OSError(28, "No space left on device"), r"cannot start \(No space left on device\)"),
    (PermissionError(13, "Permission denied"), r"cannot start \(Permission denied\)"),
    (
        ValueError("The configured object store size (9 GB) exceeds /dev/shm size (1 GB)."),
        "exceeds /dev/shm size",
    ),
]


@pytest.mark.parametrize("error, sentence", STARTING)
def test_whatever_the_start_of_ray_throws_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    import ray

    def fail(**_options: object) -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=sentence) as caught, ray_session(None, 1):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error, sentence",
    [
        (
            RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9\n"),
            "has other versions",
        ),
        (ConnectionError("Failed to connect to Ray cluster"), "unless what listens is no Ray"),
        (Exception("Head node temp_dir not found in NodeInfo"), "refused this process"),
    ],
)
def test_whatever_a_cluster_answers_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, listener: str, error: Exception, sentence: str
) -> None:
    import ray

    tries: list[str] = []

    def fail(**_options: object) -> None:
        tries.append(os.environ[ray_start._TRIES])
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match=sentence) as caught:
        ray_start.connect(listener)
    assert tries == ["2"]
    assert ray_start._TRIES not in os.environ
    assert "\n" not in str(caught.value)
