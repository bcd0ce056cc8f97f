"""Networks: sizes, equivalence with torch's own layers, norms, recording, modules of a user's own, contexts."""

import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, group_norm, pad, silu
from torch.utils.flop_counter import FlopCounterMode

from pyro_vae.autoencoders import VAE
from pyro_vae.cli import main
from pyro_vae.compiling.recording import Unrecordable
from pyro_vae.data import load_data
from pyro_vae.errors import UsageError
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.networks import (
    MLP,
    ConvNet,
    FromShapes,
    GatedMLP,
    Network,
    ResNet,
    build,
    computing_in,
    conditioned,
    joining,
)
from pyro_vae.networks.layers import Residual, plane_norm
from pyro_vae.objectives import ELBO
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import build_vae, describe, import_class
from pyro_vae.runs.loading import load
from pyro_vae.testing import check_part
from pyro_vae.training.fitting import fit
from pyro_vae.training.shares import _refuse_batch_norm
from pyro_vae.training.steps import Batch, EagerStep, GraphStep, Loss, choose_step
from tests.support.networks import Foreign, ForeignFlat, ForeignWrong, NoModule
from tests.support.suites import once_a_class

CONV = partial(ConvNet, channels=(3, 8), hidden=(6,))
RES = partial(ResNet, channels=(3, 8), hidden=(6,), blocks=1)
CONVOLUTIONAL = [partial(make, norm=norm) for make in (CONV, RES) for norm in ("none", "batch", "layer", "group")]
DENSE = [partial(make, hidden=(7, 5), norm=norm) for make in (MLP, GatedMLP) for norm in ("none", "batch", "layer")]
AFFINE = [partial(MLP, hidden=()), partial(GatedMLP, hidden=())]
DIRECTIONS = [((5, 7), (2, 3)), ((4,), (2, 5, 7))]


def name_of(value):
    if not isinstance(value, partial):
        return getattr(value, "__name__", str(value))
    return f"{value.func.__name__}({', '.join(f'{k}={v}' for k, v in value.keywords.items())})"


