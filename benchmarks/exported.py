"""Sizes and times of exported files beside torch: `python benchmarks/exported.py` writes docs/results/exported.json.

For each model its encoder and its decoder, by the package, by the program of torch.export and by ONNX's runtime, on one
thread each, for one datum and for a hundred. The three take turns, `--rounds` times, and a time is the median over the
rounds; within a round a call is repeated for `--seconds`. Weights are those of a new model: times and sizes do not
depend on them.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import machine
import safetensors.torch
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.likelihoods import Bernoulli, DiscretizedLogistic, Likelihood, Normal
from pyro_vae.networks import MLP, ConvNet, ResNet
from pyro_vae.sharing.exporting import difference, exported
from pyro_vae.sharing.parts import PARTS, Prepared
from pyro_vae.sharing.source import source_of

FILE = Path(__file__).parents[1] / "docs" / "results" / "exported.json"
BATCHES = (1, 100)


def _vae(event: tuple[int, ...], latent: int, network: Any, likelihood: type[Likelihood]) -> VAE:
    return VAE(event, latent, likelihood=likelihood, encoder=network, decoder=network).eval()


MODELS: dict[str, Callable[[], VAE]] = {
    "64-500-20, Bernoulli": lambda: _vae((8, 8), 20, partial(MLP, hidden=(500,)), Bernoulli),
    "784-500-500-50, Bernoulli": lambda: _vae((1, 28, 28), 50, partial(MLP, hidden=(500, 500)), Bernoulli),
    "ConvNet on 28x28, Bernoulli": lambda: _vae((1, 28, 28), 50, ConvNet, Bernoulli),
    "ResNet on 3x32x32, DiscretizedLogistic": lambda: _vae((3, 32, 32), 128, ResNet, DiscretizedLogistic),
    "table of 20 reals, Normal": lambda: _vae((20,), 8, partial(MLP, hidden=(200, 200)), Normal),
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each system in a round")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    others = machine.Others()
    rows = [row for name, make in MODELS.items() for row in _rows(name, make(), args)]
    about = {
        "command": f"python benchmarks/exported.py --rounds {args.rounds} --seconds {args.seconds:g}",
        "machine": machine.cpu_model(),
        "others_cores": others.cores(),
        "threads": 1,
        "torch": torch.__version__,
        "onnxruntime": version("onnxruntime"),
        "commit": machine.commit(),
    }
    args.out.write_text(json.dumps({"name": "exported", "about": about, "parts": rows}, indent=1) + "\n")
    print(f"saved {args.out}")


def _rows(name: str, vae: VAE, args: argparse.Namespace) -> list[dict[str, Any]]:
    source = source_of(vae)
    files = {to: exported(source, to, ["encoder", "decoder"]).files for to in ("torch", "onnx")}
    parts = {part: {to: made[part] for to, made in files.items()} for part in files["onnx"]}
    return [_row(name, part, source.vae, made, args) for part, made in parts.items()]


def _row(name: str, part: str, vae: Any, files: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """One part of one model: bytes, milliseconds, and how far the numbers are apart."""
    module = PARTS[part](vae, Prepared())
    program = torch.export.load(io.BytesIO(files["torch"].data)).module()
    session = _session(files["onnx"].data)
    key, network = ("x", vae.encoder) if part == "encoder" else ("z", vae.decoder)
    found: dict[str, Any] = {"model": name, "part": part}
    weights = {n: v.contiguous() for n, v in network.state_dict().items()}
    found["bytes"] = {
        "weights": len(safetensors.torch.save(weights)),
        **{to: len(file.data) for to, file in files.items()},
    }
    found["milliseconds"] = {}
    for batch in BATCHES:
        value = module.example()[key][:1].expand(batch, *[-1] * (module.example()[key].dim() - 1)).contiguous()
        array = value.numpy()
        calls = {
            "torch": lambda value=value: module(**{key: value}),
            "torch.export": lambda value=value: program(**{key: value}),
            "ONNX": lambda array=array: session.run(None, {key: array}),
        }
        found["milliseconds"][str(batch)] = _times(calls, args)
        names = [output.name for output in session.get_outputs()]
        got = dict(zip(names, map(torch.from_numpy, calls["ONNX"]()), strict=True))
        with torch.no_grad():
            found["difference"] = max(found.get("difference", 0.0), difference(got, module(**{key: value})))
    print(json.dumps(found), flush=True)
    return found


def _session(data: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def _times(calls: dict[str, Callable[[], Any]], args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a call of each system: medians over rounds in which they take turns."""
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(args.rounds):
        order = list(calls)[turn % len(calls) :] + list(calls)[: turn % len(calls)]
        for name in order:
            rounds[name].append(_milliseconds(calls[name], args.seconds))
    return {name: round(statistics.median(times), 4) for name, times in rounds.items()}


def _milliseconds(call: Callable[[], Any], seconds: float) -> float:
    start, times = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        call()
        times += 1
    return 1000 * passed / times


if __name__ == "__main__":
    main()
