"""Exported files against the model: every likelihood, network and guide of the package, in ONNX and in torch.export.

In torch.export plain layers are left to the slow suite.

The numbers of a file are compared with those of the public `encode` and `decode`, on data and codes that the export did
not see, in batches of other sizes. A new class of an axis is tested the moment it exists.
"""

import io
import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import chain

import pytest
import torch

from pyro_vae.autoencoders import VAE, VQVAE, HierarchicalVAE, NotAtRandom, SemiSupervisedVAE
from pyro_vae.errors import MissingPackage, NumericalError, UsageError
from pyro_vae.guides import Delta, DiagonalNormal, Guide, MixtureOfNormals, SemiAmortized, SplineFlow
from pyro_vae.likelihoods import Likelihood, Mixed, Normal, Poisson
from pyro_vae.networks import Network
from pyro_vae.process.seeding import seeded
from pyro_vae.process.switches import checking
from pyro_vae.sharing import export, exporting
from pyro_vae.sharing.formats import ABOUT, FORMATS
from pyro_vae.testing import axis_of
from pyro_vae.testing.inside_a_vae import case_of, data_for
from pyro_vae.testing.modules import small_mlp

ONNX, TORCH = 1e-5, 1e-6
"""The largest difference over max(1, |number|)."""
SMALL = {"encoder": small_mlp, "decoder": small_mlp}


@pytest.fixture(scope="module")
def onnx():
    """The onnx package, or a skip where the extra is not installed."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    package = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        # For each file the exporter reads 500 sources: without, three take 3.5 CPU seconds and not 5.2.
        with suppress(ImportError, AttributeError):
            from torch.onnx._internal._lazy_import import onnxscript_apis

            patch.setattr(onnxscript_apis, "get_torchlib_ops", cache(onnxscript_apis.get_torchlib_ops))
        yield package


def files_of(vae, folder, to, **options):
    """The bytes of each exported file, by part."""
    made = export(vae, folder, to, **options)
    found = {part: (folder / file.name).read_bytes() for part, file in made.files.items()}
    assert all(found[part] == file.data for part, file in made.files.items())
    return found


@lru_cache(4)
def program(data):
    """A file of torch's format."""
    return torch.export.load(io.BytesIO(data)).module()


@lru_cache(4)
def session_of(data):
    """A file of ONNX, in its runtime."""
    import onnxruntime

    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def outputs(data, to, inputs):
    """What a file gives, by ONNX's runtime or torch alone."""
    if to == "torch":
        return program(data)(**inputs)
    session = session_of(data)
    assert [given.name for given in session.get_inputs()] == list(inputs)
    names = [given.name for given in session.get_outputs()]
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}


def expect_same(got, expected, to):
    for name, value in expected.items():
        assert got[name].shape == value.shape and got[name].dtype == value.dtype, name
        different = (got[name] - value).abs() / value.abs().clamp(min=1)
        both = got[name].isnan() & value.isnan()
        assert different.masked_fill(both, 0).max() <= (ONNX if to == "onnx" else TORCH), name


@torch.no_grad()
def expect_ours(vae, files, to, rows=7, gaps=False, **given):
    """Encoder, draw and decoder equal `encode`, `from_noise` of it, and `decode`."""
    with seeded(1, "unseen"), checking(False):
        x = data_for(vae.likelihood, rows).to(next(vae.parameters()).dtype)
        if vae.data_mean is not None:
            x = vae.data_mean + vae.data_std * x
        mask = torch.rand(x.shape) < 0.7 if gaps else None
        z = torch.randn(rows, vae.shapes.latent, dtype=x.dtype)
        seen = x if mask is None else x.masked_fill(~mask, torch.nan)
        if "encoder" in files:
            q = vae.encode(seen, mask, **given)
            expected = {"mean": q.mean, "stddev": q.stddev, "params": vae.guide_params(seen, mask, **given)}
            expect_same(outputs(files["encoder"], to, {"x": seen, **given}), expected, to)
        if "draw" in files:
            noise = torch.randn(rows, q.noise_size, dtype=x.dtype)
            inputs = {"x": seen, **given, "noise": noise}
            expect_same(outputs(files["draw"], to, inputs), {"z": q.from_noise(noise)}, to)
        if "decoder" in files:
            got = outputs(files["decoder"], to, {"z": z, **given})
            expect_same(got, {"mean": vae.decode(z, **given).mean}, to)
            elements = vae.likelihood(got["params"])  # its parameters have the density of p(x|z)
            if vae.data_mean is None:
                log_prob = elements.log_prob(x).flatten(1).sum(1)
                expect_same({"log p(x|z)": log_prob}, {"log p(x|z)": vae.decode(z, **given).log_prob(x)}, to)