def moved(network):
    """With every parameter off its start, where biases are zero and gains are one."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network


def all_have_gradients(module):
    gradients = [p.grad for p in module.parameters()]
    return all(g is not None and g.isfinite().all() and g.abs().sum() > 1e-6 for g in gradients)


def with_norm(*norms):
    return [make for make in [*DENSE, *CONVOLUTIONAL] if make.keywords["norm"] in norms]


EVERY = [
    pytest.param(make, *shapes, id=f"{name_of(make)}-{shapes}")
    for make in [*DENSE, *AFFINE, *CONVOLUTIONAL]
    for shapes in DIRECTIONS
]


class TestEveryNetwork:
    """What the contract asks of a class, over settings and both directions."""

    @pytest.mark.parametrize(("make", "in_shape", "out_shape"), EVERY)
    def test_leading_dimensions_are_a_loop(self, make, in_shape, out_shape):
        network = moved(make(in_shape, out_shape)).eval().double()
        x = torch.randn(2, 3, *in_shape, dtype=torch.float64)
        expected = torch.stack([torch.stack([network(row) for row in rows]) for rows in x])
        assert expected.shape == (2, 3, *out_shape)
        torch.testing.assert_close(network(x), expected)
        assert network(x[:, :0]).shape == (2, 0, *out_shape)

    @pytest.mark.parametrize(("make", "in_shape", "out_shape"), EVERY)
    def test_gradients_reach_every_parameter(self, make, in_shape, out_shape):
        network = make(in_shape, out_shape)
        network(torch.randn(8, 2, *in_shape)).square().sum().backward()
        assert all_have_gradients(network)

    @pytest.mark.parametrize(("make", "in_shape", "out_shape"), EVERY)
    def test_output_bias_of_every_element(self, make, in_shape, out_shape):
        network, x, bias = moved(make(in_shape, out_shape)).eval(), torch.randn(5, *in_shape), torch.randn(*out_shape)
        network.set_output_bias(torch.zeros(*out_shape))
        before = network(x)
        network.set_output_bias(bias)
        torch.testing.assert_close(network(x), before + bias, rtol=1e-5, atol=1e-5)
        assert network.has_output_bias and not torch.equal(before[0], before[1])

    @pytest.mark.parametrize(("make", "in_shape", "out_shape"), EVERY)
    def test_bfloat16_products(self, make, in_shape, out_shape):
        """Close to float32 (8 bits of mantissa, some layers), yet not the same; the result is float32."""
        network, x = make(in_shape, out_shape).eval(), torch.randn(16, *in_shape)
        exact = network(x)
        with computing_in(network, torch.bfloat16):
            got = network(x)
        assert got.dtype == torch.float32 and not torch.equal(got, exact)
        assert (got - exact).norm() < 0.05 * exact.norm()


class TestDense:
    def test_names_and_first_weights_of_an_mlp_are_those_of_earlier_runs(self):
        """Checkpoints hold these names, and a seed starts where it did."""
        with seeded(3):
            got = MLP((2, 3), (2, 4), hidden=(5, 7)).state_dict()
        expected = {}
        with seeded(3):
            for name, fan_in, fan_out in (("hidden.0", 6, 5), ("hidden.2", 5, 7), ("output", 7, 8)):
                expected[f"{name}.weight"] = nn.init.xavier_uniform_(nn.Linear(fan_in, fan_out).weight).detach()
                expected[f"{name}.bias"] = torch.zeros(fan_out)
        assert list(got) == list(expected)
        assert all(torch.equal(got[name], expected[name]) for name in expected)

    def test_gated_units(self):
        network, x = moved(GatedMLP((2, 3), (2, 4), hidden=(5,))), torch.randn(7, 2, 3)
        weight, bias = network.hidden[0].weight, network.hidden[0].bias
        (a_weight, b_weight), (a, b) = weight.split(5), bias.split(5)
        hidden = (x.flatten(1) @ a_weight.T + a) * torch.sigmoid(x.flatten(1) @ b_weight.T + b)
        expected = hidden @ network.output.weight.T + network.output.bias
        torch.testing.assert_close(network(x), expected.unflatten(1, (2, 4)))

    def test_gated_maps_start_as_maps_of_their_own(self):
        """Uniform within sqrt(6 / (fan_in + fan_out)) of each map, not of both side by side."""
        weight = GatedMLP((40,), (2,), hidden=(100,)).hidden[0].weight
        for part in weight.split(100):
            assert 0.99 * math.sqrt(6 / 140) < part.abs().max() <= math.sqrt(6 / 140)

    def test_layer_norm(self):
        network, x = moved(MLP((3,), (2,), hidden=(5,), norm="layer")), torch.randn(4, 3)
        linear, norm = network.hidden[0], network.hidden[1]
        h = linear(x)
        h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(network(x), network.output(silu(h * norm.weight + norm.bias)))

    def test_dropout(self):
        """20,000 draws: the share kept within 5 standard errors, false alarm below 1e-6."""
        network, x = MLP((3,), (2,), hidden=(1000,), dropout=0.3), torch.randn(20, 3)
        h = silu(network.hidden[0](x))
        kept = network.hidden(x)
        assert abs((kept != 0).float().mean() - 0.7) < 5 * math.sqrt(0.21 / 20_000)
        torch.testing.assert_close(kept[kept != 0], (h / 0.7)[kept != 0])
        network.eval()
        torch.testing.assert_close(network(x), network.output(h))
        assert not any(isinstance(m, nn.Dropout) for m in MLP((3,), (2,)).modules())

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (partial(MLP, norm="bacth"), "unknown norm 'bacth': choose one of none, batch, layer"),
            (partial(MLP, norm="group"), "choose one of none, batch, layer"),
            (partial(GatedMLP, hidden=(3, 0)), r"hidden widths must be positive, got \(3, 0\)"),
            (partial(GatedMLP, dropout=1.0), r"share in \[0, 1\), got 1.0"),
            (partial(MLP, dropout=-0.1), "dropout"),
            (partial(MLP, activation="gate"), "choose one of tanh"),
            (partial(MLP, hidden=(0,)), "hidden widths must be positive"),
        ],
    )
    def test_refusals(self, make, reason):
        with pytest.raises(UsageError, match=reason):
            make((3,), (2,))

    @pytest.mark.parametrize("options", [{"hidden": ()}, {"hidden": (5, 4), "activation": "softplus"}], ids=str)
    def test_depths_keep_the_contract(self, options):
        assert check_part(partial(MLP, **options))


class TestBatchNorm:
    """Over all leading dimensions as one, in training; by the running moments, each datum for itself, in evaluation."""

    @pytest.mark.parametrize("make", with_norm("batch"), ids=name_of)
    @pytest.mark.parametrize(("in_shape", "out_shape"), DIRECTIONS)
    def test_leading_dimensions_count_alike(self, make, in_shape, out_shape):
        network, twin = make(in_shape, out_shape), make(in_shape, out_shape)
        twin.load_state_dict(network.state_dict())
        x = torch.randn(3, 4, *in_shape)
        out = network(x)
        torch.testing.assert_close(out, twin(x.flatten(0, 1)).unflatten(0, (3, 4)))
        for (name, got), expected in zip(network.named_buffers(), twin.buffers(), strict=True):
            assert torch.equal(got, expected) and (got.sum() != 0), name
        assert not torch.allclose(out[0], network(x[0]), atol=1e-3)
        network.eval()
        before = {name: b.clone() for name, b in network.named_buffers()}
        torch.testing.assert_close(network(x)[0, 0], network(x[0, 0]))
        assert all(torch.equal(b, before[name]) for name, b in network.named_buffers())

    def test_against_torch(self):
        network, x = moved(MLP((3,), (2,), hidden=(5,), norm="batch")), torch.randn(2, 6, 3)
        theirs = nn.BatchNorm1d(5)
        theirs.weight, theirs.bias = network.hidden[1].weight, network.hidden[1].bias
        flat = x.reshape(12, 3) @ network.hidden[0].weight.T
        torch.testing.assert_close(network(x), network.output(silu(theirs(flat))).reshape(2, 6, 2))
        torch.testing.assert_close(network.hidden[1].running_var, theirs.running_var)

    @pytest.mark.parametrize("make", with_norm("layer", "group"), ids=name_of)
    def test_other_norms_do_not_couple_data(self, make):
        network, x = moved(make((5, 7), (2, 3))).train(), torch.randn(4, 5, 7)
        torch.testing.assert_close(network(x)[1], network(x[1]), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("make", with_norm("batch"), ids=name_of)
    @pytest.mark.parametrize(("in_shape", "out_shape"), DIRECTIONS)
    def test_no_bias_that_it_would_take_off(self, make, in_shape, out_shape):
        kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
        products = {name: m for name, m in make(in_shape, out_shape).named_modules() if isinstance(m, kinds)}
        assert len(products) >= 3
        assert all((m.bias is not None) == name.endswith("output") for name, m in products.items())

    @pytest.mark.parametrize("make", [MLP, ConvNet])
    def test_is_not_recorded(self, make):
        """It would lose the running moments."""
        with pytest.raises(Unrecordable, match="batch normalisation"):
            graph_step(digits_vae(partial(make, norm="batch")), digits(10))

    @pytest.mark.parametrize("make", with_norm("batch"), ids=name_of)
    def test_is_not_shared_out_over_processes(self, make):
        with pytest.raises(UsageError, match="is batch normalisation, which couples the rows"):
            _refuse_batch_norm(digits_vae(make))


class TestConvolutions:
    @pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 9), (7, 4), (28, 20), (28, 28), (13, 17)])
    @pytest.mark.parametrize("planes", [(), (1,), (3,)])
    @pytest.mark.parametrize("make", [ConvNet, partial(ConvNet, channels=(2,), kernel=1), RES, CONVOLUTIONAL[1]])
    def test_sizes_down_and_up(self, make, size, planes):
        down, up = make((*planes, *size), (2, 4)), make((4,), (3, *planes, *size))
        params = down.eval()(torch.randn(2, *planes, *size))
        assert params.shape == (2, 2, 4) and params.isfinite().all()
        assert up.eval()(params[:, 0]).shape == (2, 3, *planes, *size)

    @pytest.mark.parametrize("kernel", [1, 3, 5])
    @pytest.mark.parametrize("size", [(5, 7), (8, 6), (1, 2), (28, 20)])
    def test_the_way_up_mirrors_the_way_down(self, kernel, size):
        """<y, conv(x)> = <convT(y), x> for each level, with the same weights: exact sizes and no shift of a pixel."""
        network = ConvNet((4,), (2, *size), channels=(3, 8), kernel=kernel).double()
        levels = [m for m in network.convolutions if isinstance(m, nn.ConvTranspose2d)]
        sizes = [size, tuple(-(-n // 2) for n in size), tuple(-(-n // 4) for n in size)]
        for level, large, small in zip(levels, sizes[1::-1], sizes[:0:-1], strict=True):
            y = torch.randn(1, level.in_channels, *small, dtype=torch.float64)
            x = torch.randn(1, level.out_channels, *large, dtype=torch.float64)
            up = conv_transpose2d(y, level.weight, None, 2, level.padding, level.output_padding)
            down = conv2d(x, level.weight, None, stride=2, padding=kernel // 2)
            torch.testing.assert_close((y * down).sum(), (up * x).sum())

    def test_down_by_hand(self):
        network, x = moved(CONV((2, 5, 7), (2, 3))), torch.randn(4, 2, 5, 7)
        w = network.state_dict()
        h = x
        for name in ("convolutions.0", "convolutions.2"):
            h = silu(conv2d(pad(h, (1, 1, 1, 1)), w[f"{name}.weight"], w[f"{name}.bias"], stride=2))
        assert h.shape == (4, 8, 2, 2)
        h = silu(h.flatten(1) @ w["dense.hidden.0.weight"].T + w["dense.hidden.0.bias"])
        expected = h @ w["dense.output.weight"].T + w["dense.output.bias"]
        torch.testing.assert_close(network(x), expected.unflatten(1, (2, 3)))

    def test_up_by_hand(self):
        """The whole transposed convolutions, cut to size: one pixel off at the start, and what is left at the end."""
        network, z = moved(CONV((4,), (2, 3, 5, 8))), torch.randn(6, 4)
        w = network.state_dict()
        h = silu(z @ w["dense.hidden.0.weight"].T + w["dense.hidden.0.bias"])
        h = (h @ w["dense.output.weight"].T + w["dense.output.bias"]).reshape(6, 8, 2, 2)
        h = pad(conv_transpose2d(silu(h), w["convolutions.1.weight"], stride=2), (0, 9, 0, 9))[:, :, 1:4, 1:5]
        h = h + w["convolutions.1.bias"][:, None, None]
        h = pad(conv_transpose2d(silu(h), w["convolutions.3.weight"], stride=2), (0, 9, 0, 9))[:, :, 1:6, 1:9]
        assert "convolutions.3.bias" not in w
        torch.testing.assert_close(network(z), h.reshape(6, 2, 3, 5, 8) + w["bias"])

    @pytest.mark.parametrize(("norm", "groups"), [("layer", {3: 1, 8: 1}), ("group", {3: 1, 8: 2})])
    def test_residual_network_by_hand(self, norm, groups):
        network, x = moved(RES((5, 7), (2, 3), norm=norm)), torch.randn(4, 5, 7)
        w = {name: tensor.detach() for name, tensor in network.named_parameters()}

        def conv(h, name, stride):
            return conv2d(
                pad(h, (1, 1, 1, 1)), w[f"convolutions.{name}.weight"], w[f"convolutions.{name}.bias"], stride
            )

        def normed(h, name):
            affine = w[f"convolutions.{name}.weight"], w[f"convolutions.{name}.bias"]
            return silu(group_norm(h, groups[h.shape[1]], *affine))

        h = x.unsqueeze(1)
        for first in (0, 4):
            h = conv(h, first, 2)
            inner = conv(normed(h, f"{first + 1}.body.0"), f"{first + 1}.body.2", 1)
            h = h + conv(normed(inner, f"{first + 1}.body.3"), f"{first + 1}.body.5", 1)
            h = normed(h, first + 2)
        torch.testing.assert_close(network(x), network.dense(h), rtol=1e-4, atol=1e-5)

    def test_residual_networks_have_their_blocks_on_the_way_up_too(self):
        up = ResNet((4,), (1, 8, 8), channels=(3, 8), blocks=2)
        planes = [m.body[2].in_channels for m in up.convolutions if isinstance(m, Residual)]
        assert planes == [8, 8, 3, 3]

    def test_first_weights(self):
        """Uniform within sqrt(6 / terms): 9 terms a plane; transposed with stride 2, a quarter of them on average."""
        down, up = ConvNet((3, 28, 28), (2,)), ConvNet((4,), (1, 28, 28))
        for layer, planes, terms in ((down.convolutions[0], 3, 9), (up.convolutions[1], 64, 9 / 4)):
            limit = math.sqrt(6 / (planes * terms))
            assert 0.98 * limit < layer.weight.abs().max() <= limit
            assert not layer.bias.any()

    def test_group_norm_leaves_several_planes_in_a_group(self):
        groups = {n: plane_norm("group", n)[0].num_groups for n in (1, 2, 6, 8, 12, 16, 32, 48, 64, 35)}
        assert groups == {1: 1, 2: 1, 6: 1, 8: 2, 12: 3, 16: 4, 32: 8, 48: 8, 64: 8, 35: 7}

    def test_planes_do_not_mix_with_parameters(self):
        """Output [num_params, C, H, W]: the bias and the map of an element are its own."""
        network = CONV((4,), (2, 3, 5, 7))
        bias = torch.arange(210.0).reshape(2, 3, 5, 7)
        network.set_output_bias(bias)
        with torch.no_grad():
            network.convolutions[-1].weight.zero_()
        assert torch.equal(network(torch.randn(4)), bias)
        with torch.no_grad():
            network.convolutions[-1].weight[:, 4].normal_()  # parameter 1, plane 1
        changed = (network(torch.randn(4)) != bias).flatten(2).any(-1)
        assert changed.tolist() == [[False, False, False], [False, True, False]]

    @pytest.mark.parametrize(
        ("make", "shapes", "reason"),
        [
            (ConvNet, ((64,), (2, 20)), "got .64,. to .2, 20.: use MLP"),
            (ConvNet, ((64,), (20,)), "use MLP"),
            (ResNet, ((2, 3, 8, 8), (20,)), "ResNet maps an image"),
            (ResNet, ((), (2, 8, 8)), "ResNet maps an image"),
            (ConvNet, ((5,), (2, 3, 4, 8, 8)), "num_params, C, H, W"),
            (partial(ConvNet, channels=()), ((8, 8), (2,)), "at least one convolution"),
            (partial(ConvNet, channels=(4, 0)), ((8, 8), (2,)), "channels must be positive"),
            (partial(ConvNet, kernel=4), ((8, 8), (2,)), "kernel of odd size, got 4"),
            (partial(ConvNet, kernel=-1), ((8, 8), (2,)), "kernel of odd size"),
            (partial(ConvNet, norm="instance"), ((8, 8), (2,)), "choose one of none, batch, layer, group"),
            (partial(ConvNet, activation="swish"), ((8, 8), (2,)), "choose one of tanh"),
            (partial(ConvNet, hidden=(0,)), ((8, 8), (2,)), "hidden widths must be positive"),
            (partial(ResNet, blocks=0), ((8, 8), (2,)), "for none use ConvNet"),
        ],
    )
    def test_refusals(self, make, shapes, reason):
        with pytest.raises(UsageError, match=reason):
            make(*shapes)


def digits(n):
    return load_data("digits", binarize="dynamic").split("test")[:n]


def digits_vae(network, **parts):
    with seeded(0, "init"):
        return VAE((8, 8), 3, encoder=network, decoder=network, **parts)


def loss_of(vae, objective=None):
    return Loss(vae, objective or ELBO(), lambda x: x, lambda batch: 0.0)


def graph_step(vae, x, objective=None):
    step = GraphStep(loss_of(vae, objective), full=0)  # no batch is full: graphs run as they are, without a compiler
    step.prepare(Batch(x), 0.0, 1.0)
    return step


class TestTraining:
    @pytest.mark.parametrize("network", [GatedMLP, CONV, RES, Foreign], ids=name_of)
    @pytest.mark.parametrize("objective", once_a_class([ELBO(num_particles=3), ELBO()]), ids=str)
    def test_recorded_steps_are_the_eager_ones(self, network, objective):
        vae, x = digits_vae(network, likelihood=partial(Normal, scale="per_element")), digits(10)
        results = []
        for step in (graph_step(vae, x, objective), EagerStep(loss_of(vae, objective))):
            with seeded(1):
                results.append(step(Batch(x), 0.0, 1.0))
        (value, parameters, gradients), (expected, all_parameters, references) = results
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-4)
        assert {id(p) for p in parameters} == {id(p) for p in all_parameters} == {id(p) for p in vae.parameters()}
        for gradient, reference in zip(gradients, references, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-3)

    @pytest.mark.slow
    def test_a_compiled_step(self):
        """Compiling compares with an eager run by itself; here that it did not fall back."""
        vae, x = digits_vae(partial(ConvNet, channels=(4,), hidden=())), digits(10)
        assert choose_step(loss_of(vae), Batch(x), compile=True, total=1.0).mode.startswith("compiled")

    @pytest.mark.parametrize("network", [GatedMLP, ConvNet, partial(ResNet, channels=(16,), blocks=1)], ids=name_of)
    def test_learns_to_use_its_code(self, network):
        """Independent pixels with the training means have -27.2 nats a datum: more takes both networks."""
        data, vae = load_data("digits", binarize="dynamic"), digits_vae(network)
        adam = partial(torch.optim.Adam, lr=2e-3)
        history = fit(vae, data, epochs=12, optimizer=adam, start_at_mean=True, progress=False)
        assert history.rows[-1]["valid_elbo"] > -26.7

    @pytest.mark.parametrize("network", [GatedMLP, CONV, RES, Foreign, partial(Foreign, width=3)], ids=name_of)
    def test_a_description_builds_the_same(self, network):
        vae = digits_vae(network)
        twin = build_vae({name: describe(value) for name, value in vae.arguments.items()}, trust=["tests"])
        twin.load_state_dict(vae.state_dict())
        x = digits(4)
        torch.testing.assert_close(twin.encode(x).mean, vae.encode(x).mean)
        assert repr(twin) == repr(vae)


@pytest.mark.parametrize("name", ["MLP", "GatedMLP", "ConvNet", "ResNet", "Network", "Conditioned"])
def test_classes_are_saved_by_one_path_wherever_they_are_written(name):
    path = f"pyro_vae.networks.{name}"
    assert describe(import_class(path, ["pyro_vae"])) == {"class_path": path}


class TestModulesOfAUsersOwn:
    @pytest.mark.parametrize("module", [Foreign, ForeignFlat])
    @pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
    def test_any_leading_dimensions(self, module, leading):
        network = build(partial(module, width=3), (2, 3), (2, 4))
        assert isinstance(network, Network) and set(dict(network.named_children())) == {"module"}
        x = torch.randn(*leading, 2, 3)
        expected = network.module(x.reshape(-1, 2, 3)).reshape(*leading, 2, 4)
        torch.testing.assert_close(network(x), expected)

    def test_networks_stay_as_they_are(self):
        assert type(build(partial(MLP, hidden=(3,)), (2,), (3,))) is MLP
        assert type(build(lambda *shapes: MLP(*shapes), (2,), (3,))) is MLP

    def test_computes_in_bfloat16(self):
        network, x = build(Foreign, (2, 3), (2, 4)), torch.randn(9, 2, 3)
        seen = []
        network.module.second.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
        with computing_in(network, torch.bfloat16):
            assert network(x).dtype == torch.float32
        network(x)
        assert seen == [torch.bfloat16, torch.float32]

    def test_output_bias(self):
        network, bias = build(ForeignFlat, (2, 3), (2, 4)), torch.randn(2, 4)
        assert network.has_output_bias
        network.set_output_bias(bias)
        assert torch.equal(network.module.second.bias, bias.flatten())
        without = build(Foreign, (2, 3), (2, 4))
        assert not without.has_output_bias
        with pytest.raises(UsageError, match=r"Foreign has no output bias to set: give it a method set_output_bias"):
            without.set_output_bias(bias)

    def test_refusals(self):
        with pytest.raises(UsageError, match=r"ForeignWrong must map \[N, 2, 3\] to \[N, 2, 4\].*returned \[5, 4, 2\]"):
            build(ForeignWrong, (2, 3), (2, 4))(torch.randn(5, 2, 3))
        with pytest.raises(UsageError, match=r"can't build Linear\(\(2, 3\), \(2, 4\)\), the shapes .*: TypeError"):
            build(partial(nn.Linear, bias=False), (2, 3), (2, 4))
        with pytest.raises(UsageError, match="must make a torch module"):
            build(NoModule, (2, 3), (2, 4))
        with pytest.raises(UsageError, match="use MLP"):
            build(lambda *shapes: ConvNet(*shapes), (6,), (2, 4))

    def test_what_is_built_from_shapes(self):
        class OneSize(nn.Module):
            def __init__(self, size):
                super().__init__()

        assert issubclass(Foreign, FromShapes) and issubclass(MLP, FromShapes)
        assert not issubclass(Foreign, Network)
        assert not any(issubclass(cls, FromShapes) for cls in (OneSize, NoModule, nn.ReLU, int))


MINE = """
from math import prod
from torch import nn

