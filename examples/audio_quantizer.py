"""A quantizer in the manner of wav2vec 2.0, on speech that the script makes up.

Some frames of an utterance are hidden; from those around them, a network has to tell the quantized vector of each
from those of the others. No label is shown to it. A vowel lasts several frames, noise does not, and a voice is the
same in the whole utterance: so codes that tell vowels apart are what pays. Whether they do is measured on held-out
utterances, by the mutual information of the codes and the vowels; how many codes are in use, by the perplexity.

    python audio_quantizer.py --out out/audio_quantizer.png

Source: Baevski, Zhou, Mohamed, Auli, "wav2vec 2.0: a framework for self-supervised learning of speech representations",
NeurIPS 2020, sections 2 and 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import recipe
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from recipe import COLOURS
from sklearn.cluster import KMeans
from sklearn.metrics import mutual_info_score
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from vowels import BANDS, VOWELS, Speech, speak

from gumbel_ext.nn import GumbelVectorQuantizer, TemperatureSchedule

FRAMES = 64
BATCH = 16
WIDTH = 64
GROUPS, ENTRIES = 2, 16
SPAN, SPANS = 5, 6
SIMILARITY_SCALE = 10.0
LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class Way:
    """How to train: the temperature at the start and at the end, and the weight of the diversity term."""

    start: float
    end: float
    diversity: float


WAYS = {
    "τ 2 → 0.5": Way(2.0, 0.5, 0.1),
    "τ = 2": Way(2.0, 2.0, 0.1),
    "τ = 0.5": Way(0.5, 0.5, 0.1),
    "τ 2 → 0.5, no diversity": Way(2.0, 0.5, 0.0),
}
WAY_SHOWN = "τ 2 → 0.5"


@dataclass
class Codes:
    """What codes say, in nats more than shuffled codes seem to; how many of ``GROUPS * ENTRIES`` are used."""

    perplexity: float
    vowels: float
    voices: float


@dataclass
class Run:
    steps: list[int] = field(default_factory=list)
    history: list[Codes] = field(default_factory=list)
    example: Tensor | None = None  #: codes of the first held-out utterance, ``[FRAMES, GROUPS]``


class Wav2Vec(nn.Module):
    """Encoder, quantizer and context network; the paper's are deeper, and its encoder takes the wave itself."""

    def __init__(self, tau: TemperatureSchedule) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(BANDS, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH))
        self.quantizer = GumbelVectorQuantizer(WIDTH, WIDTH, groups=GROUPS, entries=ENTRIES, tau=tau)
        self.hidden = nn.Parameter(torch.randn(WIDTH))
        self.context = nn.Sequential(
            nn.Conv1d(WIDTH, WIDTH, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(WIDTH, WIDTH, 5, padding=4, dilation=2),
            nn.GELU(),
            nn.Conv1d(WIDTH, WIDTH, 1),
        )
        self.target = nn.Linear(WIDTH, WIDTH)

    def loss(self, features: Tensor, hide: Tensor, diversity: float) -> Tensor:
        """``hide`` is bool ``[FRAMES]``. Contrastive loss and ``diversity`` times the share of entries not in use."""
        encoded = self.encoder(features)
        value, perplexity = self.quantizer(encoded)
        seen = torch.where(hide[:, None], self.hidden, encoded)
        predicted = self.context(seen.transpose(1, 2)).transpose(1, 2)[:, hide]
        target = self.target(value[:, hide])
        similarity = F.normalize(predicted, dim=-1) @ F.normalize(target, dim=-1).transpose(1, 2)
        # A frame of the same code is no distractor.
        same = (value[:, hide, None] == value[:, None, hide]).all(-1) & ~torch.eye(
            similarity.shape[1], dtype=torch.bool
        )
        log_likelihood = (SIMILARITY_SCALE * similarity).masked_fill(same, -math.inf).log_softmax(-1)
        contrastive = -log_likelihood.diagonal(dim1=1, dim2=2).mean()
        return contrastive + diversity * (1 - perplexity / (GROUPS * ENTRIES))

    @torch.no_grad()
    def codes(self, features: Tensor) -> Tensor:
        return self.quantizer.codes(self.encoder(features))


def measure(codes: Tensor, speech: Speech) -> Codes:
    """``codes`` is ``[utterances, frames, groups]``."""
    usage = [codes[..., group].flatten().bincount(minlength=ENTRIES) / codes[..., 0].numel() for group in range(GROUPS)]
    perplexity = sum(torch.special.entr(share).sum().exp().item() for share in usage)
    joint = (codes[..., 0] * ENTRIES + codes[..., 1]).flatten()
    return Codes(perplexity, information(joint, speech.vowels), information(joint, speech.voices))


def information(codes: Tensor, classes: Tensor) -> float:
    """Few frames seem to tell of classes by chance: what they tell when shuffled is taken off."""
    shuffled = codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))]
    labels = classes.flatten()
    return float(mutual_info_score(codes, labels) - mutual_info_score(shuffled, labels))


def hidden_frames(generator: torch.Generator) -> Tensor:
    """``SPANS`` spans of ``SPAN`` frames, which may overlap."""
    hide = torch.zeros(FRAMES, dtype=torch.bool)
    for start in torch.randint(FRAMES - SPAN, (SPANS,), generator=generator).tolist():
        hide[start : start + SPAN] = True
    return hide


