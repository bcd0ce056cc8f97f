"""Slips at the command line: each is one line that names the option as it was typed, and what was meant."""

import re

import numpy as np
import pytest

from pyro_vae.arguments.remedies import closest
from pyro_vae.cli import main


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
        ("evaluate x --wrong 1", ["unknown option '--wrong'. Known: --trust, "]),
        ("evaluate x --out y", ["unknown option '--out'. Known: --trust, "]),
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


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "expected options by name, got nothing"),
        ("- 1\n", "expected options by name, got [1]"),
        ("data: {a: 1}\n", "data: expected text, got {"),
        ("run: [a, b]\n", "run: expected text, got ['a', 'b']"),
        (None, "--config: expected a file, got the folder "),
    ],
)
def test_a_configuration_that_is_none(text, part, capsys, tmp_path):
    file = tmp_path if text is None else tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    assert main(["fit", "--config", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and part in error


def test_a_configuration_without_a_name(capsys):
    assert main(["fit", "--config="]) == 2
    assert "--config: expected a file, got no name" in capsys.readouterr().err


def test_a_file_is_no_run(capsys, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"1")
    for command in ("evaluate", "info", "sample", "cluster"):
        code, _, error = told(f"{command} {tmp_path}/x.npz", capsys)
        assert code == 4 and f"{tmp_path}/x.npz is a file: expected the folder of a run" in error


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


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (
            "--labelled 10",
            2,
            "--labelled 10 gives the model labels as the input y, which VAE does not",
        ),
        ("--vae VQVAE --compile false", 2, "train by --objective VQBound"),
        (
            "--standardize true",
            2,
            "--standardize true is for real .* take --vae.likelihood Normal, or leave it out",
        ),
        ("--dequantize true", 2, "take --vae.likelihood Normal and --binarize none, or no dequantize"),
        ("--device gpu", 2, "no device 'gpu' here: it is none of auto, cpu, cuda"),
        ("--vae.prior ConditionalNormal", 2, "give it one, --context labels, or take LearnedNormal"),
        ("--vae.likelihood Poisson", 3, r"outside the support of Poisson \(whole numbers from 0\), the first is"),
        ("--binarize none", 3, r"outside the support of Bernoulli \(0 and 1\)"),
        ("--objective IWAE --objective.beta 3", 2, r"IWAE has no option 'beta'\. Known: num_particles"),
    ],
)
def test_a_wrong_combination_says_what_to_type(words, code, part, tmp_path, capsys):
    given = f"fit --data digits --epochs 1 --quiet --pictures false --run {tmp_path}/run {words}"
    came, _, error = told(given, capsys)
    assert came == code and re.search(part, error), error


def test_a_name_that_nothing_is_near_has_no_question(capsys):
    assert "unknown command 'zzz'. Known commands: fit, " in told("zzz", capsys)[2]


def test_integers_without_a_scale_say_all_that_must_be_typed(tmp_path, capsys):
    """Each of the two remedies trains."""
    np.savez(tmp_path / "counts.npz", train=np.arange(12).reshape(6, 2))
    fit = f"fit --data {tmp_path}/counts.npz --epochs 1 --quiet --pictures false"
    code, _, error = told(f"{fit} --run {tmp_path}/run", capsys)
    assert code == 3 and "--divide_by 1 for counts (--vae.likelihood Poisson or NegativeBinomial)" in error
    levels = "--vae.likelihood Categorical or BetaBinomial, with --vae.likelihood.levels 12)"
    assert f"--divide_by 11 for levels from 0 to 11 ({levels}" in error
    for name, words in {"a": "--divide_by 1 --vae.likelihood Poisson", "b": "--divide_by 11 --vae.likelihood"}.items():
        more = " Categorical --vae.likelihood.levels 12" if name == "b" else ""
        assert told(f"{fit} --run {tmp_path}/{name} {words}{more}", capsys)[0] == 0


def test_data_on_other_levels_name_the_option_of_the_likelihood(tmp_path, capsys):
    fit = f"fit --vae.latent_dim 2 --epochs 1 --quiet --pictures false --run {tmp_path}/a --vae.likelihood Categorical"
    code, _, error = told(fit, capsys)
    assert code == 3 and "pass --vae.likelihood.levels n" in error and "--divide_by 255" in error
    assert told(f"{fit} --vae.likelihood.levels 17", capsys)[0] == 0


def test_a_model_with_classes_is_told_its_objective_and_not_pyros(tmp_path, capsys, recwarn):
    fit = "fit --vae SemiSupervisedVAE --vae.latent_dim 2 --epochs 1 --quiet --pictures false"
    code, _, error = told(f"{fit} --run {tmp_path}/a", capsys)
    assert code == 0 and "--objective SemiSupervisedELBO sums over the classes" in error
    assert not [w for w in recwarn if "TraceEnum_ELBO" in str(w.message)]
    assert "sums over" not in told(f"{fit} --objective SemiSupervisedELBO --run {tmp_path}/b", capsys)[2]


def test_clusters_without_a_mixture_name_the_command_that_makes_one(tmp_path, capsys):
    assert told(f"fit --vae.latent_dim 2 --epochs 1 --quiet --pictures false --run {tmp_path}/r", capsys)[0] == 0
    code, _, error = told(f"cluster {tmp_path}/r", capsys)
    assert code == 2 and "the prior is StandardNormal, which has no components" in error
    assert "pyro-vae refit RUN --prior MixtureOfNormals --out NEW_RUN" in error


def test_labels_of_text_and_sizes_out_of_range_say_what_to_do(tmp_path, capsys):
    x = np.linspace(-1, 1, 20).reshape(10, 2)
    np.savez(tmp_path / "x.npz", train=x, train_labels=np.array(["red", "white"] * 5))
    fit = f"fit --data {tmp_path}/x.npz --vae.likelihood Normal --run {tmp_path}/run"
    code, _, error = told(f"{fit} --context labels", capsys)
    assert code == 3 and "labels of train are text" in error and "numpy.unique(labels, return_inverse=True)[1]" in error
    code, _, error = told(f"{fit} --test_size 50", capsys)
    assert code == 2 and "--test_size: expected a number of rows from 1 to 9, got 50" in error


def test_a_damaged_archive_says_which_files_are_read(tmp_path, capsys):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 nothing")
    code, _, error = told(f"fit --data {tmp_path}/x.npz", capsys)
    assert (
        code == 3 and "it is a damaged .npz file, or another kind of file" in error and "expected .npz, .npy" in error
    )
