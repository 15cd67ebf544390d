"""Machines in miniature: each has its own address, process numbers, host name and /tmp/ray.

The nodes of ray.cluster_utils.Cluster share one address, and losing one means that its processes
die. These are network namespaces on a switch: processes find each other over a network, and a
cable can be pulled, after which a machine lives on and nobody hears from it. The disk is shared,
as on a cluster.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
_HEAD, _PORT = 1, 6379
_SWITCH = "ip link add name switch type bridge && ip link set switch up && echo up"
_MACHINE = """mount --bind "$1" /tmp/ray && mount --bind "$2" /etc/hosts && hostname "$3" &&
ip link set lo up && echo up"""
_NAMESPACES = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


def why_not() -> str | None:
    """Why machines cannot be made here; None if they can."""
    tools = [tool for tool in ("ip", "unshare", "nsenter", "mount") if shutil.which(tool) is None]
    if tools:
        return f"{', '.join(tools)} is not installed"
    if os.geteuid() != 0:
        return "network namespaces are made by root only"
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "sh", "-c", _SWITCH], capture_output=True, text=True, check=False
    )
    return None if tried.returncode == 0 else f"no network namespaces here: {tried.stderr.strip()}"


@dataclass(frozen=True)
class Machine:
    """One of them."""

    number: int
    first_process: subprocess.Popen[bytes]
    pid: int
    """Its process number 1, as seen from outside."""

    @property
    def address(self) -> str:
        return _address(self.number)

    def command(self, *words: str) -> list[str]:
        """What runs `words` on it, in this process's working folder."""
        inside = ["--net", "--mount", "--pid", "--uts", f"--wd={Path.cwd()}"]
        return ["nsenter", f"--target={self.pid}", *inside, "--", *words]


class Network:
    """A head and the machines that join it; Ray on them asks for the token in `token_path`."""

    def __init__(self, folder: Path, token_path: Path) -> None:
        self._folder = folder
        asked = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}
        self._environment = {**os.environ, **asked}
        self._numbers = itertools.count(_HEAD)
        self._machines: list[Machine] = []
        self._switch = _started("--net", script=f"{_SWITCH} && exec sleep infinity")

    def add(self, cpus: int) -> None:
        """Another machine with so many CPUs; the first one is the head."""
        machine = self._boot(next(self._numbers))
        self._machines.append(machine)
        start = [RAY, "start", f"--node-ip-address={machine.address}", f"--num-cpus={cpus}"]
        start += ["--object-store-memory=200000000", "--disable-usage-stats"]
        if machine.number == _HEAD:
            start += ["--head", f"--port={_PORT}", "--include-dashboard=false"]
        else:
            start += [f"--address={self.ray_address}"]
        assert self.start(machine, *start).wait(timeout=120) == 0

    @property
    def ray_address(self) -> str:
        """Where Ray is, for those on the network."""
        return f"{_address(_HEAD)}:{_PORT}"

    @property
    def head(self) -> Machine:
        """The first one."""
        return self._machines[0]

    @property
    def newest(self) -> Machine:
        """The one that joined last."""
        return self._machines[-1]

    def start(self, machine: Machine, *words: str) -> subprocess.Popen[bytes]:
        """Start a program on a machine."""
        return subprocess.Popen(machine.command(*words), env=self._environment)

    def pull_cable(self, machine: Machine) -> None:
        """From now on nothing reaches the machine and nothing comes from it, not even a reset."""
        self._on_switch(f"ip link set {_cable(machine.number)} down")

    def close(self) -> None:
        """Switch everything off."""
        for machine in self._machines:
            machine.first_process.kill()
            machine.first_process.wait()
        self._switch.kill()
        self._switch.wait()

    def _boot(self, number: int) -> Machine:
        temporary = self._folder / f"machine-{number}"
        temporary.mkdir()
        hosts = temporary / "hosts"
        # As Debian and Ubuntu install it: a name that no other machine can reach.
        hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 machine-{number}\n")
        Path("/tmp/ray").mkdir(exist_ok=True)
        process = _started(
            *_NAMESPACES,
            # The shell stays beside `sleep`, to bury the orphans of its machine.
            script=f"{_MACHINE} && sleep infinity & wait",
            arguments=(str(temporary), str(hosts), f"machine-{number}"),
        )
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        cable = _cable(number)
        self._on_switch(
            f"ip link add name {cable} type veth peer name eth0 netns {child} && "
            f"ip link set {cable} master switch up"
        )
        machine = Machine(number, process, int(child))
        network = f"ip addr add {machine.address}/24 dev eth0 && ip link set eth0 up"
        subprocess.run(
            machine.command("sh", "-c", f"{network} && ip route add default dev eth0"), check=True
        )
        return machine

    def _on_switch(self, script: str) -> None:
        inside = ["nsenter", f"--target={self._switch.pid}", "--net"]
        subprocess.run([*inside, "sh", "-c", script], check=True)


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network without machines yet; their temporary files, and logs, are kept in `folder`."""
    folder.mkdir()
    token_path = folder / "token"
    token_path.write_text("t" * 40)
    made = Network(folder, token_path)
    try:
        yield made
    finally:
        made.close()


def _address(number: int) -> str:
    return f"10.77.0.{number}"


def _cable(number: int) -> str:
    return f"cable{number}"


def _started(
    *namespaces: str, script: str, arguments: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """A process in such namespaces of its own, whose `script` says `up` and stays until killed."""
    words = ["unshare", *namespaces, "sh", "-c", script, "sh", *arguments]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n", f"could not be set up: {script}"
    return process
