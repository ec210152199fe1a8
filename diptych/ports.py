"""TCP ports: finding free ones, and saying clearly when one is taken."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Container

# Below the ranges from which systems pick ports for outgoing connections (32768 up on Linux, 49152 up elsewhere): a
# neighbour that calls a stopped service over and over can otherwise be given that service's own port.
_CANDIDATES = range(20_000, 32_000)


class PortTakenError(Exception):
    """Something else listens on a port that is needed. Says which, and what to do."""


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there. Raises OSError when ``host`` is no address of this machine."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: a connection that was closed a moment ago does not count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free_port(taken: Container[int] = ()) -> int:
    """A port on the loopback address that nothing listens on, and that is not one of ``taken``."""
    for port in random.sample(_CANDIDATES, k=1000):
        if port not in taken and is_free("127.0.0.1", port):
            return port
    raise PortTakenError(f"no free port found among {_CANDIDATES.start}-{_CANDIDATES.stop - 1} on 127.0.0.1")


def local_url(host: str, port: int) -> str:
    """The URL at which this machine reaches a server that listens on ``host``."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
