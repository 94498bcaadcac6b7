"""A variational autoencoder with categorical latent variables, on the 8x8 digits of scikit-learn.

The encoder names each digit by a code of 10 letters out of an alphabet of 8, the decoder draws the digit from
its code, and the straight-through Gumbel-softmax carries the gradient from the drawing back to the letters.
`digits_model.py` holds the model; here it is trained, measured and pictured.

    python discrete_vae.py              # train, print the figures, write the pictures into out/
    python discrete_vae.py --compare    # five seeds with gumbel_ext, five with torch's own function

Source: Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017 [J].
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from digits_model import CategoricalVAE, Sampler
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import gumbel_ext

TRAINING_DIGITS = 1500
BATCH = 100
LEARNING_RATE = 3e-3
ANNEALING_RATE = 2.0
TAU_FLOOR = 0.3
COMPARED_SEEDS = 5
STUDENT_T = 2.306
"""Two-sided 95 % point of Student's t with 8 degrees of freedom: two samples of `COMPARED_SEEDS`."""


def sample_ours(logits: Tensor, tau: float) -> Tensor:
    return gumbel_ext.gumbel_softmax(logits, tau, hard=True)


def sample_torch(logits: Tensor, tau: float) -> Tensor:
    return F.gumbel_softmax(logits, tau, hard=True)


SAMPLERS: dict[str, Sampler] = {"gumbel_ext": sample_ours, "torch": sample_torch}


@dataclass
class Digits:
    """Images ``(n, 64)`` in [0, 1], and the labels of the held-out ones, which only the pictures use."""

    train: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass
class History:
    """One number an epoch."""

    tau: list[float] = field(default_factory=list)
    train_elbo: list[float] = field(default_factory=list)
    test_elbo: list[float] = field(default_factory=list)


def load() -> Digits:
    """The same split in every run."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.data).float() / 16
    labels = torch.from_numpy(bunch.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:TRAINING_DIGITS], order[TRAINING_DIGITS:]
    return Digits(images[train], images[test], labels[test])


def temperature(progress: float) -> float:
    """``τ = max(floor, exp(-rate · t))`` at the fraction ``t`` of the training. Source: [J], section 4."""
    return max(TAU_FLOOR, math.exp(-ANNEALING_RATE * progress))


@torch.no_grad()
def mean_elbo(model: CategoricalVAE, images: Tensor, sample: Sampler, samples: int) -> float:
    """The ELBO in nats a digit, averaged over ``samples`` codes for each; no temperature changes it."""
    return model.elbo(images.repeat(samples, 1), TAU_FLOOR, sample).mean().item()


def train(model: CategoricalVAE, digits: Digits, sample: Sampler, epochs: int, seed: int, title: str) -> History:
    """Maximise the ELBO by Adam. The order of the digits depends on the seed, not on the sampler."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    order = torch.Generator().manual_seed(seed)
    history = History()
    progress = tqdm(range(epochs), title, unit="epoch")
    for epoch in progress:
        tau = temperature(epoch / epochs)
        total = 0.0
        for batch in torch.randperm(len(digits.train), generator=order).split(BATCH):
            elbo = model.elbo(digits.train[batch], tau, sample)
            optimizer.zero_grad()
            elbo.mean().neg().backward()
            optimizer.step()
            total += elbo.detach().sum().item()
        history.tau.append(tau)
        history.train_elbo.append(total / len(digits.train))
        history.test_elbo.append(mean_elbo(model, digits.test, sample, samples=4))
        progress.set_postfix(tau=f"{tau:.2f}", held_out_elbo=f"{history.test_elbo[-1]:.2f}")
    return history


def new_model(seed: int) -> CategoricalVAE:
    torch.manual_seed(seed)
    return CategoricalVAE()


def step_seconds(logits: Tensor, repeats: int) -> dict[str, float]:
    """Median time of each sampler's forward and backward; they take turns, to meet the same load."""
    logits = logits.detach().requires_grad_()
    upstream = torch.randn_like(logits)
    seconds: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    for _ in range(repeats):
        for name, sample in SAMPLERS.items():
            start = time.perf_counter()
            torch.autograd.grad(sample(logits, TAU_FLOOR), logits, upstream)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_step_times(model: CategoricalVAE, digits: Digits, threads: int) -> None:
    """On the model's own logits with one thread, as in training; on larger ones with ``threads``."""
    own = model.encoder(digits.train[:BATCH])
    large = torch.randn(4096, 1024)
    print("\nGumbel-softmax step, forward + backward, median")
    print(f"{'logits':>12} {'threads':>8} {'gumbel_ext':>14} {'torch':>14} {'ratio':>7}")
    for logits, threads_used, repeats in ((own, 1, 300), (large, threads, 11)):
        torch.set_num_threads(threads_used)
        ours, theirs = step_seconds(logits, repeats).values()
        shape = "x".join(map(str, logits.shape))
        times = f"{ours * 1e6:11.0f} µs {theirs * 1e6:11.0f} µs {theirs / ours:6.1f}x"
        print(f"{shape:>12} {threads_used:8} {times}")


