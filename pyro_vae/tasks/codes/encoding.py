"""`encode_data`: means, spreads and draws of the codes of data, for any pair whose guide encodes data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked_but_values
from pyro_vae.arguments.remedies import spoken
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.errors import DataError, UsageError
from pyro_vae.inference.moments import moments
from pyro_vae.inference.pairs import EagerPair
from pyro_vae.inference.programs import Called, evaluation_mode
from pyro_vae.inference.sites import in_order
from pyro_vae.inference.tiles import TILE_DATA, draws
from pyro_vae.inference.weighing import model_order
from pyro_vae.process.isolation import isolated
from pyro_vae.tasks.generation import inputs_of

_MOST_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Encoded:
    """The codes of data: draws z ~ q(z|x), and the mean and the standard deviation of q(z|x) for each datum.

    Args:
        draws: by latent site, `[num_draws, N, *site]`, in the order in which the model draws the sites.
        mean: E_q[z|x] by continuous site, `[N, *site]`, double precision.
        sd: the standard deviation of each coordinate under q(z|x), likewise.
        mean_error: the standard error of `mean` from the finite number of draws, likewise; 0 where the guide's family
            gives the mean itself, nan for a single draw.
        seed: seed of the draws.
    """

    draws: Mapping[str, Tensor]
    mean: Mapping[str, Tensor]
    sd: Mapping[str, Tensor]
    mean_error: Mapping[str, Tensor]
    seed: int

    @property
    def codes(self) -> Tensor:
        """The means of all continuous sites, one after the other, `[N, L]`."""
        return torch.cat([value.flatten(1) for value in self.mean.values()], 1)

    @property
    def names(self) -> list[str]:
        """The names of the columns of `codes`: `"z[0]"`, ..."""
        return [f"{name}[{i}]" for name, value in self.mean.items() for i in range(value[0].numel())]

    @property
    def num_draws(self) -> int:
        """Draws of each datum."""
        return len(next(iter(self.draws.values())))

    @property
    def exact(self) -> bool:
        """Whether the means are those of the guide's family, not averages of draws."""
        return all(bool((error == 0).all()) for error in self.mean_error.values())

    def arrays(self) -> dict[str, Tensor]:
        """All of it by name, for a file: `z` (the draws), `z_mean`, `z_sd`, `z_mean_error`."""
        of_data = {"mean": self.mean, "sd": self.sd, "mean_error": self.mean_error}
        by_name = {f"{site}_{what}": v for what, values in of_data.items() for site, v in values.items()}
        return {**self.draws, **by_name}

    def __len__(self) -> int:
        return next(iter(self.draws.values())).shape[1]

    def __repr__(self) -> str:
        sites = ", ".join(f"{name} {list(value.shape[2:])}" for name, value in self.draws.items())
        means = "means by formula" if self.exact else "means over the draws"
        return f"Encoded({sites}; N = {len(self)}, {self.num_draws} draws, {means}, seed {self.seed})"


