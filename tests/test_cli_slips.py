"""Slips at the command line: each is one line that names the option as it was typed, and what was meant."""

import pytest

from pyro_vae.cli import main
from pyro_vae.remedies import closest


def told(words, capsys):
    try:
        code = main(words.split())
    except SystemExit as done:
        code = done.code or 0
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("fit --epochs 10.5", ["error: --epochs: expected a whole number, got '10.5'"]),
        ("fit --epochs=ten", ["error: --epochs: expected a whole number, got 'ten'"]),
        ("fit --vae.latent_dim two", ["error: --vae.latent_dim: expected a whole number, got 'two'"]),
        ("fit --objective elbo", ["--objective: unknown class 'elbo', did you mean 'ELBO'?"]),
        ("fit --vae Vae", ["--vae: unknown class 'Vae', did you mean 'VAE'?"]),
        ("fit --vae.encoder.activation ReLu", ["unknown value 'ReLu', did you mean 'relu'?"]),
        ("fit --vae.guide IAF", ["did you mean 'InverseAutoregressiveFlow'?"]),
        ("fit --vae.likelihood Gaussian", ["did you mean 'Normal'?"]),
        (
            "fit --vae.likelihood=Normal()",
            ["write --vae.likelihood Normal, and its options as --vae.likelihood.OPTION"],
        ),
        ("fit --vae.likelihood=Normal(scale=0.1)", ["write --vae.likelihood Normal, and its options"]),
        ("fit --latent_dim 5", ["unknown option '--latent_dim', did you mean '--vae.latent_dim'?"]),
        ("fit --likelihood Normal", ["did you mean '--vae.likelihood'?"]),
        ("fit --hidden 200", ["did you mean '--vae.encoder.hidden'?"]),
        ("fit --lr 0.1", ["unknown option '--lr', did you mean '--optimizer.lr'?"]),
        ("fit --learning_rate 0.1", ["did you mean '--optimizer.lr'?"]),
        ("fit --beta 4", ["did you mean '--objective.beta'?"]),
        ("fit --batch-size 10", ["unknown option '--batch-size', did you mean '--batch_size'?"]),
        ("fit --zzz 1", ["unknown option '--zzz'. Known: --data, "]),
        ("fit --keep first", ["--keep: unknown value 'first'. Known: best, last"]),
        ("fit --data", ["error: --data: expected a value after it"]),
        ("evaluate", ["error: expected RUN (the run directory)"]),
        ("refit x", ["error: expected --out FOLDER (the new run directory)"]),
        ("evaluate x --K 5", ["did you mean '--num_particles'?"]),
        ("evaluate x --method ia", ["--method: unknown value 'ia'", "Known: importance, psis, "]),
    ],
)
def test_a_slip_is_told_in_the_words_that_were_typed(words, parts, capsys):
    code, _, error = told(words, capsys)
    assert code == 2 and error.count("\n") == 1
    assert all(part in error for part in parts), error


def test_a_key_of_yaml_is_told_as_it_stands_there(capsys):
    assert main(["fit", "--config", "{vae: {latent_dim: two}}"]) == 2
    assert "error: vae.latent_dim: expected a whole number, got 'two'" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_no_damaged_one(capsys, tmp_path):
    for command in ("evaluate", "info", "sample"):
        code, _, error = told(f"{command} {tmp_path}/nothing", capsys)
        assert code == 4 and f"there is no run directory {tmp_path}/nothing" in error


@pytest.mark.parametrize(("typed", "meant"), [("1e3", 1000), ("2.5e1", 25), ("=1e1", 10)])
def test_a_whole_number_may_have_an_exponent(typed, meant, capsys):
    word = f"--epochs{typed}" if typed.startswith("=") else f"--epochs {typed}"
    code, out, _ = told(f"fit --print_config {word} --vae.latent_dim {typed.lstrip('=')}", capsys)
    assert code == 0 and f"epochs: {meant}\n" in out and f"latent_dim: {meant}\n" in out


@pytest.mark.parametrize("typed", ["1e-3", "1.55e1", "1e400", "1e"])
def test_what_is_no_whole_number_stays_none(typed, capsys):
    code, _, error = told(f"fit --epochs {typed}", capsys)
    assert code == 2 and "--epochs: expected a whole number" in error


def test_closest_prefers_what_is_alike_but_for_capitals():
    assert closest("relu", ["elu", "ReLU"]) == "ReLU"
    assert closest("nothing-like-it", ["ELBO", "IWAE"]) is None
