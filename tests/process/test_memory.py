"""Where memory ends: one line that says what to make smaller, whoever met it first."""

import pytest
import torch

from pyro_vae import VAE, fit, log_marginal, sample
from pyro_vae.cli import main
from pyro_vae.errors import OutOfMemory, UsageError, lack_of_memory

X = torch.ones(8, 4)
MORE = "torch says more\nin further lines"
TEXTS = {
    "a GPU": torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate 2 GiB. {MORE}"),
    "the CPU": RuntimeError(f"DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. {MORE}"),
    "a library of the GPU": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "Python": MemoryError("no more"),
}


def ending(monkeypatch, error, after=0):
    """A VAE whose decoder fails by this error, from a call on."""
    vae, calls = VAE((4,), latent_dim=2), []

    def forward(*args):
        calls.append(args)
        if len(calls) > after:
            raise error
        return own(*args)

    own = vae.decoder.forward
    monkeypatch.setattr(vae.decoder, "forward", forward)
    return vae


@pytest.mark.parametrize("name", TEXTS)
def test_the_message_names_the_argument(monkeypatch, name):
    vae = ending(monkeypatch, TEXTS[name])
    calls = {
        "fit": ("a smaller batch_size, or fewer data", lambda: fit(vae, X, epochs=1, progress=False)),
        "log_marginal": ("a smaller max_rows, or fewer data", lambda: log_marginal(vae.model, vae.guide, X)),
        "sample": ("fewer data, draws or rows at a time", lambda: sample(vae, 3)),
    }
    for function, (less, call) in calls.items():
        with pytest.raises(OutOfMemory, match=f"{function} ran out of memory: take {less}") as caught:
            call()
        assert type(TEXTS[name]).__name__ in str(caught.value) and "\n" not in str(caught.value)
        assert caught.value.exit_code == 9 and isinstance(caught.value, MemoryError)


def test_also_after_the_first_steps(monkeypatch):
    """There no trial call puts the error in words of its own."""
    vae = ending(monkeypatch, TEXTS["a GPU"], after=6)
    with pytest.raises(OutOfMemory, match="fit ran out of memory: take a smaller batch_size"):
        fit(vae, X, epochs=20, batch_size=4, compile=False, progress=False)


def test_on_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr("pyro_vae.networks.dense.MLP.forward", lambda *args: torch.empty(1 << 60))
    assert main(["fit", "--data", "digits", "--epochs", "1", "--quiet"]) == 9
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        "pyro-vae fit: error: fit ran out of memory: take a smaller batch_size, or fewer data (Runtime"
    )


def test_other_errors_are_no_lack_of_memory():
    assert lack_of_memory(None) is None and lack_of_memory(RuntimeError("a shape")) is None
    assert lack_of_memory(UsageError("can't allocate memory")) is None
    cause = MemoryError()
    try:
        raise UsageError("it fails") from cause
    except UsageError as error:
        assert lack_of_memory(error) is cause
