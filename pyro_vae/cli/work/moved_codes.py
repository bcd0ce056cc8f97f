"""`pyro-vae traverse`, `manifold`, `interpolate` and `edit`: what codes decode to that are moved."""

from dataclasses import replace
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.work.code_outputs import outputs_of, save_all, saved_as
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import Chosen, SavedRun, choose, load_data_of, load_split, open_saved
from pyro_vae.errors import UsageError
from pyro_vae.statistics.averages import Averaged, number, standard_error
from pyro_vae.tasks.codes import Attribute, Edited, Paths, Traversal, attribute_vector, edit, encode_data
from pyro_vae.tasks.codes import interpolate as interpolate_codes
from pyro_vae.tasks.codes import traverse as traverse_codes
from pyro_vae.tasks.generation import manifold as manifold_of


def run_traverse(options: Namespace) -> int:
    """Run `pyro-vae traverse` with its options; returns the exit code."""
    if options.dims < 1:
        raise UsageError(f"--dims must be at least 1, got {options.dims}")
    saved = _opened(options)
    chosen = load_split(saved, options, options.num)
    datum = "" if options.datum is None else f"-datum{options.datum}"
    places = _places(saved, options, f"traversal-{options.split}-{options.along}{datum}")
    moving: dict[str, Any] = {"span": options.span, "along": options.along, "datum": options.datum}
    found = traverse_codes(saved.vae, chosen.x, options.steps, **moving, **chosen.inputs)
    rows = zip(found.dims, found.kl, found.kl_standard_error, found.change, strict=True)
    names = ("dim", "kl", "kl_standard_error", "change")
    table = [dict(zip(names, (int(row[0]), *map(float, row[1:])), strict=True)) for row in rows]
    result = {**_about(saved, chosen, options), "moved": found.along}
    lines = [
        f"z[{r['dim']}]  {r['kl']:.3f} nats (standard error {r['kl_standard_error']:.3f}), change {r['change']:.4f}"
        for r in table
    ]
    shown = {"coordinates": table} if options.json else {"KL, and RMS change of E[x|z] along the row": lines}
    print_result({**result, **shown, "saved": saved_as(places)}, options.json)
    save_all(places, _traversal_arrays(found), lambda: plots.traversal(found, options.dims))
    return 0


def _traversal_arrays(found: Traversal) -> dict[str, Tensor]:
    names = ("dims", "kl", "kl_standard_error", "change", "steps", "values", "centre", "x")
    return {name: getattr(found, name) for name in names}


def run_manifold(options: Namespace) -> int:
    """Run `pyro-vae manifold` with its options; returns the exit code."""
    saved = _opened(options)
    chosen = load_split(saved, options, options.num)
    places = _places(saved, options, f"manifold-side{options.side}-margin{options.margin:g}")
    c = _context(chosen)
    grid = manifold_of(saved.vae, options.side, options.margin, c)
    inside = _inside(saved, chosen, options.margin)
    share = {"inside": inside.mean().item(), "standard_error": standard_error(inside)}
    text = f"{share['inside']:.1%} (standard error {number(share['standard_error'])}) of {len(chosen)} data"
    shown = {"codes": share} if options.json else {"codes inside the grid": text}
    about = {**_about(saved, chosen, options), "side": options.side, "margin": options.margin}
    print_result({**about, **shown, "saved": saved_as(places)}, options.json)
    quantiles = torch.special.ndtri(torch.linspace(options.margin, 1 - options.margin, options.side).double())
    save_all(places, {"x": grid, "columns": quantiles, "rows": quantiles.flip(0)}, lambda: plots.manifold(grid))
    return 0


def _inside(saved: SavedRun, chosen: Chosen, margin: float) -> Tensor:
    """Which data have their mean code inside the grid, `[N]`, 0 or 1."""
    bound = torch.special.ndtri(torch.tensor(1 - margin, dtype=torch.float64))
    codes = encode_data(saved.vae, chosen.x, 1, **chosen.inputs).codes
    return (codes.abs() <= bound).all(1).double()