def compare(digits: Digits, epochs: int, first_seed: int) -> None:
    """Train with either sampler from the same initial weights; Welch's t tells noise from difference."""
    scores: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    seeds = range(first_seed, first_seed + COMPARED_SEEDS)
    for seed in seeds:
        for name, sample in SAMPLERS.items():
            model = new_model(seed)
            train(model, digits, sample, epochs, seed, f"seed {seed}, {name}")
            scores[name].append(mean_elbo(model, digits.test, sample, samples=50))
    print(f"\nheld-out ELBO after {epochs} epochs, nats a digit")
    print("  seed" + "".join(f"{name:>12}" for name in scores))
    for row, seed in enumerate(seeds):
        print(f"{seed:6}" + "".join(f"{values[row]:12.3f}" for values in scores.values()))
    print("  mean" + "".join(f"{statistics.mean(values):12.3f}" for values in scores.values()))
    print("   std" + "".join(f"{statistics.stdev(values):12.3f}" for values in scores.values()))

    ours, theirs = scores.values()
    difference = statistics.mean(ours) - statistics.mean(theirs)
    error = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / COMPARED_SEEDS)
    verdict = "within noise" if abs(difference) < STUDENT_T * error else "more than noise"
    print(f"difference {difference:+.3f}, 95 % of noise within ±{STUDENT_T * error:.3f}: {verdict}")


def tile(images: Tensor, rows: int) -> Tensor:
    """``rows`` rows of 8x8 images as one picture, with a blank pixel between neighbours."""
    cells = F.pad(images.reshape(rows, -1, 8, 8), (1, 1, 1, 1))
    return cells.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)


def draw_reconstructions(model: CategoricalVAE, digits: Digits, path: Path) -> None:
    """Two held-out digits of each class, above what the decoder makes of one drawn code."""
    chosen = torch.cat([(digits.test_labels == label).nonzero()[:2, 0] for label in range(10)])
    originals = digits.test[chosen]
    decoded = model.decode(model.encode(originals, seed=0))
    figure = Figure(figsize=(10, 2))
    axes = figure.subplots()
    axes.imshow(tile(torch.cat([originals, decoded]), rows=2), cmap="gray_r", vmin=0, vmax=1)
    axes.set_yticks([4.5, 14.5], ["held-out digit", "from its code"])
    axes.set_xticks([])
    axes.set_title("Digits and their reconstructions")
    figure.savefig(path / "reconstructions.png", dpi=150, bbox_inches="tight")


def draw_prior_samples(model: CategoricalVAE, path: Path) -> None:
    codes = torch.randint(model.classes, (100, model.latents), generator=torch.Generator().manual_seed(0))
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    axes.imshow(tile(model.decode(codes), rows=5), cmap="gray_r", vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title("Decoded from codes drawn uniformly, the prior")
    figure.savefig(path / "samples.png", dpi=150, bbox_inches="tight")


def draw_codes(model: CategoricalVAE, digits: Digits, path: Path) -> None:
    """The usage of each letter in each place of the code: ``q(z_n = k)``, averaged over a label's digits; and how much
    each place says of a digit: the divergence of ``q(z_n)`` from the uniform prior, 0 of one that is not used."""
    q = model.encoder(digits.test).softmax(-1)
    nats = math.log(model.classes) - torch.special.entr(q).sum(-1).mean(0)
    usage = torch.stack([q[digits.test_labels == label].mean(0).flatten() for label in range(10)])
    figure = Figure(figsize=(11, 3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(usage, cmap="viridis", vmin=0, aspect="auto")
    edges = torch.arange(0, usage.shape[1], model.classes)
    for edge in edges[1:]:
        axes.axvline(edge - 0.5, color="white", linewidth=1.5)
    axes.set_xticks(edges + (model.classes - 1) / 2, [f"{n + 1}: {said:.2f}" for n, said in enumerate(nats)])
    axes.set_yticks(range(10))
    size = f"{model.classes} classes, {math.log(model.classes):.2f} nats"
    axes.set(xlabel=f"latent variable ({size}), and how many nats it says of a digit (0: unused)", ylabel="digit")
    axes.set_title("The learned code: mean probability of each class, for each digit")
    figure.colorbar(image, label="probability", pad=0.01)
    figure.savefig(path / "codes.png", dpi=150)


def draw_annealing(history: History, path: Path) -> None:
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    epochs = range(1, len(history.tau) + 1)
    upper.plot(epochs, history.tau, color="tab:red")
    upper.set(ylabel="temperature τ", ylim=(0, 1.05), title="Annealing and the ELBO")
    lower.plot(epochs, history.train_elbo, label="training digits")
    lower.plot(epochs, history.test_elbo, label="held-out digits")
    lower.set(
        xlabel="epoch", ylabel="ELBO, nats a digit", ylim=(min(*history.train_elbo, *history.test_elbo) - 0.3, None)
    )
    lower.legend(loc="lower right")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    figure.savefig(path / "annealing.png", dpi=150)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--quick", action="store_const", dest="epochs", const=5, help="five epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the pictures")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the trained model as TorchScript")
    parser.add_argument("--compare", action="store_true", help="five seeds each, with gumbel_ext and torch")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    digits = load()
    threads = torch.get_num_threads()
    # Layers this small gain nothing from a second thread, and lose much where the processor is shared.
    torch.set_num_threads(1)
    if options.compare:
        compare(digits, options.epochs, options.seed)
        return

    model = new_model(options.seed)
    before = mean_elbo(model, digits.test, sample_ours, samples=50)
    start = time.perf_counter()
    history = train(model, digits, sample_ours, options.epochs, options.seed, "training")
    seconds = time.perf_counter() - start
    after = mean_elbo(model, digits.test, sample_ours, samples=50)
    print(f"\nheld-out ELBO, nats a digit ({len(digits.test)} digits, 50 codes each)")
    print(f"  before training {before:8.2f}\n  after training  {after:8.2f}   ({seconds:.0f} s)")

    print_step_times(model, digits, threads)

    options.out.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        draw_reconstructions(model, digits, options.out)
        draw_prior_samples(model, options.out)
        draw_codes(model, digits, options.out)
    draw_annealing(history, options.out)
    print(f"\npictures in {options.out}/")
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        torch.jit.script(model).save(options.save)
        print(f"model in {options.save}")


if __name__ == "__main__":
    main()