HEAVY = {SplineFlow: {"transforms": 1, "bins": 2, "hidden": (8,)}, SemiAmortized: None}
"""By their defaults thousands of operations: the quick suite takes these options of them instead, or
`test_refined_guides`."""


def is_quick(part, to):
    """Every class once; in torch's format those that compute more than layers: ONNX's begins with the same program."""
    return part.options == HEAVY.get(part.cls, {}) and (to == "onnx" or issubclass(part.cls, Guide))


def cases(base):
    """Every class of an axis by its defaults; what is not quick, and each other setting, in the slow suite."""
    for part in axis_of(base).parts():
        for to in FORMATS:
            yield pytest.param(part, to, id=f"{part}-{to}", marks=[] if is_quick(part, to) else [pytest.mark.slow])


EVERY = list(chain.from_iterable(cases(base) for base in (Likelihood, Network, Guide)))


@pytest.mark.parametrize(("part", "to"), EVERY)
def test_every_part(part, to, request, tmp_path):
    """As the part concerns them: the decoder of a likelihood, and the encoder where it has features of its own."""
    if to == "onnx":
        request.getfixturevalue("onnx")
    case = case_of(part)
    vae = case.vae().eval()
    chosen = ["encoder", "draw", "decoder"]
    if isinstance(vae.likelihood, part.cls):
        chosen = ["decoder"] if vae.likelihood.input_shape == vae.shapes.event else ["encoder", "decoder"]
    elif issubclass(part.cls, Guide):
        chosen = ["encoder"] if part.cls is Delta else ["encoder", "draw"]
    else:
        chosen = ["encoder", "decoder"]
    files = files_of(vae, tmp_path, to, parts=chosen)
    assert list(files) == chosen
    expect_ours(vae, files, to)
    expect_ours(vae, files, to, rows=1)


def test_the_lists_are_the_packages():
    """Nothing is left out: at least the classes that there were when this was written."""
    names = {case.values[0].cls.__name__ for case in EVERY}
    assert {
        "Bernoulli",
        "Mixed",
        "DiscretizedLogistic",
        "MLP",
        "ResNet",
        "GridNet",
        "SplineFlow",
        "FullNormal",
    } <= names
    assert len(names) >= 26


MODELS = {
    "standardised": lambda: VAE((5,), 2, likelihood=Normal, standardize=True, **SMALL),
    "context": lambda: VAE((2, 3), 2, context=(4,), **SMALL),
    "double": lambda: VAE((2, 3), 2, **SMALL).double(),
    "gaps": lambda: VAE((6,), 2, likelihood=Normal, gaps="mask", **SMALL),
    "learned gaps": lambda: VAE((6,), 2, likelihood=Normal, gaps="learned", **SMALL),
    "not at random": lambda: NotAtRandom((3,), partial(VAE, latent_dim=2, likelihood=Normal, **SMALL)),
}


QUICK_IN_ONNX = ("double", "gaps")
"""What a model's options change is in the program, whatever its format: of the others torch's is enough."""


@pytest.mark.parametrize(
    ("name", "to"),
    [
        pytest.param(name, to, marks=[pytest.mark.slow] if to == "onnx" and name not in QUICK_IN_ONNX else [])
        for name in MODELS
        for to in FORMATS
    ],
)
def test_models(name, to, request, tmp_path):
    if to == "onnx":
        request.getfixturevalue("onnx")
    vae, gaps = MODELS[name]().eval(), name not in ("standardised", "context", "double")
    if name == "standardised":
        vae.standardize_by(torch.arange(5.0) * 10, torch.arange(5.0) + 0.5)
    given = {"c": torch.randn(7, 4)} if name == "context" else {}
    files = files_of(vae, tmp_path, to, gaps=gaps)
    assert list(files) == ["encoder", "draw", "decoder"]
    expect_ours(vae, files, to, gaps=gaps, **given)


