"""VQVAE: an autoencoder whose code is discrete, an entry of a learned codebook at each of some positions."""

from collections.abc import Callable
from math import prod
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.arguments.remedies import spoken
from pyro_vae.arguments.values import factory, plain, shape_of, whole
from pyro_vae.autoencoders.base import Autoencoder
from pyro_vae.errors import UsageError
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.networks import MLP, ConvNet, FromShapes, ResNet, build, joining, network_factory
from pyro_vae.networks.codebook import Quantizer, StraightThrough, Update
from pyro_vae.priors import CodePrior, UniformCodes
from pyro_vae.process.pyro_internals import handlers
from pyro_vae.shapes import CodeShapes


class VQVAE(Autoencoder):
    r"""A vector-quantised autoencoder as a pair of Pyro programs, with a discrete code k.

    .. math:: k \sim p(k), \quad x \sim p(x | \mathrm{decoder}(e_k)); \qquad
        q(k | x) = \delta_{k(x)}, \quad k_i(x) = \arg\min_j |\mathrm{encoder}(x)_i - e_j|^2

    for e_j the entries of a codebook and i the positions. Both programs have one plate `"data"` (dimension -1) and one
    latent site `"k"`, of whole numbers; the model observes `"x"`. The guide is a point, so that `bound` gives

    .. math:: \log p(x) \ge \log p(x | k(x)) + \log p(k(x))

    whose KL is -log p(k(x)): n log K for the uniform prior on n positions, less for one that `fit_code_prior`
    has learned. `log_marginal` refuses points.

    No gradient passes a choice of entry, so train it by `objectives.VQBound`; other objectives are refused. `fit`
    starts the codebook at what the encoder gives for some of the data.

    Args:
        event_shape: shape of one datum.
        codes: the positions: `(n,)`, or a grid `(height, width)` for networks of images.
        codebook_size: K, how many entries there are.
        embedding_dim: D, dimension of an entry.
        prior: p(k), called with `CodeShapes`.
        likelihood: p(x|k), called with `Shapes`.
        encoder: network, called with `(event_shape, (D, *codes))`; any torch module built so will do.
        decoder: network, called with `((D, *codes), likelihood.param_shape)`; `ConvNet` and `ResNet`, which go up from
            a vector, with `(D * n,)`. `GridNet` keeps the grid on both sides.
        update: what moves the codebook: `"gradient"`, or `"ema"` for moving averages, which train eagerly and in one
            process.
        decay: of the moving averages.
        restart: with `"ema"`, start entries again that are used fewer times a batch on average; None for never.
        standardize: whether the networks work on standardised data (see `Autoencoder`); for real data.

    Raises:
        UsageError: if a size is not positive, or a part can't be made with these sizes.

    References:
        van den Oord et al. 2017, Neural discrete representation learning.

    Example:
        >>> vqvae = VQVAE((8, 8), codes=(4,), codebook_size=16, embedding_dim=3)
        >>> k = vqvae.encode(torch.zeros(5, 8, 8)).sample()
        >>> k.shape, vqvae.decode(k).log_prob(torch.zeros(5, 8, 8)).shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    shapes: CodeShapes
    has_one_code = True

    def __init__(
        self,
        event_shape: tuple[int, ...],
        codes: tuple[int, ...] = (16,),
        codebook_size: int = 64,
        embedding_dim: int = 16,
        prior: Callable[[CodeShapes], CodePrior] = UniformCodes,
        likelihood: Callable[[CodeShapes], Likelihood] = Bernoulli,
        encoder: Callable[[tuple[int, ...], tuple[int, ...]], FromShapes] = MLP,
        decoder: Callable[[tuple[int, ...], tuple[int, ...]], FromShapes] = MLP,
        update: Update = "gradient",
        decay: float = 0.99,
        restart: float | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        event_shape, codes = shape_of("event_shape", event_shape), shape_of("codes", codes)
        codebook_size, embedding_dim = (
            whole("codebook_size", codebook_size, 1),
            whole("embedding_dim", embedding_dim, 1),
        )
        prior, likelihood = factory("prior", prior, CodePrior), factory("likelihood", likelihood, Likelihood)
        encoder, decoder = network_factory("encoder", encoder), network_factory("decoder", decoder)
        decay, restart = plain(decay), plain(restart)
        self.shapes = CodeShapes(event_shape, prod(codes) * embedding_dim, codes=codes, codebook_size=codebook_size)
        self.arguments: dict[str, Any] = {
            "event_shape": event_shape,
            "codes": codes,
            "codebook_size": codebook_size,
            "embedding_dim": embedding_dim,
            "prior": prior,
            "likelihood": likelihood,
            "encoder": encoder,
            "decoder": decoder,
            "update": update,
            "decay": decay,
            "restart": restart,
            "standardize": standardize,
        }
        self.prior = prior(self.shapes)
        self.likelihood = likelihood(self.shapes)
        self.quantizer = Quantizer(codebook_size, embedding_dim, update, decay, restart)
        self._standardize(standardize)
        self.encoder = build(encoder, self.likelihood.input_shape, (embedding_dim, *codes))
        self.decoder = build(decoder, self._decoded_shape(decoder), self.likelihood.param_shape)

    def model(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The Pyro program of p(x, k), with `"x"` observed.

        Args:
            x: data `[B, *event]`.
            mask: True where an element of `x` is observed, broadcastable to `x`; None where all are.

        Returns:
            The code k, `[*particles, B, *codes]`, int64.
        """
        self.register()
        x = self._tensor(x, mask)
        with pyro.plate("data", x.shape[0], dim=-1):
            k = pyro.sample("k", self.prior_distribution())
            pyro.sample("x", self._of_data(self._decoded(k), mask), obs=x)
        return k

    def guide(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The Pyro program of q(k|x), a point; arguments and result as for `model`.

        Raises:
            UsageError: if it is about to be trained by an objective that can't reach the encoder.
        """
        self.register()
        self._refuse_other_objectives()
        with pyro.plate("data", x.shape[0], dim=-1):
            return pyro.sample("k", self.encode(x, mask))

    def encode(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> dist.TorchDistribution:
        """q(k|x), all at one point: batch shape `[*leading]`, event shape `codes`, for `x` of `[*leading, *event]`.

        Args:
            x: data.
            mask: True where an element of `x` is observed; None where all are.
            c: refused: a VQVAE has no context.

        Raises:
            UsageError: if there is a context.
        """
        _refuse_context(c)
        k = self.quantizer.quantize(self.vectors(self._input(x, mask)))
        return _Point(k, event_dim=len(self.shapes.codes))

    amortize = encode
    """The same, by the name that `VAE` has for it without refinement."""

    def vectors(self, x: Tensor) -> Tensor:
        """What the encoder gives before it is quantised: `[*leading, *event]` to `[*leading, *codes, D]`."""
        return self.encoder(x).movedim(-1 - len(self.shapes.codes), -1)

    def decode(self, z: Tensor, c: Tensor | None = None) -> dist.TorchDistribution:
        """p(x|k): batch shape `[*leading]`, event shape `event`, for codes k `[*leading, *codes]`, given as `z`."""
        return self._of_data(self.likelihood_params(z, c))

    def likelihood_params(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The decoder's output, `[*leading, *likelihood.param_shape]`, for codes k given as `z`."""
        _refuse_context(c)
        return self._decoded(z)

    @property
    def start_count(self) -> int:
        """Rows for several vectors to each entry of the codebook."""
        return -(-_VECTORS_PER_ENTRY * self.shapes.codebook_size // self.shapes.positions)

    @torch.no_grad()
    def start_prior(self, x: Tensor) -> None:
        """Initialise the codebook with some of the encoder's vectors for data; `fit` calls this.

        Args:
            x: rows of the training data, `[start_count, *event]`, or all there are if they are fewer.
        """
        mode = self.training
        self.eval()  # norms over a batch must not see these rows
        vectors = self.vectors(self._input(x, None))
        self.train(mode)
        self.quantizer.start_from(vectors.reshape(-1, vectors.shape[-1]))

    def extra_repr(self) -> str:
        """The sizes."""
        return f"event_shape={self.shapes.event}, codes={self.shapes.codes}"

    def _decoded(self, k: Tensor) -> Tensor:
        """The decoder's output for codes."""
        entries = self.quantizer.embed(k).movedim(-1, -1 - len(self.shapes.codes))
        leading = k.shape[: k.dim() - len(self.shapes.codes)]
        return self.decoder(entries.reshape(*leading, *self.decoder.in_shape))

    def _decoded_shape(self, decoder: Callable[..., Any]) -> tuple[int, ...]:
        dim, codes = self.arguments["embedding_dim"], self.shapes.codes
        return (self.shapes.latent,) if issubclass(joining(decoder), ConvNet | ResNet) else (dim, *codes)

    def _refuse_other_objectives(self) -> None:
        """They would train the decoder alone, without a word."""
        if self.training and torch.is_grad_enabled() and handlers() and StraightThrough.active() is None:
            raise UsageError(
                "the codes are discrete, and this objective's gradient does not reach the encoder through them: "
                + spoken(
                    "train by pyro_vae.objectives.VQBound(); to evaluate, call .eval() first, or use torch.no_grad()",
                    "train by --objective VQBound",
                )
            )


class _Point(dist.Delta):
    """All probability at one code, which is discrete and has no mean to speak of."""

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.nonnegative_integer, self.event_dim)


_VECTORS_PER_ENTRY = 4
"""Vectors drawn for each entry to initialise the codebook: those of a few images would be too similar."""


def _refuse_context(c: Tensor | None) -> None:
    if c is not None:
        raise UsageError("a VQVAE takes no context: train it without one")
