"""The page without a server: its script, run by node, gives the numbers of torch."""

import json
import re
import shutil
import subprocess
from functools import partial

import numpy as np
import pytest
import torch

from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.channels import BitFlip, through
from pyro_vae.data import Table
from pyro_vae.errors import UsageError
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.export import exported
from pyro_vae.explore.halved import changes, halved
from pyro_vae.explore.page import ALONE, part
from pyro_vae.explore.subject import Explored
from pyro_vae.explore.weighed import weighed
from pyro_vae.guides import FullNormal, SplineFlow
from pyro_vae.likelihoods import Mixed, Normal, StudentT
from pyro_vae.networks import MLP, ConvNet, GatedMLP, ResNet
from pyro_vae.networks.layers import Activation
from pyro_vae.priors import ConditionalNormal, Laplace, LearnedNormal, MixtureOfNormals, VampPrior
from pyro_vae.statistics.pareto import reliable_below, smooth_tail
from pyro_vae.statistics.reliability import untrustworthy
from tests.support.packed import unpacked

X = (torch.rand(20, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
CLOSE = 1e-5
"""Of nats also relative: torch computes them in single precision."""
WHERE = {"frame": "coordinates", "axes": [0, 1]}
KINKED = partial(MLP, hidden=(8,), activation="relu")
node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine")


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """Searches for the best member of a guide's family end soon."""
    monkeypatch.setattr("pyro_vae.explore.datum.STEPS", 120)


def answers_of(x=X, inputs=None, amount=0.3, table=None, **parts):
    small = partial(MLP, hidden=(8,))
    torch.manual_seed(0)
    vae = VAE(tuple(x.shape[1:]), **{"latent_dim": 2, "encoder": small, "decoder": small, **parts})
    with torch.no_grad():
        for weight in vae.parameters():  # away from their starts, where many are 0
            weight.add_(amount * torch.randn_like(weight))
    return Answers(Explored(vae, x, inputs or {}, facts={"run": "r"}, table=table))


def start_of(text):
    return re.search(r'id="start"[^>]*>(.*?)</script>', text, re.DOTALL)[1]


def in_node(start, expression):
    """What an expression gives in the script of a page, of a promise what it becomes."""
    plain = "(_, v) => ArrayBuffer.isView(v) ? [...v] : v"
    script = f"""
      const text = {json.dumps(start)};
      globalThis.document = {{ getElementById: () => ({{ textContent: text }}) }};
      {part("ask.js")}{"".join(map(part, ALONE))}
      Promise.resolve({expression}).then((found) => {{ process.stdout.write(JSON.stringify(found, {plain})); }});"""
    done = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def by_node(answers, *questions):
    """What the exported page's script answers to (name, fields), and the answers that it is to equal."""
    text, weights = exported(answers)
    asked = json.dumps([list(question) for question in questions])
    found = in_node(start_of(text), f"Promise.all({asked}.map(([name, fields]) => ask(name, fields)))")
    return found, Answers(halved(answers.explored)) if weights.startswith("weights in 16 bits") else answers


def values(array):
    return np.array(array["data"]).reshape(array["shape"])


def same(ours, theirs):
    return np.allclose(ours, theirs, rtol=CLOSE, atol=CLOSE)


def check_numbers(ours, theirs):
    """Equal; k-hat and the effective number, which are of single draws, to what their logarithms' rounding does."""
    for name, value in theirs.items():
        size = theirs["elbo"] if name in ("kl", "gap", "gap_error") else value  # of what a difference is made of
        slack = CLOSE * (1 + abs(size)) if isinstance(value, float) else 0
        if name == "ess":  # of weights whose logarithms are off by CLOSE
            assert ours[name] == pytest.approx(value, rel=1e-4)
        elif name == "pareto_k":
            assert ours[name] == pytest.approx(value, abs=1e-4) if value is not None else ours[name] is None
        else:
            assert ours[name] == value or abs(ours[name] - value) <= slack, name


CASES = {
    "the default": {},
    "gates and a full covariance": {
        "encoder": partial(GatedMLP, hidden=(8, 6)),
        "decoder": partial(GatedMLP, hidden=(8,)),
        "guide": FullNormal,
    },
    "a norm of gates": {"decoder": partial(GatedMLP, hidden=(8, 6), norm="layer")},
    "tanh and a layer norm": {"decoder": partial(MLP, hidden=(8, 8), activation="tanh", norm="layer")},
    "a batch norm": {"decoder": partial(MLP, hidden=(8,), activation="softplus", norm="batch")},
    "scales per element": {"likelihood": partial(Normal, scale="per_element")},
    "learned scales, bounded": {"likelihood": partial(Normal, scale="learned_each", bounded=True)},
    "standardised data": {"likelihood": partial(Normal, scale="per_element"), "standardize": True},
    "three dimensions": {"latent_dim": 3, "guide": FullNormal, "decoder": partial(MLP, hidden=(8,), activation="elu")},
    "a learned normal": {"prior": LearnedNormal},
    "a mixture": {"prior": partial(MixtureOfNormals, components=4, spread=2.0)},
    "a mixture in three dimensions": {"prior": partial(MixtureOfNormals, components=4), "latent_dim": 3},
    "VampPrior": {"prior": partial(VampPrior, components=5)},
    "VampPrior of a full covariance": {
        "prior": partial(VampPrior, components=5, learn_weights=True),
        "guide": FullNormal,
    },
    "convolutions": {
        "encoder": partial(ConvNet, channels=(4, 6), hidden=(8,)),
        "decoder": partial(ConvNet, channels=(4, 6), hidden=(8,)),
    },
    "residual blocks": {
        "encoder": partial(ResNet, channels=(4,), blocks=1),
        "decoder": partial(ResNet, channels=(8, 4), blocks=1),
    },
}


@node
@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_torch(name):
    answers = answers_of(**CASES[name])
    if answers.explored.vae.data_mean is not None:
        answers.explored.vae.standardize_by(X.mean(0) + 0.3, X.std(0) + 0.5)
    size = max(2, answers.explored.vae.shapes.latent)
    places = [[0.4, -1.1, 0.2][:size], [2.0, 0.3, -0.7][:size]]
    questions = [("decode", {"places": places, "frame": "coordinates"}), ("datum", {"index": 3, **WHERE})]
    questions += [("plane", WHERE), ("draws", {"index": 3, **WHERE})]
    (decoded, datum, plane, draws), answers = by_node(answers, *questions)
    assert same(values(decoded["x"]), unpacked(answers("decode", questions[0][1])["x"]))
    exact = answers("datum", questions[1][1])
    assert same(datum["place"], exact["place"]) and same(datum["guide"]["covariance"], exact["guide"]["covariance"])
    assert same(values(datum["reconstruction"]["x"]), unpacked(exact["reconstruction"]["x"]))
    assert datum["mask"] is None and (values(datum["x"]) == unpacked(exact["x"])).all()
    check_numbers(datum["numbers"], exact["numbers"])
    assert (datum["posterior"] is None) == (exact["posterior"] is None)
    theirs = answers("plane", WHERE)
    assert same(values(plane["codes"]), unpacked(theirs["codes"])) and plane["prior"]["kind"] == theirs["prior"]["kind"]
    if plane["prior"]["kind"] == "grid":
        assert same(values(plane["prior"]["log_density"]), unpacked(theirs["prior"]["log_density"]))
    assert (plane["components"] is None) == (theirs["components"] is None)
    if plane["components"]:
        assert plane["components"]["count"] == theirs["components"]["count"] > 1
        for one, other in zip(plane["components"]["largest"], theirs["components"]["largest"], strict=True):
            assert all(same(one[key], other[key]) for key in ("weight", "place", "mean", "covariance"))
    exact = answers("draws", {"index": 3, **WHERE})
    assert same(values(draws["draws"]), unpacked(exact["draws"])) and same(
        values(draws["shares"]), unpacked(exact["shares"])
    )


IMAGES = torch.rand(6, 3, 7, 5, generator=torch.Generator().manual_seed(1)).round()
NETWORKS = {
    **{
        f"{name}, norm {norm}": partial(kind, channels=(8, 4), norm=norm, **more)
        for name, kind, more in (("ConvNet", ConvNet, {}), ("ResNet", ResNet, {"blocks": 2}))
        for norm in ("none", "batch", "layer", "group")
    },
    "kernels of 5, no dense layer": partial(ConvNet, channels=(4,), kernel=5, hidden=()),
    **{
        f"a dense one, {activation}": partial(MLP, hidden=(6, 5), activation=activation)
        for activation in Activation.__args__
    },
    **{
        f"convolutions, {activation}": partial(ConvNet, channels=(4,), activation=activation)
        for activation in ("gelu", "elu")
    },
}


@node
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_and_their_gradients(name):
    """Of images with three planes and odd sides: outputs, and the gradient of log p(x, z) in z."""
    answers = answers_of(IMAGES, encoder=NETWORKS[name], decoder=NETWORKS[name], amount=0.1)
    for norm in answers.explored.vae.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
    text, weights = exported(answers)
    explored = halved(answers.explored) if weights.startswith("weights in 16") else answers.explored
    vae, z = explored.vae.double(), torch.randn(5, 2, dtype=torch.float64)
    expression = (
        f"(async () => {{ const z = Float64Array.from({z.flatten().tolist()}), t = offline().target(offline().x[2], 0);"
    )
    expression += (
        " return [(await t.evaluate(z)).joint, await t.slopes(z), offline().encode(offline().x[2]).params]; })()"
    )
    joint, slopes, params = in_node(start_of(text), expression)
    x = IMAGES[2:3].double()
    vae.eval()
    at = z[:, None].clone().requires_grad_()
    exact = vae.decode(at).log_prob(x) + vae.prior_distribution().log_prob(at)
    (gradient,) = torch.autograd.grad(exact.sum(), at)
    exact_params = vae.guide_params(x).detach().flatten()
    assert np.allclose(joint, exact.detach().flatten(), rtol=1e-6) and np.allclose(
        params, exact_params, rtol=1e-5, atol=1e-6
    )
    assert np.allclose(slopes, gradient.flatten(), rtol=1e-5, atol=1e-6)


@node
def test_random_numbers_are_torchs():
    seeds, counts = (0, 7, 2**32 - 1, 123456789), (16, 50, 2000, 2003)
    start = json.dumps({"model": {}})
    for seed, count in zip(seeds, counts, strict=True):
        exact = torch.randn(count, generator=torch.Generator().manual_seed(seed))
        assert np.allclose(in_node(start, f"normals({seed}, {count})"), exact, atol=2e-6)


@node
@pytest.mark.parametrize(("side", "decoder"), [(51, partial(MLP, hidden=(8,))), (101, KINKED)])
def test_a_grid_is_as_fine_as_the_density_needs(side, decoder):
    """A smooth density is integrated on every second point of the server's grid, one with kinks on all of them."""
    (found,), answers = by_node(answers_of(decoder=decoder), ("datum", {"index": 3, **WHERE}))
    exact = answers("datum", {"index": 3, **WHERE})
    assert found["posterior"]["log_density"]["shape"] == [side, side]
    check_numbers(found["numbers"], exact["numbers"])
    step = (101 - 1) // (side - 1)
    theirs = unpacked(exact["posterior"]["log_density"])[::step, ::step]
    assert same(values(found["posterior"]["log_density"]), theirs)


@node
def test_pareto_k_and_smoothed_weights_are_those_of_the_package():
    generator = np.random.default_rng(0)
    every = {
        "light": generator.normal(size=1000),
        "heavy": 4 * generator.normal(size=1000),
        "very heavy": 3 * generator.standard_cauchy(size=1000),
        "few": generator.normal(size=40),
        "too few": generator.normal(size=20),
        "equal": np.full(1000, -3.0),
        "one alone": np.r_[np.full(999, -800.0), 0.0],
        "many impossible": np.r_[np.full(900, -np.inf), generator.normal(size=100)],
        "uniform": np.log(generator.uniform(size=1000)),
    }
    for name, row in every.items():
        text = json.dumps([None if np.isinf(v) else v for v in row])
        expression = f"smoothedTail(Float64Array.from({text}, (v) => v ?? -Infinity), 0)"
        found = in_node(
            json.dumps({"model": {}}),
            f"(({{ smoothed, k }}) => [smoothed.map((v) => Math.max(v, -1e9)), String(k)])({expression})",
        )
        smoothed, k = smooth_tail(row[None], len(row))
        assert np.allclose(float(found[1]), k[0], rtol=1e-9, equal_nan=True), name
        assert np.allclose(found[0], smoothed[0].clip(-1e9), rtol=1e-9), name


@node
def test_which_k_is_not_to_be_trusted():
    ks = [-np.inf, -0.5, 0.2, 0.55, 0.6, 0.62, 0.65, 0.7, 0.9, 3.0, np.inf, np.nan]
    text = ", ".join(str(k).replace("inf", "Infinity").replace("nan", "NaN") for k in ks)
    found = in_node(json.dumps({"model": {}}), f"[{text}].map((k) => untrustworthy(k, 1000, reliableBelow(1000)))")
    exact = [untrustworthy(torch.tensor([k]), 1000, reliable_below(1000)).item() for k in ks]
    assert found == exact and True in exact and False in exact


@node
@pytest.mark.parametrize("guide", [None, FullNormal])
def test_a_refined_guide_is_that_of_torch(guide):
    """The same steps by the same noise, up to the same comparisons."""
    answers = answers_of(**({} if guide is None else {"guide": guide}))
    fields = {"index": 3, **WHERE}
    (refined, before), answers = by_node(answers, ("refine", fields), ("datum", fields))
    exact = answers("refine", fields)
    assert same(refined["place"], exact["place"])
    assert same(refined["guide"]["covariance"], exact["guide"]["covariance"])
    check_numbers(refined["numbers"], exact["numbers"])
    assert refined["numbers"]["elbo"] > before["numbers"]["elbo"] + 0.05


@node
@pytest.mark.parametrize("gaps", ["zero", "mask", "learned"])
def test_what_is_hidden_has_no_influence(gaps):
    for encoder in (partial(MLP, hidden=(8,)), partial(ConvNet, channels=(4,))):
        x = [None if i % 3 == 0 else v for i, v in enumerate(X[3].flatten().tolist())]
        fields = {"index": 3, "x": x, **WHERE}
        (found,), answers = by_node(answers_of(gaps=gaps, encoder=encoder), ("datum", fields))
        exact = answers("datum", fields)
        assert same(found["place"], exact["place"]) and (values(found["mask"]) == unpacked(exact["mask"])).all()
        check_numbers(found["numbers"], exact["numbers"])


@node
def test_gaps_of_the_data():
    mask = X.roll(1, 0) > 0
    (found,), answers = by_node(answers_of(torch.where(mask, X, 0.5), {"mask": mask}), ("datum", {"index": 4, **WHERE}))
    exact = answers("datum", {"index": 4, **WHERE})
    assert (values(found["mask"]) == mask[4].numpy()).all()
    check_numbers(found["numbers"], exact["numbers"])


@node
@pytest.mark.parametrize("flip", [0.0, 0.2])
@pytest.mark.parametrize("likelihood", ["Bernoulli", "Normal"])
def test_what_is_missing(likelihood, flip):
    """Mean and standard deviation are those of all of torch's draws with their smoothed weights."""
    if likelihood == "Normal" and flip:
        return
    parts = {} if likelihood == "Bernoulli" else {"likelihood": partial(Normal, scale="per_element")}
    x = [None if i < 8 else v for i, v in enumerate(X[3].flatten().tolist())]
    (found,), answers = by_node(answers_of(**parts), ("restore", {"index": 3, "x": x, "flip": flip, "better": False}))
    explored = answers.explored
    datum = explored.like(3, torch.tensor([torch.nan if v is None else v for v in x]).reshape(4, 4))
    pair, inputs = explored.vae, {"x": datum.x, **datum.inputs}
    if flip:
        pair, inputs = through(pair, BitFlip(flip)), {"x": datum.x.masked_fill(~datum.mask, torch.nan)}
    exact = weighed(pair.model, pair.guide, inputs, 1000)
    shares = torch.from_numpy(smooth_tail(exact.log_weights[None].numpy(), 1000, exact.rounding.numpy())[0][0]).softmax(
        0
    )
    with torch.no_grad():
        p = explored.vae.decode(exact.latents["z"])
    mean, variance, x, seen = p.mean[:, :], p.variance, datum.x, datum.mask
    if flip:
        mean = torch.where(
            seen,
            torch.where(
                x > 0,
                mean * (1 - flip) / (mean * (1 - flip) + (1 - mean) * flip),
                mean * flip / (mean * flip + (1 - mean) * (1 - flip)),
            ),
            mean,
        )
        variance = mean * (1 - mean)
    else:
        mean, variance = torch.where(seen, x, mean), torch.where(seen, 0.0, variance)
    average = (shares[:, None, None] * mean).sum(0)
    second = (shares[:, None, None] * (variance + mean.square())).sum(0)
    assert same(values(found["mean"]), average)
    assert np.allclose(values(found["sd"]), (second - average.square()).clamp(min=0).sqrt(), atol=1e-4)
    assert found["pareto_k"] == pytest.approx(exact.pareto_k.item(), abs=1e-4)
    assert found["ess"] == pytest.approx(exact.ess.item(), rel=1e-4)
    draws = values(found["draws"])
    assert draws.shape == (8, 4, 4) and (draws[0] != draws[1]).any()
    if not flip:
        assert (draws[:, 2:] == X[3, 2:].numpy()).all()


@node
def test_draws_of_what_is_missing_have_its_mean():
    """Of 400 draws, in place of 8: their mean is within 5 standard errors, resampling and drawing included."""
    x = [None if i < 8 else v for i, v in enumerate(X[3].flatten().tolist())]
    for parts in ({}, {"likelihood": partial(Normal, scale="per_element")}):
        start = json.loads(start_of(exported(answers_of(**parts)).text))
        start["model"]["num_restored"] = 400
        fields = json.dumps({"index": 3, "x": x, "flip": 0, "better": False})
        found = in_node(json.dumps(start), f'ask("restore", {fields})')
        draws, mean, sd = (values(found[name]).reshape(-1, 16)[:, :8] for name in ("draws", "mean", "sd"))
        assert (np.abs(draws.mean(0) - mean) < 5 * sd / 20 + 1e-6).all()
        assert np.allclose(draws.std(0), sd, rtol=0.35, atol=0.05)


@node
def test_principal_axes():
    fields = {"frame": "principal", "places": [[0.5, -0.2, 0.1, 0.3]]}
    where = {"frame": "principal", "axes": [1, 2]}
    questions = ("decode", fields), ("datum", {"index": 0, **where}), ("plane", where)
    (decoded, datum, plane), answers = by_node(answers_of(latent_dim=4), *questions)
    assert same(values(decoded["x"]), unpacked(answers("decode", fields)["x"]))
    exact = answers("datum", {"index": 0, **where})
    assert same(datum["guide"]["mean"], exact["guide"]["mean"])
    assert same(datum["guide"]["covariance"], exact["guide"]["covariance"])
    assert same(plane["prior"]["mean"], answers("plane", where)["prior"]["mean"])


def test_sixteen_bits_where_no_pixel_shows_it():
    """Small weights are halved; those of a decoder that a 16-bit rounding moves by more than 1/255 are kept."""
    small = answers_of(amount=0.1)
    text, weights = exported(small)
    found = changes(small.explored, halved(small.explored))
    assert weights.startswith("weights in 16 bits: over 20 reconstructions and 256 decoded draws")
    assert 0 < found.pixels < 1 / 255 and 0 < found.nats < 1
    layer = json.loads(start_of(text))["model"]["decoder"][0]
    assert "float16" in layer["weight"] and "float32" in layer["bias"]
    large = answers_of(amount=20.0)
    found = changes(large.explored, halved(large.explored))
    text, weights = exported(large)
    assert found.pixels >= 1 / 255 and weights.startswith("weights in 32 bits")
    assert "float32" in json.loads(start_of(text))["model"]["decoder"][0]["weight"]
    assert (large.explored.vae.decoder.output.weight.half().float() != large.explored.vae.decoder.output.weight).any()
    with torch.no_grad():
        small.explored.vae.decoder.output.weight[0, 0] = 1e5  # above the largest number of 16 bits
    assert exported(small).weights == "weights in 32 bits: in 16 some would be infinite"


def test_nothing_is_loaded_from_elsewhere():
    text = exported(answers_of()).text
    assert "default-src 'none'" in re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert set(re.findall(r'(?:src|href|action)="([^"]*)"', text)) == {"data:,"}
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"guide": SplineFlow}, "a guide of DiagonalNormal, FullNormal, got SplineFlow"),
        ({"prior": Laplace}, "a prior of StandardNormal, LearnedNormal, MixtureOfNormals, VampPrior, got Laplace"),
        ({"likelihood": StudentT}, "a likelihood of Bernoulli, Normal, got StudentT"),
        ({"decoder": type("Own", (MLP,), {})}, "a decoder of MLP, GatedMLP, ConvNet, ResNet, got Own"),
        ({"context": (3,), "prior": ConditionalNormal}, "a model without a context"),
    ],
)
def test_what_can_not_be_exported_is_refused_by_its_name(parts, named):
    with pytest.raises(UsageError, match=named):
        exported(answers_of(**parts))


