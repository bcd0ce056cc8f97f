"""Several processes: sums and shards between two real ones, one of which is killed; and the draws of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.autoencoders import VAE
from pyro_vae.distributed import ShardedNoise, World, connect
from pyro_vae.errors import PeerLost, UsageError
from pyro_vae.guides import DiagonalNormal, FullNormal
from pyro_vae.inference.weighing import importance
from pyro_vae.networks import MLP
from pyro_vae.shapes import Shapes
from tests.support.networks import Dropping
from tests.support.processes import ROWS, WAIT, step

GLOO = torch.distributed.is_available() and torch.distributed.is_gloo_available()
needs_gloo = pytest.mark.skipif(not GLOO, reason="this build of torch has no gloo, by which processes talk")
DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _outside_torchrun(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


# ---- two processes


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(rank, folder, ports):
    environment = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.processes", folder, *ports],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What the two processes of `tests.support.processes` print, and how they end: (results, exit codes)."""
    ports, folder = free_ports(4), tmp_path_factory.mktemp("pair")
    processes = [start(rank, folder, ports) for rank in range(2)]
    try:
        texts = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == [0, -9], texts
    return [json.loads(line) for out, _ in texts for line in out.splitlines() if line.startswith("{")]


@needs_gloo
class TestTwoProcesses:
    """One pair of processes, started once; the second is killed at the end."""

    def test_each_knows_its_place(self, pair):
        assert [result["world"] for result in pair] == [[0, 2, True, "cpu"], [1, 2, False, "cpu"]]

    def test_sum(self, pair):
        once = [[6.0, 6.0], [6.0, 6.0]]  # (1 + 2), and their sum with itself
        weight = [[0.0, 9.0], [3.0, 12.0], [6.0, 15.0]]
        assert all(result["sum"] == [once, 60.0, weight] for result in pair)

    def test_buffers_are_used_again(self, pair):
        assert all(result["buffers"] == 3 for result in pair)

    def test_gather(self, pair):
        for result in pair:
            assert result["gather"] == [0, 1, 2, 3]
            assert result["gather_empty"] == [[False, False]]
            assert result["gather_nothing"] == [0, 3]
            assert result["gather_half"] == [0.5, 0.5, 1.5, 1.5]

    def test_broadcast_and_decide(self, pair):
        for result in pair:
            assert bytes.fromhex(result["broadcast"]) == bytes(range(256))
            assert result["broadcast_nothing"] == ""
            assert result["largest"] == [7, 0]

    @pytest.mark.parametrize("rows", ROWS)
    def test_a_step_is_that_of_one_process(self, pair, rows):
        alone = step(World(), rows)
        for result in pair:
            for here, there in zip(alone, result[f"step{rows}"], strict=True):
                there, here = (torch.tensor(value, dtype=torch.float64) for value in (there, here))
                torch.testing.assert_close(there, here, rtol=1e-12, atol=1e-13)
        assert pair[0][f"step{rows}"] == pair[1][f"step{rows}"]

    def test_nothing_is_left(self, pair):
        assert all(result["left"] and result["left_after_error"] for result in pair)

    def test_a_silent_process_is_lost_at_the_timeout(self, pair):
        assert pair[0]["silent"]["message"].startswith("process 0 of 2 (counted from 0) has lost another one (")
        assert f"Timed out waiting {WAIT * 1000:.0f}ms" in pair[0]["silent"]["message"]

    def test_the_timeout_is_that_of_connect(self, pair):
        assert [result["timeout"] for result in pair] == [500, 500]

    def test_a_killed_process_is_lost_at_once(self, pair):
        """Not at the timeout, which is longer than `pair` waits."""
        assert pair[0]["killed"]["message"].endswith("; run the same command to resume")
        assert "Timed out" not in pair[0]["killed"]["message"] and pair[0]["left_after_loss"]

    def test_what_was_to_be_summed_is_kept(self, pair):
        assert pair[0]["silent"]["kept"] == pair[0]["killed"]["kept"] == [1.0, 1.0, 1.0]