def run_interpolate(options: Namespace) -> int:
    """Run `pyro-vae interpolate` with its options; returns the exit code."""
    if options.num < 1 or options.num_particles < 0:
        raise UsageError(f"need --num >= 1 and --num_particles >= 0, got {options.num} and {options.num_particles}")
    saved = _opened(options)
    chosen = load_split(saved, options, 2 * options.num)
    if len(chosen) < 2:
        raise UsageError(f"a path needs 2 data, and {options.split} has {len(chosen)}")
    places = _places(saved, options, f"paths-{options.split}-{options.kind}-num{options.num}-seed{options.seed}")
    codes = encode_data(saved.vae, chosen.x, 1, **chosen.inputs).codes
    half = len(codes) // 2
    settings: dict[str, Any] = {"steps": options.steps, "bends": options.bends, "seed": options.seed}
    settings |= {"num_particles": options.num_particles or None, "c": _context(chosen)}
    found = interpolate_codes(saved.vae, codes[:half], codes[half : 2 * half], options.kind, **settings)
    shown = _of_paths(found) if options.json else _path_lines(found)
    print_result({**_about(saved, chosen, options), **shown, "saved": saved_as(places)}, options.json)
    save_all(places, _path_arrays(found), lambda: plots.interpolations(found))
    return 0


def _of_paths(found: Paths) -> dict[str, Any]:
    result: dict[str, Any] = {"kind": found.kind, "num_paths": len(found), "flagged": int(found.flagged.sum())}
    for name in ("length", "straight_length"):
        values = getattr(found, name)
        result[name] = {"mean": values.mean().item(), "standard_error": standard_error(values)}
    if found.mean_log_p is not None:
        result["mean_log_p"] = found.mean_log_p.summary()
        result["log_p_at_the_ends"] = _at_the_ends(found).summary()
    return result


def _at_the_ends(found: Paths) -> Averaged:
    """Log p(x) of draws at both ends of each path, averaged over the two."""
    assert found.log_p is not None
    values, errors = (v.reshape(len(found), -1)[:, [0, -1]] for v in vars(found.log_p).values() if torch.is_tensor(v))
    return Averaged(values.mean(1), errors.square().sum(1).sqrt() / 2)


def _path_lines(found: Paths) -> dict[str, str]:
    def text(values: Tensor) -> str:
        return f"{values.mean():.4g} (standard error {number(standard_error(values))}) in the units of x"

    lines = {"paths": f"{len(found)} {found.kind}", "length": text(found.length)}
    if found.kind != "straight":
        lines["straight length"] = text(found.straight_length)
    if found.kind == "geodesic":
        lines["flagged"] = f"{int(found.flagged.sum())}, whose speed is not even: more --bends"
    if found.mean_log_p is not None:
        lines["log p(x) along the paths"] = f"{found.mean_log_p} nats"
        lines["log p(x) at their ends"] = f"{_at_the_ends(found)} nats"
    return lines


def _path_arrays(found: Paths) -> dict[str, Tensor]:
    names = ("z", "x", "length", "straight_length", "unevenness", "flagged")
    log_p = {} if found.log_p is None else {"log_p": found.log_p.values.reshape(found.z.shape[:2])}
    return {**{name: getattr(found, name) for name in names}, **log_p}


def run_edit(options: Namespace) -> int:
    """Run `pyro-vae edit` with its options; returns the exit code."""
    if options.source == options.to:
        raise UsageError(f"need --from another class than --to, got {options.to} for both")
    if options.num < 1:
        raise UsageError(f"--num must be at least 1, got {options.num}")
    saved = _opened(options)
    source = "others" if options.source is None else options.source
    places = _places(saved, options, f"edits-{options.split}-{source}-to-{options.to}-num{options.num}")
    attribute = _attribute(saved, options)
    chosen = load_split(saved, options, None)
    without = _of_classes(chosen, options)[1].nonzero().squeeze(-1)
    if len(without) == 0:
        raise UsageError(f"--from {source}: {options.split} has no such data")
    chosen = _rows(chosen, without[torch.linspace(0, len(without) - 1, min(options.num, len(without))).long()])
    given = {**chosen.inputs, **({} if _context(chosen) is None else {"c": _context(chosen)})}
    found = edit(saved.vae, chosen.x, attribute, options.strengths, **given)
    shown = _of_edits(attribute, found) if options.json else _edit_lines(attribute, found)
    about = {**_about(saved, chosen, options), "reference": options.reference}
    print_result({**about, **shown, "saved": saved_as(places)}, options.json)
    arrays = {"x": chosen.x, "edited": found.x, "z": found.z, "strengths": found.strengths, "found": found.found}
    arrays |= {"vector": attribute.vector, "vector_standard_error": attribute.standard_error}
    save_all(places, arrays, lambda: plots.edits(found, chosen.x))
    return 0


