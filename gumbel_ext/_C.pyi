from collections.abc import Sequence

import torch
from torch import Tensor

def softmax(logits: Tensor, tau: float | Tensor, dim: int, mask: Tensor | None) -> Tensor: ...
def straight_through(logits: Tensor, tau: float | Tensor, dim: int, mask: Tensor | None) -> Tensor: ...
def gumbel_softmax(
    logits: Tensor,
    tau: float | Tensor,
    hard: bool,
    dim: int,
    mask: Tensor | None,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
) -> Tensor: ...
def gumbel_max(
    logits: Tensor,
    temperature: float | Tensor,
    dim: int,
    num_samples: int | None,
    mask: Tensor | None,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
) -> Tensor: ...
def sample(
    logits: Tensor,
    temperature: float | Tensor,
    dim: int,
    num_samples: int | None,
    mask: Tensor | None,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]: ...
def gumbel_noise(
    size: int | Sequence[int],
    seed: int | Tensor | None,
    generator: torch.Generator | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor: ...
def one_hot_sample(
    logits: Tensor,
    tau: float | Tensor,
    estimator: str,
    temperature: float | Tensor,
    dim: int,
    mask: Tensor | None,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
    num_noises: int,
) -> Tensor: ...
def straight_through_embedding(
    logits: Tensor,
    weight: Tensor,
    tau: float | Tensor,
    estimator: str,
    temperature: float | Tensor,
    dim: int,
    mask: Tensor | None,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
    num_noises: int,
) -> tuple[Tensor, Tensor]: ...
def relaxed_top_k(
    logits: Tensor,
    k: int,
    tau: float | Tensor,
    hard: bool,
    dim: int,
    mask: Tensor | None,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
) -> Tensor: ...
