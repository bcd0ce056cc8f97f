"""bfloat16 only where the CPU has instructions for it, and a resumed training in the precision it was begun with."""

import logging
from functools import partial

import pytest
import torch

from pyro_vae import VAE, fit, load_data, log_marginal
from pyro_vae.data import Dataset
from pyro_vae.errors import UsageError
from pyro_vae.networks import MLP, precision
from pyro_vae.networks.precision import cpu_has_bfloat16, usable_precision
from pyro_vae.runs.loading import read_manifest

CPU = torch.device("cpu")


@pytest.fixture
def cpu(monkeypatch):
    """A function that says which features the CPU has."""

    def has(*features):
        monkeypatch.setattr(precision, "_capabilities", lambda: set(features) if features else None)
        cpu_has_bfloat16.cache_clear()

    yield has
    cpu_has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (("avx512_f", "avx512_bf16"), "bf16"),
        (("avx512_f", "amx_bf16"), "bf16"),
        (("avx2", "avx_ne_convert"), "bf16"),
        (("neon", "bf16"), "bf16"),
        (("avx2", "avx512_f", "avx512_vnni"), "float32"),
        (("neon", "fp16_arith"), "float32"),
        ((), "float32"),
    ],
)
def test_bfloat16_is_taken_where_the_cpu_has_instructions_for_it(cpu, caplog, features, expected):
    cpu(*features)
    assert usable_precision("bf16", CPU) == expected
    assert usable_precision("float32", CPU) == "float32"
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * (expected == "float32")
    assert usable_precision("bf16", torch.device("cuda")) == "bf16"
    said = "this CPU has no bfloat16 instructions, and" if features else "neither torch nor the system says whether"
    assert expected == "bf16" or said in caplog.text


@pytest.mark.parametrize("there", [True, False])
def test_features_are_those_that_torch_reports(monkeypatch, there):
    found = {"cpu_name": "bf16", "avx2": True, "avx512_bf16": there, "l2_cache_size": 1048576}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert precision._capabilities() == {"avx2", *(["avx512_bf16"] if there else [])}


@pytest.mark.parametrize("line", ["flags\t\t: fpu avx512_bf16 sha_ni\n", "Features\t: fp asimd bf16\n"])
def test_features_are_those_that_linux_lists_where_torch_tells_none(tmp_path, monkeypatch, line):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "cpuinfo")
    assert precision._capabilities() is None
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}power management: bf16_is_no_feature\n")
    assert precision._capabilities() >= {"bf16"} or precision._capabilities() >= {"avx512_bf16"}
    assert "bf16_is_no_feature" not in precision._capabilities()


def small_vae():
    network = partial(MLP, hidden=(4,))
    torch.manual_seed(0)
    return VAE((8, 8), latent_dim=2, encoder=network, decoder=network)


def test_log_marginal_falls_back_to_the_exact_estimate(cpu, caplog):
    cpu("avx2")
    vae, x = small_vae(), torch.ones(3, 8, 8)
    found = log_marginal(vae.model, vae.guide, x, num_particles=10, precision="bf16")
    exact = log_marginal(vae.model, vae.guide, x, num_particles=10)
    assert torch.equal(found.log_p, exact.log_p)
    assert (found.precision, found.shift) == ("float32", None)
    assert "no bfloat16 instructions" in caplog.text and "'float32'" in caplog.text


def stop_at(monkeypatch, call):
    """Let the training be interrupted at a batch, so that it can be resumed."""
    batch, calls = Dataset.batch, []

    def failing(*args):
        calls.append(args)
        if len(calls) == call:
            raise InterruptedError
        return batch(*args)

    monkeypatch.setattr(Dataset, "batch", failing)


@pytest.mark.parametrize(("begun", "then"), [("avx2", "avx512_bf16"), ("avx512_bf16", "avx2")])
def test_a_resumed_training_keeps_its_precision_on_another_cpu(cpu, tmp_path, monkeypatch, caplog, begun, then):
    def trained(run):
        vae = small_vae()
        fit(vae, data, epochs=2, batch_size=40, precision="bf16", run=tmp_path / run, save_every=0.0, progress=False)
        return vae.state_dict()

    data = Dataset("part", load_data("digits", binarize="static").split("train")[:100])
    cpu(begun)
    expected = trained("whole")
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        stop_at(patch, 5)
        trained("halves")
    cpu(then)
    caplog.clear()
    resumed = trained("halves")
    slow = "this CPU has no bfloat16 instructions, and without them products in bfloat16 are two to ten times slower"
    assert caplog.text.count(slow) == caplog.text.count("begun with precision 'bf16'") == (then == "avx2")
    caplog.clear()
    trained("halves")  # nothing is left to do
    assert slow not in caplog.text
    assert read_manifest(tmp_path / "halves")["progress"]["precision"] == {"avx2": "float32"}.get(begun, "bf16")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_a_precision_that_there_is_not():
    with pytest.raises(UsageError, match="precision must be 'float32' or 'bf16', got 'fp16'"):
        fit(small_vae(), torch.ones(4, 8, 8), epochs=1, precision="fp16", progress=False)
