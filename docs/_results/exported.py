"""Exported files beside torch: sizes, times, and how far their numbers are apart."""

from typing import Any

from _results.shared import markdown


def text(result: dict[str, Any]) -> str:
    """A row for each part of each model, and how they were measured."""
    heads = [
        "model, part",
        "weights, kB",
        "`.pt2`, kB",
        "`.onnx`, kB",
        "torch, ms: 1 / 100 data",
        "torch.export, ms",
        "ONNX, ms",
        "ONNX: largest difference",
    ]
    return f"{markdown(heads, map(_row, result['parts']))}\n\n{_provenance(result['about'])}"


def _row(part: dict[str, Any]) -> list[str]:
    sizes = [f"{part['bytes'][kind] / 1000:,.0f}" for kind in ("weights", "torch", "onnx")]
    of = part["milliseconds"]
    times = [" / ".join(f"{of[batch][name]:.3g}" for batch in of) for name in ("torch", "torch.export", "ONNX")]
    return [f"{part['model']}: {part['part']}", *sizes, *times, f"{part['difference']:.1e}"]


def _provenance(about: dict[str, Any]) -> str:
    busy = about["others_cores"]
    others = "" if busy is None else f"; other processes used {busy:.1f} cores meanwhile"
    packages = f"torch {about['torch']}, onnxruntime {about['onnxruntime']}"
    return (
        "Milliseconds of a call that gives all outputs, medians over rounds in which the three take turns, on one "
        f"thread. By `{about['command']}` on {about['machine']}, {packages}{others}."
    )
