"""cluster/Dockerfile, as far as it can be tried without a Docker engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import ray

from tests.cluster.manifests import (
    CLUSTER,
    IMAGE_FOLDER,
    KUBERAY,
    ROOT,
    SETTINGS,
    entrypoint_words,
    pod_specs,
    ray_resource,
)

LOCAL = KUBERAY / "local"


def test_the_rehearsals_job_runs_on_what_the_image_holds(tmp_path):
    """Its two commands, with the Dockerfile's files alone and another folder for /shared."""
    copied_files = image_files(tmp_path / "image")
    shared = tmp_path / "shared"
    shared.mkdir()

    def run(command: list[str]) -> str:
        words = [word.replace("/shared", str(shared)) for word in command]
        words = [word.replace(IMAGE_FOLDER, str(copied_files)) for word in words]
        assert words[0] == "python"
        environment = {"PYTHONPATH": str(copied_files), "HOME": str(tmp_path), "PATH": "/bin"}
        return subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    where = run(["python", "-c", "import ttt, ray_jobs; print(ttt.__path__, ray_jobs.__path__)"])
    assert where.count(str(copied_files)) == 2
    head = pod_specs(ray_resource(LOCAL))[0]
    (speech,) = head["initContainers"]
    run(speech["command"] + speech["args"])
    job = entrypoint_words(ray_resource(LOCAL)["spec"]["entrypoint"])
    assert "cached 12 of 12 clips" in run([*job, "cluster.num_workers=0"])
    assert len(list((shared / "cache" / "shards").glob("*.parquet"))) == 2


def dockerfile() -> str:
    return (CLUSTER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def image_files(folder: Path) -> Path:
    """What the Dockerfile copies, as Docker would: without what its .dockerignore leaves out."""
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*"
    assert ignored[-1] == "**/__pycache__"
    allowed = [line.removeprefix("!") for line in ignored[1:-1]]
    assert all(line.startswith("!") for line in ignored[1:-1])
    folder.mkdir()
    names = [name for line in copy_lines() for name in line[:-1]]
    assert sorted(names) == sorted(allowed)
    for *sources, target in copy_lines():
        for name in sources:
            path = ROOT / name
            if path.is_dir():  # Docker copies what is in a folder, so the target names it
                assert target == name
                shutil.copytree(path, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                assert target == "./"
                shutil.copy(path, folder / name)
    return folder


def copy_lines() -> list[list[str]]:
    return [line.split()[1:] for line in dockerfile().splitlines() if line.startswith("COPY ")]


def test_the_image_is_installed_as_make_setup_installs():
    text = dockerfile()
    assert f"WORKDIR {IMAGE_FOLDER}\n" in text

    def options(line: str) -> list[str]:
        return [word for word in line.split() if word not in ("-q", "--no-cache-dir")]

    made = re.findall(r"pip install (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    installs = re.findall(r"pip install (.*)", text)
    assert [options(line) for line in installs] == [options(line) for line in made[:2]]
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert f"\nray=={ray.__version__}\n" in locked
    assert "\nsetuptools==" in locked  # --no-build-isolation builds with it
    # Each is copied before the install that reads it.
    assert text.index("COPY requirements.lock") < text.index("-r requirements.lock")
    assert max(text.index(f"COPY {name}") for name in ("pyproject", "ttt", "ray_jobs")) < (
        text.index("-e .")
    )
    (python,) = re.findall(r"^FROM python:(\d+\.\d+)-", text, flags=re.MULTILINE)
    assert python in ("3.11", "3.12")


def test_the_image_fits_the_pods_and_the_launcher():
    text = dockerfile()
    (uid,) = re.findall(r"useradd .*--uid (\d+)", text)
    (tag,) = re.findall(r"-t (\S+)", text)
    assert tag == SETTINGS["image"]
    assert text.rstrip().endswith("USER ray")
    for pod in pod_specs(ray_resource(KUBERAY / "cluster")):
        assert pod["securityContext"]["runAsUser"] == int(uid)
    # The launcher takes HOME from here (else /root), and its head starts ssh and rsync in here.
    assert re.findall(r"^ENV HOME=(\S+)$", text, flags=re.MULTILINE) == ["/home/ray"]
    (packages,) = re.findall(r"apt-get install -y --no-install-recommends (.*?) +&&", text)
    assert {"openssh-client", "rsync", "wget"} <= set(packages.split())
