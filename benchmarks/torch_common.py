"""What the benchmark scripts that use torch share: its settings, the reference networks, batches in memory."""

import ctypes
import logging
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import torch
from common import PIXELS, Layers, images, make_layers
from torch import Tensor, nn

_EXACT = 1e-5
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


def set_up(args: Namespace) -> bool:
    """Threads, seed and oneDNN as the options say; returns whether float32 products go to oneDNN."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return args.onednn and use_onednn()


def use_onednn() -> bool:
    """Send float32 products to oneDNN if they stay float32 there, and say whether they do.

    On x86 with AVX-512 and no AMX the switch named "bf16" runs true float32 kernels; with AMX it rounds the factors to
    bfloat16, which its error gives away: then the setting is undone.
    """
    backend: Any = torch.backends.mkldnn
    switch = backend.matmul
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((256, 784), (784, 500)))
    exact = a.double() @ b.double()
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    error = ((a @ b).double() - exact).norm() / exact.norm()
    if error < _EXACT:
        return True
    switch.fp32_precision = before
    return False


class Warnings(logging.Handler):
    """What the package warns of, so that a run that fell back to the eager path does not pass for compiled."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        logging.getLogger("pyro_vae").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.messages.append(record.getMessage())


def keep_blocks() -> None:
    """Let glibc keep large blocks, which it else returns to the kernel and faults in again at every step."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 1 << 26)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 28)


def training_images(args: Namespace) -> Tensor:
    """The images of an epoch, `[num, 784]` float32."""
    return torch.from_numpy(images(args.num, args.seed))


def tenth_of_labels(args: Namespace) -> Tensor:
    """Ten classes by turns for every tenth image, -1 for no label: int64 `[num]`."""
    rows = torch.arange(args.num)
    return torch.where(rows % 10 == 0, rows // 10 % 10, -1)


def half_observed(args: Namespace) -> Tensor:
    """Which pixels are observed, half of them: bool `[num, 784]`."""
    return torch.rand(args.num, PIXELS, generator=torch.Generator().manual_seed(args.seed)) < 0.5


def networks(args: Namespace) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder 784-hidden-2 latent and decoder latent-hidden-784 with tanh, as AEVB's."""
    encoder = make_layers([PIXELS, args.hidden, 2 * args.latent], args.seed + 1)
    decoder = make_layers([args.latent, args.hidden, PIXELS], args.seed + 2)
    return network(encoder), network(decoder)


def network(layers: Layers) -> nn.Sequential:
    """A perceptron with these weights."""
    modules: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(*weight.shape)
        load(linear, weight, bias)
        modules += [linear, nn.Tanh()]
    return nn.Sequential(*modules[:-1])


@torch.no_grad()
def load(linear: nn.Linear, weight, bias) -> None:
    """Give a linear layer NumPy's weights, `[in, out]`."""
    linear.weight.copy_(torch.from_numpy(weight.T))
    linear.bias.copy_(torch.from_numpy(bias))


def batches(x: Tensor, size: int) -> Iterator[Tensor]:
    """One shuffled epoch from memory."""
    for index in torch.randperm(len(x)).split(size):
        yield x.index_select(0, index)


def chunks(total: int, size: int) -> Iterator[slice]:
    """`range(total)` cut into pieces of `size`."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
