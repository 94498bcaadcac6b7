"""Which k of n features: a differentiable choice of a subset, on data that scikit-learn ships.

One logit a feature is learned together with a classifier that sees, for each example, a drawn subset of k features:
the k largest of logits and Gumbel noise, one draw an example, with the gradient of a relaxed top-k. Then the k
largest logits are taken, and a fresh classifier is trained on those features alone. Beside it, with the same
classifier: the k best features by a univariate test, which does not see that two of them say the same, the k best by
mutual information, and k at random.

    python feature_selection.py --out out/feature_selection.png
    python feature_selection.py --data breast_cancer --out out/feature_selection_cancer.png

Source: Xie, Ermon, "Reparameterizable subset sampling via continuous relaxations", IJCAI 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import recipe
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from recipe import COLOURS
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.feature_selection import SelectKBest, f_classif, mutual_info_classif
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import gumbel_ext


@dataclass(frozen=True)
class Source:
    load: Callable[..., tuple[np.ndarray, np.ndarray]]
    shape: tuple[int, int]  #: in which to show the features: pixels; or mean, error and worst of ten measures
    ks: tuple[int, ...]


SOURCES = {
    "digits": Source(load_digits, (8, 8), (4, 8, 16)),
    "breast_cancer": Source(load_breast_cancer, (3, 10), (1, 2, 4)),
}
HIDDEN = 64
BATCH = 100
LEARNING_RATE = 5e-3
LOGITS_LEARNING_RATE = 2e-2
TAU = 0.5
LEARNED = "learned"


@dataclass(frozen=True)
class Data:
    """Features of mean 0 and deviation 1 over the training examples."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load(name: str, seed: int) -> Data:
    """A split for every seed."""
    features, labels = SOURCES[name].load(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        features, labels, test_size=1 / 3, stratify=labels, random_state=seed
    )
    scaler = StandardScaler().fit(train)
    return Data(
        torch.from_numpy(scaler.transform(train)).float(),
        torch.from_numpy(train_labels),
        torch.from_numpy(scaler.transform(test)).float(),
        torch.from_numpy(test_labels),
    )


def train(data: Data, choose: Callable[[int], Tensor], parameters: list[Tensor], steps: int, seed: int) -> nn.Module:
    """A classifier of what ``choose(batch)``, 0 or 1 for each feature, lets through; learns ``parameters`` too."""
    torch.manual_seed(seed)
    features, classes = data.train.shape[1], int(data.train_labels.max()) + 1
    model = nn.Sequential(nn.Linear(features, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, classes))
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    optimizer.add_param_group({"params": parameters, "lr": LOGITS_LEARNING_RATE})
    for _ in range(steps):
        batch = torch.randint(len(data.train), (BATCH,))
        loss = F.cross_entropy(model(data.train[batch] * choose(BATCH)), data.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def accuracy(data: Data, chosen: Tensor, steps: int, seed: int) -> float:
    """Held-out, in per cent, of a classifier that is trained on the chosen features, bool ``[features]``."""
    mask = chosen.float()
    model = train(data, lambda _: mask, [], steps, seed)
    with torch.no_grad():
        return 100 * (model(data.test * mask).argmax(1) == data.test_labels).float().mean().item()


def of_largest(scores: Tensor, k: int) -> Tensor:
    return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, scores.topk(k).indices, True)


def learned(data: Data, k: int, steps: int, seed: int, *, hard: bool) -> Tensor:
    logits = torch.zeros(data.train.shape[1], requires_grad=True)
    train(
        data,
        lambda batch: gumbel_ext.relaxed_top_k(logits.expand(batch, -1), k, TAU, hard),
        [logits],
        steps,
        seed,
    )
    return of_largest(logits.detach(), k)


def univariate(data: Data, k: int, steps: int, seed: int, *, score: Callable[..., object]) -> Tensor:
    filter_ = SelectKBest(score, k=k).fit(data.train.numpy(), data.train_labels.numpy())
    return torch.from_numpy(filter_.get_support())


def at_random(data: Data, k: int, steps: int, seed: int) -> Tensor:
    return of_largest(torch.rand(data.train.shape[1], generator=torch.Generator().manual_seed(seed)), k)


WAYS: dict[str, Callable[[Data, int, int, int], Tensor]] = {
    LEARNED: partial(learned, hard=True),
    "learned, relaxed": partial(learned, hard=False),
    "F test": partial(univariate, score=f_classif),
    "mutual information": partial(univariate, score=partial(mutual_info_classif, random_state=0)),
    "at random": at_random,
}
"""(data, k, steps, seed) -> bool ``[features]``"""