class Net(nn.Module):
    def __init__(self, in_shape, out_shape, width: int = 4):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(prod(in_shape), width), nn.Tanh(),
                                    nn.Linear(width, prod(out_shape)))

    def forward(self, x):
        return self.layers(x)

class Biased(Net):
    def set_output_bias(self, bias):
        self.layers[-1].bias.data.copy_(bias.flatten())

class OneSize(nn.Module):
    def __init__(self, size):
        super().__init__()

class NoModule:
    def __init__(self, in_shape, out_shape):
        pass
"""


class TestOnTheCommandLine:
    @pytest.fixture(autouse=True)
    def _mine(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        Path("mine.py").write_text(MINE)
        yield
        sys.modules.pop("mine", None)

    def call(self, capsys, words):
        code = main(words.split())
        return code, capsys.readouterr()

    def fits(self, capsys, words):
        code, said = self.call(capsys, f"fit --epochs 1 --pictures false --quiet --vae.latent_dim 2 --run r {words}")
        assert code == 0, said.err
        return load("r", trust=["mine"])

    def test_a_module_by_its_path(self, capsys):
        vae = self.fits(capsys, "--vae.encoder mine.Net --vae.encoder.width 6 --vae.decoder mine.Net")
        assert [m[1].out_features for m in (vae.encoder.module.layers, vae.decoder.module.layers)] == [6, 4]
        assert self.call(capsys, "evaluate r --num_particles 10 --num_data 20 --trust mine")[0] == 0
        code, said = self.call(capsys, "evaluate r --num_particles 10")
        assert code == 4 and "--trust mine" in said.err

    def test_the_output_bias_of_a_module_is_started_where_it_has_one(self, capsys):
        vae = self.fits(capsys, "--epochs 1 --optimizer.lr 1e-9 --vae.decoder mine.Biased")
        mean = load_data("digits", binarize="none").split("train").mean(0)
        expected = Bernoulli(vae.shapes).initial_params(mean, mean).flatten()
        torch.testing.assert_close(vae.decoder.module.layers[-1].bias, expected, rtol=0, atol=1e-4)

    def test_packaged_networks_by_name(self, capsys):
        words = "--vae.encoder ConvNet --vae.encoder.channels [3] --vae.encoder.norm group --vae.decoder ResNet"
        vae = self.fits(capsys, f"{words} --vae.decoder.channels [4] --vae.decoder.blocks 1")
        assert isinstance(vae.encoder, ConvNet) and isinstance(vae.decoder, ResNet)

    @pytest.mark.parametrize(
        ("words", "part"),
        [
            (
                "mine.OneSize",
                "OneSize can't be a network: expected a torch.nn.Module that is built as OneSize(in",
            ),
            ("mine.NoModule", "vae.encoder: NoModule can't be a network"),
            ("mine.Net --vae.encoder.widht 3", "Net has no option 'widht', did you mean 'width'?"),
            ("mine.Nothing", "there is no 'Nothing' in the module 'mine'"),
            ("torch.nn.Linear", "can't build Linear((8, 8), (2, 20))"),
            ("ConvNett", "unknown class 'ConvNett', did you mean 'ConvNet'? Known: "),
            ("ConvNet --vae.encoder.channles [3]", "ConvNet has no option 'channles', did you mean 'channels'?"),
            ("ConvNet --vae.encoder.kernel 2", "kernel of odd size"),
        ],
    )
    def test_what_is_no_network(self, words, part, capsys):
        code, said = self.call(capsys, f"fit --vae.encoder {words}")
        assert code == 2 and part in said.err and "Traceback" not in said.err


class TestContext:
    def test_flat_inputs_are_concatenated(self):
        x, c = torch.randn(3, 5, 2, 3), torch.randn(5, 4)
        assert MLP.joined_shape((2, 3), (4,)) == (10,)
        got = MLP.join(x, c, (2, 3), (4,))
        torch.testing.assert_close(got[..., :6], x.flatten(2))
        torch.testing.assert_close(got[..., 6:], c.expand(3, 5, 4))

    @pytest.mark.parametrize("in_shape", [(5, 7), (2, 5, 7)])
    @pytest.mark.parametrize("context", [(4,), (), (5, 7), (3, 5, 7)])
    def test_images_take_planes(self, in_shape, context):
        x, c = torch.randn(3, 6, *in_shape), torch.randn(6, *context)
        planes = in_shape[0] if len(in_shape) == 3 else 1
        extra = {(4,): 4, (): 1, (5, 7): 1, (3, 5, 7): 3}[context]
        assert ConvNet.joined_shape(in_shape, context) == (planes + extra, 5, 7)
        got = ConvNet.join(x, c, in_shape, context)
        assert got.shape == (3, 6, planes + extra, 5, 7)
        assert torch.equal(got[:, :, :planes], x.reshape(3, 6, planes, 5, 7))
        for particle in range(3):
            for h in range(5):
                for w in range(7):
                    expected = c[..., h, w] if len(context) > 1 else c
                    assert torch.equal(got[particle, :, planes:, h, w], expected.reshape(6, extra))

    def test_a_decoder_of_images_takes_the_context_beside_its_code(self):
        for context in ((4,), (5, 7)):
            assert ConvNet.joined_shape((3,), context) == MLP.joined_shape((3,), context) == (3 + math.prod(context),)
        z, c = torch.randn(2, 6, 3), torch.randn(6, 4)
        assert torch.equal(ConvNet.join(z, c, (3,), (4,)), MLP.join(z, c, (3,), (4,)))

    @pytest.mark.parametrize("context", [(5, 6), (3, 4), (2, 7, 5), (1, 2, 5, 7)])
    def test_images_of_another_size_are_refused(self, context):
        with pytest.raises(UsageError, match=r"same height and width.*flatten it, or resize it"):
            ConvNet.joined_shape((5, 7), context)

    @pytest.mark.parametrize("factory", [MLP, GatedMLP, CONV, RES, Foreign, lambda i, o: MLP(i, o)], ids=name_of)
    @pytest.mark.parametrize(("in_shape", "out_shape"), DIRECTIONS)
    def test_conditioned_networks(self, factory, in_shape, out_shape):
        network = conditioned(factory, in_shape, out_shape, (4,)).double()
        x = torch.randn(3, 6, *in_shape, dtype=torch.float64)
        c = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
        out = network(x, c)
        expected = torch.stack([torch.stack([network(x[k, b], c[b]) for b in range(6)]) for k in range(3)])
        torch.testing.assert_close(out, expected)
        out.square().sum().backward()
        assert all_have_gradients(network) and (c.grad.abs().sum(0) > 0).all()
        assert all(name.startswith("network.") for name in network.state_dict())
        assert not torch.equal(network(x, c + 1), out)

    def test_more_leading_dimensions_of_the_context(self):
        network = conditioned(CONV, (5, 7), (2, 3), (4,)).double()
        x, c = torch.randn(6, 5, 7, dtype=torch.float64), torch.randn(3, 1, 4, dtype=torch.float64)
        torch.testing.assert_close(network(x, c)[2, 4], network(x[4], c[2, 0]))

    @pytest.mark.parametrize("hidden", [(7,), ()])
    @pytest.mark.parametrize("make", [MLP, GatedMLP])
    def test_what_is_broadcast_is_multiplied_before_that(self, make, hidden):
        network = conditioned(partial(make, hidden=hidden), (2, 3), (2, 2), (4,))
        with FlopCounterMode(display=False) as counter:
            network(torch.randn(6, 2, 3), torch.randn(10, 1, 4))
        units, maps = (7, 2 if make is GatedMLP else 1) if hidden else (4, 1)
        rest = 60 * 7 * 4 if hidden else 0
        assert counter.get_total_flops() == 2 * (maps * units * (6 * 6 + 10 * 4) + rest)

    def test_a_subclass_gets_them_side_by_side(self):
        """A network of a user's own that overrides `forward` takes one input, whatever is broadcast."""

        class Halved(MLP):
            def forward(self, x):
                return super().forward(x / 2)

        network = conditioned(Halved, (6,), (2,), (4,))
        x, c = torch.randn(5, 6), torch.randn(3, 1, 4)
        side_by_side = torch.cat([x.expand(3, 5, 6), c.expand(3, 5, 4)], -1)
        torch.testing.assert_close(network(x, c), MLP.forward(network.network, side_by_side / 2))

    def test_two_parts_in_bfloat16(self):
        network = conditioned(MLP, (6,), (2,), (4,))
        x, c = torch.randn(5, 6), torch.randn(3, 1, 4)
        exact = network(x, c)
        with computing_in(network, torch.bfloat16):
            rough = network(x, c)
        assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
        torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)

    def test_labels_are_numbers(self):
        network, x = conditioned(MLP, (2, 3), (2,), (10,)), torch.randn(4, 2, 3)
        one_hot = nn.functional.one_hot(torch.tensor([1, 5, 0, 9]), 10)
        assert torch.equal(network(x, one_hot), network(x, one_hot.float()))

    def test_output_bias(self):
        network, bias = conditioned(CONV, (4,), (1, 5, 7), (3,)), torch.randn(1, 5, 7)
        assert network.has_output_bias and not conditioned(Foreign, (4,), (1, 5, 7), (3,)).has_output_bias
        network.set_output_bias(bias)
        assert torch.equal(network.network.bias, bias)

    def test_whose_rule_it_is(self):
        assert joining(partial(partial(ConvNet, kernel=5), norm="group")) is ConvNet
        for other in (Foreign, partial(Foreign, width=2), lambda i, o: ConvNet(i, o), nn.Linear):
            assert joining(other) is Network

    def test_a_class_with_a_rule_of_its_own(self):
        class Shifted(MLP):
            @classmethod
            def joined_shape(cls, in_shape, context):
                return in_shape

            @classmethod
            def join(cls, x, c, in_shape, context):
                return x + c

        network, x, c = conditioned(partial(Shifted, hidden=()), (3,), (2,), (1,)), torch.randn(5, 3), torch.randn(5, 1)
        torch.testing.assert_close(network(x, c), network.network(x + c))