@isolated
@checked_but_values
def encode_data(
    vae: Autoencoder,
    x: Tensor,
    num_draws: int = 100,
    seed: int = 0,
    c: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Encoded:
    r"""Encode data: the mean, the spread and draws of q(z|x) for each datum.

    .. math:: E_q[z_i|x], \qquad \sqrt{\mathrm{Var}_q(z_i|x)}, \qquad z \sim q(z|x)

    Of a model with a `code_site` (a `VAE`) the moments are those of the guide's family: exact for normals, mixtures and
    points, of flows averages over 512 fixed points. Of several latent sites, such as the layers of a
    `HierarchicalVAE`, each drawn given another, they are averages over the draws, and `mean_error` says how exact. A
    discrete site among continuous ones (the class of a `SemiSupervisedVAE`) has draws only.

    The codes are the guide's, which is an approximation of p(z|x): `posterior` draws from the latter. A datum's result
    does not depend on the data after it, nor its draws on how many there are. Evaluation mode; the caller's
    generators are left alone.

    Args:
        vae: an `Autoencoder`, or another module with programs `model` and `guide` of one data plate.
        x: data `[N, *event]`.
        num_draws: draws for each datum, at least 1, without a `code_site` at least 2.
        seed: seed of the draws.
        c: the context of a conditional model, `[N, *context]` or `[*context]`.
        progress: called with the number of data done so far.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`, ...

    Returns:
        An `Encoded`, on the CPU.

    Raises:
        UsageError: if there are too few draws, or no continuous code (`VQVAE`).
        DataError: if the data have another shape than the model's, or there are none.
        NumericalError: if a moment is not finite.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> encoded = encode_data(VAE((8, 8), latent_dim=2), torch.zeros(5, 8, 8), num_draws=10)
        >>> encoded.codes.shape, encoded.draws["z"].shape, encoded.exact
        (torch.Size([5, 2]), torch.Size([10, 5, 2]), True)
    """
    has_code = getattr(vae, "code_site", None) is not None
    if num_draws < (least := 1 if has_code else 2):
        raise UsageError(
            f"{spoken('', '--')}num_draws must be at least {least} for a {type(vae).__name__}, got {num_draws}"
        )
    if len(x) == 0:
        raise DataError("x: expected at least 1 datum, got none")
    given = {"x": x, **inputs_of(vae, len(x), inputs, c)}
    given = {name: value.to(next(vae.parameters()).device) for name, value in given.items()}
    blocks = []
    with evaluation_mode(vae), fast_cpu(), exact_products():
        for start in range(0, len(x), TILE_DATA):
            block = {name: value[start : start + TILE_DATA] for name, value in given.items()}
            blocks.append(_encoded(vae, block, start, num_draws, seed))
            if progress is not None:
                progress(min(start + TILE_DATA, len(x)))
    return _joined(blocks)


def _encoded(vae: Any, block: Mapping[str, Tensor], start: int, num_draws: int, seed: int) -> Encoded:
    names, data = list(block)[1:], list(block.values())
    pair = EagerPair(Called(vae.model, names), Called(vae.guide, names), _MOST_ROWS)
    tiles = [latents for latents, _ in draws(pair, data, start, num_draws, seed, stream="encode")]
    drawn = {name: torch.cat([tile[name] for tile in tiles]) for name in tiles[0]}
    order = model_order(Called(vae.model, names), drawn, *data)
    drawn = in_order(drawn, order)
    drawn = {name: v.cpu() for name, v in drawn.items() if name != getattr(vae, "missing_site", None)}
    real = {name: v.double() for name, v in drawn.items() if v.is_floating_point()}
    if not real:
        raise UsageError(
            f"the code of a {type(vae).__name__} is discrete ({', '.join(drawn)}), so it has no mean and no spread: "
            "take vae.encode(x), or codebook_usage"
        )
    if (site := getattr(vae, "code_site", None)) is not None:
        mean, sd = moments(vae.encode(block["x"], block.get("mask"), block.get("c")), "the guide q(z|x)")
        return Encoded(drawn, {site: mean}, {site: sd}, {site: torch.zeros_like(mean)}, seed)
    sd = {name: v.std(0) for name, v in real.items()}
    errors = {name: v / num_draws**0.5 for name, v in sd.items()}
    return Encoded(drawn, {name: v.mean(0) for name, v in real.items()}, sd, errors, seed)


def _joined(blocks: list[Encoded]) -> Encoded:
    """The codes of several blocks of data, one after the other."""

    def column(values: list[Mapping[str, Tensor]], dim: int) -> dict[str, Tensor]:
        return {name: torch.cat([value[name] for value in values], dim) for name in values[0]}

    of_data = {name: column([getattr(b, name) for b in blocks], 0) for name in ("mean", "sd", "mean_error")}
    return Encoded(column([b.draws for b in blocks], 1), **of_data, seed=blocks[0].seed)
