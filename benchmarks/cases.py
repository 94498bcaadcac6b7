"""The table of what is measured: one `Case` a row, with the least ratio expected over each peer.

A ratio is the peer's time over ours (or its memory over ours), each per logit: 20 means that ours is twenty
times faster, and "at most 1.6 times the time of F.softmax" is a ratio of at least 1 / 1.6. The names of the
peers are the keys of `benchmarks.peers.PEERS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: What a case does, and whether noise is part of it.
WORKS = {
    "hard": True, "relaxed": True, "index": True, "softmax": False, "straight_through": False, "reinmax": True,
    "rao": True, "embedding": True, "sample": True, "subset": True,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One row: the work on one kind of input, and the least ratio over each peer (None: for information)."""

    name: str
    work: str
    shape: tuple[int, ...]
    peers: Mapping[str, float | None]
    dtype: torch.dtype = torch.float32
    dim: int = -1
    tau: float = 0.7
    tau_per_row: bool = False
    masked: bool = False
    strided: bool = False
    num_samples: int | None = None
    k: int | None = None  # of the classes that are drawn without replacement
    size: int | None = None  # of the rows of the matrix that an embedding chooses from
    backward: bool = True  # indices have no backward, whatever this says
    quantity: str = "time"  # or "memory": the peak of one step, above what its inputs take
    quick: bool = False  # part of --quick
    chart: bool = False  # drawn in the chart

    @property
    def differentiates(self) -> bool:
        return self.backward and self.work not in ("index", "subset")

    @property
    def cpu_only(self) -> bool:
        return self.quantity == "memory" or "one thread" in self.peers

    @property
    def logits(self) -> int:
        """How many logits one call goes through: each sample of a row goes through the row."""
        return math.prod(self.shape) * (self.num_samples or 1)


@dataclass
class Problem:
    """The inputs of a case: logits (a leaf), the gradient that comes back, the mask, the temperature."""

    case: Case
    logits: Tensor
    upstream: Tensor = field(repr=False)
    mask: Tensor | None
    tau: float | Tensor
    weight: Tensor | None

    @classmethod
    def build(cls, case: Case, device: str = "cpu") -> Problem:
        """The same inputs each time: logits of standard deviation 2, as a classifier's or smaller."""
        generator = torch.Generator(device).manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device).to(case.dtype)

        if case.strided:
            logits = normal(*case.shape[:-1], 2 * case.shape[-1])[..., ::2]
        else:
            logits = normal(*case.shape)
        result = case.shape if case.size is None else (*case.shape[:-1], case.size)
        if case.work == "sample":  # log-probabilities, then entropies
            result = (2, *case.shape[:-1])
        upstream = normal(*result) if case.differentiates else torch.empty(0)
        weight = None if case.size is None else normal(case.shape[-1], case.size).requires_grad_()
        mask: Tensor | None = None
        if case.masked:
            mask = torch.rand(case.shape, generator=generator, device=device) < 0.5
            mask.select(case.dim, 0).fill_(True)
        tau: float | Tensor = case.tau
        if case.tau_per_row:
            rows = list(case.shape)
            rows[case.dim] = 1
            tau = torch.rand(rows, generator=generator, device=device).add_(0.3).requires_grad_(case.differentiates)
        return cls(case, logits.mul_(2).requires_grad_(case.differentiates), upstream, mask, tau, weight)


LARGE = ((4096, 1024), (256, 50257), (16, 151936))
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

