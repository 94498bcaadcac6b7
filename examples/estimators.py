"""The gradient estimators of a one-hot sample side by side, on the autoencoder of `digits_model.py`.

First, what each makes of the same trained autoencoder: the gradient of the reconstruction with respect to the logits
of a fixed batch, over and over with new noise. Its spread is measured, and its bias against the exact gradient. Then
training: the held-out ELBO that each reaches from the same initial weights, seed by seed.

    python estimators.py --out out/estimators.png

Sources: `gumbel_ext.one_hot_sample` names each estimator's paper. Exact gradient: Titsias, Lázaro-Gredilla, "Local
expectation gradients for black box variational inference", NeurIPS 2015.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import recipe
import torch
from digits_model import CategoricalVAE, Sampler
from discrete_vae import BATCH, LEARNING_RATE, Digits, load, mean_elbo, new_model
from matplotlib.figure import Figure
from recipe import COLOURS
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import gumbel_ext

ESTIMATORS = {
    "gumbel": partial(gumbel_ext.one_hot_sample, estimator="gumbel"),
    "rao": partial(gumbel_ext.one_hot_sample, estimator="rao", num_noises=10),
    "softmax": partial(gumbel_ext.one_hot_sample, estimator="softmax"),
    "reinmax": partial(gumbel_ext.one_hot_sample, estimator="reinmax"),
}
TAUS = (0.5, 1.0, 2.0)
MARKERS = ("v", "o", "s")
TRAINED_TAUS = (0.5, 1.0)
REFERENCE = ("gumbel", 1.0)
"""The other trainings are compared with it; gradients are measured in the models that it gives."""

FIXED_BATCH = 50
"""Digits whose gradient is measured."""


@dataclass(frozen=True)
class Gradient:
    """Norms over the whole batch's logits, as parts of the exact gradient's norm."""

    bias: float  #: of the mean less the exact gradient
    spread: float  #: of the standard deviation
    spread_to_mean: float  #: the same as a part of the mean's norm


def distortion(model: CategoricalVAE, z: Tensor, images: Tensor) -> Tensor:
    """``-log p(x|z)``, a number for each of ``[..., batch]``."""
    pixel_logits = model.decoder(z.flatten(0, -3)).view(*z.shape[:-2], -1)
    return F.binary_cross_entropy_with_logits(pixel_logits, images.expand_as(pixel_logits), reduction="none").sum(-1)


@torch.no_grad()
def unbiased_gradients(model: CategoricalVAE, images: Tensor, draws: int) -> Tensor:
    """Of ``E_z[f(z)]`` for the logits, ``[draws, batch, N, K]``: each variable in turn takes all its values.

    ``∂/∂x_nk = E[π_nk (f(z, z_n = k) - Σ_j π_nj f(z, z_n = j))]``, over the other variables.
    """
    logits = model.encoder(images)
    pi = logits.softmax(-1)
    estimates = torch.empty(draws, *logits.shape)
    for estimate in estimates:
        z = F.one_hot(gumbel_ext.gumbel_max(logits), model.classes).float()
        for variable in range(model.latents):
            tried = z.repeat(model.classes, 1, 1, 1)
            tried[:, :, variable] = torch.eye(model.classes)[:, None]
            values = distortion(model, tried, images).T
            share = pi[:, variable]
            estimate[:, variable] = share * (values - (share * values).sum(-1, keepdim=True))
    return estimates


def gradients(model: CategoricalVAE, images: Tensor, sample: Sampler, tau: float, draws: int) -> Tensor:
    """An estimator's of the same, each from one sample."""
    logits = model.encoder(images).detach().requires_grad_()
    return torch.stack(
        [torch.autograd.grad(distortion(model, sample(logits, tau), images).sum(), logits)[0] for _ in range(draws)]
    )


def measure(estimates: Tensor, unbiased: Tensor) -> Gradient:
    """The noise of both means is taken off the bias."""
    mean, exact, variance = estimates.mean(0), unbiased.mean(0), estimates.var(0)
    noise = variance.sum() / len(estimates) + unbiased.var(0).sum() / len(unbiased)
    squared_bias = (mean - exact).square().sum() - noise
    spread = variance.sum().sqrt()
    return Gradient(
        (squared_bias.clamp_min(0).sqrt() / exact.norm()).item(),
        (spread / exact.norm()).item(),
        (spread / mean.norm()).item(),
    )