@dataclass
class Results:
    ks: tuple[int, ...]
    accuracy: dict[str, dict[int, list[float]]]  #: of each way and k, a number a seed
    chosen: dict[str, dict[int, Tensor]]  #: how many of the seeds chose a feature
    of_all: list[float]  #: with all features


def measure(name: str, ks: tuple[int, ...], seeds: range, steps: int) -> Results:
    results = Results(ks, {way: {k: [] for k in ks} for way in WAYS}, {way: {} for way in WAYS}, [])
    with tqdm(total=len(seeds) * len(ks) * len(WAYS), unit="choice") as progress:
        for seed in seeds:
            data = load(name, seed)
            everything = torch.ones(data.train.shape[1], dtype=torch.bool)
            results.of_all.append(accuracy(data, everything, steps, seed))
            for k in ks:
                for way, choose in WAYS.items():
                    progress.set_description(f"seed {seed}, k = {k}, {way}")
                    chosen = choose(data, k, steps, seed)
                    results.accuracy[way][k].append(accuracy(data, chosen, steps, seed))
                    results.chosen[way][k] = results.chosen[way].get(k, 0) + chosen.int()
                    progress.update()
    return results


def print_results(name: str, results: Results) -> None:
    seeds = len(results.of_all)
    header = ("features", *(f"k = {k}" for k in results.ks))
    of_all = recipe.spread(results.of_all, 1)
    recipe.print_table(
        f"{name.replace('_', ' ')}: held-out accuracy, %; seeds: {seeds}; with all features {of_all}",
        header,
        [(way, *(recipe.spread(values, 1) for values in by_k.values())) for way, by_k in results.accuracy.items()],
    )
    ours = results.accuracy[LEARNED]
    recipe.print_table(
        f"by how much {LEARNED!r} is better, and the half width of the 95 % interval",
        header,
        [
            (way, *(recipe.difference(ours[k], by_k[k], 1) for k in results.ks))
            for way, by_k in results.accuracy.items()
            if way != LEARNED
        ],
    )


def draw_accuracy(axes: Axes, results: Results) -> None:
    for way, (name, by_k) in enumerate(results.accuracy.items()):
        places = [place + (way - 2) * 0.13 for place in range(len(results.ks)) for _ in results.of_all]
        axes.scatter(places, list(chain(*by_k.values())), color=COLOURS[way], s=20, alpha=0.7, linewidth=0, label=name)
    axes.axhline(float(np.mean(results.of_all)), color="0.5", linestyle=":", label="all features")
    axes.set_xticks(range(len(results.ks)), [f"k = {k}" for k in results.ks])
    axes.set(ylabel="held-out accuracy, %", title="A dot for each seed")
    axes.legend(fontsize="small", loc="lower right")
    axes.grid(axis="y", alpha=0.3)


def draw_chosen(figure: SubFigure, name: str, results: Results) -> None:
    """For the middle k, which features each way chose in how many of the seeds."""
    k = results.ks[len(results.ks) // 2]
    seeds = len(results.of_all)
    figure.suptitle(f"{name.replace('_', ' ')}, k = {k}: in how many of {seeds} seeds a feature is chosen")
    cells = figure.subplots(2, 3).flatten()
    for cell, (way, by_k) in zip(cells, results.chosen.items(), strict=False):
        image = cell.imshow(by_k[k].reshape(SOURCES[name].shape), vmin=0, vmax=seeds, aspect="auto")
        cell.set(title=way, xticks=[], yticks=[])
    cells[-1].set_axis_off()
    figure.colorbar(image, ax=cells, label="seeds")


def draw(name: str, results: Results) -> Figure:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3), squeeze=False)[0]
    draw_accuracy(left.subplots(), results)
    draw_chosen(right, name, results)
    return figure


def main() -> None:
    parser = recipe.parser(__doc__, "feature_selection.png", seeds=5)
    parser.add_argument("--data", choices=SOURCES, default="digits")
    parser.add_argument("--k", type=int, nargs="+", help="how many features (default: the data's own)")
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    options = recipe.options(arguments)
    ks = tuple(arguments.k or SOURCES[arguments.data].ks)
    if options.quick:
        ks = ks[1:2]
    steps = 200 if options.quick else arguments.steps
    results = measure(arguments.data, ks, options.seeds, steps)
    print_results(arguments.data, results)
    recipe.save(draw(arguments.data, results), options.out)


if __name__ == "__main__":
    main()