def _attribute(saved: SavedRun, options: Namespace) -> Attribute:
    """The vector, of the data of `--reference`."""
    chosen = choose(load_data_of(saved, options.data), options.reference, options.num_reference, saved.device)
    inside, outside = _of_classes(chosen, options)
    for flag, which in (("--to", inside), ("--from", outside)):
        if int(which.sum()) < 2:
            name = options.to if flag == "--to" else options.source
            raise UsageError(f"{flag} {name}: {options.reference} has {int(which.sum())} such data, and 2 are needed")
    chosen = _rows(chosen, (inside | outside).nonzero().squeeze(-1))
    return attribute_vector(encode_data(saved.vae, chosen.x, 1, **chosen.inputs).codes, _of_classes(chosen, options)[0])


def _of_classes(chosen: Chosen, options: Namespace) -> tuple[Tensor, Tensor]:
    """Which data are of the class `--to`, and which of `--from` or another, `[N]` bool each."""
    if chosen.labels is None:
        raise UsageError(f"the {chosen.split} data have no labels, and edit needs them: take another split or --data")
    inside, known = chosen.labels == options.to, chosen.labels >= 0
    return inside, (known & ~inside) if options.source is None else chosen.labels == options.source


def _rows(chosen: Chosen, rows: Tensor) -> Chosen:
    on_device = rows.to(chosen.x.device)
    inputs = {name: value[on_device] for name, value in chosen.inputs.items()}
    labels = None if chosen.labels is None else chosen.labels[rows]
    return replace(chosen, x=chosen.x[on_device], inputs=inputs, labels=labels)


def _of_edits(attribute: Attribute, found: Edited) -> dict[str, Any]:
    vector = {"length": attribute.length, "standard_error": attribute.length_standard_error}
    vector |= {"num_with": attribute.num_with, "num_without": attribute.num_without}
    edits = [
        {"strength": s, "found": found.reached(i).mean, "standard_error": found.reached(i).standard_error_data}
        for i, s in enumerate(found.strengths.tolist())
    ]
    return {"vector": vector, "edits": edits}


def _edit_lines(attribute: Attribute, found: Edited) -> dict[str, Any]:
    of = _of_edits(attribute, found)
    counts = f"{attribute.num_with} data with it, {attribute.num_without} without"
    lines = [
        f"{e['strength']:+g} v: {e['found']:+.3f} v (standard error {number(e['standard_error'])})" for e in of["edits"]
    ]
    length = f"{attribute.length:.3f} (standard error {number(attribute.length_standard_error)}; {counts})"
    return {"length of the vector": length, "strength, and where the edited data are encoded": lines}


def _opened(options: Namespace) -> SavedRun:
    """The run, which must have one continuous code."""
    saved = open_saved(options)
    if saved.vae.code_site is None:
        raise UsageError(
            f"this needs the code z of a model with one latent site, and {saved.path} has none: it is a "
            f"{type(saved.vae).__name__}"
        )
    return saved


def _places(saved: SavedRun, options: Namespace, name: str) -> list[Any]:
    return outputs_of(saved, options, name, picture=plots.drawable(saved.vae.shapes.event))


def _context(chosen: Chosen) -> Tensor | None:
    """The context of the first datum: one for all that is decoded."""
    c = chosen.inputs.get("c")
    return None if c is None else c[0]


def _about(saved: SavedRun, chosen: Chosen, options: Namespace) -> dict[str, Any]:
    about = {"data": chosen.data.protocol, "split": options.split, "weights": saved.weights, "num": len(chosen)}
    return about if _context(chosen) is None else {**about, "context": "that of the first datum"}
