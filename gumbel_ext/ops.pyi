from collections.abc import Sequence

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

NAMES: tuple[str, ...]

class _Softmax(OpOverloadPacket):
    default: OpOverload
    tau_tensor: OpOverload
    def __call__(
        self, logits: Tensor, tau: float | Tensor = 1.0, *, dim: int = -1, mask: Tensor | None = None
    ) -> Tensor: ...

class _GumbelSoftmax(OpOverloadPacket):
    default: OpOverload
    tau_tensor: OpOverload
    seed_tensor: OpOverload
    tensors: OpOverload
    def __call__(
        self,
        logits: Tensor,
        tau: float | Tensor = 1.0,
        hard: bool = False,
        *,
        dim: int = -1,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor: ...

class _GumbelMax(OpOverloadPacket):
    default: OpOverload
    tau_tensor: OpOverload
    seed_tensor: OpOverload
    tensors: OpOverload
    def __call__(
        self,
        logits: Tensor,
        temperature: float | Tensor = 1.0,
        *,
        dim: int = -1,
        num_samples: int | None = None,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor: ...

class _GumbelNoise(OpOverloadPacket):
    default: OpOverload
    seed_tensor: OpOverload
    def __call__(
        self,
        size: Sequence[int],
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor: ...

class _Sample(OpOverloadPacket):
    default: OpOverload
    tau_tensor: OpOverload
    seed_tensor: OpOverload
    tensors: OpOverload
    def __call__(
        self,
        logits: Tensor,
        temperature: float | Tensor = 1.0,
        *,
        dim: int = -1,
        num_samples: int | None = None,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]: ...

class _OneHotSample(OpOverloadPacket):
    default: OpOverload
    tau_tensor: OpOverload
    seed_tensor: OpOverload
    tensors: OpOverload
    def __call__(
        self,
        logits: Tensor,
        tau: float | Tensor = 1.0,
        *,
        estimator: str = "gumbel",
        temperature: float | Tensor = 1.0,
        dim: int = -1,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
        num_noises: int = 10,
    ) -> Tensor: ...

class _StraightThroughEmbedding(OpOverloadPacket):
    default: OpOverload
    tau_tensor: OpOverload
    seed_tensor: OpOverload
    tensors: OpOverload
    def __call__(
        self,
        logits: Tensor,
        weight: Tensor,
        tau: float | Tensor = 1.0,
        *,
        estimator: str = "gumbel",
        temperature: float | Tensor = 1.0,
        dim: int = -1,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
        num_noises: int = 10,
    ) -> tuple[Tensor, Tensor]: ...

class _RelaxedTopK(OpOverloadPacket):
    default: OpOverload
    tau_tensor: OpOverload
    seed_tensor: OpOverload
    tensors: OpOverload
    def __call__(
        self,
        logits: Tensor,
        k: int,
        tau: float | Tensor = 1.0,
        hard: bool = False,
        *,
        dim: int = -1,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor: ...

class _EmptyCache(OpOverloadPacket):
    default: OpOverload
    def __call__(self) -> None: ...

softmax: _Softmax
straight_through: _Softmax
gumbel_softmax: _GumbelSoftmax
gumbel_max: _GumbelMax
gumbel_noise: _GumbelNoise
sample: _Sample
one_hot_sample: _OneHotSample
straight_through_embedding: _StraightThroughEmbedding
empty_cache: _EmptyCache
relaxed_top_k: _RelaxedTopK