def train(way: Way, speech: Speech, held_out: Speech, steps: int, seed: int, progress: tqdm) -> Run:
    """The order of utterances and what is hidden depend on the seed, not on the way."""
    torch.manual_seed(seed)
    schedule = TemperatureSchedule(way.start, way.end, updates=steps)
    model = Wav2Vec(schedule)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    draws = torch.Generator().manual_seed(seed)
    run = Run()
    for step in range(steps + 1):
        if step % (steps // 20) == 0:
            run.steps.append(step)
            run.history.append(measure(model.codes(held_out.features), held_out))
        batch = torch.randint(len(speech.features), (BATCH,), generator=draws)
        loss = model.loss(speech.features[batch], hidden_frames(draws), way.diversity)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.update()
    run.example = model.codes(held_out.features[:1])[0]
    return run


def k_means(clusters: int, speech: Speech, held_out: Speech, seed: int) -> Codes:
    """Of the frames themselves."""
    means = KMeans(clusters, n_init=1, random_state=seed).fit(speech.features.flatten(0, 1).numpy())
    codes = torch.from_numpy(means.predict(held_out.features.flatten(0, 1).numpy())).long()
    perplexity = torch.special.entr(codes.bincount() / len(codes)).sum().exp().item()
    return Codes(perplexity, information(codes, held_out.vowels), information(codes, held_out.voices))


def draw_utterance(axes: list[Axes], speech: Speech, codes: Tensor) -> None:
    """The first utterance: its features and vowels, and under them the entry of each group, frame by frame."""
    upper, lower = axes
    upper.imshow(speech.features[0].T, origin="lower", aspect="auto", cmap="magma")
    upper.set(ylabel="mel band", xticks=[], title=f"A held-out utterance, and its codes ({WAY_SHOWN}, seed 0)")
    vowels = speech.vowels[0].tolist()
    starts = [frame for frame in range(FRAMES) if frame == 0 or vowels[frame] != vowels[frame - 1]]
    for start, end in zip(starts, [*starts[1:], FRAMES], strict=True):
        upper.text((start + end - 1) / 2, BANDS - 3, VOWELS[vowels[start]], color="white", ha="center", weight="bold")
    lower.imshow(codes.T, aspect="auto", cmap="tab20", interpolation="nearest")
    lower.set_yticks(range(GROUPS), [f"group {group + 1}" for group in range(GROUPS)])
    lower.set_xlabel("frame of 20 ms")
    for axis in axes:
        for start in starts[1:]:
            axis.axvline(start - 0.5, color="white", linewidth=1.5)


def draw_perplexity(axes: Axes, runs: dict[str, list[Run]]) -> None:
    """The mean over the seeds, in the band from the least to the greatest."""
    for (name, ways_runs), colour in zip(runs.items(), COLOURS, strict=False):
        values = torch.tensor([[codes.perplexity for codes in run.history] for run in ways_runs])
        steps = ways_runs[0].steps
        axes.plot(steps, values.mean(0), label=name, color=colour)
        axes.fill_between(steps, values.amin(0), values.amax(0), color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="step", ylabel=f"perplexity, of {GROUPS * ENTRIES}", title="Codebook use, held out", ylim=(0, None))
    axes.legend(fontsize="small", loc="lower right")
    axes.grid(alpha=0.3)


def draw_information(axes: Axes, results: dict[str, list[Codes]]) -> None:
    for (name, codes), colour in zip(results.items(), COLOURS, strict=False):
        axes.scatter(
            [one.vowels for one in codes], [one.voices for one in codes], label=name, color=colour, s=25, alpha=0.7
        )
    axes.axvline(math.log(len(VOWELS)), color="0.5", linestyle=":")
    axes.set(xlabel="nats about the vowel (dotted: all there are)", ylabel="nats about the voice")
    axes.set(title="What the codes say, held out", ylim=(-0.03, None))
    axes.legend(fontsize="small", loc="center right")
    axes.grid(alpha=0.3)


def draw(runs: dict[str, list[Run]], results: dict[str, list[Codes]], held_out: Speech) -> Figure:
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.4), squeeze=False)[:, 0]
    example = runs[WAY_SHOWN][0].example
    assert example is not None
    draw_utterance(list(upper.subplots(2, 1, sharex=True, height_ratios=(3, 1))), held_out, example)
    left, right = lower.subplots(1, 2)
    draw_perplexity(left, runs)
    draw_information(right, results)
    return figure


def main() -> None:
    parser = recipe.parser(__doc__, "audio_quantizer.png", seeds=5)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    options = recipe.options(arguments)
    steps = 40 if options.quick else arguments.steps
    draws = torch.Generator().manual_seed(0)
    speech, held_out = speak(256, FRAMES, draws), speak(128, FRAMES, draws)

    runs: dict[str, list[Run]] = {name: [] for name in WAYS}
    with tqdm(total=len(WAYS) * len(options.seeds) * (steps + 1), unit="step") as progress:
        for seed in options.seeds:
            for name, way in WAYS.items():
                progress.set_description(f"seed {seed}, {name}")
                runs[name].append(train(way, speech, held_out, steps, seed, progress))

    results = {name: [run.history[-1] for run in ways_runs] for name, ways_runs in runs.items()}
    results["untrained"] = [run.history[0] for run in runs[WAY_SHOWN]]
    for clusters in (GROUPS * ENTRIES,) if options.quick else (GROUPS * ENTRIES, ENTRIES**GROUPS):
        name = f"k-means, {clusters} clusters"
        results[name] = [k_means(clusters, speech, held_out, seed) for seed in options.seeds]
    recipe.print_table(
        f"{held_out.vowels.numel()} held-out frames; the vowels' entropy is {math.log(len(VOWELS)):.2f} nats",
        ("codes", "perplexity", "nats about the vowel", "nats about the voice"),
        [
            (
                name,
                *(
                    recipe.spread([getattr(one, what) for one in codes], 2)
                    for what in ("perplexity", "vowels", "voices")
                ),
            )
            for name, codes in results.items()
        ],
    )
    recipe.save(draw(runs, results, held_out), options.out)


if __name__ == "__main__":
    main()
