"""A small HTTP server on the loopback: one thread a request, no line for each of them."""

import errno
import socket
from ipaddress import ip_address
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from kdbench.errors import KdbenchError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

LOOPBACK = "127.0.0.1"


class _Handler(WSGIRequestHandler):
    """Says nothing of requests that were answered."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingMixIn, WSGIServer):
    """Threads, since a browser opens connections that it does not use, and one would wait for it.

    Args:
        address: Where to listen, and its family.
        app: Who answers.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, family: int, address: Any, app: "WSGIApplication") -> None:
        self.address_family = family
        super().__init__(address, _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        """Binds; unlike the library's, asks no name server what we are called."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        name, port = self.socket.getsockname()[:2]
        self.server_name, self.server_port = str(name), int(port)
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no news."""

    @property
    def origin(self) -> str:
        """What an address here begins with."""
        name = self.server_name
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_port}"


def where(host: str, port: int, *, exposed: bool) -> tuple[int, Any]:
    """Family and address to listen at.

    Raises:
        KdbenchError: `host` is no address of this machine, or others could reach it and `exposed`
            is not said.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise KdbenchError(
            f"`--host {host}` is no address of this machine",
            fix=f"leave `--host` out: {LOOPBACK}, which this machine alone can reach",
        ) from None
    if not exposed and not ip_address(address[0]).is_loopback:
        raise KdbenchError(
            f"`--host {host}` can be reached from other machines, and the dashboard has no login: "
            "whoever comes reads all of the study",
            fix=f"leave `--host` out and come by `ssh -L {port or 8080}:{LOOPBACK}:{port or 8080} "
            "THIS_MACHINE`, or say `--i-know-it-has-no-login`",
        )
    return family, address


def listen(family: int, address: Any, app: "WSGIApplication") -> Server:
    """A server that is bound and not yet serving.

    Raises:
        KdbenchError: The port is taken, or is not for this user, or the host is not here.
    """
    host, port = address[:2]
    try:
        return Server(family, address, app)
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            problem = f"port {port} of {host} is taken"
            fix = f"name another one: `--port {port + 1 if port < 65535 else 8080}`, or "
            fix += "`--port 0` for any that is free"
        elif err.errno in (errno.EACCES, errno.EPERM):
            problem = f"port {port} is not for this user"
            fix = "name one from 1024 on: `--port 8080`, or `--port 0` for any that is free"
        else:
            problem = f"cannot listen at {host}, port {port}: {str(err.strerror).lower()}"
            fix = f"leave `--host` out: {LOOPBACK}, which this machine alone can reach"
        raise KdbenchError(problem, fix=fix) from None
