"""A user's slips in Python: each is one line that says what was expected, what came and what to do."""

import re
from functools import partial

import numpy as np
import pandas
import pyro
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae import (
    VAE,
    VQVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    compare_guides,
    compare_priors,
    estimate,
    fit,
    latent_statistics,
    load_data,
    log_marginal,
    objectives,
    schedules,
)
from pyro_vae.arguments.values import plain
from pyro_vae.data import as_dataset
from pyro_vae.errors import DataError, UsageError
from pyro_vae.evidence import Annealing, bound
from pyro_vae.guides import DiagonalNormal
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.likelihoods import Likelihood, Normal, Poisson
from pyro_vae.networks import MLP, ConvNet
from pyro_vae.objectives import ELBO
from pyro_vae.priors import LearnedNormal, MixtureOfNormals
from pyro_vae.shapes import Shapes

SMALL = partial(MLP, hidden=(4,))


def made(**options):
    return VAE((3, 2), latent_dim=2, encoder=SMALL, decoder=SMALL, **options)


PAIR = made()
X = torch.ones(5, 3, 2)


def programs(vae):
    return vae.model, vae.guide


def trained(data=X, objective=None, **options):
    return fit(made(), data, objective, **{"epochs": 1, "progress": False, **options})


def evidence(x=X, *args, **options):
    return log_marginal(PAIR.model, PAIR.guide, x, *args, **{"num_particles": 3, **options})


def checks(name, x=X, **options):
    """A check of calibration."""
    return getattr(pyro_vae.diagnostics, name)(PAIR.model, PAIR.guide, x, **options)


CONSTRUCTORS = {
    "nothing": (
        lambda: VAE(),
        "VAE: missing a required argument: 'event_shape'; it is called as VAE(event_shape, ...)",
    ),
    "no event": (lambda: HierarchicalVAE(latent_dims=(3, 2)), "HierarchicalVAE: missing a required argument"),
    "channels last": (
        lambda: VAE((28, 28, 1), encoder=ConvNet),
        "ConvNet takes images with channels first, (C, H, W), got (28, 28, 1)",
        "x.movedim(-1, 1), and event_shape=(1, 28, 28)",
    ),
    "a number as shape": (lambda: VAE(6), "event_shape: expected a shape, got the number 6: (6,) is that of a vector"),
    "text as shape": (lambda: VAE("x"), "event_shape: expected a tuple of positive whole numbers", "got 'x'"),
    "no shape": (lambda: VAE(()), "event_shape: expected a tuple", "got ()"),
    "a size of 0": (lambda: VAE((0, 3)), "event_shape: expected a tuple", "got (0, 3)"),
    "a fraction as size": (lambda: VAE((2.5,)), "event_shape: expected a tuple", "got (2.5,)"),
    "data as shape": (lambda: VAE(X), "event_shape: expected a tuple", "a tensor of shape [5, 3, 2]"),
    "None as shape": (lambda: VAE(None), "event_shape: expected a tuple", "got None"),
    "no latent dimension": (lambda: VAE((6,), 0), "latent_dim must be at least 1, got 0"),
    "a fraction of them": (lambda: VAE((6,), 2.5), "latent_dim: expected a whole number, got 2.5"),
    "a shape for them": (lambda: VAE((6,), (2,)), "latent_dim: expected a whole number", "got (2,)"),
    "a number as context": (lambda: VAE((6,), context=10), "context: expected a shape, got the number 10: (10,) is"),
    "a likelihood's name": (
        lambda: VAE((6,), likelihood="Normal"),
        "likelihood: expected a class of pyro_vae.likelihoods",
        "got the text 'Normal'",
        "import Normal",
    ),
    "a name misspelt": (lambda: VAE((6,), likelihood="Bernouli"), "got the text 'Bernouli', did you mean 'Bernoulli'?"),
    "a likelihood": (
        lambda: VAE((6,), likelihood=Normal(Shapes((6,), 20))),
        "got an instance of Normal: pass the class",
    ),
    "torch's likelihood": (
        lambda: VAE((6,), likelihood=torch.distributions.Normal),
        "likelihood: expected a class",
        "torch.distributions.normal.Normal, which is no Likelihood, did you mean 'Normal'?",
    ),
    "another axis": (lambda: VAE((6,), prior=Normal), "prior: expected a class of pyro_vae.priors", "no Prior"),
    "the base class": (
        lambda: VAE((6,), likelihood=Likelihood),
        "got the base class Likelihood: take one of Bernoulli",
    ),
    "a number as prior": (lambda: VAE((6,), prior=3), "prior: expected a class of pyro_vae.priors", "got int 3"),
    "None as guide": (lambda: VAE((6,), guide=None), "guide: expected a class of pyro_vae.guides", "got NoneType None"),
    "a module as encoder": (
        lambda: VAE((6,), encoder=nn.Linear(6, 4)),
        "encoder: expected a class of pyro_vae.networks",
        "got an instance of Linear: pass the class itself",
    ),
    "a network's name": (lambda: VAE((6,), decoder="MPL"), "decoder: expected", "'MPL', did you mean 'MLP'?"),
    "an option misspelt": (
        lambda: VAE((6,), prior=partial(MixtureOfNormals, componets=3)),
        "prior: MixtureOfNormals has no option 'componets', did you mean 'components'?",
    ),
    "a network's option": (
        lambda: VAE((6,), encoder=partial(MLP, hiden=(3,))),
        "no option 'hiden', did you mean 'hidden'",
    ),
    "layers": (lambda: HierarchicalVAE((6,), 5), "latent_dims: expected a shape, got the number 5"),
    "layers' likelihood": (lambda: HierarchicalVAE((6,), likelihood="Normal"), "likelihood: expected a class"),
    "codes": (lambda: VQVAE((6,), codes=0), "codes: expected a tuple", "got 0"),
    "codebook": (lambda: VQVAE((6,), codebook_size=1.5), "codebook_size: expected a whole number"),
    "classes": (lambda: SemiSupervisedVAE((6,), classes=1), "classes must be at least 2, got 1"),
}