def test_lost_peer_ends_the_command_with_6():
    assert PeerLost(0, 2, "closed").exit_code == 6


# ---- one process


class TestOneProcess:
    def test_methods_do_nothing(self):
        world, tensor = World(), torch.ones(3)
        world.sum_([tensor])
        world.barrier()
        assert tensor.tolist() == [1, 1, 1] and world.gather(tensor).tolist() == [1, 1, 1]
        assert world.broadcast(b"x") == b"x" and world.largest(-3) == -3 and world.main
        assert world.rows(5) == slice(0, 5)

    def test_rank_0_must_have_something_to_broadcast(self):
        with pytest.raises(UsageError, match="expected bytes, got None"):
            World().broadcast(None)

    def test_outside_torchrun(self):
        with connect("cpu") as world:
            assert world == World() and not torch.distributed.is_initialized()

    def test_torchrun_with_one_process(self, monkeypatch):
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "1")
        with connect("cpu") as world:
            assert world == World() and not torch.distributed.is_initialized()

    @needs_gloo
    def test_a_group_of_the_caller_is_left_alone(self):
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            with connect("cpu") as world:
                assert (world.rank, world.size) == (0, 1)
            assert torch.distributed.is_initialized()
        finally:
            torch.distributed.destroy_process_group()

    @pytest.mark.parametrize(
        ("environment", "message"),
        [
            ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT not"),
            ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "but MASTER_PORT not"),
            ({"RANK": "2", "WORLD_SIZE": "2"}, "expected 0 <= RANK < WORLD_SIZE, got RANK=2, WORLD_SIZE=2"),
            ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK must be a whole number, got 'one'"),
        ],
    )
    def test_wrong_environment(self, monkeypatch, environment, message):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match=message), connect("cpu"):
            pass

    def test_more_processes_than_devices(self, monkeypatch):
        local = torch.cuda.device_count()
        environment = {"RANK": "0", "WORLD_SIZE": "99", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        for name, value in (environment | {"LOCAL_RANK": str(local)}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match=f"there are {local}: start at most {local} here"), connect("cuda"):
            pass
        assert not torch.distributed.is_initialized()

    @needs_gloo
    def test_nobody_to_meet(self, monkeypatch):
        environment = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_ports(1)[0]}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(PeerLost, match="process 1 of 2"), connect("cpu", timeout=0.5):
            pass
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 3), (7, 2), (8, 3), (100, 7)])
def test_rows_are_a_partition(n, size):
    slices = [World(rank, size).rows(n) for rank in range(size)]
    assert [row for s in slices for row in range(n)[s]] == list(range(n))
    counts = [s.stop - s.start for s in slices]
    assert max(counts) - min(counts) <= 1 and counts == sorted(counts, reverse=True)


# ---- noise


def program_of(make, particles=None):
    """A Pyro program with one site, `z ~ make(x)`, in a data plate, and in a plate of particles."""

    def program(x):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", make(x))

    def vectorized(x):
        with pyro.plate("particles", particles, dim=-2):
            return program(x)

    return program if particles is None else vectorized


def draw_both(program, x, size, dim=0):
    """The draws of one process and of `size`, concatenated along `dim`; all generators must end in the same state."""
    torch.manual_seed(0)
    alone, state = program(x), torch.get_rng_state()
    shares = []
    for world in (World(rank, size) for rank in range(min(size, len(x)))):
        torch.manual_seed(0)
        with ShardedNoise(world, len(x)):
            shares.append(program(x[world.rows(len(x))]))
        assert torch.equal(torch.get_rng_state(), state)
    return alone, torch.cat(shares, dim)


def data(rows, device="cpu", dtype=torch.float32):
    return torch.rand(rows, 4, generator=torch.Generator().manual_seed(1)).to(device, dtype).add(0.1).clamp(max=0.9)


def dense(x):
    guide = FullNormal(Shapes((1,), 2))
    return guide.distribution(torch.cat([x, x[:, :1]], dim=-1))


def mixture(x):
    components = dist.Normal(x[:, None].expand(-1, 5, -1), 1.0).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(x.new_ones(len(x), 5)), components)


