"""What each of several processes checks: `python ranks.py RANK WORLD FILE`, by gloo through FILE.

A case is a function of this process's `Rank`; what it finds is compared with what one process computes of the whole.
The last line of output is a JSON object: for every case what went wrong, or null. After a case that failed the others
are left out: processes would wait for each other.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.debug import CommDebugMode

import gumbel_ext
from gumbel_ext import _shards, _wire, distributed

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
EPSILON = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


class Rank:
    """This process, and tensors that it shares with the others."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.mesh = init_device_mesh("cpu", (world,))

    def span(self, classes: int, layout: str) -> tuple[int, int]:
        """This process's classes: of even parts; of parts that begin off a Philox counter and off a tile's border, each
        longer than the one before; or of all of them on the last process."""
        if layout == "last alone":
            bounds = [0] * self.world + [classes]
        elif layout == "uneven":
            weights = [2 * r + 1 for r in range(self.world)]
            bounds = [classes * sum(weights[:r]) // sum(weights) for r in range(self.world + 1)]
        else:
            bounds = [classes * r // self.world for r in range(self.world + 1)]
        return bounds[self.rank], bounds[self.rank + 1]


LAYOUTS = ("even", "uneven", "last alone")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kinds_of_logits(dtype: torch.dtype) -> dict[str, Tensor]:
    """Rows of 41 classes, a few more than counters hold, and a long one."""
    inf, nan = torch.inf, torch.nan
    largest = torch.finfo(dtype).max
    x = normal(5, 41)
    ties = torch.zeros(5, 41)
    signed = torch.where(torch.arange(41) < 10, -0.0, 0.0).expand(
        5, 41
    )  # the first part of the uneven ones has -0 alone
    strange = x.clone()
    strange[0, [7, 30]], strange[1, [12, 40]], strange[2], strange[3, 1:] = nan, inf, -inf, -inf
    huge = x.sign() * largest
    return {
        "normal": x, "long": 3 * normal(2, 5003), "ties": ties, "signed zeros": signed, "strange": strange,
        "huge": huge, "low": x.abs() * -largest / 8, "far": torch.where(torch.arange(41) == 33, 90.0, x),
    }  # fmt: skip


def indices_are_those_of_one_process(rank: Rank) -> None:
    for dtype in FLOATS:
        for name, whole in kinds_of_logits(dtype).items():
            x = whole.to(dtype)
            rows = x.shape[0]
            mask = torch.arange(x.shape[1]) % 5 != 3
            cold = torch.tensor([0, 1e-300, 1e-40, 0.25, 2], dtype=torch.float64)[:rows, None]
            plain, others = {"seed": 3}, {"seed": torch.arange(rows), "num_samples": 2, "mask": mask}
            for i, layout in enumerate(LAYOUTS):
                a, b = rank.span(x.shape[1], layout)
                for j, temperature in enumerate((1.0, 0.0, 1e-40, cold)):
                    arguments: dict[str, Any] = (plain, others)[(i + j) % 2]
                    expected = gumbel_ext.gumbel_max(x, temperature, **arguments)
                    if "mask" in arguments:
                        arguments = arguments | {"mask": mask[a:b]}
                    found = distributed.gumbel_max(x[:, a:b], temperature, class_offset=a, **arguments)
                    assert torch.equal(found, expected), (dtype, name, layout, temperature, arguments.keys())


def subsets_are_those_of_one_process(rank: Rank) -> None:
    for dtype in FLOATS:
        for name, whole in kinds_of_logits(dtype).items():
            x = whole.to(dtype)
            mask = torch.arange(x.shape[1]) % 5 != 3
            cold = torch.tensor([0, 1e-300, 1e-40, 0.25, 2], dtype=torch.float64)[: x.shape[0], None]
            for i, layout in enumerate(LAYOUTS):
                a, b = rank.span(x.shape[1], layout)
                for j, (temperature, k) in enumerate([(1.0, 1), (0.7, 41), (0.0, 7), (1e-40, 9), (cold, 5)]):
                    masked = (i + j) % 2 == 1
                    expected = gumbel_ext.gumbel_top_k(x, k, temperature, mask=mask if masked else None, seed=3)
                    found = distributed.gumbel_top_k(
                        x[:, a:b], k, temperature, class_offset=a, mask=mask[a:b] if masked else None, seed=3
                    )
                    assert torch.equal(found.indices, expected.indices), (dtype, name, layout, temperature, k, masked)
                    close(found.log_probs, expected.log_probs)
                    close(found.scores, expected.scores)


def more_classes_than_there_are_is_refused(rank: Rank) -> None:
    a, b = rank.span(5, "even")
    try:
        distributed.gumbel_top_k(torch.zeros(2, 5)[:, a:b], 6, class_offset=a, seed=1)
    except ValueError as error:
        assert str(error) == "k: expected 1 <= k <= 5, the number of classes in all, got 6"
    else:
        raise AssertionError("nothing was raised")


def classes_may_lie_along_any_dimension(rank: Rank) -> None:
    x = normal(3, 23, 4)
    a, b = rank.span(23, "uneven")
    for part in (x[:, a:b], x.transpose(0, 2).contiguous().transpose(0, 2)[:, a:b]):
        found = distributed.gumbel_max(part, dim=1, seed=8)  # offsets by what the others say
        assert torch.equal(found, gumbel_ext.gumbel_max(x, dim=1, seed=8))
        close(distributed.gumbel_softmax(part, dim=1, seed=8), gumbel_ext.gumbel_softmax(x, dim=1, seed=8)[:, a:b])


def close(found: Tensor, expected: Tensor, error: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=error, atol=error, equal_nan=True)


def relaxed_values_are_within_the_bound(rank: Rank) -> None:
    for dtype in (torch.float32, torch.float64):
        for name in ("normal", "long", "ties", "far"):
            x = kinds_of_logits(dtype)[name].to(dtype)
            noise = gumbel_ext.gumbel_noise(x.shape, seed=6, dtype=dtype).double()
            for tau in (1.0, 0.1, 30.0):
                for scores, function in (
                    (
                        x.double() + noise,
                        lambda part, tau, a: distributed.gumbel_softmax(part, tau, class_offset=a, seed=6),
                    ),
                    (x.double(), lambda part, tau, a: distributed.softmax(part, tau)),
                ):
                    exact = (scores / tau).softmax(-1)
                    bound = EPSILON[dtype] * (8 + 3 * scores.abs().amax(-1, keepdim=True) / tau)
                    slack = 0 if dtype == torch.float32 else 4 * bound  # float64 is compared with float64
                    for layout in LAYOUTS:
                        a, b = rank.span(x.shape[1], layout)
                        found = function(x[:, a:b], tau, a)
                        error = (found.double() - exact[:, a:b]).abs()
                        allowed = (bound + slack) * exact[:, a:b] + torch.finfo(dtype).smallest_normal
                        assert bool((error <= allowed).all()), (dtype, name, tau, layout)


def relaxed_rows_without_a_softmax_are_nan(rank: Rank) -> None:
    for dtype in FLOATS:
        x = kinds_of_logits(dtype)["strange"].to(dtype)
        for layout in LAYOUTS:
            a, b = rank.span(x.shape[1], layout)
            for hard in (False, True):
                found = distributed.gumbel_softmax(x[:, a:b], 0.7, hard, class_offset=a, seed=1)
                close(found, gumbel_ext.gumbel_softmax(x, 0.7, hard, seed=1)[:, a:b], 1e-2)


def gradients_of(function: Callable[..., Any], x: Tensor, tau: Tensor, grads: Any) -> tuple[Tensor, ...]:
    x, tau = x.detach().requires_grad_(), tau.detach().requires_grad_()
    results = function(x, tau)
    results = [r for r in (results if isinstance(results, tuple) else (results,)) if r.is_floating_point()]
    torch.autograd.backward(results, grads)
    assert x.grad is not None and tau.grad is not None
    return (*(r.detach() for r in results), x.grad, tau.grad)


def gradients_are_those_of_one_process(rank: Rank) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        error = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}[dtype]
        x, dy = normal(4, 37).to(dtype), normal(4, 37, seed=1).to(dtype)
        x[1, 5:20] = -torch.inf
        tau = torch.tensor([[0.5], [1.0], [2.0], [0.7]], dtype=torch.float64)
        answers = [
            normal(4, 3, seed=2).to(_shards.working_type(dtype)),
            normal(4, seed=3).to(_shards.working_type(dtype)),
        ]
        for layout in LAYOUTS:
            a, b = rank.span(37, layout)
            for name in ("softmax", "gumbel_softmax", "hard", "sample", "top-k"):
                one, many = functions(name, a)
                if name in ("sample", "top-k"):
                    of_whole = of_part = answers if name == "sample" else [answers[0], answers[0].flip(0)]
                else:
                    of_whole, of_part = [dy], [dy[:, a:b]]
                expected = gradients_of(one, x, tau, of_whole)
                found = gradients_of(many, x[:, a:b], tau, of_part)
                whole = [e if e.shape[-1] != 37 else e[:, a:b] for e in expected]
                for i, (f, e) in enumerate(zip(found, whole, strict=True)):
                    try:
                        close(f, e, error)
                    except AssertionError as problem:
                        raise AssertionError(f"{dtype} {layout} {name} {i}: {problem}") from None


def functions(name: str, offset: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A function of the whole, and of this process's part."""
    at: dict[str, Any] = {"class_offset": offset, "seed": 4}
    return {
        "softmax": (gumbel_ext.softmax, distributed.softmax),
        "gumbel_softmax": (
            lambda x, t: gumbel_ext.gumbel_softmax(x, t, seed=4),
            lambda x, t: distributed.gumbel_softmax(x, t, **at),
        ),
        "hard": (
            lambda x, t: gumbel_ext.gumbel_softmax(x, t, hard=True, seed=4),
            lambda x, t: distributed.gumbel_softmax(x, t, hard=True, **at),
        ),
        "sample": (
            lambda x, t: gumbel_ext.sample(x, t, num_samples=3, seed=4),
            lambda x, t: distributed.sample(x, t, num_samples=3, **at),
        ),
        "top-k": (
            lambda x, t: gumbel_ext.gumbel_top_k(x, 3, t, seed=4),
            lambda x, t: distributed.gumbel_top_k(x, 3, t, **at),
        ),
    }[name]


def answers_of_a_draw(rank: Rank) -> None:
    """Index bit for bit; log-probability and entropy within a few units, near 0 too; temperature 0; strange rows."""
    for dtype in FLOATS:
        for name, whole in kinds_of_logits(dtype).items():
            x = whole.to(dtype)
            for temperature in (1.0, 0.3, 0.0):
                expected = gumbel_ext.sample(x, temperature, seed=5)
                for layout in LAYOUTS:
                    a, b = rank.span(x.shape[1], layout)
                    found = distributed.sample(x[:, a:b], temperature, class_offset=a, seed=5)
                    where = f"{dtype} {name} {temperature} {layout}"
                    assert torch.equal(found.index, expected.index), where
                    error = 1e-12 if dtype == torch.float64 else 2e-6
                    for f, e in ((found.log_prob, expected.log_prob), (found.entropy, expected.entropy)):
                        assert f.dtype == e.dtype, where
                        torch.testing.assert_close(f, e, rtol=error, atol=0, equal_nan=True, msg=where)


def seeds_that_are_drawn_are_the_first_process_s(rank: Rank) -> None:
    x = normal(6, 30).float()
    a, b = rank.span(30, "even")
    torch.manual_seed(50 + rank.rank)
    found = distributed.gumbel_max(x[:, a:b], class_offset=a)
    state = torch.get_rng_state()
    torch.manual_seed(50)
    assert torch.equal(found, gumbel_ext.gumbel_max(x))
    torch.manual_seed(50 + rank.rank)
    gumbel_ext.gumbel_max(x)
    assert torch.equal(state, torch.get_rng_state()), "every process's generator moves on by one draw"
    generator = torch.Generator().manual_seed(9)
    found = distributed.gumbel_max(x[:, a:b], class_offset=a, generator=generator)
    assert torch.equal(found, gumbel_ext.gumbel_max(x, generator=torch.Generator().manual_seed(9)))
    if rank.rank > 0:
        torch.manual_seed(1)
    else:
        torch.manual_seed(0)
    sharded = gumbel_ext.gumbel_max(distribute_tensor(x, rank.mesh, [Shard(0)]))
    torch.manual_seed(0)
    assert torch.equal(sharded.full_tensor(), gumbel_ext.gumbel_max(x))


@contextlib.contextmanager
def counted() -> Iterator[list[int]]:
    """The bytes that this process hands to collectives."""
    sent: list[int] = []
    kept = dist.all_reduce, dist.broadcast, _wire._all_gather

    def count(function: Any, at: int) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            sent.append(args[at].numel() * args[at].element_size())
            return function(*args, **kwargs)

        return call

    dist.all_reduce, dist.broadcast, _wire._all_gather = count(kept[0], 0), count(kept[1], 0), count(kept[2], 1)
    try:
        yield sent
    finally:
        dist.all_reduce, dist.broadcast, _wire._all_gather = kept


def few_bytes_are_sent(rank: Rank) -> None:
    rows, classes = 7, 5000
    a, b = rank.span(classes, "even")
    tables: list[tuple[torch.dtype, Any, list[int]]] = [
        (torch.float32, lambda x: distributed.gumbel_max(x, class_offset=a, seed=1), [8]),
        (torch.bfloat16, lambda x: distributed.gumbel_max(x, class_offset=a, seed=1), [8]),
        (torch.float64, lambda x: distributed.gumbel_max(x, class_offset=a, seed=1), [16]),
        (torch.float32, lambda x: distributed.gumbel_max(x, class_offset=a, seed=1, num_samples=3), [24]),
        (torch.float32, lambda x: distributed.gumbel_softmax(x, class_offset=a, seed=1), [24]),
        (torch.float32, lambda x: distributed.sample(x, class_offset=a, seed=1), [8, 24, 4]),
        (torch.float32, lambda x: distributed.gumbel_top_k(x, 3, class_offset=a, seed=1), [24, 72, 12]),
    ]
    for dtype, function, expected in tables:
        with counted() as sent:
            function(normal(rows, classes).to(dtype)[:, a:b])
        assert sent == [bytes_a_row * rows for bytes_a_row in expected], (dtype, sent)
    with counted() as sent:
        distributed.gumbel_max(normal(rows, classes)[:, a:b].float())
    assert sent == [8, 8, 8 * rows], sent  # where classes begin, the seed, the samples


def operations(dim: int) -> dict[str, Callable[..., Any]]:
    return {
        "index": lambda x, t: gumbel_ext.gumbel_max(x, t, dim=dim, num_samples=2, seed=3),
        "relaxed": lambda x, t: gumbel_ext.gumbel_softmax(x, t, dim=dim, seed=3),
        "hard": lambda x, t: gumbel_ext.gumbel_softmax(x, t, hard=True, dim=dim, seed=3),
        "softmax": lambda x, t: gumbel_ext.softmax(x, t, dim=dim),
        "straight-through": lambda x, t: gumbel_ext.straight_through(x, t, dim=dim),
        "sample": lambda x, t: gumbel_ext.sample(x, t, dim=dim, seed=3),
        "top-k": lambda x, t: gumbel_ext.gumbel_top_k(x, 2, t, dim=dim, seed=3),
        "relaxed top-k": lambda x, t: gumbel_ext.relaxed_top_k(x, 2, t, dim=dim, seed=3),
        "rao": lambda x, t: gumbel_ext.one_hot_sample(x, t, estimator="rao", dim=dim, seed=3),
        "reinmax": lambda x, t: gumbel_ext.one_hot_sample(x, t, estimator="reinmax", dim=dim, seed=3),
    }


def as_tuple(results: Any) -> tuple[Any, ...]:
    return tuple(results) if isinstance(results, tuple) else (results,)


def check_operation(name: str, function: Any, x: Tensor, sharded: DTensor, tau: Any, error: float) -> None:
    """Values, bit for bit where they are indices, and gradients."""
    x, sharded = x.detach().requires_grad_(), sharded.detach().requires_grad_()
    expected, found = as_tuple(function(x, tau)), as_tuple(function(sharded, tau))
    for e, f in zip(expected, found, strict=True):
        if e.is_floating_point():
            close(f.full_tensor(), e, error)
        else:
            assert torch.equal(f.full_tensor(), e)
    pairs = [(e, f) for e, f in zip(expected, found, strict=True) if e.requires_grad]
    if not pairs:
        assert name == "index"
        return
    grads = [normal(*e.shape, seed=i).to(e.dtype) for i, (e, _) in enumerate(pairs)]
    torch.autograd.backward([e for e, _ in pairs], grads)
    torch.autograd.backward(
        [f for _, f in pairs],
        [distribute_tensor(g, f.device_mesh, f.placements) for g, (_, f) in zip(grads, pairs, strict=True)],
    )
    assert x.grad is not None and sharded.grad is not None
    close(sharded.grad.full_tensor(), x.grad, error)  # type: ignore[attr-defined]


def dtensors_in_every_operation(rank: Rank) -> None:
    shape = (5, 3, 26)  # 5 and 26 are shared unevenly; of 3, one of four has none
    taus = [normal(*shape).sum(dim, keepdim=True).abs() + 0.5 for dim in (-1, 1)]
    for dtype, dim, tau, error in (
        (torch.float32, -1, 0.7, 1e-5), (torch.float32, 1, taus[1], 1e-5), (torch.bfloat16, -1, taus[0], 2e-2)
    ):  # fmt: skip
        x = normal(*shape).to(dtype)
        for placement in (Shard(0), Shard(1), Shard(2), Replicate()):
            sharded = distribute_tensor(x, rank.mesh, [placement])
            for name, function in operations(dim).items():
                try:
                    check_operation(name, function, x, sharded, tau, error)
                except AssertionError as problem:
                    raise AssertionError(f"{dtype} {dim} {placement} {name}: {problem}") from None
    part = DTensor.from_local(x / rank.world, rank.mesh, [Partial()])
    close(gumbel_ext.softmax(part).full_tensor(), gumbel_ext.softmax(part.full_tensor()), 1e-2)


def rows_that_are_sharded_send_nothing(rank: Rank) -> None:
    x = normal(6, 5, 40).float()
    for placement, dim in ((Shard(0), -1), (Shard(1), 2), (Shard(2), 0)):
        sharded = distribute_tensor(x, rank.mesh, [placement])
        for name, function in operations(dim).items():
            with CommDebugMode() as sent, counted() as counts:
                as_tuple(function(sharded, 0.7))
            assert not counts and sent.get_total_counts() == 0, (name, placement, dim, counts, sent.get_total_counts())


def classes_that_are_sharded_send_little(rank: Rank) -> None:
    sharded = distribute_tensor(normal(6, 4000).float(), rank.mesh, [Shard(1)])
    for name in ("index", "relaxed", "hard", "softmax", "straight-through", "sample"):
        with CommDebugMode() as sent, counted() as counts:
            as_tuple(operations(-1)[name](sharded, 0.7))
        assert sum(counts) <= 6 * 48 and len(counts) >= 1, (name, counts)
        assert sent.get_total_counts() <= len(counts), (name, sent.get_total_counts())  # none but those


def arguments_beside_dtensors(rank: Rank) -> None:
    """Masks, temperatures and seeds, as DTensors or not, on rows and on classes."""
    x, mask = normal(6, 26), normal(6, 26, seed=1) > -1
    tau, seeds = torch.linspace(0.2, 2, 6).unsqueeze(-1), torch.arange(6) * 31
    expected = gumbel_ext.gumbel_max(x, tau, mask=mask, seed=seeds)
    for placement in (Shard(0), Shard(1), Replicate()):
        sharded = distribute_tensor(x, rank.mesh, [placement])
        others = distribute_tensor(mask, rank.mesh, [Shard(1)]), distribute_tensor(tau, rank.mesh, [Shard(0)])
        for m, t in ((mask, tau), others):
            found = gumbel_ext.gumbel_max(sharded, t, mask=m, seed=seeds)
            assert torch.equal(found.full_tensor(), expected), placement


def meshes_of_two_dimensions(rank: Rank) -> None:
    if rank.world != 4:
        return
    mesh = init_device_mesh("cpu", (2, 2))
    x = normal(7, 3, 51)
    for placements in (
        [Shard(0), Shard(2)],
        [Shard(2), Shard(0)],
        [Shard(0), Shard(0)],
        [Shard(2), Shard(2)],
        [Shard(1), Replicate()],
    ):
        sharded = distribute_tensor(x, mesh, placements)
        for name, function in operations(-1).items():
            check_operation(name, function, x, sharded, 0.7, 1e-9)
    torch.manual_seed(rank.rank)
    found = gumbel_ext.gumbel_max(distribute_tensor(x, mesh, [Shard(0), Shard(2)]))
    torch.manual_seed(0)
    assert torch.equal(found.full_tensor(), gumbel_ext.gumbel_max(x))


def bad_arguments_are_refused_by_all(rank: Rank) -> None:
    x = torch.zeros(2, 3)
    for arguments, error, message in (
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "at most one of the two"),
        ({"dim": 2}, IndexError, r"dim: expected one in \[-2, 1\], got 2"),
        ({"class_offset": -1}, ValueError, "class_offset: expected"),
        ({"class_offset": 0, "temperature": -1.0, "seed": 1}, ValueError, "temperature: expected a finite number"),
    ):
        try:
            distributed.gumbel_max(x, **arguments)  # type: ignore[arg-type]
        except error as found:
            assert message.split("\\")[0] in str(found).replace("[", "["), found
        else:
            raise AssertionError(f"{arguments} were taken")
    try:
        distributed.gumbel_max(torch.zeros(2, 0), seed=1)
    except IndexError as found:
        assert "at least one class in all" in str(found)
    else:
        raise AssertionError("no class at all was taken")


CASES = (
    indices_are_those_of_one_process, subsets_are_those_of_one_process,
    classes_may_lie_along_any_dimension, relaxed_values_are_within_the_bound,
    relaxed_rows_without_a_softmax_are_nan, gradients_are_those_of_one_process, answers_of_a_draw,
    seeds_that_are_drawn_are_the_first_process_s, few_bytes_are_sent, dtensors_in_every_operation,
    rows_that_are_sharded_send_nothing, classes_that_are_sharded_send_little, arguments_beside_dtensors,
    meshes_of_two_dimensions, bad_arguments_are_refused_by_all, more_classes_than_there_are_is_refused,
)  # fmt: skip


def main(rank: int, world: int, file: Path) -> None:
    torch.set_num_threads(1)
    timeout = datetime.timedelta(minutes=5)
    dist.init_process_group("gloo", rank=rank, world_size=world, init_method=file.as_uri(), timeout=timeout)
    here, outcome = Rank(rank, world), {}
    for case in CASES:
        try:
            case(here)
            outcome[case.__name__] = None
        except Exception:
            outcome[case.__name__] = traceback.format_exc(limit=-4)
            break
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
