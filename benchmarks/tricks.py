"""What each low-level trick of the package gains: the same work without it and with it, in turn, in one process.

    python benchmarks/tricks.py [--only TRICK ...] [--seconds 20] [--threads 1]

The model is that of the other benchmarks: 784-500-20, tanh, Bernoulli pixels. A number is CPU time (of all threads),
the median over the rounds; a ratio is one of two runs of the same round: its median, and the middle half of the rounds.
The lines printed are those of the table in docs/performance.md.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import torch
from common import images
from machine import cores, cpu_model

from pyro_vae import VAE, log_marginal
from pyro_vae.compiling import backends, memory, recording, rewrites
from pyro_vae.distributed import ShardedNoise, World
from pyro_vae.evidence import importance_sampling
from pyro_vae.inference import pairs
from pyro_vae.networks import MLP, ConvNet, ResNet, computing_in
from pyro_vae.objectives import ELBO
from pyro_vae.priors import VampPrior
from pyro_vae.process.switches import checking
from pyro_vae.training.optimizers import make_optimizer, update
from pyro_vae.training.steps import Batch, EagerStep, GraphStep, Loss

Work = Callable[[], object]
Setting = tuple[str, Work, Work]
"""Its name, the work without the trick, and with it."""

_LEAST_ROUNDS = 7


def main(argv: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TRICKS, default=list(TRICKS))
    parser.add_argument("--seconds", type=float, default=20, help="for each setting, at least")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"{cpu_model()}; {cores()} cores; {args.threads} threads; torch {torch.__version__}\n")
    print("| trick | setting | without | with | without / with | rounds |\n| --- | --- | ---: | ---: | ---: | ---: |")
    with patch.object(recording, "_place", lambda *_: None):  # code that is kept knows nothing of what is switched off
        for name in args.only:
            for setting, off, on in TRICKS[name]():
                print(f"| {name} | {setting} | {compare(off, on, args.seconds)} |", flush=True)


def compare(off: Work, on: Work, seconds: float) -> str:
    """The cells of a line: both times, their ratio with its middle half, the number of rounds."""
    works = (off, on)
    for work in works:
        work()
    repeats = max(1, round(0.05 / max(_cpu(off, 1), 1e-6)))
    rounds: list[list[float]] = []
    end = time.process_time() + seconds
    while time.process_time() < end or len(rounds) < _LEAST_ROUNDS:
        order = (0, 1) if len(rounds) % 2 else (1, 0)
        took = {i: _cpu(works[i], repeats) for i in order}
        rounds.append([took[0], took[1]])
    ratios = [a / b for a, b in rounds]
    low, _, high = quantiles(ratios, n=4)
    times = " | ".join(_duration(median(column)) for column in zip(*rounds, strict=True))
    return f"{times} | {median(ratios):.3f} ({low:.3f} to {high:.3f}) | {len(rounds)}"


def _cpu(work: Work, repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


def _duration(seconds: float) -> str:
    unit, factor = next((u, f) for u, f in (("s", 1), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)) if seconds * f >= 1)
    return f"{factor * seconds:.3g} {unit}"


# ---- the work


def make(**parts: Any) -> VAE:
    """The reference VAE."""
    network = partial(MLP, hidden=(500,), activation="tanh")
    torch.manual_seed(0)
    return VAE((28, 28), 20, **{"encoder": network, "decoder": network, **parts})


def data(num: int) -> torch.Tensor:
    """Synthetic images `[num, 28, 28]`."""
    return torch.from_numpy(images(num, 0)).unflatten(-1, (28, 28))


def training_step(
    batch: int,
    compile: bool,
    updates: bool = True,
    dtype: Any = None,
    noise: Callable[[int], AbstractContextManager[Any]] = nullcontext,
    fit_optimizer: bool = True,
    **parts: Any,
) -> Work:
    """Loss and gradients of one batch, and Adam's update of the weights.

    Args:
        batch: data in it.
        compile: whether by a compiled graph.
        updates: False to leave the update out.
        dtype: of the networks' products; None for that of their weights.
        noise: as for `Loss`.
        fit_optimizer: whether Adam is that of `fit`, or torch's own.
        **parts: of the VAE.
    """
    vae, x = make(**parts), Batch(data(batch))
    loss = Loss(vae, ELBO(), lambda batch: batch, lambda size: 0.0, noise=noise)
    step: Any = GraphStep(loss, full=batch, tolerance=0.1 if dtype else 1e-3) if compile else EagerStep(loss)
    products = computing_in(vae, dtype) if dtype else nullcontext()
    if compile:
        with products:
            step.prepare(x, 0.0, 1.0)
    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    optimizer = make_optimizer(adam, list(vae.parameters())) if fit_optimizer else adam(vae.parameters())

    def run() -> None:
        _, parameters, gradients = step(x, 0.0, 1.0)
        if updates:
            update(optimizer, parameters, gradients)

    return run


def evidence(vae: VAE, particles: int, compile: bool, num: int = 100) -> Work:
    """Estimate log p(x) of some data."""
    x = data(num)
    return lambda: log_marginal(vae.model, vae.guide, x, num_particles=particles, compile=compile)


def under(work: Work, *contexts: Callable[[], AbstractContextManager[Any]]) -> Work:
    """The work inside contexts, entered at each call."""

    def run() -> None:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            work()

    return run


def prepared(make_work: Callable[[], Work], *contexts: Callable[[], AbstractContextManager[Any]]) -> Work:
    """Work that is made, and done once (when graphs are recorded), inside contexts, and then done outside of them."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        work = make_work()
        work()
    return work


