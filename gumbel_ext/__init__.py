"""Sampling from categorical variables, differentiably, by hand-written kernels.

=====================  ====================  ================================  ==================
noise added to logits  relaxed: ``p``        one-hot: ``z - sg(p) + p``        index: ``argmax``
=====================  ====================  ================================  ==================
none                   `softmax`             `straight_through`                (`torch.argmax`)
Gumbel                 `gumbel_softmax`      `gumbel_softmax` (``hard=True``)  `gumbel_max`
=====================  ====================  ================================  ==================

An index with its log-probability and the entropy: `sample`. Of k classes at once, without replacement: `gumbel_top_k`,
`relaxed_top_k`. A one-hot sample with another gradient: `one_hot_sample`; its product with a matrix:
`straight_through_embedding`. Whether tokens are those of a seed: `verify`. On several processes: `distributed`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from gumbel_ext import distributed, distributions, nn, ops
from gumbel_ext._draws import Sample, TopK, TopKWithThreshold, gumbel_top_k, sample
from gumbel_ext._estimators import Embedded, one_hot_sample, straight_through_embedding
from gumbel_ext._verify import Verified, verify
from gumbel_ext._when_imported import when_imported
from gumbel_ext.functional import (
    build_info,
    empty_cache,
    gumbel_max,
    gumbel_noise,
    gumbel_softmax,
    relaxed_top_k,
    softmax,
    straight_through,
)

when_imported("torch.distributed.tensor", "gumbel_ext._dtensor")

__version__ = (Path(__file__).resolve().parent / "version.txt").read_text().strip()

#: Where CMake finds the C++ library, and torch: ``-DCMAKE_PREFIX_PATH="..."``.
cmake_prefix_path = f"{Path(__file__).resolve().parent};{torch.utils.cmake_prefix_path}"

__all__ = [
    "Embedded",
    "Sample",
    "TopK",
    "TopKWithThreshold",
    "Verified",
    "build_info",
    "cmake_prefix_path",
    "distributed",
    "distributions",
    "empty_cache",
    "gumbel_max",
    "gumbel_noise",
    "gumbel_softmax",
    "gumbel_top_k",
    "nn",
    "one_hot_sample",
    "ops",
    "relaxed_top_k",
    "sample",
    "softmax",
    "straight_through",
    "straight_through_embedding",
    "verify",
]


def __dir__() -> list[str]:
    """The API alone: completion shows it, and none of what the package is made of."""
    return [*__all__, "__version__"]
