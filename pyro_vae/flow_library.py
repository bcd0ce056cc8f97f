"""The package zuko, imported when a flow is made."""

from typing import Any

from torch.distributions import Distribution


def zuko() -> Any:
    """The package, whose import switches the validation of all distributions off: it is put back as it was."""
    validated = Distribution._validate_args
    try:
        import zuko
    finally:
        Distribution.set_default_validate_args(validated)
    return zuko
