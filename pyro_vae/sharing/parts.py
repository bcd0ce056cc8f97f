"""The parts of an autoencoder as functions of tensors alone, with names for what goes in and what comes out.

A part is a module that takes its inputs by name and returns its outputs by name, each with the batch as first
dimension. It computes what the autoencoder's own `encode` and `decode` compute, standardisation included.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.distributions.point_masses import is_point_mass
from pyro_vae.errors import UsageError
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood

_ROWS = 3
"""Data of an example: neither 0 nor 1, which an exporter would take for constants."""

Outputs = dict[str, Tensor]


class Named(nn.Module):
    """A module of tensors by name; abstract. torch.export needs each name in the signature."""

    @abstractmethod
    def compute(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """The outputs for some inputs, by name."""

    def forward(
        self,
        x: Tensor | None = None,
        raw: Tensor | None = None,
        z: Tensor | None = None,
        k: Tensor | None = None,
        c: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Outputs:
        """As `compute`, with the inputs by keyword."""
        named = {"x": x, "raw": raw, "z": z, "k": k, "c": c, "noise": noise}
        return self.compute({name: value for name, value in named.items() if value is not None})


class Part(Named):
    """A part of an autoencoder; abstract.

    Args:
        vae: the autoencoder, in evaluation mode.
        prepared: what is done to x first.
    """

    title: ClassVar[str]
    """What it is a map of, in formulas."""
    network: ClassVar[str]
    """Which part of the autoencoder does most of it, for messages."""

    def __init__(self, vae: Autoencoder, prepared: "Prepared") -> None:
        super().__init__()
        self.vae, self.prepared = vae, prepared

    @abstractmethod
    def example(self) -> dict[str, Tensor]:
        """Inputs of a few data, by name, in the order in which a file has them."""

    def _data(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """X as the model takes it, and its mask, or None."""
        return self.prepared(inputs[self.prepared.name])

    @property
    def differentiates(self) -> bool:
        """Whether gradients are taken inside: those by which a guide is refined."""
        guide = getattr(self.vae, "posterior", None) if self.network == "encoder" else None
        return guide is not None and type(guide).refine is not Guide.refine

    def _x(self) -> dict[str, Tensor]:
        """Data that the model could have drawn, under the name that they have in a file."""
        return {self.prepared.name: self.prepared.undone(_drawn(self.vae))}

    def _c(self, role: str) -> dict[str, Tensor]:
        """A context, where the networks of a role take one."""
        shape = self.vae.shapes.context
        taken = self.vae.arguments.get("conditions", ("decoder", "guide"))
        if shape is None or role not in taken:
            return {}
        return {"c": torch.randn(_ROWS, *shape, dtype=_dtype(self.vae))}


class Prepared(nn.Module):
    """What is done to numbers of a data file before the model gets them: x = raw / divisor, or [raw / divisor > 0.5].

    Args:
        divisor: None where the file takes x itself.
        threshold: whether x is binarised.
        gaps: whether nan says that an element was not observed.
    """

    def __init__(self, divisor: float | None = None, threshold: bool = False, gaps: bool = False) -> None:
        super().__init__()
        self.divisor, self.threshold, self.gaps = divisor, threshold, gaps

    @property
    def name(self) -> str:
        """The name of the input."""
        return "x" if self.divisor is None else "raw"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """X, and which of its elements were observed; None where all were."""
        mask = ~x.isnan() if self.gaps else None
        if self.divisor is not None:
            x = x / self.divisor
            x = (x > 0.5).to(x.dtype) if self.threshold else x
        return x, mask

    def undone(self, x: Tensor) -> Tensor:
        """Numbers of a data file that would be prepared to x; where there may be gaps, with some."""
        x = x if self.divisor is None else x * self.divisor
        return x.masked_fill(torch.rand_like(x) < 0.25, torch.nan) if self.gaps else x


class Encoder(Part):
    """x -> q(z|x): the guide's parameters and moments; of a discrete code the code itself."""

    title, network = "q(z|x)", "encoder"

    def example(self) -> dict[str, Tensor]:
        """Data, and the context of a guide that takes one."""
        return {**self._x(), **self._c("guide")}

    def compute(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """`mean` and `stddev` `[B, latent]`, `covariance` and `params` where the family has them."""
        (x, mask), c = self._data(inputs), inputs.get("c")
        if type(self.vae).guide_params is Autoencoder.guide_params:
            q = self.vae.encode(x, mask, c)
            return {"k": q.mean} if self.vae.has_one_code else _moments(q)
        params = self.vae.guide_params(x, mask, c)
        return {**_moments(self.vae.posterior.distribution(params)), "params": params}


class _Drawing(Messenger):
    """Makes the draws of a program; abstract."""

    def draw(self, name: str, fn: Any) -> Tensor:
        """The value of a site."""
        raise NotImplementedError

    def _pyro_sample(self, msg: Any) -> None:
        if not poutine.util.site_is_subsample(msg):
            msg["value"], msg["done"] = self.draw(msg["name"], msg["fn"]), True


class _Sizes(_Drawing):
    """Asks each site for its dimensions of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}

    def draw(self, name: str, fn: Any) -> Tensor:
        if is_point_mass(fn):
            raise UsageError("q(z|x) is a point: the only draw is its mean, which `encoder` gives")
        if not hasattr(fn, "from_noise"):
            raise UsageError(f"the draws of {type(fn).__name__} at {name!r} are no function of noise alone")
        self.sizes[name] = fn.noise_size
        return fn.sample()


class _Pushed(_Drawing):
    """Takes noise `[B, sum of sizes]` through the distributions of the sites, in order."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise, self.draws = noise, {}

    def draw(self, name: str, fn: Any) -> Tensor:
        own, self.noise = self.noise[..., : fn.noise_size], self.noise[..., fn.noise_size :]
        self.draws[name] = fn.from_noise(own)
        return self.draws[name]


class Draw(Part):
    """x, e -> z: a draw from q(z|x) as a function of standard normal noise e; of several layers a draw of each."""

    title, network = "z ~ q(z|x)", "encoder"

    def example(self) -> dict[str, Tensor]:
        """Data, noise, and the context of a guide that takes one."""
        inputs = {**self._x(), **self._c("guide")}
        with torch.no_grad():
            sizes = self._run(inputs, _Sizes()).sizes
        return {**inputs, "noise": torch.randn(_ROWS, sum(sizes.values()), dtype=_dtype(self.vae))}

    def compute(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """`z`, or `z1`, `z2`, ...: `[B, latent]`."""
        return self._run(inputs, _Pushed(inputs["noise"])).draws

    def _run(self, inputs: Mapping[str, Tensor], drawing: _Drawing) -> Any:
        """Draw from q(z|x) otherwise; of several layers, run the guide with its draws made otherwise."""
        (x, mask), c = self._data(inputs), inputs.get("c")
        if type(self.vae).encode is not Autoencoder.encode:
            drawing.draw("z", self.vae.encode(x, mask, c))
            return drawing
        given = {"mask": mask, "c": c}
        with drawing:
            self.vae.guide(x, **{name: value for name, value in given.items() if value is not None})
        return drawing


class Classifier(Part):
    """x -> q(y|x): the probabilities of the classes."""

    title, network = "q(y|x)", "classifier"

    def example(self) -> dict[str, Tensor]:
        """Data."""
        return self._x()

    def compute(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """`probs`, `[B, classes]`."""
        vae: Any = self.vae
        return {"probs": vae.classify(*self._data(inputs)).probs}


class Decoder(Part):
    """z -> p(x|z): its parameters and moments, in the units of the data."""

    title, network = "p(x|z)", "decoder"

    def example(self) -> dict[str, Tensor]:
        """Codes, and the context of a decoder that takes one."""
        return {self._code: _codes(self.vae), **self._c("decoder")}

    def compute(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """`mean`, `stddev` where it is known, `best` where that is not the mean, all `[B, *event]`; and `params`."""
        code, c = inputs[self._code], inputs.get("c")
        elements: Any = self.vae.decode(code, c)
        while isinstance(elements, torch.distributions.Independent):
            elements = elements.base_dist
        found, likelihood = _moments(elements), self.vae.likelihood
        if type(likelihood).best is not Likelihood.best:
            found["best"] = likelihood.best(likelihood.averaged(elements))
        if self.prepared.divisor is not None and not self.prepared.threshold:
            found |= {f"raw_{name}": value * self.prepared.divisor for name, value in found.items()}
        return {**found, "params": self.vae.likelihood_params(code, c)}

    @property
    def _code(self) -> str:
        return "k" if self.vae.has_one_code and self.vae.code_site is None else "z"


PARTS: Mapping[str, type[Part]] = {"encoder": Encoder, "draw": Draw, "classifier": Classifier, "decoder": Decoder}


def _moments(distribution: Any) -> Outputs:
    """Mean, standard deviation and covariance, as far as the family has them."""
    found = {}
    for name in ("mean", "stddev"):
        try:
            value = getattr(distribution, name)
        except NotImplementedError:
            continue
        found[name] = value.clone()  # not the parameter itself: each output is a tensor of its own
    if hasattr(distribution, "covariance_matrix"):
        found["covariance"] = distribution.covariance_matrix.clone()
    return found


def _codes(vae: Autoencoder) -> Tensor:
    """Codes of a few data; of several layers those of the lowest."""
    if vae.has_one_code and vae.code_site is None:
        shapes: Any = vae.shapes
        return torch.randint(shapes.codebook_size, (_ROWS, *shapes.codes))
    size = getattr(vae, "decoded_dim", vae.shapes.latent)
    return torch.randn(_ROWS, size, dtype=_dtype(vae))


@torch.no_grad()
def _drawn(vae: Autoencoder) -> Tensor:
    """Data inside the likelihood's support, `[rows, *event]`."""
    params = torch.randn(_ROWS, *vae.likelihood.param_shape, dtype=_dtype(vae))
    elements = vae.likelihood(params)
    x = elements.sample().to(params.dtype)
    if vae.data_mean is not None and vae.data_std is not None:
        x = vae.data_mean + vae.data_std * x
    return x


def _dtype(vae: Autoencoder) -> torch.dtype:
    return next(vae.parameters()).dtype
