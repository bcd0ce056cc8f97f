"""The floor under log p(x) in float32: the decoder's matrix products alone, at the best chunk size."""

import time

import torch
from common import Memory, evidence_parser, evidence_problem, time_evidence
from torch import Tensor
from torch_common import keep_blocks, set_up

CHUNKS = (250, 500, 1000, 2500, 5000)


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line; there is nothing to estimate, so `log_p` is 0."""
    args = evidence_parser(__doc__).parse_args(argv)
    onednn = set_up(args)
    keep_blocks()
    weights = [torch.from_numpy(weight) for weight, _ in evidence_problem(args).decoder]
    rows = min(CHUNKS, key=lambda rows: _seconds(weights, rows))

    def products(num: int) -> float:
        _multiply(weights, rows, num * args.particles // rows)
        return 0.0

    time_evidence("matrix products alone", args, products, Memory(), onednn=onednn, rows=rows)


def _multiply(weights: list[Tensor], rows: int, times: int) -> None:
    """`times` passes of `rows` rows through all products, into buffers that stay."""
    inputs = [torch.randn(rows, len(weight)) for weight in weights]
    outputs = [torch.empty(rows, weight.shape[1]) for weight in weights]
    for _ in range(times):
        for x, weight, out in zip(inputs, weights, outputs, strict=True):
            torch.mm(x, weight, out=out)


def _seconds(weights: list[Tensor], rows: int, total: int = 10_000) -> float:
    """Seconds for `total` rows."""
    _multiply(weights, rows, 2)
    start = time.perf_counter()
    _multiply(weights, rows, total // rows)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
