"""Which expert for which input: a router learned by the straight-through Gumbel-softmax, on scikit-learn's digits.

A router sends each digit to one of eight small experts, perceptrons too narrow to know all digits. In training the
choice is drawn, one-hot, and the straight-through gradient tells the router which expert would have done better;
held-out digits go to the likeliest expert. Beside it: experts drawn at random, a router that is never trained, one
that is trained without noise, and one dense perceptron of an expert's size, of the same work for a digit, and of the
same parameters.

    python routing.py --out out/routing.png

Sources: Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017; Shazeer et al., "Outrageously
large neural networks: the sparsely-gated mixture-of-experts layer", ICLR 2017, whose balance of loads this has too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import recipe
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import gumbel_ext

PIXELS, CLASSES = 64, 10
EXPERTS, EXPERT_WIDTH = 8, 3
TRAINING_DIGITS = 1200
BATCH = 100
LEARNING_RATE = 1e-2
TAU = 1.0
BALANCE = 0.2
LEARNED = "Gumbel, learned"

Choose = Callable[[Tensor], Tensor]
"""Router's logits ``[batch, EXPERTS]`` -> one-hot rows, differentiable in the logits or constant."""


def learned(logits: Tensor) -> Tensor:
    return gumbel_ext.gumbel_softmax(logits, TAU, hard=True)


def noiseless(logits: Tensor) -> Tensor:
    return gumbel_ext.straight_through(logits, TAU)


def at_random(logits: Tensor) -> Tensor:
    return F.one_hot(torch.randint(EXPERTS, logits.shape[:1]), EXPERTS).float()


def likeliest(logits: Tensor) -> Tensor:
    return gumbel_ext.straight_through(logits.detach())


@dataclass(frozen=True)
class Way:
    """How to choose in training and after it, and the weight of the loads' balance."""

    train: Choose
    test: Choose = likeliest
    balance: float = 0.0


WAYS = {
    LEARNED: Way(learned, balance=BALANCE),
    "Gumbel, without balance": Way(learned),
    "no noise, learned": Way(noiseless, balance=BALANCE),
    "router never trained": Way(likeliest),
    "experts at random": Way(at_random, at_random),
}
"""Without a gradient from the choice or from the balance, a router stays as it began."""