def train(model: CategoricalVAE, digits: Digits, sample: Sampler, tau: float, epochs: int, seed: int) -> Iterator[None]:
    """Maximise the ELBO at one temperature. The order of the digits depends on the seed alone. Yields each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.train), generator=order).split(BATCH):
            elbo = model.elbo(digits.train[batch], tau, sample)
            optimizer.zero_grad()
            elbo.mean().neg().backward()
            optimizer.step()
        yield


@dataclass
class Results:
    """A number a seed."""

    elbo: dict[tuple[str, float], list[float]]
    gradient: dict[tuple[str, float], list[Gradient]]


def run(digits: Digits, seeds: range, epochs: int, draws: int) -> Results:
    results = Results(
        {(name, tau): [] for name in ESTIMATORS for tau in TRAINED_TAUS},
        {(name, tau): [] for name in ESTIMATORS for tau in TAUS},
    )
    with tqdm(total=len(seeds) * len(results.elbo) * epochs, unit="epoch") as progress:
        for seed in seeds:
            for (name, tau), elbos in results.elbo.items():
                progress.set_description(f"seed {seed}, {name}, τ = {tau:g}")
                model = new_model(seed)
                for _ in train(model, digits, ESTIMATORS[name], tau, epochs, seed):
                    progress.update()
                elbos.append(mean_elbo(model, digits.test, ESTIMATORS[name], samples=50))
                if (name, tau) == REFERENCE:
                    reference = model
            images = digits.test[:FIXED_BATCH]
            unbiased = unbiased_gradients(reference, images, draws)
            for (name, tau), measured in results.gradient.items():
                progress.set_description(f"seed {seed}, gradients of {name}, τ = {tau:g}")
                estimates = gradients(reference, images, ESTIMATORS[name], tau, draws)
                measured.append(measure(estimates, unbiased))
    return results


def print_results(results: Results, epochs: int) -> None:
    columns = {"spread / mean": "spread_to_mean", "spread / exact": "spread", "bias / exact": "bias"}
    recipe.print_table(
        f"gradient of {FIXED_BATCH} held-out digits' logits, in the models of {called(*REFERENCE)}",
        ("estimator", *columns),
        [
            (called(*key), *(recipe.spread([getattr(one, what) for one in measured], 2) for what in columns.values()))
            for key, measured in results.gradient.items()
        ],
    )
    seeds = len(results.elbo[REFERENCE])
    recipe.print_table(
        f"held-out ELBO after {epochs} epochs, nats a digit; seeds: {seeds}",
        ("estimator", "ELBO", f"better than {called(*REFERENCE)!r} by"),
        [
            (
                called(*key),
                recipe.spread(elbos, 2),
                "" if key == REFERENCE else recipe.difference(elbos, results.elbo[REFERENCE], 2),
            )
            for key, elbos in results.elbo.items()
        ],
    )


def called(name: str, tau: float) -> str:
    return f"{name}, τ = {tau:g}"


def draw(results: Results, epochs: int) -> Figure:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in zip(ESTIMATORS, COLOURS, strict=False):
        measured = [results.gradient[name, tau] for tau in TAUS]
        biases = [statistics.mean(one.bias for one in seeds) for seeds in measured]
        spreads = [statistics.mean(one.spread for one in seeds) for seeds in measured]
        left.plot(biases, spreads, color=colour, label=name)
        for bias, spread, marker in zip(biases, spreads, MARKERS, strict=True):
            left.plot(bias, spread, marker=marker, markersize=8, color=colour)
    for tau, marker in zip(TAUS, MARKERS, strict=True):
        left.plot([], [], marker=marker, color="0.4", linestyle="", label=f"τ = {tau:g}")
    left.set(xlabel="bias", ylabel="spread", xlim=(0, None), ylim=(0, None))
    left.set_title("Gradients: parts of the exact gradient's norm")
    left.legend(ncols=2)
    left.grid(alpha=0.3)
    colours = [colour for colour in COLOURS[: len(ESTIMATORS)] for _ in TRAINED_TAUS]
    recipe.draw_seeds(right, {called(*key): elbos for key, elbos in results.elbo.items()}, colours)
    right.set(xlabel="nats a digit", title=f"Held-out ELBO after {epochs} epochs: a dot a seed")
    return figure


def main() -> None:
    parser = recipe.parser(__doc__, "estimators.png", seeds=5)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    options = recipe.options(arguments)
    epochs, draws = (2, 60) if options.quick else (arguments.epochs, 200)
    results = run(load(), options.seeds, epochs, draws)
    print_results(results, epochs)
    recipe.save(draw(results, epochs), options.out)


if __name__ == "__main__":
    main()
