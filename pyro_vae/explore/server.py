"""The server of the page, for this machine alone.

It listens on 127.0.0.1. Every address begins with a random token, so other programs and pages of the browser can't ask.
A request names a question, never a file; its length, the number of connections and the work of an answer are bounded.
"""

import json
import secrets
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pyro_vae.errors import PyroVaeError, UsageError
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.page import page, policy
from pyro_vae.messages import remark

_HOST = "127.0.0.1"
_MOST_CONNECTIONS = 16
_SECONDS = 20
"""After which a silent connection is closed."""
_LINGER, _LINGER_PARTS = 0.5, 32
"""Seconds, and parts of 64 kB, that are read of a client that was refused."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Refused(Exception):  # noqa: N818 - control flow, answered with a status
    """A request that is not answered.

    Args:
        status: of HTTP.
        reason: a sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves one page and its answers until it is interrupted.

    Args:
        answers: to the page's questions.
        port: 0 for any free one.

    Raises:
        UsageError: if the port is not free.
    """

    daemon_threads = True

    def __init__(self, answers: Answers, port: int = 0) -> None:
        self.answers, self.start = answers, answers.start()
        self.token = secrets.token_urlsafe(24)
        self.work = threading.Lock()
        self._slots = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        try:
            super().__init__((_HOST, port), _Handler)
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}: take another, or 0 for any free one") from error

    @property
    def hosts(self) -> tuple[str, str]:
        """What a browser calls this server."""
        return f"{_HOST}:{self.server_port}", f"localhost:{self.server_port}"

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{self.hosts[0]}/{self.token}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own; closed at once if there are too many."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """See `process_request`."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection is no error."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version, server_version, sys_version = "HTTP/1.1", "pyro-vae", ""
    timeout = _SECONDS
    wbufsize, disable_nagle_algorithm = -1, True  # an answer in one packet: in two, the second waits 40 ms

    def do_GET(self) -> None:
        """The page."""
        self._answer(self._page)

    def do_POST(self) -> None:
        """The answer to a question."""
        self._answer(self._question)

    def log_message(self, *args: Any) -> None:
        """Nothing: the address of a request has the token."""

    def _answer(self, respond: Any) -> None:
        try:
            self._check()
            respond()
        except Refused as refused:
            self._refuse(refused.status, str(refused))
        except PyroVaeError as error:
            self._refuse(400, str(error))
        except (OSError, TimeoutError):
            self.close_connection = True
        except Exception as error:
            text = f"a fault of pyro_vae, please report it: {type(error).__name__}: {error}"
            remark(f"pyro-vae explore: {' '.join(text.split())}")
            self._refuse(500, text)

    def _check(self) -> None:
        """Refuse who does not know the token, and pages of other origins."""
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            raise Refused(403, "another host")
        origins = [f"http://{host}" for host in self.server.hosts]
        if any(origin not in origins for origin in self.headers.get_all("Origin", [])):
            raise Refused(403, "another origin")
        token = [*self.path.split("/", 2), ""][1]
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise Refused(404, "not found")

    def _page(self) -> None:
        if self.path != f"/{self.server.token}/":
            raise Refused(404, "not found")
        nonce = secrets.token_urlsafe(16)
        allowed = {"Content-Security-Policy": f"{policy(nonce)}; frame-ancestors 'none'"}
        self._send(200, "text/html; charset=utf-8", page(self.server.start, nonce), allowed)

    def _question(self) -> None:
        name = self.path.removeprefix(f"/{self.server.token}/api/")
        fields = self._fields()
        if name not in self.server.answers.questions:
            raise Refused(404, "not found")
        with self.server.work:
            answer = self.server.answers(name, fields)
        self._send(200, "application/json", json.dumps(answer, allow_nan=False))

    def _fields(self) -> Any:
        """The body, as plain data."""
        if self.headers.get("Content-Type") != "application/json":
            raise Refused(415, "expected the content type application/json")
        length = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(length) != 1 or not length[0].isascii():
            raise Refused(411, "expected one content length")
        if not length[0].isdecimal() or len(length[0]) > 9 or int(length[0]) > self.server.answers.most_bytes:
            raise Refused(413, f"expected at most {self.server.answers.most_bytes} bytes")
        body = self.rfile.read(int(length[0]))
        try:
            return json.loads(body.decode(), parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "expected JSON") from error

    def _refuse(self, status: int, reason: str) -> None:
        self.close_connection = True  # the body may not have been read
        self._send(status, "application/json", json.dumps({"error": reason}), {"Connection": "close"})
        self._linger()

    def _linger(self) -> None:
        """Read on for a moment: a client that still sends would else lose the answer."""
        with suppress(OSError):
            self.connection.settimeout(_LINGER)
            self.connection.shutdown(socket.SHUT_WR)
            for _ in range(_LINGER_PARTS):
                if not self.connection.recv(65_536):
                    break

    def _send(self, status: int, kind: str, text: str, headers: Any = None) -> None:
        body = text.encode()
        try:
            self.send_response(status)
            for name, value in {"Content-Type": kind, **_HEADERS, **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
        except OSError:
            self.close_connection = True


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def serve(server: Server) -> None:
    """Answer until Ctrl-C, which is raised again when the port is free.

    Raises:
        KeyboardInterrupt: then.
    """
    try:
        server.serve_forever(poll_interval=0.2)
    finally:
        server.server_close()
