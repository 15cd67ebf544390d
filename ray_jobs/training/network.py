"""Which network gloo uses between workers: the one on which Ray itself found its nodes.

Left alone, gloo listens where the host's name points to: on machines installed from Debian or
Ubuntu that is 127.0.1.1, and workers on two of them never find each other.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Any

import ray.util
from ray.train.torch import TorchConfig

_INTERFACE = "GLOO_SOCKET_IFNAME"  # torch/csrc/distributed/c10d/ProcessGroupGloo.cpp
_SIOCGIFADDR = 0x8915  # netdevice(7)


class NodeNetworkConfig(TorchConfig):
    """Ray's process group for torch, whose gloo uses the interface with the node's address."""

    @property
    def backend_cls(self) -> type:
        """What Ray starts the group with."""
        return _NodeNetworkBackend


class _NodeNetworkBackend(TorchConfig().backend_cls):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(use_node_network)
        super().on_start(worker_group, backend_config)


def use_node_network() -> None:
    """Tell gloo in this process which interface to use, unless the user has.

    Does nothing where no interface has the node's address (behind NAT) and outside Linux, where
    only single machines are used.
    """
    name = _interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault(_INTERFACE, name)


def _interface_of(address: str) -> str | None:
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, request)
            except OSError:
                continue  # Without an IPv4 address.
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
