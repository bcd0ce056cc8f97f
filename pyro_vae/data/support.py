"""Which likelihoods fit data, by their values, for messages that refuse another one."""

from torch import Tensor

from pyro_vae.arguments.remedies import option, part, spoken


def fitting(x: Tensor) -> str:
    """The likelihoods whose support holds the data, in words; empty where none does, or the data are in [0, 1].

    Values in [0, 1] may be grey levels, probabilities or proportions, so each likelihood has its own advice.

    Args:
        x: data `[N, *event]`.

    Example:
        >>> fitting(Tensor([[0.5, -3.0]]))
        'these are real numbers: take likelihood=Normal, StudentT or Laplace'
    """
    if not x.isfinite().all() or (x.min() >= 0 and x.max() <= 1):
        return ""
    if x.min() < 0 or not (x == x.round()).all():
        return f"these are real numbers: take {part('likelihood', 'Normal')}, StudentT or Laplace"
    high = int(x.max())
    return (
        f"these are whole numbers from 0: take {part('likelihood', 'Poisson')} or NegativeBinomial where they are "
        f"counts; {part('likelihood', 'Categorical')} or BetaBinomial, with {option('divide_by', high)} and "
        f"{spoken('levels=', '--vae.likelihood.levels ')}{high + 1}, where they are levels"
    )