CASES = {
    "DiagonalNormal": lambda x: DiagonalNormal(Shapes((1,), 2)).distribution(x.unflatten(-1, (2, 2))),
    "FullNormal": dense,
    "shared parameters": lambda x: dist.Normal(x.new_zeros(4), 1.0).to_event(1),
    "flow": lambda x: dist.TransformedDistribution(
        dist.Normal(x, 1.0).to_event(1), [dist.transforms.Permute(torch.tensor([1, 0, 3, 2], device=x.device))]
    ),
    "LowRank": lambda x: dist.LowRankMultivariateNormal(x, x.new_ones(len(x), 4, 2), x),
    "Laplace": lambda x: dist.Laplace(x, 1.0).to_event(1),
    "Logistic": lambda x: dist.Logistic(x, 1.0).to_event(1),
    "Exponential": lambda x: dist.Exponential(x).to_event(1),
    "Cauchy": lambda x: dist.Cauchy(x, 1.0).to_event(1),
    "Geometric": lambda x: dist.Geometric(x).to_event(1),
    "Bernoulli": lambda x: dist.Bernoulli(x).to_event(1),
    "RelaxedBernoulli": lambda x: dist.RelaxedBernoulli(x.new_tensor(0.5), probs=x).to_event(1),
    "OneHotCategorical": lambda x: dist.OneHotCategorical(x),
    "RelaxedOneHotCategorical": lambda x: dist.RelaxedOneHotCategorical(x.new_tensor(0.5), x),
    "mixture": mixture,
}
REFUSED = {
    "Gamma": (lambda x: dist.Gamma(x, 1.0).to_event(1), "draws with aten._standard_gamma.default"),
    "Dirichlet": (lambda x: dist.Dirichlet(x), "draws with aten._sample_dirichlet.default"),
    "Poisson": (lambda x: dist.Poisson(x).to_event(1), "draws with aten.poisson.default"),
    "Binomial": (lambda x: dist.Binomial(5, x).to_event(1), "draws with aten.binomial.default"),
    "VonMises": (lambda x: dist.VonMises(x, 1.0).to_event(1), "does not begin with the batch shape"),
}


