"""A model in words, for its card: how to load it, its parts, its data."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.runs.describing import describe
from pyro_vae.sharing.markdown import block, code, escaped, table
from pyro_vae.sharing.source import Source

_ROLES = {
    "prior": "prior p(z)",
    "likelihood": "likelihood p(x given z)",
    "guide": "guide q(z given x)",
    "encoder": "encoder",
    "decoder": "decoder",
    "classifier": "classifier",
    "upper_encoder": "upper encoders",
    "upper_decoder": "upper decoders",
    "missingness": "missingness p(mask given x)",
    "vae": "autoencoder inside",
}
"""Arguments of autoencoders that are parts, in words."""
_PREPARATION = (
    "binarize",
    "dequantize",
    "divide_by",
    "missing",
    "context",
    "valid_size",
    "test_size",
    "labelled",
    "image_size",
    "channels",
)


def name_of(source: Source) -> str:
    """The name of the run."""
    assert source.path is not None
    path = source.path.resolve()
    return path.stem if path.is_file() else path.name


def data_name(source: Source) -> str | None:
    """The name of the data, without the folders above a file; None for an array."""
    data = source.config.get("data")
    return None if data is None else Path(data).name


def loading(source: Source, repo: str) -> str:
    """How to load the model, and whom one trusts then.

    Args:
        source: the run.
        repo: its name on the hub.
    """
    trust = foreign(source.config)
    arguments = f'"{repo}"' + (f", trust={trust!r}" if trust else "")
    lines = [
        "# pip install 'pyro-vae[hub]'",
        "import torch",
        "from pyro_vae import sample",
        "from pyro_vae.sharing import from_pretrained",
        "",
        f"vae = from_pretrained({arguments})",
        *_usage(source),
    ]
    said = [block(lines, "python")]
    if trust:
        names = ", ".join(map(code, trust))
        said.append(
            f"The model has classes of {names}, which are not a part of pyro_vae: install them. Nothing of them is "
            "imported unless you name them in `trust`; read their code before you do."
        )
    said.append("A copy of the files is loaded by `pyro_vae.load(FOLDER)`. Nothing is unpickled.")
    return "\n\n".join(said)


def _usage(source: Source) -> list[str]:
    """Calls that a model of this kind answers."""
    vae = source.vae
    first = f"x = torch.zeros({', '.join(map(str, (5, *vae.shapes.event)))})  # data, prepared as below"
    if vae.shapes.context is not None or not vae.has_one_code or vae.code_site is None:
        return [first, "help(vae)"]
    return [first, "q = vae.encode(x)  # q(z|x)", "p = vae.decode(q.mean)  # p(x|z)", "new = sample(vae, 16)"]


def foreign(value: Any) -> list[str]:
    """The modules of classes in a config that are neither of this package nor of torch."""
    if isinstance(value, Mapping):
        path = value.get("class_path")
        own = {path.partition(".")[0]} - {"pyro_vae", "torch", path} if isinstance(path, str) else set()
        return sorted(own.union(*map(foreign, value.values())))
    return sorted(set().union(*map(foreign, value))) if isinstance(value, list | tuple) else []


def model(source: Source) -> str:
    """The parts, the sizes and the training."""
    vae = source.vae
    parts = {role: vae.arguments[role] for role in _ROLES if vae.arguments.get(role) is not None}
    rows = [[_ROLES[role], code(_options(describe(part))), escaped(_sentence(part))] for role, part in parts.items()]
    facts = [[escaped(name), code(value)] for name, value in _facts(source).items()]
    heads = ["part", "class and options", "in words"]
    return f"{escaped(_sentence(type(vae)))}\n\n{table(heads, rows)}\n\n{table(['', ''], facts)}"


def _facts(source: Source) -> dict[str, Any]:
    vae, config, progress = source.vae, source.config, source.manifest["progress"]
    objective = config.get("objective")
    return {
        "latent dimensions": vae.shapes.latent,
        "parameters": f"{sum(p.numel() for p in vae.parameters()):,}",
        **({} if vae.data_mean is None else {"networks work on standardised data": "yes"}),
        **({} if vae.shapes.context is None else {"shape of the context": list(vae.shapes.context)}),
        **({} if objective is None else {"objective": _options(objective)}),
        "epochs": f"{progress['epoch']} of {config.get('epochs', '?')}",
        "data in a step": config.get("batch_size", "?"),
        "seed": config.get("seed", "?"),
        "weights": source.weights,
    }


def _sentence(part: Any) -> str:
    """The first line of the documentation of a class, or of a partial of one."""
    return (inspect.getdoc(getattr(part, "func", part)) or "").partition("\n")[0].replace("`", "")


def _options(description: Mapping[str, Any]) -> str:
    """A described class in words: `MLP(hidden=[500])`."""
    listed = ", ".join(f"{name}={_option(value)}" for name, value in (description.get("init_args") or {}).items())
    path = str(description["class_path"])
    name = path.rpartition(".")[2] if path.startswith(("pyro_vae.", "torch.")) else path
    return f"{name}({listed})" if listed else name


def _option(value: Any) -> str:
    return _options(value) if isinstance(value, Mapping) and "class_path" in value else str(value)


def data(source: Source) -> str:
    """The data, how they were prepared, and their fingerprint."""
    config, name = source.config, data_name(source)
    options = {key: config[key] for key in _PREPARATION if config.get(key) not in (None, "none", False, 0)}
    call = ", ".join([repr(name), *(f"{key}={value!r}" for key, value in options.items())])
    rows = [
        ["name", code(name or "an array, which the run does not hold")],
        ["preparation", code(f"load_data({call})" if name else "the array as it was given")],
        ["shape of one datum", code(list(source.vae.shapes.event))],
        ["sha256 of what was trained on", code(source.manifest["progress"].get("data") or "unknown")],
    ]
    said = [table(["", ""], rows)]
    if kinds := config.get("kinds"):
        said.append(table(["column", "kind and levels"], [[escaped(c), code(_kind(k))] for c, k in kinds.items()]))
    said.append("Whom or what the data are about, and whether they may be used, this card does not know.")
    return "\n\n".join(said)


def _kind(kind: Any) -> str:
    if isinstance(kind, Mapping):
        return "; ".join(f"{name}: {', '.join(map(str, levels))}" for name, levels in kind.items())
    return f"ordered: {', '.join(map(str, kind))}" if isinstance(kind, list | tuple) else str(kind)
