"""Networks layer by layer as plain data, as the script of an exported page (`page/networks.js`) runs them."""

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

from torch import Tensor, nn

from pyro_vae.errors import UsageError
from pyro_vae.explore.plain import packed
from pyro_vae.networks import MLP, ConvNet, GatedMLP, ResNet
from pyro_vae.networks.layers import Gate, Residual

NETWORKS: tuple[type, ...] = (MLP, GatedMLP, ConvNet, ResNet)
"""The classes of networks that are known; no subclasses of them, which may compute something else."""
WITH_MATRICES = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
"""The layers whose weights are most of a network's."""
_ELEMENTWISE = (nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Sigmoid)

Pack = Callable[[Tensor], dict[str, Any]]
Described = dict[str, Any]


def layers(network: Any, pack: Pack = packed) -> list[Described]:
    """The layers of a network, in order.

    Images are `[pixels, planes]` inside, the matrix of a convolution `[planes out, kernel's pixels and planes in]`,
    that of a transposed one `[kernel's pixels and planes out, planes in]`: both are then products with a matrix.

    Args:
        network: of one of the classes in `NETWORKS`, in evaluation mode.
        pack: how the matrices are packed.

    Raises:
        UsageError: for a layer that is not known.
    """
    if isinstance(network, MLP | GatedMLP):
        return _dense(network, pack)
    planes = network.out_shape if network.upward else network.in_shape
    image = (prod(planes[:-2]), *planes[-2:])
    if not network.upward:
        found, size = _of_planes(network.convolutions, image, pack)
        return [_order("planes_last", image), *found, _order("planes_first", size), *_dense(network.dense, pack)]
    start = network.dense.out_shape
    found, _ = _of_planes(network.convolutions, start, pack)
    last = {"kind": "bias", "bias": packed(network.bias.flatten())}
    return [*_dense(network.dense, pack), _order("planes_last", start), *found, _order("planes_first", image), last]


def _order(kind: str, size: tuple[int, ...]) -> Described:
    return {"kind": kind, "planes": size[0], "pixels": size[1] * size[2]}


def _dense(network: Any, pack: Pack) -> list[Described]:
    found, width = [], prod(network.in_shape)
    for layer in (*network.hidden, network.output):
        if isinstance(layer, nn.Linear):
            width = layer.out_features
            found.append({"kind": "linear", "weight": pack(layer.weight), "bias": _bias(layer)})
        elif isinstance(layer, Gate):
            width //= 2
            found.append({"kind": "gate", "width": width})
        else:
            found += _same_size(layer, (width, 1, 1))
    return found


def _of_planes(
    modules: Iterable[nn.Module], size: tuple[int, ...], pack: Pack
) -> tuple[list[Described], tuple[int, ...]]:
    """The layers between images, and the size `(planes, height, width)` of the last."""
    found: list[Described] = []
    for layer in modules:
        if isinstance(layer, Residual):
            found.append({"kind": "residual", "body": _of_planes(layer.body, size, pack)[0]})
        elif isinstance(layer, nn.Conv2d):
            before, size = size, (layer.out_channels, *(-(-side // layer.stride[0]) for side in size[1:]))
            weight = pack(layer.weight.permute(0, 2, 3, 1).flatten(1))
            found.append({"kind": "convolution", "weight": weight, **_geometry(layer, before, size)})
        elif isinstance(layer, nn.ConvTranspose2d):
            extra: Any = layer.output_padding
            before, size = (
                size,
                (layer.out_channels, *(2 * n - 1 + more for n, more in zip(size[1:], extra, strict=True))),
            )
            weight = pack(layer.weight.permute(2, 3, 1, 0).flatten(0, 2))
            found.append({"kind": "transposed", "weight": weight, **_geometry(layer, size, before)})
        else:
            found += _same_size(layer, size)
    return found, size


def _geometry(layer: Any, large: tuple[int, ...], small: tuple[int, ...]) -> Described:
    """Of a convolution from the larger to the smaller image, or of its transpose."""
    shape = {"large": list(large[1:]), "small": list(small[1:]), "planes": large[0]}
    return {**shape, "kernel": layer.kernel_size[0], "stride": layer.stride[0], "bias": _bias(layer)}


def _bias(layer: Any) -> Described | None:
    return None if layer.bias is None else packed(layer.bias)


def _same_size(layer: nn.Module, size: tuple[int, ...]) -> list[Described]:
    """A layer that keeps the size `(planes, height, width)`."""
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
        groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else 1
        own = {"weight": packed(layer.weight), "bias": packed(layer.bias), "eps": layer.eps}
        return [{"kind": "norm", "groups": groups, "planes": size[0], "pixels": size[1] * size[2], **own}]
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return [{"kind": "scale", **_fixed(layer)}]
    if isinstance(layer, nn.Dropout):
        return []
    if type(layer) not in _ELEMENTWISE:
        raise UsageError(f"--export: a page on its own can't compute the layer {type(layer).__name__}")
    return [{"kind": "elementwise", "name": type(layer).__name__}]


def _fixed(norm: Any) -> Described:
    """A batch norm in evaluation mode: x weight + bias."""
    weight: Tensor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return {"weight": packed(weight), "bias": packed(norm.bias - norm.running_mean * weight)}
