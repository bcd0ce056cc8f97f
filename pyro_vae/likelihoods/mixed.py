"""`Mixed`: the columns of a table, of several kinds."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import plain
from pyro_vae.distributions.columns import OfEach, SideBySide
from pyro_vae.errors import UsageError
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.columns import Columns, Kind, kind_of
from pyro_vae.likelihoods.scaled import Size, check_size
from pyro_vae.shapes import Shapes
from pyro_vae.statistics.running import Running

_ALL = ("real", "positive", "count", "category:3", "ordered:4", "binary")


class Mixed(Likelihood):
    r"""Columns of several kinds, each with a density or probabilities that sum to one.

    .. math:: \log p(x|z) = \sum_d \log p_{kind(d)}(x_d | z)

    A datum is one row of a table; each column is one number. By its kind its distribution is

    - `real`: normal, `N(x; m, s^2)`;
    - `positive`: log-normal, `N(log x; m, s^2) / x`. A change of the column's unit then only shifts m, as the unit of a
      real column does, where a gamma distribution would couple mean and spread;
    - `count`: negative binomial, as `NegativeBinomial`: x = 0, 1, 2, ...;
    - `binary`: Bernoulli, x = 0 or 1;
    - `category:C`: a softmax of C logits: x = 0, ..., C - 1, in no order;
    - `ordered:C`: cumulative logit, `P(x <= k) = sigmoid(t_k - m)` with thresholds `t_0 < ... < t_(C-2)`, learned, one
      set for each column: x = 0, ..., C - 1.

    The decoder gives the parameters of all columns as one vector, those of each kind together; an ordered column has
    one number, the location m.

    **Units.** `fit` takes from the training data each column's units: mean and standard deviation of a real column, of
    the logarithm of a positive one, the mean of counts, how often each level occurs (`start_from`). Decoder and scales
    work in these units, so a decoder that gives zeros has the means and frequencies of the data, whatever their scale;
    densities, draws and means are those of x. The encoder gets real columns, logarithms of positive ones and of
    1 + counts, binary and ordered columns in units of their standard deviation, and a category one-hot; a value that
    is not observed is 0.

    The mean of p(x|z) is E[x], for codes the average code. In what tasks report as the best value of a column, a
    category is the most probable one (`best`).

    Args:
        shapes: the sizes of the VAE.
        kinds: the kind of each column (of each element, in order); one alone is that of all, and none at all means
            `real`. Those of a table are `data.table.kinds`, which the command takes where none are given.
        scale: s of real and positive columns, in units: a number (fixed), `"learned"` (one for each column) or
            `"per_element"` (the decoder gives its logarithm).
        dispersion: of counts, as for `NegativeBinomial`.
        min_scale: added to a scale that is not fixed; keeps the density bounded.

    Raises:
        UsageError: for an unknown kind, another number of kinds than columns, or scales out of range.

    References:
        Nazabal et al. 2020, Handling incomplete heterogeneous data using VAEs.

    Example:
        >>> table = Mixed(Shapes((3,), 2), kinds=("real", "binary", "category:4"))
        >>> table.param_shape
        (6,)
        >>> table(torch.zeros(6)).log_prob(torch.tensor([0.0, 1.0, 3.0])).detach()
        tensor([-0.9199, -0.6931, -1.3863])
    """

    remedy = "give each column values of its kind, or choose another kind for it"
    placeholder = 1.0  # of every kind
    variants: ClassVar[tuple[dict[str, Any], ...]] = (
        {"kinds": _ALL},
        {"kinds": _ALL[::-1], "scale": "per_element", "dispersion": "per_element"},
        {"kinds": ("ordered:2", "category:2", "ordered:9", "binary", "ordered:2", "category:7")},
        {"kinds": ("count",), "dispersion": 2.0},
        {"kinds": ("positive",), "scale": 0.5},
    )

    def __init__(
        self,
        shapes: Shapes,
        kinds: Sequence[str] = (),
        scale: Size = "learned",
        dispersion: Size = "learned",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(shapes)
        check_size(self, "scale", scale)
        check_size(self, "dispersion", dispersion)
        if min_scale < 0:
            raise UsageError(f"Mixed needs min_scale >= 0, got {min_scale}")
        self.kinds = _kinds(kinds, shapes)
        self.support: OfEach = OfEach([kind.support for kind in self.kinds], shapes.event)
        places = {kind: [i for i, other in enumerate(self.kinds) if other == kind] for kind in self.kinds}
        options = plain(scale), float(min_scale), plain(dispersion)
        self.columns = nn.ModuleList(kind.columns(len(at), *options) for kind, at in places.items())
        self.num_params = sum(columns.count * columns.num_params for columns in self._columns)
        self._register_places(list(places.values()))

    def _register_places(self, places: list[list[int]]) -> None:
        """Where the columns of each kind are in x, and where each column is among those of all kinds."""
        for i, at in enumerate(places):
            self.register_buffer(f"places{i}", torch.tensor(at), persistent=False)
        joined = torch.tensor([i for at in places for i in at])
        self.register_buffer("order", joined.argsort(), persistent=False)

    @property
    def _dtype(self) -> torch.dtype:
        return next(buffer.dtype for buffer in self.buffers() if buffer.is_floating_point())

    @property
    def _columns(self) -> list[Columns]:
        return list(self.columns)  # pyright: ignore[reportReturnType]

    @property
    def _places(self) -> list[Tensor]:
        return [getattr(self, f"places{i}") for i in range(len(self.columns))]

    @property
    def _features(self) -> list[int]:
        """How many numbers the encoder gets of the columns of each kind."""
        return [columns.count * columns.num_features for columns in self._columns]

    @property
    def param_shape(self) -> tuple[int, ...]:
        """What the decoder must return for one code: `(total,)`, the parameters of all columns."""
        return (self.num_params,)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What the encoder gets of one datum: `(features,)`; a category has one for each level."""
        return (sum(self._features),)

    def split(self, params: Tensor) -> tuple[Tensor, ...]:
        """The parameters of each kind, `[*leading, columns of the kind, parameters of a column]`."""
        sizes = [columns.count * columns.num_params for columns in self._columns]
        parts = zip(self._columns, params.split(sizes, -1), strict=True)
        return tuple(part.unflatten(-1, (columns.count, columns.num_params)) for columns, part in parts)

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """The columns side by side, from what `split` gives."""
        parts = [columns.elements(part) for columns, part in zip(self._columns, params, strict=True)]
        return SideBySide(parts, self._places, self.get_buffer("order"), self.support)

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Means of the data, and per element their spread; of a category the data's frequencies, as far as known."""
        started = []
        for columns, places in zip(self._columns, self._places, strict=True):
            of_kind = (value.flatten()[places.to(value.device)] for value in (mean, std))
            started.append(columns.to(mean.device).initial(*of_kind).to(mean.dtype).flatten())
        return torch.cat(started)

    def encoder_input(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features around 0 with a spread around 1, `[*leading, *input_shape]`; 0 where a value is not observed."""
        each = zip(self._columns, self._of_each_kind(x), strict=True)
        features = [columns.features(values) for columns, values in each]
        if mask is not None:
            seen = self._of_each_kind(mask.expand(x.shape))
            features = [torch.where(m.unsqueeze(-1), f, 0.0) for f, m in zip(features, seen, strict=True)]
        return torch.cat([part.flatten(-2) for part in features], -1)

    @torch.no_grad()
    def start_from(self, parts: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Take the units of the columns, and how often each level occurs, from the observed training data."""
        totals = [Running() for _ in self._columns]
        for x, mask in parts:
            x = x.to(self.get_buffer("order").device)
            seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.to(x.device).expand(x.shape)
            values, observed = self._of_each_kind(torch.where(seen, x, self.placeholder)), self._of_each_kind(seen)
            for columns, total, v, o in zip(self._columns, totals, values, observed, strict=True):
                numbers = columns.statistics(v.to(self._dtype))
                total.add(numbers, o.unsqueeze(-1).expand(numbers.shape))
        for columns, total in zip(self._columns, totals, strict=True):
            mean, std, count = total.moments()
            columns.start_from(mean, std, count[:, 0])

    def averaged(self, elements: Any) -> Tensor:
        """Probabilities of each class of the categories, and means of all other columns, `[*leading, numbers]`."""
        while not isinstance(elements, SideBySide):
            elements = elements.base_dist
        each = zip(self._columns, elements.parts, strict=True)
        return torch.cat([columns.averaged(part).flatten(-2) for columns, part in each], -1)

    def best(self, averages: Tensor) -> Tensor:
        """The most probable class of a category, the mean of any other column, `[*leading, *event]`."""
        parts = zip(self._columns, averages.split(self._features, -1), strict=True)
        found = [columns.best(part.unflatten(-1, (columns.count, -1))) for columns, part in parts]
        order = self.get_buffer("order").to(averages.device)
        return torch.cat(found, -1).index_select(-1, order).unflatten(-1, self.shapes.event)

    def allowed_at(self, index: tuple[int, ...]) -> str:
        """The values of a column, by its number from 1."""
        number = int(torch.arange(self.shapes.event_size).reshape(self.shapes.event)[index])
        kind = self.kinds[number]
        return f"column {number + 1} is {kind}: {kind.values}"

    def advice(self, x: Tensor) -> str:
        """The remedy."""
        return self.remedy

    def extra_repr(self) -> str:
        """The kinds."""
        return ", ".join(map(str, self.kinds))

    def _of_each_kind(self, x: Tensor) -> list[Tensor]:
        """The columns of each kind, `[*leading, n]`."""
        flat = x.flatten(-len(self.shapes.event))
        return [flat.index_select(-1, places.to(flat.device)) for places in self._places]


def _kinds(kinds: Sequence[str], shapes: Shapes) -> tuple[Kind, ...]:
    """The kind of each column."""
    if isinstance(kinds, str) or not isinstance(kinds, Sequence):
        raise UsageError(f"kinds: expected a list of texts such as ['real', 'category:4'], got {kinds!r}")
    found = tuple(kind_of(kind) for kind in kinds) or (Kind("real"),)
    columns = shapes.event_size
    if len(found) == 1:
        return found * columns
    if len(found) != columns:
        raise UsageError(f"kinds: expected one for each of {columns} columns, or one for all, got {len(found)}")
    return found