# ---- the tricks


def _rewrite(kept: Callable[..., Any]) -> Iterator[Setting]:
    """Without any rewrite, and with one."""
    ways = [lambda graph: graph, kept]
    works: dict[str, Callable[[], Work]] = {}
    for dtype, name in ((None, "float32"), (torch.bfloat16, "bf16")):
        for batch in (100, 1024):
            works[f"training step, batch {batch}, {name}"] = partial(training_step, batch, True, dtype=dtype)
    works["log p(x), 100 data, K = 1000, float32"] = lambda: evidence(make(), 1000, True)
    for name, make_work in works.items():
        off, on = (prepared(make_work, partial(patch.object, recording, "cheaper", way)) for way in ways)
        yield name, under(off, backends.fast_cpu), under(on, backends.fast_cpu)


def _onednn() -> Iterator[Setting]:
    for batch in (100, 1024):
        for compile in (False, True):
            work = training_step(batch, compile)
            mode = "compiled" if compile else "eager"
            yield (
                f"training step, batch {batch}, {mode}",
                *(under(work, partial(backends.fast_cpu, use)) for use in (False, True)),
            )
    for compile in (False, True):
        work, mode = evidence(make(), 1000, compile), "compiled" if compile else "eager"
        yield (
            f"log p(x), 100 data, K = 1000, {mode}",
            *(
                under(work, partial(patch.object, backends, "onednn_is_better", lambda use=use: use))
                for use in (False, True)
            ),
        )


def _graph_cache() -> Iterator[Setting]:
    for particles in (1000, 5000):
        vae = make()
        work = evidence(vae, particles, True)

        def anew(work: Work = work) -> None:
            pairs.GRAPHS.clear()
            work()

        yield f"log p(x) a second time, 100 data, K = {particles}", anew, work


@contextmanager
def _nothing_remembered(_known: Any = None) -> Iterator[dict[Any, Any]]:
    with memory.forgetting():
        yield {}


def _memory() -> Iterator[Setting]:
    off = [partial(patch.object, module, "remembering", _nothing_remembered) for module in (importance_sampling, pairs)]
    for components in (50, 500):
        for compile, particles in ((False, 100), (False, 1000), (True, 1000)):
            mode = "compiled" if compile else "eager"
            works = [evidence(make(prior=partial(VampPrior, components=components)), particles, compile) for _ in "ab"]
            yield (
                f"log p(x), VampPrior({components}), 100 data, K = {particles}, {mode}",
                under(works[0], *off),
                works[1],
            )


def _pieces() -> Iterator[Setting]:
    huge = 1 << 40
    for compile, mode in ((True, "compiled"), (False, "eager")):
        works = [evidence(make(), 1000, compile) for _ in "ab"]
        yield (
            f"log p(x), 100 data, K = 1000, {mode}",
            under(works[0], partial(patch.object, pairs, "_BYTES", huge)),
            works[1],
        )


def _standalone() -> Iterator[Setting]:
    for batch in (100, 1024):
        make_work = partial(training_step, batch, True)
        off = prepared(make_work, partial(patch.object, recording, "compiled_alone", recording._guarded))
        yield f"training step, batch {batch}, compiled", off, prepared(make_work)


def _whole_batch() -> Iterator[Setting]:
    """What the interception costs: the noise of 2 processes' batch, against that of the own rows alone."""
    for batch in (100, 1024):
        for compile in (False, True):
            works = [training_step(batch, compile, noise=noise) for noise in (_plain_noise, _noise_of_two)]
            yield f"training step, {batch} of {2 * batch} rows, {'compiled' if compile else 'eager'}", *works


