"""Speed of log p(x) by Pyro's `Importance`, one image at a time (it weighs a whole batch with one weight)."""

import pyro
import torch
from common import Memory, evidence_parser, evidence_problem, time_evidence
from pyro.infer import Importance
from pyro_renyi import programs
from torch_common import set_up


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    parser = evidence_parser(__doc__, images=3)
    parser.set_defaults(warm_up=1)
    args = parser.parse_args(argv)
    onednn = set_up(args)
    pyro.enable_validation(False)
    problem = evidence_problem(args)
    importance = Importance(*programs(problem), num_samples=args.particles)
    x = torch.from_numpy(problem.x)

    @torch.no_grad()
    def log_p(num: int) -> float:
        return sum(importance.run(x[i : i + 1]).get_log_normalizer().item() for i in range(num)) / num

    time_evidence("Pyro Importance", args, log_p, Memory(), onednn=onednn)


if __name__ == "__main__":
    main()