@pytest.mark.parametrize("to", FORMATS)
def test_a_model_with_classes(to, request, tmp_path):
    if to == "onnx":
        request.getfixturevalue("onnx")
    vae = SemiSupervisedVAE((2, 3), classes=4, latent_dim=2, classifier=small_mlp, **SMALL).eval()
    files = files_of(vae, tmp_path, to)
    assert list(files) == ["encoder", "draw", "classifier", "decoder"]
    x, c, z, noise = torch.rand(7, 2, 3).round(), vae.one_hot(torch.arange(7) % 4), torch.randn(7, 2), torch.randn(7, 2)
    with torch.no_grad():
        q = vae.encode(x, None, c)
        expect_same(outputs(files["classifier"], to, {"x": x}), {"probs": vae.classify(x).probs}, to)
        expect_same(outputs(files["encoder"], to, {"x": x, "c": c}), {"mean": q.mean, "stddev": q.stddev}, to)
        inputs = {"x": x, "c": c, "noise": noise}
        expect_same(outputs(files["draw"], to, inputs), {"z": q.mean + q.stddev * noise}, to)
        expect_same(outputs(files["decoder"], to, {"z": z, "c": c}), {"mean": vae.decode(z, c).mean}, to)


@pytest.mark.parametrize("to", FORMATS)
def test_a_codebook(to, request, tmp_path):
    if to == "onnx":
        request.getfixturevalue("onnx")
    vae = VQVAE((2, 3), codes=(4,), codebook_size=5, embedding_dim=3, **SMALL).eval()
    files = files_of(vae, tmp_path, to)
    assert list(files) == ["encoder", "decoder"]
    x = torch.rand(7, 2, 3).round()
    with torch.no_grad():
        k = vae.encode(x).sample()
        assert torch.equal(outputs(files["encoder"], to, {"x": x})["k"], k)
        expect_same(outputs(files["decoder"], to, {"k": k}), {"mean": vae.decode(k).mean}, to)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("options", [{}, {"ladder": True}, {"top_down": True, "skip": True}], ids=str)
def test_layers(options, to, request, tmp_path):
    """The draws are those of the guide: each layer's normal, given the draw of its neighbour."""
    if to == "onnx":
        request.getfixturevalue("onnx")
    up = {"upper_encoder": small_mlp, "upper_decoder": small_mlp, **SMALL}
    vae = HierarchicalVAE((2, 3), latent_dims=(3, 2), ladder_width=4, **options, **up).eval()
    made = export(vae, tmp_path, to)
    assert list(made.files) == ["draw", "decoder"] and "no single code" in made.left_out["encoder"]
    files = {part: (tmp_path / file.name).read_bytes() for part, file in made.files.items()}
    x, e, z = torch.rand(7, 2, 3).round(), torch.randn(7, 5), torch.randn(7, vae.decoded_dim)
    got = outputs(files["draw"], to, {"x": x, "noise": e})
    with torch.no_grad():
        expect_same(outputs(files["decoder"], to, {"z": z}), {"mean": vae.decode(z).mean}, to)
        if vae.top_down:
            second = vae.layers[1].distribution(vae.encoders[1](x))
            z2 = second.mean + second.stddev * e[:, :2]
            first = vae.layers[0].distribution(vae.encoders[0](x, z2))
            expect_same(got, {"z2": z2, "z1": first.mean + first.stddev * e[:, 2:]}, to)
        elif not vae.ladder:
            first = vae.layers[0].distribution(vae.encoders[0](x))
            z1 = first.mean + first.stddev * e[:, :3]
            second = vae.layers[1].distribution(vae.encoders[1](z1))
            expect_same(got, {"z1": z1, "z2": second.mean + second.stddev * e[:, 3:]}, to)
        else:
            top = vae.encoders[1](vae.encoders[0](x)[..., 6:]).unflatten(-1, (2, 2))
            z2 = top[:, 0] + top[:, 1].exp() * e[:, :2]
            expect_same(got, {"z2": z2}, to)
            assert got["z1"].shape == (7, 3)


def test_raw_numbers(tmp_path):
    """Division and threshold inside; the decoder also in the units of the file. Draws can't be repeated."""
    raw, z = torch.randint(0, 256, (7, 2, 3)).float(), torch.randn(7, 2)
    vae = VAE((2, 3), 2, likelihood=Normal, **SMALL).eval()
    files = files_of(vae, tmp_path, "torch", raw=255)
    with torch.no_grad():
        expected = vae.encode(raw / 255).mean
        assert torch.equal(outputs(files["encoder"], "torch", {"raw": raw})["mean"], expected)
        got = outputs(files["decoder"], "torch", {"z": z})
        assert torch.equal(got["raw_mean"], vae.decode(z).mean * 255)
    source = exporting.source_of(vae)
    thresholded = exporting.Source(source.vae, None, {"binarize": "threshold"})
    made = exporting.exported(thresholded, "torch", raw=16).files
    with torch.no_grad():
        expected = vae.encode((raw / 16 > 0.5).float()).mean
    assert torch.equal(outputs(made["encoder"].data, "torch", {"raw": raw})["mean"], expected)
    assert "raw_mean" not in outputs(made["decoder"].data, "torch", {"z": z})
    assert made["encoder"].about["preparation"] == {"in_this_file": "x = raw / 16; then 1 where x > 0.5, else 0"}
    for config in ({"binarize": "dynamic"}, {"binarize": "static"}, {"dequantize": True}):
        with pytest.raises(UsageError, match=r"raw: the run's data were .* a file that draws nothing can't repeat"):
            exporting.exported(exporting.Source(source.vae, None, config), "torch", raw=16)


