"""`SemiSupervisedVAE`: a class as a second latent variable, known for some of the data."""

from collections.abc import Callable
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import factory, shape_of, whole
from pyro_vae.autoencoders.base import Autoencoder, start_near_prior
from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal, Guide
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.networks import MLP, FromShapes, build, conditioned, network_factory
from pyro_vae.priors import Prior, StandardNormal
from pyro_vae.shapes import Shapes

Factory = Callable[[tuple[int, ...], tuple[int, ...]], FromShapes]


_NEVER = -1e4
"""Logarithm of the probability of what is known not to be: its exponential is 0, and 0 times it is 0, not nan."""


class SemiSupervisedVAE(Autoencoder):
    r"""A VAE with two latent sites, a discrete class `"y"` and a code `"z"`; the class is known for some of the data.

    .. math:: y \sim p(y), \quad z \sim p(z), \quad x \sim p(x | \mathrm{decoder}(z, y)); \qquad
        q(y, z | x) = q(y | \mathrm{classifier}(x)) \, q(z | \mathrm{encoder}(x, y))

    Both programs take the labels as the input `y`, int64 `[B]`, -1 without label. With a label the
    guide is a point mass on it in place of q(y|x). So one program of the joint density serves all rows of a batch: each
    row's log-weight is log p(x, y, z) - log q(z|x, y) with a label, and log p(x, y, z) - log q(y|x) - log q(z|x, y)
    without, and their means are bounds on log p(x, y) and log p(x). Two sites with masks (Pyro's `obs_mask`) would say
    the same, but `TraceEnum_ELBO` counts a masked site once for each of its values.

    Train it by `SemiSupervisedELBO`, which sums over y exactly. `log_marginal(vae.model, vae.guide, x)` draws y from
    q(y|x) and estimates log p(x); with labels, `y=labels`, log p(x, y); `label_evidence` gives log p(x, y) of every y,
    and so log p(x) with an exact sum. Networks get x or z joined with the one-hot label, as a conditional VAE's do with
    a context.

    Args:
        event_shape: shape of one datum.
        classes: number of classes, at least 2.
        latent_dim: number of dimensions of z.
        labels: p(y): `"uniform"`, or `"learned"`, which starts uniform.
        prior: p(z), called with `Shapes` whose context is the one-hot label: `ConditionalNormal` is p(z|y).
        likelihood: p(x|z, y), called with `Shapes`.
        guide: q(z|x, y), called with `Shapes`.
        classifier: network of x, called with `(event_shape, (classes,))`; it gives the logits of q(y|x).
        encoder: network of x and y, which gives the guide's parameters.
        decoder: network of z and y, which gives the likelihood's.
        standardize: whether the networks work on standardised data (see `Autoencoder`); for real data.

    Raises:
        UsageError: if a size is out of range, or a part can't be made with these sizes.

    References:
        Kingma et al. 2014, Semi-supervised learning with deep generative models (model M2).

    Example:
        >>> vae = SemiSupervisedVAE((8, 8), classes=10, latent_dim=2)
        >>> vae.classify(torch.zeros(5, 8, 8)).probs.shape
        torch.Size([5, 10])
        >>> vae.decode(torch.zeros(3, 5, 2), vae.one_hot(torch.arange(5))).sample().shape
        torch.Size([3, 5, 8, 8])
    """

    label_logits: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        classes: int = 10,
        latent_dim: int = 50,
        labels: Literal["uniform", "learned"] = "uniform",
        prior: Callable[[Shapes], Prior] = StandardNormal,
        likelihood: Callable[[Shapes], Likelihood] = Bernoulli,
        guide: Callable[[Shapes], Guide] = DiagonalNormal,
        classifier: Factory = MLP,
        encoder: Factory = MLP,
        decoder: Factory = MLP,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        event_shape, latent_dim = shape_of("event_shape", event_shape), whole("latent_dim", latent_dim, 1)
        classes = whole("classes", classes, 2)
        if labels not in ("uniform", "learned"):
            raise UsageError(f"labels: expected p(y) to be 'uniform' or 'learned', got {labels!r}")
        prior, likelihood = factory("prior", prior, Prior), factory("likelihood", likelihood, Likelihood)
        guide, classifier = factory("guide", guide, Guide), network_factory("classifier", classifier)
        encoder, decoder = network_factory("encoder", encoder), network_factory("decoder", decoder)
        self.arguments: dict[str, Any] = {
            "event_shape": event_shape,
            "classes": classes,
            "latent_dim": latent_dim,
            "labels": labels,
            "prior": prior,
            "likelihood": likelihood,
            "guide": guide,
            "classifier": classifier,
            "encoder": encoder,
            "decoder": decoder,
            "standardize": standardize,
        }
        self.classes = classes
        self.shapes = Shapes(tuple(event_shape), latent_dim, (classes,))
        if labels == "learned":
            self.label_logits = nn.Parameter(torch.zeros(classes))
        else:
            self.register_buffer("label_logits", torch.zeros(classes), persistent=False)
        self.prior = prior(self.shapes)
        self.likelihood = likelihood(self.shapes)
        self.posterior = guide(self.shapes)
        self._standardize(standardize)
        self.classifier = build(classifier, self.likelihood.input_shape, (classes,))
        self.encoder = conditioned(encoder, self.likelihood.input_shape, self.posterior.param_shape, (classes,))
        start_near_prior(self.encoder, self.posterior)
        self.decoder = conditioned(decoder, (latent_dim,), self.likelihood.param_shape, (classes,))

    def model(self, x: Tensor, mask: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The Pyro program of p(x, y, z), with `"x"` observed.

        Args:
            x: data `[B, *event]`.
            mask: True where an element of `x` is observed, broadcastable to `x`; None where all are.
            y: taken because both programs take the same inputs: it is the guide that puts `"y"` at the labels.

        Returns:
            The class `[*particles, B]` and the code `[*particles, B, latent]`.

        Raises:
            UsageError: if the labels have another shape or are no integers.
        """
        self.register()
        if y is not None:
            _check_labels(y, x)
        x = self._tensor(x, mask)
        with pyro.plate("data", x.shape[0], dim=-1):
            label = pyro.sample("y", dist.Categorical(logits=self.label_logits))
            c = self.one_hot(label)
            z = pyro.sample("z", self.prior_distribution(c))
            pyro.sample("x", self._of_data(self.decoder(z, c), mask), obs=x)
        return label, z

    def guide(self, x: Tensor, mask: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The Pyro program of q(y, z|x), with `"y"` at the label of each datum that has one.

        Args:
            x: data `[B, *event]`.
            mask: as for `model`.
            y: labels `[B]`, from 0 to `classes` - 1, or -1 for none; None where there are none at all. The densities of
                a datum with a larger label are nan.

        Returns:
            As `model`.

        Raises:
            UsageError: if the labels have another shape or are no integers.
        """
        self.register()
        unlabelled = self.classify(x, mask)
        infer: Any = {"enumerate": "parallel"}
        if y is not None:
            _check_labels(y, x)
            infer |= {"labels": y, "classifier": unlabelled}
        with pyro.plate("data", x.shape[0], dim=-1):
            label = pyro.sample("y", unlabelled if y is None else self._known(unlabelled, y), infer=infer)
            c = self.one_hot(label)
            if y is not None:  # an invalid label gives nan: a recorded graph cannot branch on values
                c = torch.where((y < self.classes).unsqueeze(-1), c, torch.nan)
            z = pyro.sample("z", self.encode(x, mask, c))
        return label, z

    def classify(self, x: Tensor, mask: Tensor | None = None) -> dist.Categorical:
        """q(y|x): batch shape `[*leading]`, for `x` of shape `[*leading, *event]`.

        Args:
            x: data.
            mask: True where an element of `x` is observed; None where all are.
        """
        return dist.Categorical(logits=self.classifier(self._input(x, mask)))

    def encode(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> dist.TorchDistribution:
        """q(z|x, y): batch shape `[*leading]`, event shape `(latent,)`, for `x` of shape `[*leading, *event]`.

        Args:
            x: data.
            mask: True where an element of `x` is observed; None where all are.
            c: the class, one-hot (`one_hot`), `[*leading, classes]`, with more or fewer leading dimensions.

        Raises:
            UsageError: if there is no class.
        """
        return self.posterior.distribution(self.encoder(self._input(x, mask), _given(c)))

    def decode(self, z: Tensor, c: Tensor | None = None) -> dist.TorchDistribution:
        """p(x|z, y): batch shape `[*leading]`, event shape `event`, for `z` of shape `[*leading, latent]`.

        Args:
            z: codes.
            c: the class, one-hot (`one_hot`), `[*leading, classes]`, with more or fewer leading dimensions.

        Raises:
            UsageError: if there is no class.
        """
        return self._of_data(self.likelihood_params(z, c))

    def likelihood_params(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The decoder's output, `[*leading, *likelihood.param_shape]`; arguments as for `decode`."""
        return self.decoder(z, _given(c))

    def amortize(self, x: Tensor) -> dist.TorchDistribution:
        """Refused: the guide is q(z|x, y), so there is no q(z|x) to make a prior of."""
        raise UsageError(
            "a prior made of q(z|x) has none here, where the guide is q(z|x, y): take StandardNormal, MixtureOfNormals "
            "or another prior that needs no encoder, or ConditionalNormal for p(z|y)"
        )

    def one_hot(self, y: Tensor) -> Tensor:
        """Classes `[*leading]` as vectors of zeros with a one, `[*leading, classes]`, in the weights' precision."""
        known = y.unsqueeze(-1) == torch.arange(self.classes, device=y.device)
        return known.to(self.label_logits.dtype)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"event_shape={self.shapes.event}, classes={self.classes}, latent_dim={self.shapes.latent}"

    def _known(self, unlabelled: dist.Categorical, y: Tensor) -> dist.Categorical:
        """q(y|x) where there is no label, and a point mass where there is one."""
        certain = torch.where(self.one_hot(y) > 0, 0.0, _NEVER)
        return dist.Categorical(logits=torch.where((y >= 0).unsqueeze(-1), certain, unlabelled.logits))


def _check_labels(y: Tensor, x: Tensor) -> None:
    if y.shape != x.shape[:1] or y.is_floating_point():
        raise UsageError(f"y: expected {len(x)} integers, -1 for no label, got {y.dtype} of shape {list(y.shape)}")


def _given(c: Tensor | None) -> Tensor:
    if c is None:
        raise UsageError("q(z|x, y) and p(x|z, y) need a class: give c=vae.one_hot(y)")
    return c