def _plain_noise(_size: int) -> AbstractContextManager[None]:
    return nullcontext()


def _noise_of_two(size: int) -> ShardedNoise:
    return ShardedNoise(World(0, 2), 2 * size, watch=False)


def _row_blocks() -> Iterator[Setting]:
    """The step of one process as a sum over row blocks, each with a stream of its own, against one run."""
    for batch in (100, 1024):
        for blocks in (2, 8):
            for compile in (False, True):
                works = [training_step(size, compile, updates=False) for size in (batch, batch // blocks)]

                def by_blocks(work: Work = works[1], blocks: int = blocks) -> None:
                    for block in range(blocks):
                        torch.manual_seed(block)
                        work()

                mode = "compiled" if compile else "eager"
                yield f"gradients, batch {batch} in {blocks} blocks, {mode}", by_blocks, works[0]


def _optimizer() -> Iterator[Setting]:
    for options in ({"fused": False, "foreach": False}, {"foreach": True}):
        works: list[Work] = []
        for chosen in (options, {"fused": True}):
            parameters = list(make().parameters())
            gradients = [torch.randn_like(p) for p in parameters]
            optimizer = torch.optim.Adam(parameters, lr=1e-3, **chosen)
            works.append(partial(update, optimizer, parameters, gradients))
        yield f"Adam's update, 784-500-20, against {'foreach' if options.get('foreach') else 'a loop'}", *works


def _kept_lists() -> Iterator[Setting]:
    for compile in (True, False):
        off, on = (training_step(100, compile, fit_optimizer=ours) for ours in (False, True))
        yield f"training step, batch 100, {'compiled' if compile else 'eager'}", *_fast(off, on)


def _layout() -> Iterator[Setting]:
    """Images as channels first, against inductor's choice."""
    for network in (ConvNet, ResNet):
        parts = partial(network, channels=(16, 32), hidden=(128,))
        make_work = partial(training_step, 100, True, encoder=parts, decoder=parts)
        off = prepared(make_work, partial(patch.object, recording, "_GRADIENTS_ON_CPU", recording._ON_CPU))
        yield f"training step, batch 100, {network.__name__}(16, 32), compiled", *_fast(off, prepared(make_work))


def _fast(*works: Work) -> Iterator[Work]:
    return (under(work, backends.fast_cpu) for work in works)


def _cpp_wrapper() -> Iterator[Setting]:
    works: dict[str, Callable[[], Work]] = {
        f"training step, batch {batch}": partial(training_step, batch, True) for batch in (100, 1024)
    }
    works["log p(x), 100 data, K = 1000"] = lambda: evidence(make(), 1000, True)
    for name, make_work in works.items():
        python = [
            partial(patch.dict, getattr(recording, options), cpp_wrapper=False)
            for options in ("_ON_CPU", "_GRADIENTS_ON_CPU")
        ]
        yield (
            f"{name}, compiled",
            prepared(make_work, *python),
            prepared(make_work),
        )


def _fake_mode() -> Iterator[Setting]:
    vae, x = make(), [data(100)]
    work = partial(recording.record, vae, lambda x: [vae.decode(vae.encode(x).rsample()).log_prob(x)], x, False)
    unchecked = partial(checking, False)
    off = under(work, unchecked, partial(patch.object, recording, "noting_shapes", nullcontext))
    yield "recording encoder and decoder, batch 100", off, under(work, unchecked)


def _foreach_copy() -> Iterator[Setting]:
    sources = [torch.randn_like(p) for p in make().parameters()]
    targets = [torch.empty_like(p) for p in sources]

    def loop() -> None:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)

    yield "copy of all gradients, 784-500-20", loop, partial(torch._foreach_copy_, targets, sources)


TRICKS: dict[str, Callable[[], Iterator[Setting]]] = {
    "group_softplus": partial(_rewrite, rewrites.group_softplus),
    "part_addmm": partial(_rewrite, rewrites.part_addmm),
    "tanh_by_exponential": partial(_rewrite, rewrites.tanh_by_exponential),
    "C++ between kernels": _cpp_wrapper,
    "no guards": _standalone,
    "one fake mode": _fake_mode,
    "Adam's lists": _kept_lists,
    "channels first": _layout,
    "oneDNN products": _onednn,
    "pieces": _pieces,
    "graph cache": _graph_cache,
    "memory": _memory,
    "fused optimizer": _optimizer,
    "whole batch": _whole_batch,
    "row blocks": _row_blocks,
    "foreach copy": _foreach_copy,
}


if __name__ == "__main__":
    main()