FIT = {
    "the class of an objective": (
        lambda: trained(objective=objectives.ELBO),
        "objective: expected an instance, got the class ELBO: write ELBO(...)",
    ),
    "the class of Pyro's": (
        lambda: trained(objective=pyro.infer.Trace_ELBO),
        "got the class Trace_ELBO: write Trace_ELBO",
    ),
    "an objective's name": (
        lambda: trained(objective="IWEA"),
        "objective: expected an instance",
        "did you mean 'IWAE'?",
    ),
    "a number as objective": (lambda: trained(objective=5), "expected an objective, a Pyro ELBO", "got int"),
    "an optimizer": (
        lambda: trained(optimizer=torch.optim.Adam([nn.Parameter(X)])),
        "optimizer: expected a class of torch.optim",
        "got an instance of Adam",
    ),
    "an optimizer's name": (lambda: trained(optimizer="Adam"), "optimizer: expected a class of torch.optim", "'Adam'"),
    "an optimizer's option": (
        lambda: trained(optimizer=partial(torch.optim.Adam, learning_rate=1)),
        "optimizer: Adam has no option 'learning_rate', did you mean 'lr'? Known: ",
    ),
    "the class of a schedule": (
        lambda: trained(lr_schedule=schedules.Cosine),
        "lr_schedule: expected an instance, got the class Cosine: write Cosine(...)",
    ),
    "a number as schedule": (
        lambda: trained(lr_schedule=0.1),
        "lr_schedule: expected one of pyro_vae.schedules",
        "0.1",
    ),
    "a factor of the learning rate that climbs": (
        lambda: trained(lr_schedule=schedules.Linear(1, -0.5)),
        "lr_schedule: expected factors that are 0 or more, got -0.5",
    ),
    "no factor": (
        lambda: trained(lr_schedule=schedules.Constant(float("nan"))),
        "lr_schedule: expected factors that are 0 or more, got nan at epoch 0",
    ),
    "a schedule of the epoch alone": (
        lambda: trained(lr_schedule=lambda epoch: 1.0),
        "expected a function of the epoch and of the number of epochs, such as those of pyro_vae.schedules",
    ),
    "epochs": (lambda: trained(epochs=-1), "epochs must be at least 1, got -1"),
    "a fraction of epochs": (lambda: trained(epochs=2.5), "epochs: expected a whole number, got 2.5"),
    "batch_size": (lambda: trained(batch_size=0), "batch_size must be at least 1, got 0"),
    "text as batch_size": (
        lambda: trained(batch_size="9"),
        "batch_size: expected a whole number, got '9'",
    ),
    "a seed that no file can hold": (
        lambda: trained(seed=2**63),
        "seed: expected a whole number of less than 2^63, got 9223372036854775808",
    ),
    "a count that no file can hold": (
        lambda: trained(batch_size=2**53),
        "batch_size: expected a whole number of less than 2^53, got 9007199254740992",
    ),
    "no seed": (lambda: trained(seed=None), "seed: expected a whole number, got None"),
    "a number as run": (lambda: trained(run=5), "run: expected the path of a folder, or None, got 5"),
    "nothing as run": (lambda: trained(run=""), "run: expected the path of a folder, or None, got ''"),
    "clip_norm": (lambda: trained(clip_norm="1"), "clip_norm: expected a number, got '1'"),
    "a device": (lambda: trained(device="gpu"), "no device 'gpu' here", "device='cpu'"),
    "compile": (lambda: trained(compile="yes"), "compile: expected True or False or 'auto', got 'yes'"),
    "an argument misspelt": (lambda: trained(epoch=3), "fit has no argument 'epoch', did you mean 'epochs'?"),
    "a generator": (lambda: trained(x for x in [X]), "the generator has no length", "num_data=N, of as_dataset"),
    "a loader of three parts": (
        lambda: trained(DataLoader(TensorDataset(X, X, X))),
        "is a list of 3 parts: say which by fields=",
        "of as_dataset",
    ),
    "a path": (
        lambda: trained("x.npz"),
        "data: expected a tensor or an array, got 'x.npz': read it first, by load_data",
    ),
    "None": (lambda: trained(None), "data: expected a tensor or an array [N, *event], got NoneType None"),
    "ragged lists": (lambda: trained([[1.0], [1.0, 2.0]]), "data: expected rows of one shape, got a list"),
    "one text in a table": (
        lambda: trained(pandas.DataFrame({"a": ["x"]})),
        "'a' has one text alone, 'x': leave",
    ),
    "texts in a table": (
        lambda: trained(pandas.DataFrame({"a": [*"xyz"]})),
        "'a' has levels, as category: take",
        "Mixed",
    ),
    "texts in a table, as x": (
        lambda: log_marginal(PAIR.model, PAIR.guide, pandas.DataFrame({"a": ["x"]})),
        "x: expected numbers, got a DataFrame",
        "as_dataset",
    ),
    "data of another shape": (lambda: trained(torch.ones(5, 6)), "expected shape [N >= 1, 3, 2], got [5, 6]"),
    "the class of a VAE": (lambda: fit(VAE, X), "vae: expected a VAE", "got <class"),
    "no VAE": (lambda: fit(nn.Linear(2, 2), X), "vae: expected a VAE, or another module with programs"),
    "a path of a run": (lambda: fit("runs/x", X), "vae: expected a VAE, got 'runs/x': pass load('runs/x')"),
    "nothing": (lambda: fit(), "fit: missing a required argument: 'vae'; it is called as fit(vae, data, ...)"),
}

