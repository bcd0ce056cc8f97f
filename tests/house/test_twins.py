"""The twins of `benchmarks/our_parts.py`: with the same weights and the same draws, the same loss and gradients."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import our_parts
import twin_models
import twins

ARGS = Namespace(num=40, seed=0, batch=20, hidden=40, latent=4)


def split(parameters):
    """Each parameter, or its parts: the twin of M2 keeps the weights of the class apart from those of the vector."""
    for name, value in parameters:
        if "network.hidden.0.weight" in name:
            yield from value.split([value.shape[1] - twin_models._CLASSES, twin_models._CLASSES], 1)
        else:
            yield value


def pair(part):
    """Our autoencoder and its twin with the same weights, random ones."""
    torch.manual_seed(1)
    problem = our_parts.PARTS[part]
    ours, twin = problem.make(ARGS), twins.TWINS[part](ARGS)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for mine, its in zip(split(ours.named_parameters()), twin.parameters(), strict=True):
            assert mine.squeeze().numel() == its.numel()
            its.copy_(mine.reshape(its.shape))
    return problem, ours, twin


def gradients_of(ours):
    return list(split((name, parameter.grad) for name, parameter in ours.named_parameters()))


@pytest.mark.parametrize("part", our_parts.PARTS)
def test_a_twin_has_the_loss_and_the_gradients_of_ours(part):
    """Both draw their noise in the same order, so they agree to rounding, not only on average."""
    problem, ours, twin = pair(part)
    data = problem.data(ARGS)
    x = data.train if problem.inputs(ARGS) else data
    objective = (problem.objective or our_parts.ELBO()).for_data(ARGS.num, problem.inputs(ARGS))
    torch.manual_seed(2)
    loss = objective(ours.model, ours.guide, x, **problem.inputs(ARGS))
    loss.backward()
    torch.manual_seed(2)
    differentiated, reported = twin(*twins.data(part, ARGS))
    differentiated.backward()
    assert reported.item() == pytest.approx(loss.item(), rel=1e-5)
    for mine, its in zip(gradients_of(ours), twin.parameters(), strict=True):
        torch.testing.assert_close(its.grad, mine.reshape(its.shape), rtol=1e-3, atol=1e-4 * mine.abs().max().item())