class TestShardedNoise:
    """In one process: a `World` needs no others to say which rows are its own."""

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("name", CASES)
    @pytest.mark.parametrize("particles", [None, 3])
    def test_draws_are_those_of_one_process(self, name, particles, device):
        alone, shares = draw_both(
            program_of(CASES[name], particles), data(7, device), 2, dim=0 if particles is None else 1
        )
        assert torch.equal(alone, shares)

    @pytest.mark.parametrize(("rows", "size"), [(1, 2), (2, 3), (100, 3), (8, 8)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_any_split_and_precision(self, rows, size, dtype):
        alone, shares = draw_both(program_of(CASES["DiagonalNormal"], 2), data(rows, dtype=dtype), size, dim=1)
        assert torch.equal(alone, shares) and alone.dtype == dtype

    def test_a_categorical_without_event_dimensions(self):
        program = program_of(lambda x: dist.Categorical(x))
        alone, shares = draw_both(program, data(9), 2)
        assert torch.equal(alone, shares)

    def test_several_sites(self):
        def program(x):
            with pyro.plate("data", len(x), dim=-1):
                a = pyro.sample("a", dist.Normal(x, 1.0).to_event(1))
                pyro.sample("seen", dist.Poisson(x.exp()).to_event(1), obs=torch.ones_like(x))
                return pyro.sample("b", dist.Exponential(a.exp()).to_event(1))

        alone, shares = draw_both(program, data(7), 2)
        assert torch.equal(alone, shares)

    def test_gradients_flow_through_a_draw(self):
        x = data(4).requires_grad_()
        with ShardedNoise(World(1, 2), 8):
            program_of(CASES["DiagonalNormal"])(x).sum().backward()
        assert x.grad is not None and (x.grad != 0).all()

    @pytest.mark.parametrize("guide", [DiagonalNormal, FullNormal])
    @pytest.mark.parametrize("tracing_mode", ["real", "fake"])
    def test_a_traced_graph_draws_the_whole_and_slices(self, guide, tracing_mode):
        small = {"encoder": MLP, "decoder": MLP, "guide": guide}
        vae, x, world = VAE((4,), 2, **small), data(7).round(), World(1, 2)

        def share(x):
            with ShardedNoise(world, 7):
                return importance(vae.model, vae.guide, x, num_particles=3).log_weights

        torch.manual_seed(5)
        alone = importance(vae.model, vae.guide, x, num_particles=3).log_weights[:, world.rows(7)]
        with pyro.validation_enabled(False):
            graph = make_fx(share, tracing_mode=tracing_mode, _allow_non_fake_inputs=True)(x[world.rows(7)])
        torch.manual_seed(5)
        torch.testing.assert_close(graph(x[world.rows(7)]), alone)

    def test_with_one_process_it_does_nothing(self):
        program, x = program_of(REFUSED["Gamma"][0]), data(5)
        torch.manual_seed(0)
        alone = program(x)
        with ShardedNoise(World(), 5):
            torch.rand(1)  # nobody minds
            torch.manual_seed(0)
            assert torch.equal(program(x), alone)

    @pytest.mark.parametrize("name", REFUSED)
    def test_rejection_samplers_are_refused(self, name):
        make, message = REFUSED[name]
        with pytest.raises(UsageError, match=rf"site 'z' .*{message}.*run one process"), ShardedNoise(World(0, 2), 8):
            program_of(make)(data(4))

    def test_a_shape_with_the_rows_twice_is_refused(self):
        program = program_of(lambda x: dist.VonMises(x, 1.0).to_event(1))
        with pytest.raises(UsageError, match="more than once"), ShardedNoise(World(0, 2), 6):
            program(data(3))  # VonMises draws [3, rows, 4]

    def test_dropout_is_refused(self):
        vae = VAE((4,), 2, decoder=Dropping)
        with pytest.raises(UsageError, match="outside the sample sites"), ShardedNoise(World(0, 2), 8):
            importance(vae.model, vae.guide, data(4).round(), num_particles=1)
        vae = VAE((4,), 2, encoder=Dropping)
        with pytest.raises(UsageError, match="before site 'z'"), ShardedNoise(World(0, 2), 8):
            importance(vae.model, vae.guide, data(4).round(), num_particles=1)

    def test_unwatched(self):
        with ShardedNoise(World(0, 2), 8, watch=False):
            torch.rand(3)

    def test_a_hidden_site_is_refused(self):
        hidden = pyro.poutine.block(program_of(CASES["DiagonalNormal"]))
        with pytest.raises(UsageError, match="hidden site"), ShardedNoise(World(0, 2), 8):
            hidden(data(4))

    def test_a_site_outside_the_data_plate_is_refused(self):
        with pytest.raises(UsageError, match=r"site 'w' is not drawn .* data plate"), ShardedNoise(World(0, 2), 8):
            pyro.sample("w", dist.Normal(0.0, 1.0))

    def test_other_rows_are_refused(self):
        program = program_of(CASES["DiagonalNormal"])
        message = "plate of 8 of 8 rows, expected all 4 rows"
        with pytest.raises(UsageError, match=message), ShardedNoise(World(0, 2), 8):
            program(data(8))

    def test_subsampling_is_refused(self):
        def program():
            with pyro.plate("data", 50, subsample=torch.arange(4), dim=-1):
                pyro.sample("z", dist.Normal(0.0, 1.0))

        with pytest.raises(UsageError, match="plate of 4 of 50 rows"), ShardedNoise(World(0, 2), 8):
            program()

    def test_no_rows(self):
        with pytest.raises(UsageError, match="leaves none for process 1 of 2"):
            ShardedNoise(World(1, 2), 1)

    def test_an_error_inside_is_not_hidden(self):
        with pytest.raises(KeyError), ShardedNoise(World(0, 2), 8):
            torch.rand(3)
            raise KeyError
