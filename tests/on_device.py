"""The library's functions on CPU tensors, served by another device: each call takes its tensors there and brings the
results back. So every test runs on a GPU as it stands (GUMBEL_EXT_TEST_DEVICE=cuda; see conftest.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Tests of the CPU that are not asked of another device.
NOT_PROMISED = (
    "strides_do_not_matter",  # bit for bit, where a GPU's promise is the bound
    "next_64_bits",  # of the CPU's generator
    "written_out_of_bounds",  # through views; tests/cuda_on_cpu looks at every byte
    "far_from_one",  # <p, dy> is a sum of float products on a GPU, whatever tau
    "follow_the_softmax",
    "test_distribution",  # that identical bits have identical distributions
    "law_of_conditional_noise",  # the same of what the formula's test compares, and a million rows
    "bad_arguments",  # the host does not read a device's temperatures
)
OPERATORS = (
    "_relaxed", "_log_relaxed", "_one_hot", "_one_hot_relaxed", "_index", "_scored_index", "_noise", "_noise_at",
    "_backward", "_backward_", "_draw", "_scored_draw", "_log_prob", "_log_prob_backward", "_sample", "_one_hot_of",
    "_estimate", "_top_classes", "_top_k", "_top_k_backward",
)  # fmt: skip
_libraries: list[torch.library.Library] = []


def _moved(value: Any, device: str) -> Any:
    """A tensor there, with the strides it has here where they are dense; a generator as a seed."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(device)
    if isinstance(value, (tuple, list)):
        return tuple(_moved(part, device) for part in value)
    return value


def is_gpu() -> bool:
    """Whether a GPU's kernels serve these tests: on one, or executed by the CPU."""
    return bool(os.environ.get("GUMBEL_EXT_TEST_DEVICE") or os.environ.get("GUMBEL_EXT_TEST_KERNELS"))


def roundings(scores: np.ndarray, noise: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """How many of 2^-24 a relaxed value of float32 may err, one number a row, of rows of scores = logits + noise: as
    promised where a GPU's values may be approximate (csrc/cuda/approximate.cuh), else 0."""
    with np.errstate(all="ignore"):
        reach = np.abs(scores.astype(np.float64) - noise) + np.abs(noise)
        reach = np.where(np.isfinite(reach), reach, 0).max(-1, keepdims=True, initial=1)
        return np.where(tau >= 2.0**-10, 16 + 24 * reach / tau, 0) if is_gpu() else np.zeros_like(tau)


def cpu_tests(*names: str, but: tuple[str, ...] = ()) -> list[object]:
    """The command that runs tests/test_NAME.py, `but` some; an environment variable of conftest.py says on what."""
    files = [Path(__file__).with_name(f"test_{name}.py") for name in names]
    promised = " and ".join(f"not {name}" for name in (*NOT_PROMISED, *but))
    return [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", promised]


def take_over(device: str) -> None:
    # Of an operator found before it is overridden: with the CPU itself as the device there is nothing to find.
    library = torch.library.Library("gumbel_ext", "IMPL")
    _libraries.append(library)
    for name in OPERATORS:
        operator = getattr(torch.ops.gumbel_ext, name).default
        library.impl(name, _served(operator, device), "CPU", allow_override=True)


def _served(operator: Any, device: str) -> Any:
    names = [argument.name for argument in operator._schema.arguments]

    def call(*args: Any) -> Any:
        arguments = dict(zip(names, args, strict=False))
        draws = "generator" in names and arguments.get("noise", True)
        if draws and arguments["seed"] is None and arguments["row_seeds"] is None:
            number = torch.empty((), dtype=torch.int64)
            arguments["seed"] = number.random_(generator=arguments["generator"]).item()
            arguments["generator"] = None
        there = {key: _moved(value, device) for key, value in arguments.items()}
        found = _moved(operator(**there), "cpu")
        if operator._schema.name.endswith("_"):
            arguments["relaxed"].copy_(there["relaxed"].cpu())
        return found

    return call
