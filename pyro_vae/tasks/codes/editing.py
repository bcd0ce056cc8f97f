"""`attribute_vector` and `edit`: move codes along what tells data with an attribute from data without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import DataError, UsageError
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.averages import Averaged, number
from pyro_vae.tasks.codes.decoding import decoded
from pyro_vae.tasks.codes.encoding import encode_data


@dataclass(frozen=True, eq=False)
class Attribute:
    """The direction of an attribute in the space of codes.

    Args:
        vector: mean code with the attribute less mean code without, `[latent]`, double precision.
        standard_error: of each coordinate, from having so many data, `[latent]`.
        num_with: data with the attribute.
        num_without: data without it.
    """

    vector: Tensor
    standard_error: Tensor
    num_with: int
    num_without: int

    @property
    def length(self) -> float:
        """The length of the vector."""
        return self.vector.norm().item()

    @property
    def length_standard_error(self) -> float:
        """The standard error of `length`, by the delta method; nan for no length."""
        share = self.vector / self.vector.norm()
        return (share * self.standard_error).norm().item()

    def __repr__(self) -> str:
        counts = f"{self.num_with} data with it, {self.num_without} without"
        return f"Attribute(length {self.length:.3f} (se {number(self.length_standard_error)}), {counts})"


@isolated
def attribute_vector(codes: Tensor, has: Tensor) -> Attribute:
    r"""The difference of the mean codes of data with an attribute and of data without it.

    .. math:: v = \frac{1}{|A|} \sum_{n \in A} E[z|x_n] - \frac{1}{|B|} \sum_{n \in B} E[z|x_n]

    An attribute that comes with another one in these data has both in its vector: take data in which they are balanced.

    Args:
        codes: E[z|x], `[N, latent]`, as `encode_data(vae, x).codes` has them.
        has: which data have the attribute, `[N]` bool; leave out data that are neither.

    Returns:
        An `Attribute`.

    Raises:
        DataError: if there are not at least 2 data of each kind, or the arrays do not fit.

    References:
        Larsen et al. 2016, Autoencoding beyond pixels using a learned similarity metric. White 2016, Sampling
        generative networks.

    Example:
        >>> codes = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 1.0], [4.0, 3.0]])
        >>> attribute_vector(codes, torch.tensor([False, False, True, True])).vector
        tensor([4., 0.], dtype=torch.float64)
    """
    codes, has = torch.as_tensor(codes).detach().cpu().double(), torch.as_tensor(has).cpu()
    if codes.dim() != 2 or has.shape != codes.shape[:1] or has.dtype != torch.bool:
        raise DataError(
            f"expected codes [N, latent] and one bool for each, got {list(codes.shape)} and {has.dtype} "
            f"{list(has.shape)}"
        )
    inside, outside = codes[has], codes[~has]
    if min(len(inside), len(outside)) < 2:
        raise DataError(f"need 2 data with the attribute and 2 without, got {len(inside)} and {len(outside)}")
    error = (inside.var(0) / len(inside) + outside.var(0) / len(outside)).sqrt()
    return Attribute(inside.mean(0) - outside.mean(0), error, len(inside), len(outside))


@dataclass(frozen=True, eq=False)
class Edited:
    r"""Data whose codes were moved along a vector.

    Args:
        strengths: how far, `[S]`, in lengths of the vector.
        z: the codes, `[S, N, latent]`, double precision.
        x: E[x|z], `[S, N, *event]`.
        found: how far the codes of the edited data are along the vector from those of the data, `[S, N]`, in lengths of
            the vector: `(E[z|x_s] - E[z|x]) . v / |v|^2`.
    """

    strengths: Tensor
    z: Tensor
    x: Tensor
    found: Tensor

    def reached(self, index: int) -> Averaged:
        """`found` at one strength, with the error of its average over the data."""
        values = self.found[index]
        return Averaged(values, torch.zeros_like(values))

    def __repr__(self) -> str:
        pairs = zip(self.strengths.tolist(), self.found.mean(1).tolist(), strict=True)
        found = ", ".join(f"{s:g}: {f:.2f}" for s, f in pairs)
        return f"Edited(N = {self.z.shape[1]}; strength and what is found: {found})"


@isolated
@checked
def edit(
    vae: Autoencoder,
    x: Tensor,
    vector: Attribute | Tensor,
    strengths: Sequence[float] = (-1.0, 0.0, 1.0),
    *,
    c: Tensor | None = None,
    **inputs: Tensor,
) -> Edited:
    r"""Move the codes of data along a vector, and decode.

    .. math:: x_s = E[x | z = E[z|x] + s v]

    With v of `attribute_vector`, a strength of 1 is the distance between the mean codes with and without the attribute,
    and -1 takes it away. The edited data are encoded again, as means (grey, where data are black or white): `found` is
    how far along v their codes then are. It is s where encoder and decoder invert each other, and near 0 where the
    decoder ignores v.

    Args:
        vae: a model with a `code_site`, e.g. a `VAE`; left as it is.
        x: data `[N, *event]`.
        vector: v, `[latent]`.
        strengths: S of them.
        c: the context of a conditional model, `[*context]`, the same for all data.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`, for the data as they came.

    Returns:
        An `Edited`, on the CPU.

    Raises:
        UsageError: if the model has no single continuous code, or the vector does not fit.
        NumericalError: if the decoder's output is not finite.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> edit(VAE((8, 8), latent_dim=2), torch.zeros(5, 8, 8), torch.ones(2), [0.0, 2.0]).x.shape
        torch.Size([2, 5, 8, 8])
    """
    v = _checked_vector(vae, vector)
    s = torch.as_tensor([float(value) for value in strengths], dtype=torch.float64)
    if len(s) == 0 or not s.isfinite().all():
        raise UsageError(f"strengths: expected finite numbers, got {list(strengths)}")
    codes = encode_data(vae, x, num_draws=1, seed=0, c=c, progress=None, **inputs).codes
    z = codes + s[:, None, None] * v
    with evaluation_mode(vae):
        means = decoded(vae, z, c)
    again = encode_data(vae, means.flatten(0, 1).to(x.device), 1, c=c).codes.reshape(z.shape)
    found = ((again - codes) * v).sum(-1) / v.square().sum()
    return Edited(s, z, means, found)


def _checked_vector(vae: Autoencoder, vector: Any) -> Tensor:
    if vae.code_site is None:
        raise UsageError(f"edit moves the code z of a model with one latent site, got a {type(vae).__name__}")
    v = torch.as_tensor(vector.vector if isinstance(vector, Attribute) else vector).detach().cpu().double()
    if tuple(v.shape) != (vae.shapes.latent,) or not v.isfinite().all() or not v.any():
        raise UsageError(f"vector: expected {vae.shapes.latent} finite numbers, not all 0, got shape {list(v.shape)}")
    return v
