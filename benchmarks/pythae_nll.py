"""Speed of pythae's `VAE.get_nll`, in chunks of 100 samples (its default)."""

import torch
from common import Memory, evidence_parser, evidence_problem, time_evidence
from pythae_trainer import pythae_vae
from torch_common import network, set_up


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    parser = evidence_parser(__doc__, images=20)
    parser.set_defaults(warm_up=1)
    args = parser.parse_args(argv)
    onednn = set_up(args)
    problem = evidence_problem(args)
    vae = pythae_vae(network(problem.encoder), network(problem.decoder), problem.latent)
    x = torch.from_numpy(problem.x)

    @torch.no_grad()
    def log_p(num: int) -> float:
        return vae.get_nll(x[:num], n_samples=args.particles)  # despite its name it is log p(x)

    time_evidence("pythae get_nll", args, log_p, Memory(), onednn=onednn)


if __name__ == "__main__":
    main()
