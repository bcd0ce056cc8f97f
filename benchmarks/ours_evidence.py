"""Speed of `pyro_vae.log_marginal`, as a user calls it: standard errors, ESS and Pareto's k included."""

from typing import Any

from common import EvidenceProblem, Memory, evidence_parser, evidence_problem, time_evidence
from torch import from_numpy, nn
from torch_common import Warnings, load, set_up

from pyro_vae import VAE, log_marginal
from pyro_vae.networks import MLP

MODES: dict[str, dict[str, Any]] = {
    "eager": {"compile": False},
    "compiled": {"compile": True},
    "bf16": {"compile": True, "precision": "bf16"},
}


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    parser = evidence_parser(__doc__)
    parser.add_argument("--mode", choices=MODES, default="compiled")
    args = parser.parse_args(argv)
    onednn = set_up(args)
    warned, problem = Warnings(), evidence_problem(args)
    vae, x = make(problem), from_numpy(problem.x)
    options = {"num_particles": args.particles, **MODES[args.mode]}

    def log_p(num: int) -> float:
        return log_marginal(vae.model, vae.guide, x[:num], **options).mean

    time_evidence(f"ours, {args.mode}", args, log_p, Memory(), onednn=onednn, warnings=warned.messages)


def make(problem: EvidenceProblem) -> VAE:
    """The problem's model as a `VAE`."""

    def network(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> MLP:
        layers = problem.encoder if in_shape == problem.x.shape[1:] else problem.decoder
        mlp = MLP(in_shape, out_shape, hidden=tuple(len(bias) for _, bias in layers[:-1]), activation="tanh")
        linears = [module for module in mlp.modules() if isinstance(module, nn.Linear)]
        for linear, (weight, bias) in zip(linears, layers, strict=True):
            load(linear, weight, bias)
        return mlp

    return VAE(problem.x.shape[1:], problem.latent, encoder=network, decoder=network)


if __name__ == "__main__":
    main()
