"""`pyro-vae explore`: it serves its page until Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from tests.cli.test_cli import ROOT, SMALL, call


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("explore") / "run"
    assert call("fit", SMALL, "--epochs 1 --pictures false --quiet --run", run).code == 0
    return run


def test_it_serves_until_it_is_interrupted(run):
    command = [sys.executable, "-m", "pyro_vae", "explore", str(run), "--num", "5", "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        address = re.match(r"http://127\.0\.0\.1:\d+/[\w-]+/", process.stdout.readline())[0]
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"Latent plane" in answer.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and not out and err == "pyro-vae explore: error: stopped\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--port 70000", "--port: expected a number from 0 to 65535, got 70000"),
        ("--num 0", "expected at least 1 datum"),
        ("--split nope", "--split"),
    ],
)
def test_mistakes(run, words, message):
    done = call("explore", run, "--no-browser", words)
    assert done.code == 2 and message in done.err and "Traceback" not in done.err


def test_a_page_without_a_server(run, tmp_path):
    done = call("explore", run, "--num 5 --export", tmp_path / "page.html")
    first, last, end = done.out.split("\n")
    assert done.code == 0 and (last, end) == (f"saved {tmp_path / 'page.html'}", "")
    assert first.startswith("weights in 16 bits: over 5 reconstructions and 256 decoded draws of the prior no pixel")
    assert "class Offline" in (tmp_path / "page.html").read_text()
    done = call("explore", run, "--export", tmp_path / "page.html" / "inside")
    assert done.code == 7 and "page.html" in done.err