def test_models_without_one_code_are_refused_by_their_name():
    answers = Answers(Explored(HierarchicalVAE((4, 4), (3, 2)), X))
    with pytest.raises(UsageError, match="got a HierarchicalVAE"):
        exported(answers)


def test_tables_with_levels_are_refused():
    table = Table.of({"a": "real", "b": {"binary": ["no", "yes"]}})
    x = torch.stack([torch.randn(9), torch.arange(9) % 2.0], 1)
    mixed = answers_of(x, table=table, likelihood=lambda shapes: Mixed(shapes, kinds=table.kinds), amount=0.0)
    with pytest.raises(UsageError, match="likelihood of Bernoulli, Normal, got Mixed; without --export"):
        exported(mixed)
    with pytest.raises(UsageError, match="columns of numbers, got levels in b; without --export"):
        exported(answers_of(x, table=table, likelihood=Normal))


def table_of(columns):
    """Answers of a model of a table whose columns have these standard deviations."""
    x = torch.randn(20, len(columns), generator=torch.Generator().manual_seed(0)) * torch.tensor(columns)
    table = Table.of({f"column {i}": "real" for i in range(len(columns))})
    answers = answers_of(x, table=table, likelihood=partial(Normal, scale="per_element"), standardize=True)
    answers.explored.vae.standardize_by(x.mean(0), x.std(0))
    return answers


@node
def test_a_table_of_numbers():
    fields = {"index": 3, "x": [0.5, None, 40.0], **WHERE}
    (found,), answers = by_node(table_of([1.0, 0.01, 300.0]), ("datum", fields))
    exact = answers("datum", fields)
    assert same(values(found["reconstruction"]["x"]), unpacked(exact["reconstruction"]["x"]))
    check_numbers(found["numbers"], exact["numbers"])
    assert "no value changes" in exported(table_of([1.0, 0.01, 300.0])).weights


def test_the_range_of_a_value_in_a_table_is_that_of_its_column():
    """The same model in other units of one column: rounding changes the same share of its range."""
    small, large = table_of([1.0, 1.0, 1.0]).explored, table_of([1.0, 1.0, 1000.0]).explored
    found = [changes(one, halved(one)).pixels for one in (small, large)]
    assert found[1] == pytest.approx(found[0], rel=1e-3)
