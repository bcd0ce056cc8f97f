"""Packages of extras are imported where they are used, and not before."""

import pytest

from tests.house.test_architecture import modules_after

_CALL = "exec('try: cli.main([\\'COMMAND\\', \\'--help\\'])\\nexcept SystemExit: pass')"
EXTRAS = {"onnx", "onnxscript", "onnxruntime", "huggingface_hub"}


def test_the_package_does_not_import_the_room():
    loaded = modules_after("import pyro_vae; [getattr(pyro_vae, n) for n in pyro_vae.__all__]")
    assert "pyro_vae.sharing" not in loaded and not loaded & EXTRAS


@pytest.mark.parametrize("command", ["export", "card"])
def test_help_needs_no_torch(command):
    code = (
        f"import pyro_vae.cli as cli, sys, io; out = sys.stdout; sys.stdout = io.StringIO(); {_CALL}; sys.stdout = out"
    )
    loaded = modules_after(code.replace("COMMAND", command))
    assert not loaded & {*EXTRAS, "torch", "pyro", "numpy"}


def test_the_room_imports_no_extra():
    assert not modules_after("import pyro_vae.sharing") & EXTRAS