PROGRAMS = {
    "one datum": (lambda: evidence(X[0]), "x: expected shape [N >= 1, 3, 2], got [3, 2]: one datum is x[None]"),
    "flat data": (lambda: evidence(torch.ones(5, 6)), "x: expected shape [N >= 1, 3, 2], got [5, 6]"),
    "a flat array": (lambda: evidence(np.ones((5, 6))), "x: expected shape [N >= 1, 3, 2], got [5, 6]"),
    "no data": (lambda: evidence(X[:0]), "data: expected at least 1, got 0"),
    "a number": (lambda: evidence(torch.tensor(1.0)), "x: expected data [N, ...], got a single number"),
    "text": (lambda: evidence(np.array(["a"])), "x: expected numbers, got an array of <U1"),
    "complex numbers": (lambda: evidence(X + 0j), "x: expected real numbers, got torch.complex64"),
    "a path": (lambda: evidence("x.npz"), "x: expected a tensor or an array, got 'x.npz': read it first"),
    "a Dataset": (lambda: evidence(as_dataset(X)), "x: expected a tensor, got a Dataset: take one of its splits"),
    "None": (lambda: evidence(None), "x: expected a tensor or an array"),
    "another device": (
        lambda: log_marginal(*programs(made().to("meta")), X),
        "x is on cpu, but the model on meta: pass x.to('meta')",
    ),
    "no values": (lambda: evidence(X.to("meta")), "x is on the meta device", "give real data"),
    "no values of an input": (lambda: evidence(c=X.to("meta")), "c is on the meta device", "give real data"),
    "channels last": (
        lambda: log_marginal(*programs(VAE((3, 8, 9), 2)), torch.ones(5, 8, 9, 3)),
        "x: expected shape [N >= 1, 3, 8, 9], got [5, 8, 9, 3]: channels come first: pass x.movedim(-1, 1)",
    ),
    "a mask of other rows": (
        lambda: evidence(X, X[:3] > 0),
        "argument 4 of log_marginal: expected 5 rows, as many as x has",
    ),
    "an option without its name": (
        lambda: evidence(X, 5),
        "argument 4 of log_marginal: expected a tensor that the programs take after x, got 5: give options by name",
    ),
    "a context by the name of its shape": (
        lambda: evidence(context=X),
        "log_marginal takes the values of a context as c=",
    ),
    "no particles": (lambda: evidence(num_particles=0), "num_particles: expected at least 1, got 0"),
    "a seed that no file can hold": (
        lambda: evidence(seed=-(2**63)),
        "seed: expected a whole number of less than 2^63, got -9223372036854775808",
    ),
    "None of them": (lambda: evidence(num_particles=None), "num_particles: expected a whole number", "got None"),
    "a fraction of them": (lambda: evidence(num_particles=1.5), "num_particles: expected a whole number", "got 1.5"),
    "no seed": (lambda: evidence(seed=None), "seed: expected a whole number, got None"),
    "an option misspelt": (
        lambda: evidence(num_particle=3),
        "log_marginal has no option 'num_particle', did you mean 'num_particles'?",
    ),
    "a VAE as programs": (lambda: log_marginal(PAIR, PAIR, X), "model: expected a program, got a VAE: pass vae.model"),
    "a VAE and data": (
        lambda: log_marginal(PAIR, X),
        "log_marginal: missing a required argument: 'x'; it is called as log_marginal(model, guide, x, ...)",
    ),
    "data as program": (lambda: log_marginal(PAIR.model, X, X), "guide: expected a Pyro program, such as vae.guide"),
    "quadrature": (lambda: estimate("quadrature", PAIR.model, PAIR.guide, X[0]), "x: expected shape [N >= 1, 3, 2]"),
    "bound": (lambda: bound(PAIR.model, PAIR.guide, X[0]), "x: expected shape [N >= 1, 3, 2]"),
    "ais": (lambda: pyro_vae.ais(PAIR.model, PAIR.guide, X[0]), "x: expected shape [N >= 1, 3, 2]"),
    "bdmc": (lambda: pyro_vae.bdmc(PAIR.model, PAIR.guide, 0, X), "num_data must be at least 1, got 0"),
    "surgery": (lambda: pyro_vae.elbo_surgery(PAIR.model, PAIR.guide, X[0]), "x: expected shape [N >= 1, 3, 2]"),
    "statistics": (lambda: latent_statistics(PAIR, X[0]), "x: expected shape [N >= 1, 3, 2]"),
    "gaps": (lambda: pyro_vae.inference_gaps(PAIR, X[0]), "x: expected shape [N >= 1, 3, 2]"),
    "clusters": (lambda: pyro_vae.cluster(PAIR, X[0]), "x: expected shape [N >= 1, 3, 2]"),
    "samples": (lambda: pyro_vae.sample(PAIR, 0), "num must be at least 1, got 0"),
    "samples of a class": (lambda: pyro_vae.sample(VAE, 3), "vae: expected a VAE"),
    "reconstructions": (lambda: pyro_vae.reconstruct(PAIR, X[0]), "x: expected shape [N >= 1, 3, 2]"),
    "another prior": (lambda: pyro_vae.refit_prior(PAIR, X, "MixtureOfNormals"), "prior: expected a class", "import"),
    "arviz": (lambda: pyro_vae.to_arviz(PAIR.model, PAIR.guide, X[0]), "x: expected shape [N >= 1, 3, 2]"),
    "a code of another size": (lambda: PAIR.decode(torch.zeros(5, 3)), "MLP: expected an input of shape [..., 2], got"),
    "data for the encoder": (
        lambda: PAIR.encode(torch.zeros(5, 7)),
        "MLP: expected an input of shape [..., 3, 2], got",
    ),
    "a context misspelt": (
        lambda: load_data("digits", context="label"),
        "context: expected one of 'none', 'labels'",
        "'label', did you mean 'labels'?",
    ),
    "more quadrants": (
        lambda: load_data("digits", context="quadrants-9"),
        "context: expected one of",
        "got 'quadrants-9'",
    ),
    "a truth value as binarize": (lambda: load_data("digits", binarize=True), "binarize: expected one of", "got True"),
    "text as a truth value": (lambda: load_data("digits", download="no"), "download: expected True or False, got 'no'"),
    "a number as root": (lambda: load_data("mnist", root=5), "root: expected the path of a folder, or None, got 5"),
    "text as divisor": (lambda: load_data("digits", divide_by="255"), "divide_by: expected a number, got '255'"),
    "an argument of load_data": (
        lambda: load_data("digits", valid=9),
        "load_data has no argument 'valid', did you mean 'valid_size'?",
    ),
    "an array as source": (lambda: load_data(X), "load_data takes a name or a path, got Tensor"),
    "the method last": (
        lambda: estimate(PAIR.model, PAIR.guide, X, "quadrature"),
        "method: expected a name, got",
        "called as estimate(method, model, guide, x, ...). Known: importance",
    ),
    "a VAE to load": (lambda: pyro_vae.load(PAIR), "path: expected the path of a run directory, got"),
    "text as alpha": (lambda: checks("expected_coverage", alpha="5"), "alpha: expected a number, got '5'"),
    "no alpha": (lambda: checks("expected_coverage", alpha=None), "alpha: expected a number, got None"),
    "no plates": (lambda: evidence(max_plate_nesting=0), "max_plate_nesting must be at least 1, got 0"),
    "a number as progress": (lambda: evidence(progress=True), "progress: expected a function, got True"),
    "text as to_x": (lambda: checks("expected_coverage", to_x="x"), "to_x: expected a function, got 'x'"),
    "a number as settings": (
        lambda: checks("compare_with_hmc", hmc=4),
        "hmc: expected HMC(...), got 4",
    ),
    "other settings": (
        lambda: pyro_vae.ais(*programs(PAIR), X, annealing=HMC()),
        "annealing: expected Annealing(...), got HMC(",
    ),
    "a number as levels": (
        lambda: checks("conformal_scaling", levels=0.9),
        "levels: expected numbers, e.g. (0.5, 0.9)",
    ),
    "a level of text": (lambda: checks("conformal_scaling", levels=["x"]), "levels: expected a number, got 'x'"),
    "no levels": (lambda: checks("conformal_scaling", levels=[]), "levels: expected at least one"),
    "no draws": (lambda: checks("local_c2st", num_draws=1), "num_draws must be at least 2, got 1"),
    "fewer than no guesses": (lambda: checks("local_c2st", num_null=-1), "num_null must be at least 1, got -1"),
    "fewer than no data": (lambda: checks("evidence_check", num_simulated=-1), "num_simulated must be at least 1"),
    "a tolerance of nan": (
        lambda: checks("compare_with_hmc", tolerance=float("nan")),
        "tolerance must be a number from",
    ),
    "no data to check": (lambda: checks("local_c2st", x=X[:0]), "x: expected at least 1 datum, got none"),
    "a list as mask": (lambda: evidence(mask=[1, 0]), "mask: expected 5 rows, as many as x has"),
    "a mask of other numbers": (lambda: compare_priors(PAIR, PAIR, X, mask=0.5 * X), "mask: expected bool, True where"),
    "a number as guide": (lambda: compare_guides(PAIR, 3, X), "after: expected a VAE"),
    "a path as guide": (lambda: compare_guides("runs/x", PAIR, X), "before: expected a VAE, got 'runs/x': pass load("),
    "a mask of text": (lambda: compare_priors(PAIR, PAIR, X, mask="x"), "mask: expected a tensor or an array"),
    "a datum for two guides": (lambda: compare_guides(PAIR, PAIR, X[0]), "x: expected shape [N >= 1, 3, 2]"),
    "another input for them": (
        lambda: compare_guides(PAIR, PAIR, X, particles=3),
        "no option 'particles', did you mean",
    ),
    "two models compared": (lambda: pyro_vae.compare(PAIR, PAIR), "compare: too many positional arguments"),
    "numbers compared": (lambda: pyro_vae.compare({"a": 1.0, "b": 2.0}), "expected the results of log_marginal"),
    "no classes": (lambda: pyro_vae.classify(PAIR, X), "vae: expected a SemiSupervisedVAE, which has classes, got a "),
}