# What every row must reach: no slower than any peer.
TRAIN = {"eager": 1.0, "compile": 1.0, "jax": 1.0, "distributions": 1.0, "F.softmax": None}
SAMPLE = {"multinomial": 1.0, "exponential race": 1.0, "distributions": 1.0, "compile": 1.0, "jax": 1.0}
SERVING = {"vllm": 1.0, "flashinfer": 1.0}
PLAIN_TORCH = {"eager": 1.0, "compile": 1.0}
PLAIN = {"eager": 1.0, "compile": 1.0, "jax": 1.0}


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _training() -> list[Case]:
    """Samples with their gradients: forward and backward."""
    goal = TRAIN | {"eager": 20.0, "compile": 7.0, "jax": 10.0, "F.softmax": 1 / 1.6}
    rows = [Case(f"hard {_size(s)}", "hard", s, goal, quick=s == LARGE[0], chart=True) for s in LARGE]
    small = TRAIN | {"eager": 6.0, "compile": 3.0}
    rows += [
        Case(
            "hard 65536x32",
            "hard",
            (65536, 32),
            TRAIN | {"eager": 15.0, "compile": 5.0},
            quick=True,
            chart=True,
        ),
        Case("hard 1024x10", "hard", (1024, 10), small, quick=True, chart=True),
        Case("hard 1x10", "hard", (1, 10), small | {"F.softmax": 1 / 1.5}, quick=True, chart=True),
    ]
    for shape in (LARGE[0], LARGE[1], (65536, 32), (1, 10)):
        rows.append(Case(f"relaxed {_size(shape)}", "relaxed", shape, TRAIN, chart=shape == LARGE[0]))
    image = (64, 512, 32, 32)
    rows.append(Case(f"hard dim=1 {_size(image)}", "hard", image, {"eager": 15.0, "compile": 1.0}, dim=1, chart=True))
    return rows


def _awkward() -> list[Case]:
    """Where a kernel made for the usual shapes would be embarrassed."""
    some = {"eager": 1.0, "compile": 1.0}
    rows = [
        Case(f"hard {_size(shape)}", "hard", shape, some)
        for shape in ((1, 2), (7, 33), (1000, 1025), (300, 4099), (100_000, 3), (1_000_000, 4))
    ]
    wide = (1, 10_000_000)
    return rows + [
        Case("hard 1x10000000", "hard", wide, {"eager": 1.0, "jax": 1.0, "one thread": 1.7}),
        Case("hard strided 4096x1024", "hard", LARGE[0], some, strided=True),
        Case("hard masked 4096x1024", "hard", LARGE[0], some | {"jax": 1.0}, masked=True, quick=True),
        Case("hard tensor-tau 4096x1024", "hard", LARGE[0], some | {"jax": 1.0}, tau_per_row=True),
        Case("hard dim=0 1024x4096", "hard", (1024, 4096), some, dim=0),
        Case("hard float64 1024x1024", "hard", (1024, 1024), some, dtype=torch.float64),
        Case("relaxed 1000000x4", "relaxed", (1_000_000, 4), some),
        Case("relaxed strided 4096x1024", "relaxed", LARGE[0], some, strided=True),
    ]


def _indices() -> list[Case]:
    """One index a row (or many): no gradient."""
    goal = SAMPLE | SERVING | {"multinomial": 60.0, "exponential race": 60.0}
    many = {"multinomial": 1.0, "distributions": 1.0}
    vocabulary = LARGE[1]
    rows = [Case(f"index {_size(s)}", "index", s, goal, quick=s == vocabulary, chart=True) for s in LARGE[1:]]
    rows += [
        Case(f"index {_size(s)}", "index", s, SAMPLE)
        for s in ((1, 10), (7, 33), (1024, 10), (65536, 32), (4096, 1024), (1, 10_000_000))
    ]
    rows.append(Case("index 64 samples 256x50257", "index", vocabulary, many, num_samples=64, chart=True))
    rows.append(Case("index 64 samples 1024x10", "index", (1024, 10), many, num_samples=64))
    rows.append(Case("index masked 256x50257", "index", vocabulary, {"exponential race": 1.0}, masked=True))
    return rows


def _subsets() -> list[Case]:
    """k classes a row without replacement, their log-probabilities and scores: no gradient."""
    goal = {"multinomial": 10.0, "eager": 5.0}
    return [Case(f"top {k} of 256x50257", "subset", LARGE[1], goal, k=k, quick=k == 64) for k in (8, 64, 512)]


