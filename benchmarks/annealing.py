"""What the scripts of annealed importance sampling share: options, temperatures and the rule of the step sizes.

Standard library alone, so that it runs in every peer's environment. All systems have the same model and the same number
of chains. Peers take `--leapfrog` steps at each of `--temperatures`; `pyro_vae.ais` takes fewer of both for the same
error (`systems._annealed`), and a pilot run that finds its step sizes and temperatures, which is timed too.
"""

from argparse import ArgumentParser
from math import exp

from common import PIXELS, evidence_parser

_STEEPNESS = 4.0
FIRST_STEP, LEAST_STEP, LARGEST_STEP = 0.1, 1e-4, 1.0
TARGET, UP, DOWN = 0.8, 1.02, 0.98
"""Each chain's step grows while its mean acceptance is above the target, else it shrinks (Wu et al. 2017)."""


def annealing_parser(description: str | None, torch: bool = True) -> ArgumentParser:
    """The options of every script."""
    parser = evidence_parser(description, torch)
    parser.add_argument("--temperatures", type=int, default=50)
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--latent", type=int, default=50)
    parser.add_argument("--start", choices=["guide", "prior"], default="guide", help="the density at beta = 0")
    parser.add_argument("--leapfrog", type=int, default=3, help="steps of peers at each temperature")
    parser.add_argument("--steps", type=int, default=2, help="the same of ours")
    parser.add_argument("--fewer", type=float, default=1.0, help="divides --temperatures of ours")
    return parser


def decoder(latent: int) -> str:
    """The sizes of its layers."""
    return f"{latent}-200-200-{PIXELS}"


def betas(num: int) -> list[float]:
    """Inverse temperatures from 0 to 1, `num + 1` of them, dense at both ends (Wu et al. 2017)."""
    values = [1 / (1 + exp(-_STEEPNESS * (2 * t / num - 1))) for t in range(num + 1)]
    return [(value - values[0]) / (values[-1] - values[0]) for value in values]
