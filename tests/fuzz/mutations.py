"""Mutations: of text, of plain data, of tensors. All draws come from one `random.Random`."""

import copy
import random
from inspect import isabstract

import torch

import pyro_vae
from pyro_vae import guides, likelihoods, networks, objectives, priors, schedules

AXES = (guides, likelihoods, networks, objectives, priors, schedules)
CLASSES = sorted(
    f"{axis.__name__}.{name}"
    for axis in AXES
    for name, cls in vars(axis).items()
    if isinstance(cls, type) and not name.startswith("_") and not isabstract(cls)
)
OTHERS = [
    "os.system",
    "pyro_vae.VAE",
    "torch.optim.SGD",
    "torch.optim.LBFGS",
    "torch.nn.Linear",
    "builtins.int",
    "x",
    "",
    ".",
]
NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    10**6,
    -(10**9),
    2**31,
    2**53,
    2**63,
    10**30,
    10**400,
    0.5,
    -0.5,
    1e-300,
    1e308,
    float("nan"),
]
NUMBERS += [float("inf"), float("-inf")]
WORDS = [
    "",
    "x",
    "none",
    "auto",
    "null",
    "1",
    "1e3",
    "digits",
    "labels",
    "quadrants-2",
    "../x",
    "\0",
    "\ud800",
    "ä" * 300,
]
TOKENS = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "-",
    "&a",
    "*a",
    "!!int",
    "\n",
    "\t",
    "'",
    '"',
    "null",
    "true",
    "\0",
    "\x85",
    "1e999",
]


def value(rng):
    """Anything that plain data can be."""
    plain = [None, True, False, rng.choice(NUMBERS), rng.choice(NUMBERS), rng.choice(WORDS), [], {}]
    described = {"class_path": rng.choice(CLASSES + OTHERS)}
    nested = [
        [None],
        [rng.choice(NUMBERS)] * 3,
        {"": None},
        {"class_path": None},
        {"class_path": "x", "init_args": [None]},
    ]
    return copy.deepcopy(rng.choice([*plain, *nested, described, {**described, "init_args": {rng.choice(WORDS): 1}}]))


def nodes(tree, path=()):
    """The paths of all values below the top."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, item in items:
        yield (*path, name)
        yield from nodes(item, (*path, name))


def at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def mutated_tree(rng, tree):
    """Plain data with one to three changes."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        paths = list(nodes(tree))
        if not paths:
            break
        *above, name = rng.choice(paths)
        change_tree(rng, tree, at(tree, above), name, paths)
    return tree


def change_tree(rng, tree, parent, name, paths):
    kind = rng.choice(["set", "set", "set", "drop", "rename", "wrap", "swap", "nudge", "class"])
    old = parent[name]
    if kind == "drop":
        del parent[name]
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice([*WORDS, f"{name}s", str(name).upper()])] = parent.pop(name)
    elif kind == "wrap":
        parent[name] = rng.choice([[old], {"value": old}, {"class_path": old}, str(old)])
    elif kind == "swap":
        parent[name] = copy.deepcopy(at(tree, rng.choice(paths)))
    elif kind == "nudge" and isinstance(old, int | float):
        parent[name] = old + rng.choice([1, -1, 0.5, 100])
    elif kind == "class" and isinstance(old, dict) and "class_path" in old:
        old["class_path"] = rng.choice(CLASSES + OTHERS)
    else:
        parent[name] = value(rng)


