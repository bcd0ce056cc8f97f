"""The server: the page and its answers for whoever knows the address, and nothing for anyone else."""

import http.client
import json
import re
import socket
import threading

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import UsageError
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.server import Server, serve
from pyro_vae.explore.subject import Explored
from tests.support.packed import unpacked


@pytest.fixture(scope="module")
def server():
    torch.manual_seed(0)
    made = Server(Answers(Explored(VAE((4, 4), 2), torch.ones(5, 4, 4), facts={"run": "<b>"})))
    thread = threading.Thread(target=serve, args=(made,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join(5)


def send(server, method, path, body=None, **headers):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def post(server, name, body, **headers):
    headers = {"Content_Type": "application/json", **headers}
    return send(server, "POST", f"/{server.token}/api/{name}", body, **headers)


def ask(server, name, **fields):
    status, _, body = post(server, name, json.dumps(fields))
    assert status == 200, body
    return json.loads(body)


def test_the_page_loads_nothing_from_elsewhere(server):
    status, headers, body = send(server, "GET", f"/{server.token}/")
    text = body.decode()
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
    own = re.search(r"script-src 'nonce-([\w-]+)'", headers["Content-Security-Policy"])[1]
    tags = re.findall(r"<(?:script|style)\b[^>]*>", text)
    assert len(tags) == 3 and all(f'nonce="{own}"' in tag for tag in tags)
    assert set(re.findall(r'(?:src|href|action)="([^"]*)"', text)) == {"data:,"}
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert "<b>" not in text and "\\u003cb>" in text


def test_answers(server):
    assert unpacked(ask(server, "decode", places=[[0, 0]])["x"]).shape == (1, 4, 4)
    assert ask(server, "datum", index=2)["numbers"]["num_particles"] == 1000


def test_a_connection_is_kept(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    for _ in range(3):
        body, path = json.dumps({"places": [[0, 0]]}), f"/{server.token}/api/decode"
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        assert connection.getresponse().read().startswith(b'{"x"')
    connection.close()


LONG = "9" * 5000
HOSTILE = {
    "no token": lambda s: send(s, "GET", "/"),
    "another token": lambda s: send(s, "GET", f"/{'x' * len(s.token)}/"),
    "part of the token": lambda s: send(s, "GET", f"/{s.token[:-1]}/"),
    "a token that is no ASCII": lambda s: raw(s, f"GET /\xe9{s.token}/ HTTP/1.1\r\nHost: {s.hosts[0]}\r\n\r\n"),
    "another host": lambda s: send(s, "GET", f"/{s.token}/", Host="evil.example"),
    "a host with another port": lambda s: send(s, "GET", f"/{s.token}/", Host="127.0.0.1:1"),
    "two hosts": lambda s: raw(s, f"GET /{s.token}/ HTTP/1.1\r\nHost: {s.hosts[0]}\r\nHost: evil.example\r\n\r\n"),
    "no host": lambda s: raw(s, f"GET /{s.token}/ HTTP/1.1\r\n\r\n"),
    "another origin": lambda s: post(s, "decode", "{}", Origin="http://evil.example"),
    "a file": lambda s: send(s, "GET", f"/{s.token}/../../../etc/passwd"),
    "a file, encoded": lambda s: send(s, "GET", f"/{s.token}/%2e%2e/%2e%2e/etc/passwd"),
    "a file of the page": lambda s: send(s, "GET", f"/{s.token}/app.js"),
    "a file by POST": lambda s: post(s, "../../answers.py", "{}"),
    "a question by GET": lambda s: send(s, "GET", f"/{s.token}/api/decode"),
    "an unknown question": lambda s: post(s, "shutdown", "{}"),
    "a private name": lambda s: post(s, "__class__", "{}"),
    "an unknown method": lambda s: send(s, "DELETE", f"/{s.token}/api/decode"),
    "no JSON": lambda s: post(s, "decode", "{places"),
    "no UTF-8": lambda s: post(s, "decode", b"\xff\xfe{}"),
    "deep JSON": lambda s: post(s, "decode", "[" * 30_000),
    "no fields": lambda s: post(s, "decode", "[[0, 0]]"),
    "an unknown field": lambda s: post(s, "decode", '{"places": [[0, 0]], "path": "/etc/passwd"}'),
    "nan": lambda s: post(s, "decode", '{"places": [[NaN, 0]]}'),
    "infinity": lambda s: post(s, "decode", '{"places": [[1e999, 0]]}'),
    "a huge number": lambda s: post(s, "decode", '{"places": [[1e300, 0]]}'),
    "a number of 5000 digits": lambda s: post(s, "datum", f'{{"index": {LONG}}}'),
    "a negative index": lambda s: post(s, "datum", '{"index": -1}'),
    "an index beyond the data": lambda s: post(s, "datum", '{"index": 5}'),
    "too many points": lambda s: post(s, "decode", json.dumps({"places": [[0, 0]] * 65})),
    "points of another size": lambda s: post(s, "decode", '{"places": [[0, 0, 0]]}'),
    "values outside the support": lambda s: post(s, "datum", json.dumps({"x": [0.5] * 16})),
    "one axis twice": lambda s: post(s, "datum", '{"axes": [1, 1]}'),
    "a flip beyond one half": lambda s: post(s, "restore", '{"flip": 0.9}'),
    "another content type": lambda s: post(s, "decode", "{}", Content_Type="text/plain"),
    "too long a body": lambda s: post(s, "decode", "x" * (s.answers.most_bytes + 1)),
    "a length alone": lambda s: raw(s, post_head(s, "Content-Length: 99999999999999999999")),
    "a negative length": lambda s: raw(s, post_head(s, "Content-Length: -1")),
    "two lengths": lambda s: raw(s, post_head(s, "Content-Length: 2\r\nContent-Length: 3")),
    "chunks": lambda s: raw(s, post_head(s, "Transfer-Encoding: chunked")),
    "a long line": lambda s: raw(s, f"GET /{'x' * 70_000} HTTP/1.1\r\n\r\n"),
    "many headers": lambda s: raw(s, "GET / HTTP/1.1\r\n" + "A: b\r\n" * 200 + "\r\n"),
    "noise": lambda s: raw(s, "\x16\x03\x01\x02\r\n\r\n"),
}


def post_head(server, length):
    head = f"POST /{server.token}/api/decode HTTP/1.1\r\nHost: {server.hosts[0]}\r\n"
    return f"{head}Content-Type: application/json\r\n{length}\r\n\r\n"


def raw(server, text):
    """The same as `send`, of bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(text.encode("latin-1"))
        found = b""
        while part := connection.recv(65536):
            found += part
    status = re.search(rb"HTTP/1\.[01] (\d+)|Error code: (\d+)", found)
    return int(status[1] or status[2]), {}, found


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_and_still_alive(server, name):
    status, _, body = HOSTILE[name](server)
    assert 400 <= status < 500 or (status, name) == (501, "an unknown method"), body
    assert b"root:" not in body and b"Traceback" not in body
    assert unpacked(ask(server, "decode", places=[[0, 0]])["x"]).shape == (1, 4, 4)


def test_a_fault_is_told_and_the_server_lives(server, monkeypatch, capsys):
    monkeypatch.setitem(server.answers.questions, "decode", lambda fields: 1 / 0)
    status, _, body = post(server, "decode", "{}")
    assert status == 500 and b"a fault of pyro_vae" in body and "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.undo()
    assert ask(server, "decode", places=[[0, 0]])


def test_silent_connections_leave_room(server):
    """More than are served at once: those above are closed, and when they are gone all is as before."""
    silent = [socket.create_connection(("127.0.0.1", server.server_port), timeout=5) for _ in range(20)]
    assert any(closed(connection) for connection in silent)
    for connection in silent:
        connection.close()
    assert any(served(server) for _ in range(100))


def served(server):
    """Whether a question is answered now."""
    try:
        return bool(ask(server, "decode", places=[[0, 0]]))
    except (OSError, http.client.HTTPException):
        return False


def closed(connection):
    connection.settimeout(0.02)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False


def test_it_listens_on_this_machine_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert len(server.token) >= 32 and server.token in server.address


def test_a_port_that_is_taken(server):
    with pytest.raises(UsageError, match=f"--port {server.server_port}: .*take another, or 0"):
        Server(server.answers, server.server_port)
