"""Ports of this machine for servers that tests start."""

import socket


def free_ports(count: int) -> list[int]:
    """So many that nobody holds now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        # Above the ports that Ray gives to its workers (10002 to 19999).
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