def test_missing_numbers_of_a_table(tmp_path, onnx):
    """nan is a gap: the features of a table's columns are made inside, and the best value is that of the package."""
    mixed = partial(Mixed, kinds=("real", "category:3", "count", "ordered:4", "binary", "positive"))
    vae = VAE((6,), 2, likelihood=mixed, **SMALL).eval()
    vae.likelihood.start_from([(torch.tensor([[1.0, 2, 5, 3, 1, 0.5], [3.0, 0, 2, 1, 0, 2.0]]), None)])
    files = files_of(vae, tmp_path, "onnx", gaps=True)
    expect_ours(vae, files, "onnx", gaps=True)
    z = torch.randn(7, 2)
    with torch.no_grad():
        elements = vae.likelihood(vae.likelihood_params(z))
        best = vae.likelihood.best(vae.likelihood.averaged(elements))
    expect_same(outputs(files["decoder"], "onnx", {"z": z}), {"best": best}, "onnx")


@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_refined_guides(steps, tmp_path, onnx):
    """Gradients of the decoder are taken inside the file."""
    vae = VAE((2, 3), 2, guide=partial(SemiAmortized, steps=steps), **SMALL).eval()
    for to in FORMATS:
        expect_ours(vae, files_of(vae, tmp_path, to, parts=["encoder"]), to)
    with torch.no_grad():
        x = torch.rand(7, 2, 3).round()
        assert not torch.allclose(vae.encode(x).mean, vae.amortize(x).mean, atol=1e-3)


def test_what_a_file_says_of_itself(tmp_path, onnx):
    vae = VAE((2, 3), 2, guide=MixtureOfNormals, likelihood=Poisson, **SMALL)
    data = files_of(vae, tmp_path, "onnx", parts=["decoder"])["decoder"]
    model = onnx.load_model_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    said = json.loads({entry.key: entry.value for entry in model.metadata_props}[ABOUT])
    assert said["part"] == "decoder" and said["latent_dim"] == 2 and said["event_shape"] == [2, 3]
    assert said["likelihood"]["class_path"] == "pyro_vae.likelihoods.Poisson"
    assert said["outputs"]["mean"] == {
        "shape": ["batch", 2, 3],
        "type": "float32",
        "meaning": "E[x|z], in the units of the data",
    }
    (given,) = model.graph.input
    assert given.name == "z" and given.type.tensor_type.shape.dim[0].dim_param
    extra = {f"{ABOUT}.json": ""}
    files_of(vae, tmp_path, "torch", parts=["decoder"])
    torch.export.load(tmp_path / "decoder.pt2", extra_files=extra)
    assert json.loads(extra[f"{ABOUT}.json"]) == said


@pytest.mark.parametrize("to", FORMATS)
def test_a_file_has_its_own_weights_alone_and_no_paths(to, request, tmp_path):
    """Neither the other part's weights, nor names of folders of the machine on which it was made."""
    if to == "onnx":
        request.getfixturevalue("onnx")
    vae = VAE((2, 3), 2, **SMALL)
    secret = torch.full_like(vae.encoder.output.weight, 0.123456789)
    vae.encoder.output.weight.data.copy_(secret)
    data = files_of(vae, tmp_path, to)
    assert secret.numpy().tobytes() in data["encoder"] and secret.numpy().tobytes() not in data["decoder"]
    for content in data.values():
        assert b"site-packages" not in content and b".py" not in content and str(tmp_path).encode() not in content