def _estimators() -> list[Case]:
    """Other gradients of a draw, and the row of a matrix that it chooses: forward and backward."""
    shape = (4096, 8192)
    goal = {"eager": 5.0, "compile": 2.5}
    return [
        Case("reinmax 4096x1024", "reinmax", LARGE[0], {"eager": 1.0, "compile": 1.0}),
        Case("rao of 10 noises 1024x1024", "rao", (1024, 1024), {"eager": 1.0, "compile": 1.0}),
        Case("embedding 4096x8192x256", "embedding", shape, goal, size=256),
        Case("memory embedding 4096x8192x256", "embedding", shape, {"eager": 2.0}, size=256, quantity="memory"),
    ]


def _scored() -> list[Case]:
    """A draw, its log-probability and the entropy, forward and backward; and forward beside the index alone."""
    goal = {"eager": 20.0, "compile": 1.0}
    rows = [Case(f"sample {_size(s)}", "sample", s, goal, quick=s == LARGE[0], chart=s == LARGE[1]) for s in LARGE]
    rows += [Case(f"sample {_size(s)}", "sample", s, PLAIN_TORCH) for s in ((65536, 32), (1024, 10), (1, 10))]
    rows += [Case(f"sample forward {_size(s)}", "sample", s, {"index": 0.5}, backward=False) for s in LARGE]
    memory = {"eager": 2.0}
    rows += [Case(f"memory sample {_size(s)}", "sample", s, memory, quantity="memory") for s in LARGE]
    return rows


def _noiseless() -> list[Case]:
    """softmax and straight-through at τ = 0.7, forward and backward."""
    rows = []
    for work, goal in (("softmax", 1.2), ("straight_through", 3.0)):
        for shape in (*LARGE, (65536, 32), (1024, 10), (1, 10)):
            first = shape == LARGE[0]
            rows.append(Case(f"{work} {_size(shape)}", work, shape, PLAIN | {"eager": goal}, quick=first, chart=first))
    return rows


def _halves() -> list[Case]:
    """bfloat16 and float16: no slower than our own float32."""
    works = [("hard", s) for s in (*LARGE, (65536, 32), (1024, 10), (1, 10))]
    works += [("relaxed", LARGE[0]), ("index", LARGE[1]), ("index", LARGE[2])]
    works += [("softmax", LARGE[0]), ("softmax", LARGE[1]), ("straight_through", LARGE[0])]
    return [
        Case(
            f"{work} {name} {_size(shape)}",
            work,
            shape,
            {"float32": 1.0, "exponential race" if work == "index" else "eager": 1.0},
            dtype=dtype,
            quick=(work, name, shape) == ("hard", "bfloat16", LARGE[0]),
        )
        for work, shape in works
        for name, dtype in HALVES.items()
    ]


def _scaling() -> list[Case]:
    """Threads, length and memory: ours beside itself, and the peak of a training step."""
    rows = [Case("threads 4096x1024", "hard", LARGE[0], {"one thread": 1.85}, quick=True)]
    for work in ("hard", "relaxed"):
        for power in range(5, 9):
            # The first step is for information: there the threads begin to share the row.
            peers = {"a tenth as long": 0.8 if power > 5 else None, "one thread": None}
            name = f"length {work} 1x10^{power}"
            quick = (work, power) == ("relaxed", 6)
            rows.append(Case(name, work, (1, 10**power), peers, backward=False, quick=quick))
    memory = {"eager": 1 / 0.6, "compile": 1.0, "F.softmax": None}
    rows.append(Case("memory hard 4096x32000", "hard", (4096, 32000), memory, quantity="memory"))
    return rows


CASES: list[Case] = [
    *_training(),
    *_awkward(),
    *_indices(),
    *_subsets(),
    *_estimators(),
    *_scored(),
    *_noiseless(),
    *_halves(),
    *_scaling(),
]
