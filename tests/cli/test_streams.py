"""Standard streams that are closed, broken, full, or can't show a letter: nothing fails, and nothing is lost."""

import io
import os
import sys
from contextlib import suppress

import pytest

from pyro_vae.cli import main
from pyro_vae.cli.streams import say
from pyro_vae.cli.work.printing import print_result
from pyro_vae.errors import FileError
from pyro_vae.messages import Progress, printable, remark

FAST = (
    "fit --vae.latent_dim 2 --vae.encoder.hidden [4] --vae.decoder.hidden [4] --epochs 1 --pictures false "
    "--data linear_gaussian --vae.likelihood Normal"
)


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def broken():
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full():
    return open("/dev/full", "w")  # noqa: PTH123


@pytest.fixture
def streams(monkeypatch):
    """Sets a standard stream; what it still holds must be written without an error at the end, as by Python itself."""
    made = []

    def use(name, stream):
        made.append(stream)
        monkeypatch.setattr(sys, name, stream)

    yield use
    for stream in filter(None, made):
        stream.close()


@pytest.mark.parametrize("kind", [lambda: None, closed, broken, full])
@pytest.mark.parametrize("name", ["stderr", "stdout"])
def test_a_fit_is_finished_whatever_its_streams(streams, tmp_path, name, kind):
    streams(name, kind())
    code = main([*FAST.split(), "--run", str(tmp_path / "run")])
    assert code == (7 if name == "stdout" and kind is full else 0)
    assert (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize(("kind", "code"), [(lambda: None, 0), (closed, 0), (broken, 0), (full, 7)])
def test_help(streams, kind, code):
    streams("stdout", kind())
    assert main(["--help"]) == code


@pytest.mark.parametrize("kind", [lambda: None, closed, broken, full])
def test_an_error_without_anywhere_to_print_it_has_its_code(streams, kind):
    streams("stderr", kind())
    assert main(["info", "nowhere"]) == 4


def test_a_full_disk_behind_standard_output_is_named(streams):
    streams("stdout", full())
    with pytest.raises(FileError, match="can't write standard output: No space left on device"):
        say("text")


def test_letters_that_the_terminal_can_not_show(streams, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    streams("stdout", out)
    monkeypatch.setattr("pyro_vae.cli.commands.info.run", lambda options: print_result({"run": "é\udcff"}, False) or 0)
    assert main(["info", "run"]) == 0
    assert out.buffer.getvalue() == b"run  \\xe9\\udcff\n" and out.errors == "strict"  # pyright: ignore


def test_only_what_moves_the_cursor_or_turns_the_writing_is_replaced():
    kept = "na\u00efve\u00a0\u2014 \udcff \U0001f468\u200d\U0001f52c\n\t"
    assert printable(kept) == kept
    assert printable("\x1b[2J\r\x9b\u202e\u2066\x7f") == "?[2J?????"


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path):
    kept = os.dup(0)
    try:
        os.close(0)
        assert main(["--version"]) == 0
        with (tmp_path / "file").open("w") as file:
            assert file.fileno() > 2
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.mark.parametrize("kind", [lambda: None, closed, broken, full])
def test_progress_in_python(streams, kind):
    streams("stderr", kind())
    with Progress(2, "epoch") as bar:
        bar.show(1, now=True)
    remark("text")
    with suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