def test_a_file_of_torch_needs_no_pyro_vae(tmp_path):
    vae = VAE((2, 3), 2, **SMALL)
    files_of(vae, tmp_path, "torch", parts=["decoder"])
    script = (
        "import sys; sys.modules['pyro_vae'] = sys.modules['pyro'] = None\n"
        f"import torch; decode = torch.export.load({str(tmp_path / 'decoder.pt2')!r}).module()\n"
        "print(decode(z=torch.zeros(4, 2))['mean'].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    with torch.no_grad():
        assert json.loads(done.stdout) == vae.decode(torch.zeros(4, 2)).mean.tolist()


def test_the_callers_model_is_left_as_it_is(tmp_path):
    """In training mode, with its generator and its gradients, and exported in evaluation mode."""
    vae = VAE((2, 3), 2, encoder=partial(small_mlp, dropout=0.5), decoder=small_mlp).train()
    before, state = {n: v.clone() for n, v in vae.state_dict().items()}, torch.get_rng_state()
    files = files_of(vae, tmp_path, "torch")
    assert vae.training and vae.encoder.training and all(p.requires_grad for p in vae.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[n]) for n, v in vae.state_dict().items())
    expect_ours(vae.eval(), files, "torch")


class Branching(Network):
    """A user's network that branches on a value."""

    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.linear = torch.nn.Linear(in_shape[0], out_shape[0] * out_shape[1] * out_shape[2])

    def forward(self, x):
        out = self.linear(x).unflatten(-1, self.out_shape)
        return out if out.sum() > 0 else -out


def test_refusals_name_the_part(tmp_path):
    vae = VAE((2, 3), 2, encoder=small_mlp, decoder=Branching)
    with pytest.raises(UsageError, match=r"the decoder \(Branching, Bernoulli\) can't be exported to torch .*branches"):
        export(vae, tmp_path / "new", "torch")
    assert not (tmp_path / "new").exists()  # nothing is written where a part fails
    assert list(export(vae, tmp_path, "torch", parts=["encoder"]).files) == ["encoder"]
    with pytest.raises(UsageError, match=r"draw: q.z|x. is a point"):
        export(VAE((2, 3), 2, guide=Delta, **SMALL), tmp_path, "torch", parts=["draw"])
    with pytest.raises(UsageError, match="encoder: the guide of a HierarchicalVAE has no single code"):
        export(HierarchicalVAE((2, 3), (3, 2)), tmp_path, "torch", parts="encoder")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"to": "tensorrt"}, "to: expected one of 'onnx', 'torch', got 'tensorrt'"),
        ({"to": "torch", "parts": ["decodr"]}, "parts: expected one of .*did you mean 'decoder'"),
        ({"to": "torch", "parts": ["classifier"]}, "parts: expected one of 'encoder', 'draw', 'decoder'"),
        ({"to": "torch", "parts": []}, "parts: expected some of encoder, draw, decoder, got none"),
        ({"to": "torch", "raw": 0}, "raw"),
        ({"to": "torch", "raw": "255"}, "raw: expected a number"),
        ({"to": "torch", "gaps": "yes"}, "gaps: expected True or False"),
    ],
)
def test_mistakes(words, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        export(VAE((2, 3), 2, **SMALL), tmp_path / "new", **words)
    assert not (tmp_path / "new").exists()


def test_what_is_no_model(tmp_path):
    with pytest.raises(UsageError, match="expected an autoencoder such as a VAE, or the path of a run directory"):
        export(torch.nn.Linear(2, 3), tmp_path, "torch")


def test_other_numbers_are_not_written(tmp_path, monkeypatch):
    """A file whose numbers are not ours is refused, by whatever fault of an exporter."""
    honest = exporting.FORMATS["torch"]

    def spoiled(data):
        return lambda inputs: {name: value + 0.01 for name, value in honest.open(data)(inputs).items()}

    monkeypatch.setitem(exporting.FORMATS, "torch", replace(honest, open=spoiled))
    with pytest.raises(NumericalError, match=r"encoder\.pt2 would have numbers that differ from ours by 0\.01"):
        export(VAE((2, 3), 2, **SMALL), tmp_path / "new", "torch")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra(package, tmp_path, monkeypatch):
    """Each package that is absent is named, with the extra that brings it."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    with pytest.raises(MissingPackage, match=rf"export to ONNX needs {package}.*pip install 'pyro-vae\[onnx\]'"):
        export(VAE((2, 3), 2, **SMALL), tmp_path / "new", "onnx")
    assert not (tmp_path / "new").exists()


def test_a_guide_without_noise(tmp_path):
    """Its draws are left out, with the reason."""
    made = export(VAE((2, 3), 2, guide=Plain, **SMALL), tmp_path, "torch")
    assert list(made.files) == ["encoder", "decoder"] and "no function of noise" in made.left_out["draw"]


class Plain(DiagonalNormal):
    """A user's family by torch's own normal."""

    def distribution(self, params):
        loc, log_scale = params.unbind(-2)
        return torch.distributions.Independent(torch.distributions.Normal(loc, log_scale.exp()), 1)