SLIPS = {
    f"{group}, {name}": slip
    for group, slips in {"VAE": CONSTRUCTORS, "fit": FIT, "programs": PROGRAMS}.items()
    for name, slip in slips.items()
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_one_line_that_says_what_to_do(name):
    call, *parts = SLIPS[name]
    with pytest.raises((UsageError, DataError), match=".*".join(map(re.escape, parts)) + r"[^\n]*\Z"):
        call()


# ---- what is meant is plain


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Normal(),
            "Normal is built by the VAE, which gives it shapes: pass the class itself, likelihood=Normal, ",
        ),
        (lambda: Normal(0.1), "Normal is built by the VAE"),
        (lambda: Normal(scale=0.1), r"or likelihood=functools\.partial\(Normal, scale=0\.1\)"),
        (lambda: DiagonalNormal(), "pass the class itself, guide=DiagonalNormal"),
        (lambda: LearnedNormal(), "pass the class itself, prior=LearnedNormal"),
        (lambda: MixtureOfNormals(10), "pass the class itself, prior=MixtureOfNormals"),
        (
            lambda: MLP(hidden=(4,)),
            r"gives it in_shape and out_shape: .* encoder=functools\.partial\(MLP, hidden=\(4,\)\)",
        ),
        (lambda: MLP((4,)), "MLP is built by the VAE, which gives it out_shape"),
        (lambda: MLP((4,), (2,), hiden=(3,)), "MLP has no argument 'hiden', did you mean 'hidden'"),
        (
            lambda: MLP((4,), (2,), hidden=3),
            r"hidden widths: expected a tuple of whole numbers, got the number 3: .*\(3,\)",
        ),
        (lambda: MLP((4,), (2,), hidden=(3.5,)), "hidden widths: expected a tuple of whole numbers"),
        (lambda: VAE((3, 2), latent=2), "VAE has no argument 'latent', did you mean 'latent_dim'"),
        (lambda: HierarchicalVAE((3, 2), latent_dim=2), "did you mean 'latent_dims'"),
        (lambda: ELBO(beta="Linear"), r"ELBO\.beta: expected an instance, .* from pyro_vae\.schedules import Linear"),
        (lambda: ELBO(beta=schedules.Linear), r"ELBO\.beta: .* write Linear\(\.\.\.\)"),
        (lambda: ELBO(num_particles=2.5), r"ELBO\.num_particles: expected a whole number, got 2\.5"),
        (lambda: ELBO(beta=None), r"ELBO\.beta: expected a number, got None"),
        (
            lambda: trained(optimizer=torch.optim.Adam(PAIR.parameters())),
            r"got an instance of Adam: .*torch\.optim\.Adam, lr",
        ),
        (
            lambda: trained(optimizer=pyro.optim.Adam({"lr": 1e-3})),
            r"an optimizer of pyro\.optim: pass one of torch\.optim",
        ),
        (lambda: trained(lr_schedule=torch.optim.lr_scheduler.StepLR), "which is no Schedule"),
    ],
)
def test_a_part_or_value_made_wrongly_is_one_line(make, message):
    with pytest.raises(UsageError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_class_of_ones_own_is_told_the_same_and_its_own_errors_are_left_alone():
    class Own(Normal):
        def __init__(self, shapes, width: float = 1.0, **keywords):
            super().__init__(shapes, **keywords)
            self.width = width + 0

    assert made(likelihood=partial(Own, width=2.0, scale=3.0)).likelihood.width == 2.0
    with pytest.raises(UsageError, match="likelihood=Own"):
        Own(width=2.0)
    with pytest.raises(TypeError, match=r"concatenate|unsupported"):
        Own(Shapes((3, 2), 2), width="x")


def test_arrays_tables_and_lists_are_data():
    rows = X.reshape(5, 6)
    flat = VAE((6,), latent_dim=2, encoder=SMALL, decoder=SMALL)
    expected = log_marginal(flat.model, flat.guide, rows, num_particles=3).log_p
    for x in (rows.numpy(), rows.double().numpy(), rows.tolist(), pandas.DataFrame(rows.numpy()), rows.int().numpy()):
        assert torch.equal(log_marginal(flat.model, flat.guide, x, num_particles=3).log_p, expected)
        assert fit(flat, x, epochs=1, progress=False).best_epoch == 1 if not isinstance(x, list) else True
        flat.load_state_dict(flat.state_dict())
        expected = log_marginal(flat.model, flat.guide, rows, num_particles=3).log_p
    assert flat.encode(rows.numpy()).batch_shape == (5,)


NUMBERS = [np.int64(2), np.float32(2), np.float64(2), torch.tensor(2), np.array(2.0), np.bool_(True)]


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_whole_numbers_of_numpy_and_torch_are_numbers(value, tmp_path):
    vae = VAE((6,), value, prior=partial(MixtureOfNormals, components=value), encoder=partial(MLP, hidden=(value,)))
    assert vae.shapes.latent == 3 and type(vae.arguments["latent_dim"]) is int
    x = torch.ones(4, 6)
    fit(vae, x, ELBO(num_particles=value), epochs=value, batch_size=value, seed=value, progress=False, run=tmp_path)
    twin = VAE((6,), 3, prior=partial(MixtureOfNormals, components=3), encoder=partial(MLP, hidden=(3,)))
    fit(twin, x, ELBO(num_particles=3), epochs=3, batch_size=3, seed=3, progress=False)
    found = log_marginal(vae.model, vae.guide, x, num_particles=value, seed=value)
    assert torch.equal(found.log_p, log_marginal(vae.model, vae.guide, x, num_particles=3, seed=3).log_p)
    assert found.summary()["num_particles"] == 3 and type(found.seed) is int
    assert type(pyro_vae.load(tmp_path).arguments["prior"].keywords["components"]) is int
    assert "numpy" not in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize("value", [np.logspace(-1, 0, 3)[1], np.float32(0.25), torch.tensor(0.25), np.array(0.25)])
def test_real_numbers_of_numpy_and_torch_are_numbers(value, tmp_path):
    vae = VAE((6,), 2, likelihood=partial(Normal, scale=value), encoder=SMALL, decoder=SMALL)
    objective = ELBO(beta=schedules.Linear(0.0, value))
    optimizer = partial(torch.optim.Adam, lr=value, betas=(value, 0.9))
    options = {"optimizer": optimizer, "clip_norm": value, "weight_prior": value, "save_every": value}
    fit(vae, torch.ones(4, 6), objective, epochs=1, progress=False, run=tmp_path, **options)
    assert objective.beta.end == float(value) and type(objective.beta.end) is float
    again = pyro_vae.load(tmp_path)
    assert again.likelihood.scale == float(value)
    for part in (Normal(Shapes((6,), 2), scale=value), pyro_vae.priors.Laplace(Shapes((6,), 2), scale=value)):
        assert float(part.scale) == pytest.approx(float(value))


def test_a_truth_value_of_numpy_is_one(tmp_path):
    vae = VAE((6,), 2, likelihood=partial(Poisson, zero_inflated=np.bool_(True)), encoder=SMALL, decoder=SMALL)
    options = {"start_at_mean": np.bool_(True), "compile": np.bool_(False)}
    fit(vae, torch.ones(4, 6), ELBO(analytic_kl=np.bool_(False)), epochs=1, progress=False, run=tmp_path, **options)
    assert pyro_vae.load(tmp_path).arguments["likelihood"].keywords == {"zero_inflated": True}


def test_seeds_of_numpy_draw_the_same():
    with pyro_vae.seeded(np.int64(3), "a", np.int32(1)):
        found = torch.rand(2)
    with pyro_vae.seeded(3, "a", 1):
        assert torch.equal(found, torch.rand(2))


def test_plain_values_stay_what_they_are():
    options = {"a": (np.int64(1), [np.float32(0.5)]), "b": "x", "c": None, "d": np.arange(3)}
    assert plain(options) == {"a": (1, [0.5]), "b": "x", "c": None, "d": [0, 1, 2]}
    module = nn.Linear(1, 1)
    assert plain(module) is module and plain(X) is X


@pytest.mark.parametrize("shape", [[3, 2], torch.Size([3, 2]), np.array([3, 2]), (np.int64(3), torch.tensor(2))])
def test_shapes_of_any_kind_are_shapes(shape):
    assert VAE(shape, 2, encoder=SMALL, decoder=SMALL).arguments["event_shape"] == (3, 2)


def test_functions_make_parts_too():
    vae = VAE((6,), 2, prior=lambda shapes: LearnedNormal(shapes), encoder=lambda a, b: nn.Sequential(nn.Linear(6, 4)))
    assert isinstance(vae.prior, LearnedNormal) and vae.encode(torch.ones(2, 6)).batch_shape == (2,)
    assert isinstance(VAE((28, 28), 2, encoder=ConvNet, guide=DiagonalNormal).posterior, DiagonalNormal)


def test_settings_of_annealing_are_numbers():
    assert Annealing(num_chains=np.int64(2)).num_chains == 2
