"""A categorical variational autoencoder of small images, as a plain module that TorchScript can save.

Source: Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017, section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gumbel_ext  # noqa: F401  (registers torch.ops.gumbel_ext, which `encode` calls)

Sampler = Callable[[Tensor, float], Tensor]
"""(logits, tau) -> one-hot samples along the last dimension, differentiable in the logits."""


class CategoricalVAE(nn.Module):
    """N categorical variables of K classes between two perceptrons.

    ``q(z|x) = Π_n Cat(z_n; softmax(logits_n(x)))``, ``p(z)`` uniform,
    ``p(x|z) = Π_i Bernoulli(x_i; μ_i(z))``. Images are ``(batch, pixels)`` in [0, 1], codes
    ``(batch, N)`` class indices.
    """

    def __init__(self, pixels: int = 64, latents: int = 10, classes: int = 8, hidden: int = 256) -> None:
        super().__init__()
        self.latents = latents
        self.classes = classes
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, latents * classes),
            nn.Unflatten(1, (latents, classes)),
        )
        self.decoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(latents * classes, hidden),
            nn.ReLU(),
            nn.Linear(hidden, pixels),
        )

    def elbo(self, images: Tensor, tau: float, sample: Sampler) -> Tensor:
        """One-sample estimate of the evidence lower bound, in nats, one number an image.

        ``ELBO(x) = E_q[log p(x|z)] - KL(q(z|x) ‖ p(z))``, ``KL = Σ_n Σ_k q_nk (log q_nk + log K)``.

        With one-hot samples the estimate is unbiased whatever ``tau``, which then acts on the gradient alone.
        A grey pixel is the probability of an ink dot: the bound is the mean over all images so dotted.
        """
        logits = self.encoder(images)
        log_q = logits.log_softmax(-1)
        divergence = (log_q.exp() * (log_q + math.log(self.classes))).sum((1, 2))
        pixel_logits = self.decoder(sample(logits, tau))
        log_likelihood = -F.binary_cross_entropy_with_logits(pixel_logits, images, reduction="none").sum(1)
        return log_likelihood - divergence

    @torch.jit.export
    def encode(self, images: Tensor, seed: int) -> Tensor:
        """Codes drawn from ``q(z|x)`` by the Gumbel-max trick; ``seed`` fixes them."""
        return torch.ops.gumbel_ext.gumbel_max(self.encoder(images), seed=seed)

    @torch.jit.export
    def decode(self, codes: Tensor) -> Tensor:
        """Pixel probabilities ``μ(z)`` of codes."""
        one_hot = F.one_hot(codes, self.classes).float()
        return self.decoder(one_hot).sigmoid()
