"""All that a process shares and a library could change, as one value to compare before and after."""

import gc
import locale
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pyro
import torch
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK

from pyro_vae.process.switches import Checks


def snapshot():
    """Everything by name; values compare by `==`."""
    return {**_pyro(), **_torch(), **_products(), **_generators(), **_python(), **_logging(), **_process(), **_loaded()}


def differences(before, after):
    """What changed, in words."""
    names = [name for name in before if name in after and before[name] != after[name]]
    return [f"{name}: {_short(before[name])} became {_short(after[name])}" for name in names]


def _short(value):
    return f"{len(value)} items" if isinstance(value, bytes | dict | list) and len(value) > 20 else repr(value)[:200]


def _pyro():
    return {
        "checks": Checks.now(),
        "pyro handlers": (list(_PYRO_STACK), list(_DIM_ALLOCATOR._stack)),
        "pyro parameters": sorted(pyro.get_param_store().keys()),
    }


def _torch():
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
        "anomalies": torch.is_anomaly_enabled(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "print options": str(vars(torch._tensor_str.PRINT_OPTS)),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
    }


def _products():
    """How products are computed. torch refuses to answer for some, depending on how they were set."""
    questions = {
        "matmul precision": torch.get_float32_matmul_precision,
        "cuda.matmul": lambda: torch.backends.cuda.matmul.fp32_precision,
        "cuda tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
        "mkldnn.matmul": lambda: torch.backends.mkldnn.matmul.fp32_precision,
        "mkldnn": lambda: torch.backends.mkldnn.fp32_precision,
        "cudnn": lambda: torch.backends.cudnn.fp32_precision,
        "all": lambda: torch.backends.fp32_precision,
    }
    return {name: _answer(question) for name, question in questions.items()}


def _answer(question):
    try:
        return question()
    except RuntimeError as error:
        return str(error)


def _generators():
    return {
        "torch generator": torch.get_rng_state().numpy().tobytes(),
        "numpy generator": repr(np.random.get_state()),
        "python generator": random.getstate(),
    }


def _python():
    return {
        "warnings": list(warnings.filters),
        "numpy errors": np.geterr(),
        "numpy print options": repr(np.get_printoptions()),
        "hooks": [sys.excepthook, threading.excepthook, sys.displayhook, sys.unraisablehook, sys.gettrace()],
        "streams": [sys.stdin, sys.stdout, sys.stderr],
        "limits": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()),
        "import path": list(sys.path),
        "threads alive": sorted(thread.name for thread in threading.enumerate()),
    }


def _logging():
    loggers = {"root": logging.getLogger(), **logging.Logger.manager.loggerDict}
    return {
        f"logger {name}": (logger.level, list(logger.handlers), logger.propagate, logger.disabled, list(logger.filters))
        for name, logger in loggers.items()
        if isinstance(logger, logging.Logger)
    } | {"logging disabled": logging.root.manager.disable}


def _process():
    mask = os.umask(0)
    os.umask(mask)
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "mask": mask,
        "locale": locale.setlocale(locale.LC_ALL),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "children": [child.pid for child in multiprocessing.active_children()],
    }


def _loaded():
    """Settings of libraries that may be imported on the way: compared where they were there before."""
    found = {}
    if "matplotlib" in sys.modules:
        import matplotlib

        found["matplotlib"] = {name: str(value) for name, value in dict.items(matplotlib.rcParams)}
    if "matplotlib.pyplot" in sys.modules:
        found["figures"] = sys.modules["matplotlib.pyplot"].get_fignums()
    for name in ("torch._dynamo.config", "torch._inductor.config", "torch._functorch.config"):
        if name in sys.modules:
            found[name] = {key: str(value) for key, value in sys.modules[name].get_config_copy().items()}
    return found
