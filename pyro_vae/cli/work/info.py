"""`pyro-vae info`: what a run directory holds."""

from inspect import signature
from typing import Any

from jsonargparse import Namespace

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import DataSettings, SavedRun, open_saved
from pyro_vae.runs.describing import describe, vae_parts
from pyro_vae.runs.texts import read_manifest, read_metrics


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    saved = open_saved(options)
    result = _result(saved)
    print_result({**result, "config": saved.config} if options.json else result, as_json=options.json)
    return 0


def _result(saved: SavedRun) -> dict[str, Any]:
    config, vae, data = saved.config, saved.vae, DataSettings.of(saved.config)
    rows = read_metrics(saved.path)
    return {
        "run": str(saved.path),
        "written_by": f"pyro-vae {read_manifest(saved.path)['pyro_vae']}",
        "data": data.data or "an array",
        "binarize": data.binarize,
        "dequantize": data.dequantize,
        **({} if data.missing is None else {"missing": data.missing}),
        "class": type(vae).__name__,
        "event_shape": "x".join(map(str, vae.shapes.event)),
        "latent_dim": vae.shapes.latent,
        **_parts(vae, vae_parts(config["vae"])[1]),
        "objective": _part(config["objective"]),
        "parameters": sum(p.numel() for p in vae.parameters()),
        "epochs": f"{saved.progress['epoch']} of {config['epochs']}",
        "weights": saved.weights,
        **({k: v for k, v in rows[-1].items() if k.startswith(("train_", "valid_"))} if rows else {}),
    }


def _parts(vae: Autoencoder, arguments: dict[str, Any]) -> dict[str, str]:
    """The parts and sizes of a VAE, and options that differ from their defaults."""
    defaults = {name: parameter.default for name, parameter in signature(type(vae)).parameters.items()}
    return {
        name: _value(value)
        for name, value in arguments.items()
        if name not in ("event_shape", "latent_dim")
        and (isinstance(value, dict) or name == "latent_dims" or value != describe(defaults.get(name)))
    }


def _part(description: dict[str, Any]) -> str:
    arguments = ", ".join(f"{k}={_value(v)}" for k, v in (description.get("init_args") or {}).items())
    return f"{description['class_path'].rpartition('.')[2]}({arguments})"


def _value(value: Any) -> str:
    return _part(value) if isinstance(value, dict) and "class_path" in value else str(value)