def mutated_bytes(rng, data):
    """Bytes with one to four changes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([1, 1, 2, 8, 64]))
        kind = rng.choice(["flip", "drop", "repeat", "token", "cut", "random"])
        if kind == "flip" and start < len(data):
            data[start] ^= 1 << rng.randrange(8)
        elif kind == "drop":
            del data[start:end]
        elif kind == "repeat":
            data[start:start] = data[start:end] * rng.choice([1, 2, 50])
        elif kind == "token":
            data[start:end] = rng.choice(TOKENS).encode()
        elif kind == "cut" and rng.random() < 0.3:
            del data[start:]
        else:
            data[start:end] = rng.randbytes(end - start)
    return bytes(data)


def mutated_csv(rng, text):
    """A table with one change of a cell, a column or a row."""
    rows = [line.split(",") for line in text.splitlines()]
    row, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    kind = rng.choice(
        ["cell", "cell", "drop column", "drop row", "swap", "repeat row", "repeat column", "short", "reverse"]
    )
    if kind == "cell":
        rows[row][column] = str(
            rng.choice([*NUMBERS[:12], *NUMBERS[13:], *WORDS[:6], '"', "1;2", "0x1", "1_0", " 1 ", "١"])
        )
    elif kind == "drop row":
        del rows[row]
    elif kind == "repeat row":
        rows.insert(row, rows[row])
    elif kind == "short":
        rows[row] = rows[row][:column]
    elif kind == "reverse":
        rows.reverse()
    else:
        for line in rows:
            change_column(kind, line, column)
    return "".join(",".join(line) + "\n" for line in rows)


def change_column(kind, line, column):
    if kind == "drop column":
        del line[column]
    elif kind == "repeat column":
        line.insert(column, line[column])
    else:
        line[column], line[0] = line[0], line[column]


DTYPES = [
    torch.float8_e4m3fn,
    torch.int64,
    torch.int32,
    torch.bool,
    torch.uint8,
    torch.complex64,
    torch.float16,
    torch.bfloat16,
    torch.float64,
]


def mutated_tensors(rng, tensors):
    """Tensors with one to three changes of names, shapes, types or values."""
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    for _ in range(rng.choice([1, 1, 2, 3])):
        if tensors:
            change_tensors(rng, tensors, rng.choice(sorted(tensors)))
    return tensors


def change_tensors(rng, tensors, name):
    kind = rng.choice(
        ["drop", "rename", "add", "shape", "shape", "type", "type", "values", "other", "empty", "all", "prefix"]
    )
    if kind == "drop":
        del tensors[name]
    elif kind == "rename":
        tensors[rng.choice([*WORDS[:7], f"{name}s", name.replace("0", "1", 1), "-1/step", "9/step", "0/x"])] = (
            tensors.pop(name)
        )
    elif kind == "add":
        tensors[rng.choice(["x", "7/step", "0/exp_avg_sqs", f"{name}.x"])] = torch.ones(rng.choice([(), (1,), (3, 3)]))
    elif kind == "type":
        tensors[name] = tensors[name].to(rng.choice(DTYPES))
    elif kind == "values" and tensors[name].is_floating_point():
        number = rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf"), 0.5])
        tensors[name] = torch.full(tensors[name].shape, number, dtype=torch.float64).to(tensors[name].dtype)
    elif kind == "other":
        tensors[name] = tensors[rng.choice(sorted(tensors))].clone()
    elif kind == "empty":
        tensors.clear()
    elif kind == "all":
        dtype = rng.choice(DTYPES)
        tensors.update({key: tensor.to(dtype) for key, tensor in tensors.items()})
    elif kind == "prefix":
        prefix = name.partition("/")[0].partition(".")[0]
        for key in [key for key in tensors if key.startswith(prefix)]:
            del tensors[key]
    else:
        tensors[name] = reshaped(rng, tensors[name])


def reshaped(rng, tensor):
    return rng.choice(
        [
            tensor.flatten(),
            tensor.flatten()[:1],
            tensor[None],
            torch.zeros(0, dtype=tensor.dtype),
            torch.zeros((), dtype=tensor.dtype),
            torch.zeros(3, 5, dtype=tensor.dtype),
            tensor.T.contiguous() if tensor.ndim == 2 else tensor.flatten().repeat(2),
        ]
    )


def draws(seed):
    return random.Random(f"{pyro_vae.__name__} {seed}")