class Mixture(nn.Module):
    """``Σ_e z_e expert_e(x)`` with ``z = choose(router(x))``.

    With a one-hot ``z`` the value takes one expert alone. The router's gradient takes ``⟨dy, expert_e(x)⟩`` of all of
    them: so in training all are computed.
    """

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way
        self.router = nn.Linear(PIXELS, EXPERTS)
        self.inner = nn.Linear(PIXELS, EXPERTS * EXPERT_WIDTH)
        self.outer = nn.Parameter(torch.randn(EXPERTS, EXPERT_WIDTH, CLASSES) / EXPERT_WIDTH**0.5)
        self.bias = nn.Parameter(torch.zeros(EXPERTS, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return (self.choice(images)[..., None] * self.experts(images)).sum(1)

    def choice(self, images: Tensor) -> Tensor:
        choose = self.way.train if self.training else self.way.test
        return choose(self.router(images))

    def experts(self, images: Tensor) -> Tensor:
        """What each says, ``[batch, EXPERTS, CLASSES]``."""
        inner = F.gelu(self.inner(images)).unflatten(1, (EXPERTS, EXPERT_WIDTH))
        return torch.einsum("bew,ewc->bec", inner, self.outer) + self.bias

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, and how far the experts' shares are from equal: ``log E - H(mean router probability)``."""
        share = gumbel_ext.softmax(self.router(images)).mean(0)
        return F.cross_entropy(self(images), labels) - self.way.balance * torch.special.entr(share).sum()


class Dense(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(PIXELS, width), nn.GELU(), nn.Linear(width, CLASSES))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self(images), labels)


PRODUCTS = PIXELS * EXPERTS + EXPERT_WIDTH * (PIXELS + CLASSES)
"""For a held-out digit: the router's and one expert's."""
DENSE = {
    "dense, an expert's size": EXPERT_WIDTH,
    "dense, the same work": PRODUCTS // (PIXELS + CLASSES),
    "dense, the same parameters": EXPERTS
    * (PIXELS + 1 + EXPERT_WIDTH * (PIXELS + 1 + CLASSES) + CLASSES)
    // (PIXELS + 1 + CLASSES),
}
"""Widths."""


@dataclass
class Digits:
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load(seed: int) -> Digits:
    """A split for every seed."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.data).float() / 16
    labels = torch.from_numpy(bunch.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    train, test = order[:TRAINING_DIGITS], order[TRAINING_DIGITS:]
    return Digits(images[train], labels[train], images[test], labels[test])


@dataclass
class Run:
    accuracy: list[float]  #: held-out, after each epoch
    parameters: int
    sent: Tensor | None = None  #: what share of each digit's images goes to each expert, ``[CLASSES, EXPERTS]``

    @property
    def experts_used(self) -> float:
        """Perplexity of the experts' shares."""
        assert self.sent is not None
        return float(torch.special.entr(self.sent.mean(0)).sum().exp())


def train(name: str, digits: Digits, epochs: int, seed: int) -> Run:
    torch.manual_seed(seed)
    model = Mixture(WAYS[name]) if name in WAYS else Dense(DENSE[name])
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    run = Run([], sum(weight.numel() for weight in model.parameters()))
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(TRAINING_DIGITS).split(BATCH):
            loss = model.loss(digits.train[batch], digits.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            run.accuracy.append((model(digits.test).argmax(1) == digits.test_labels).float().mean().item())
    if isinstance(model, Mixture):
        choice = model.choice(digits.test).detach()
        run.sent = torch.stack([choice[digits.test_labels == digit].mean(0) for digit in range(CLASSES)])
    return run


def table(runs: dict[str, list[Run]]) -> None:
    accuracy = {name: [100 * run.accuracy[-1] for run in one] for name, one in runs.items()}
    recipe.print_table(
        f"held-out accuracy, each seed with a split of its own; seeds: {len(runs[LEARNED])}",
        ("router", "accuracy, %", f"{LEARNED!r} is better by", "experts used", "products a digit", "parameters"),
        [
            (
                name,
                recipe.spread(accuracy[name], 1),
                "" if name == LEARNED else recipe.difference(accuracy[LEARNED], accuracy[name], 1),
                recipe.spread([run.experts_used for run in one], 1) if name in WAYS else "",
                str(PRODUCTS if name in WAYS else DENSE[name] * (PIXELS + CLASSES)),
                str(one[0].parameters),
            )
            for name, one in runs.items()
        ],
    )


def draw(runs: dict[str, list[Run]]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    recipe.draw_seeds(left, {name: [100 * run.accuracy[-1] for run in one] for name, one in runs.items()})
    left.set(xlabel="held-out accuracy, %", title="A dot for each seed, a bar at their mean")
    sent = runs[LEARNED][0].sent
    assert sent is not None
    image = right.imshow(sent, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    right.set_yticks(range(CLASSES))
    right.set_xticks(range(EXPERTS), [str(expert + 1) for expert in range(EXPERTS)])
    right.set(xlabel="expert", ylabel="digit", title=f"{LEARNED}: where digits go (seed 0)")
    figure.colorbar(image, ax=right, label="share of the digit's images")
    return figure


def main() -> None:
    parser = recipe.parser(__doc__, "routing.png", seeds=8)
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    options = recipe.options(arguments)
    epochs = 10 if options.quick else arguments.epochs
    names = [*WAYS, *DENSE]
    runs: dict[str, list[Run]] = {name: [] for name in names}
    with tqdm(total=len(names) * len(options.seeds), unit="model") as progress:
        for seed in options.seeds:
            digits = load(seed)
            for name in names:
                progress.set_description(f"seed {seed}, {name}")
                runs[name].append(train(name, digits, epochs, seed))
                progress.update()
    table(runs)
    recipe.save(draw(runs), options.out)


if __name__ == "__main__":
    main()
