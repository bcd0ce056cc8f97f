"""Exported files of every likelihood and network: how far their numbers are from the package's."""

from typing import Any

from _results.shared import markdown


def text(result: dict[str, Any]) -> str:
    """A row for each class, and how it was measured."""
    heads = ["class", "ONNX: encoder", "ONNX: decoder", "torch.export: encoder", "torch.export: decoder"]
    about = result["about"]
    packages = f"torch {about['torch']}, onnxruntime {about['onnxruntime']}"
    note = (
        "Largest differences, relative to max(1, |number|), over all outputs, batches of 1, 2 and 5 and data that the "
        f"model draws; each class in a small VAE with its defaults. By `{about['command']}` on {about['machine']}, "
        f"{packages}."
    )
    return f"{markdown(heads, map(_row, result['parts']))}\n\n{note}"


def _row(part: dict[str, Any]) -> list[str]:
    differences = (part[to][name] for to in ("onnx", "torch") for name in ("encoder", "decoder"))
    return [f"{part['axis']} `{part['class']}`", *(f"{value:.1e}" if value else "0" for value in differences)]
