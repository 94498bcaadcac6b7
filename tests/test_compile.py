"""Compilers and machinery of torch: opcheck, torch.compile, torch.export, autocast, TorchScript, pickling."""

from __future__ import annotations

import copy
import functools
import io
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import reference
import torch

import gumbel_ext
import gumbel_ext.nn

ops = torch.ops.gumbel_ext
Cases = list[tuple[str, str, tuple[Any, ...], dict[str, Any]]]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def logits(*shape: int, grad: bool = True, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_(grad)


def rows(*shape: int) -> torch.Tensor:
    return (torch.rand(shape) + 0.5).requires_grad_()


def seeds(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


MASK = torch.tensor([True, True, False, True, True])
ESTIMATED = (None, 0.5, None, 1.0, None, torch.tensor([0, 4, 2]), torch.tensor(1), None, 0, 1, -1, None, False)
DRAWN = (torch.tensor([0, 4, 2]), torch.tensor([[0.5, 1.0, 0.7]] * 3, dtype=torch.float64))
SCHEMAS: Cases = [
    ("softmax", "default", (logits(3, 5), 0.5), {}),
    ("softmax", "default", (logits(3, 5),), {"dim": 0, "mask": MASK[:3, None]}),
    ("softmax", "tau_tensor", (logits(3, 5), rows(3, 1)), {"mask": MASK}),
    ("straight_through", "default", (logits(3, 5), 0.5), {"dim": 0}),
    ("straight_through", "tau_tensor", (logits(3, 5), rows(3, 1)), {}),
    ("gumbel_softmax", "default", (logits(3, 5), 0.5), {"seed": 1, "mask": MASK}),
    ("gumbel_softmax", "default", (logits(3, 5), 0.5, True), {"seed": 1, "dim": 0}),
    ("gumbel_softmax", "tau_tensor", (logits(3, 5), rows(3, 1), True), {"seed": 1}),
    ("gumbel_softmax", "seed_tensor", (logits(3, 5), 0.5), {"seed": seeds(3)}),
    ("gumbel_softmax", "tensors", (logits(3, 5), rows(1, 5), True), {"seed": seeds(5), "dim": 0}),
    ("gumbel_max", "default", (logits(3, 5, grad=False), 0.5), {"seed": 1, "mask": MASK}),
    ("gumbel_max", "default", (logits(3, 5), 0.0), {"seed": 1, "num_samples": 4}),
    ("gumbel_max", "tau_tensor", (logits(3, 5), rows(3, 1)), {"seed": 1, "num_samples": 2}),
    ("gumbel_max", "seed_tensor", (logits(3, 5), 0.5), {"seed": seeds(3)}),
    ("gumbel_max", "tensors", (logits(3, 5), rows(1, 5)), {"seed": seeds(5), "dim": 0}),
    ("sample", "default", (logits(3, 5), 0.5), {"seed": 1, "mask": MASK, "num_samples": 2}),
    ("sample", "tau_tensor", (logits(3, 5), rows(3, 1)), {"seed": 1}),
    ("sample", "seed_tensor", (logits(3, 5), 0.5), {"seed": seeds(3)}),
    ("sample", "tensors", (logits(3, 5), rows(1, 5)), {"seed": seeds(5), "dim": 0}),
    ("one_hot_sample", "default", (logits(3, 5), 0.5), {"seed": 1, "mask": MASK, "estimator": "reinmax"}),
    ("one_hot_sample", "tau_tensor", (logits(3, 5), rows(3, 1)), {"seed": 1, "estimator": "softmax"}),
    ("one_hot_sample", "seed_tensor", (logits(3, 5), 0.7), {"seed": seeds(3), "estimator": "rao"}),
    ("straight_through_embedding", "seed_tensor", (logits(3, 5), logits(5, 2)), {"seed": seeds(3)}),
    ("straight_through_embedding", "tensors", (logits(3, 5), logits(5, 2), rows(3, 1)), {"seed": seeds(3)}),
    ("one_hot_sample", "tensors", (logits(3, 5), rows(3, 1)), {"seed": seeds(3), "temperature": rows(3, 1)}),
    ("straight_through_embedding", "default", (logits(3, 5), logits(5, 2), 0.5), {"seed": 1}),
    ("straight_through_embedding", "tau_tensor", (logits(3, 5), logits(3, 5, 2), rows(3, 1)), {"seed": 1}),
    ("gumbel_noise", "default", ([3, 5],), {"seed": 1, "dtype": torch.float64}),
    ("gumbel_noise", "seed_tensor", ([3, 5],), {"seed": seeds(3), "class_offset": 3, "draw": 2}),
    ("_relaxed", "default", (logits(3, 5), MASK, 0.5, None, True, 1, None, None, -1), {}),
    ("_relaxed", "default", (logits(3, 5), None, 1.0, rows(3, 1), True, None, seeds(3), None, 1), {}),
    ("_log_relaxed", "default", (logits(3, 5), MASK, 0.5, None, True, 1, None, None, -1), {}),
    ("_log_gumbel_softmax", "default", (logits(3, 5), rows(3, 1), 1, None, None), {}),
    ("_one_hot_relaxed", "default", (logits(3, 5), MASK, 0.5, None, True, 1, None, None, -1), {}),
    ("_one_hot", "default", (logits(3, 5, grad=False), None, 0.5, None, False, 1, None, None, 0), {}),
    ("_index", "default", (logits(3, 5), MASK, 0.5, None, 1, None, None, -1, None), {}),
    ("_index", "default", (logits(3, 5), None, 1.0, rows(3, 1), None, seeds(3), None, -1, 3), {}),
    ("gumbel_top_k", "default", (logits(3, 5), 2, 0.5), {"seed": 1, "mask": MASK}),
    ("gumbel_top_k", "tau_tensor", (logits(3, 5), 2, rows(3, 1)), {"seed": 1}),
    ("gumbel_top_k", "seed_tensor", (logits(3, 5), 2, 0.5), {"seed": seeds(3)}),
    ("gumbel_top_k", "tensors", (logits(3, 5), 2, rows(1, 5)), {"seed": seeds(5), "dim": 0}),
    ("_top_classes", "default", (logits(3, 5), 2, MASK, 0.5, None, 1, None, None, -1), {}),
    ("_top_scores", "default", (torch.randn(3, 2), DRAWN[1], logits(3, 2)), {}),
    ("relaxed_top_k", "default", (logits(3, 5), 2, 0.5), {"seed": 1, "mask": MASK}),
    ("relaxed_top_k", "tau_tensor", (logits(3, 5), 2, rows(3, 1), True), {"seed": 1}),
    ("relaxed_top_k", "seed_tensor", (logits(3, 5), 2), {"seed": seeds(3)}),
    ("relaxed_top_k", "tensors", (logits(3, 5), 2, rows(1, 5)), {"seed": seeds(5), "dim": 0}),
    ("_top_k", "default", (logits(3, 5), 2, False, MASK, 0.5, None, 1, None, None, -1), {}),
    ("_top_k_backward", "default", (torch.ones(3, 5), torch.randn(3, 5), 2, torch.rand(3, 1), 1, True, True), {}),
    ("_draw", "default", (logits(3, 5), MASK, 0.5, None, 1, None, None, -1, 2), {}),
    ("_scored_index", "default", (logits(3, 5), MASK, 0.5, None, 1, None, None, -1, 2, [7, 6, 2, 0]), {}),
    ("_scored_draw", "default", (logits(3, 5), None, 1.0, rows(3, 1), None, seeds(3), None, -1, None), {}),
    ("_log_prob", "default", (logits(3, 5), MASK, 1.0, rows(3, 1), *DRAWN, -1), {}),
    ("_log_prob_backward", "default", (torch.ones(3), torch.ones(3), logits(3, 5, grad=False), None, 0.5, None, *DRAWN,
                                       -1, True), {}),
    ("_sample", "default", (logits(3, 5), MASK, 0.5, None, 1.0, rows(3, 1), 1, None, None, -1), {}),
    ("_one_hot_of", "default", (torch.tensor([0, 4, 2]), logits(3, 5), -1), {}),
    ("_choice", "default", (logits(5, 2), logits(3, 5), *ESTIMATED), {}),
    ("_choice", "default", (None, logits(3, 5), *ESTIMATED), {}),
    ("_estimate", "default", (torch.randn(3, 5), logits(3, 5, grad=False), *ESTIMATED, True, True), {}),
    ("_noise", "default", (torch.empty(3, 5), 1, None, None), {}),
    ("_noise", "default", (torch.empty(3, 5), None, seeds(3), None), {}),
    ("_noise_at", "default", (seeds(3, 2), torch.float32, 1, None), {}),
    ("_noise_at", "default", (seeds(3, 2), torch.float64, None, seeds(3)), {}),
    ("_relaxed", "default", (logits(3, 5), None, 0.5, None, True, 1, None, None, 1, [7, 6, 2, 0]), {}),
    ("_backward", "default", (torch.randn(3, 5), torch.rand(3, 5), 0.5, None, -1, True, False), {}),
    ("_backward", "default", (torch.ones(3, 5), torch.rand(3, 5), 1.0, torch.rand(3, 1), 1, True, True), {}),
    ("_backward_", "default", (torch.ones(3, 5), torch.rand(3, 5), 1.0, torch.rand(3, 1), 1, True), {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "overload", "args", "kwargs"), SCHEMAS, ids=lambda v: v if isinstance(v, str) else "")
def test_opcheck(name: str, overload: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Schema, autograd registration, fake tensors and AOT dispatch of every overload."""
    # One of opcheck's tests adds up the outputs in the first one's dtype: not where that is an index.
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    tests += ["test_aot_dispatch_dynamic"] if name not in ("sample", "gumbel_top_k") else []
    torch.library.opcheck(getattr(getattr(ops, name), overload), args, kwargs, test_utils=tests)


def test_every_overload_is_checked() -> None:
    """The table above leaves none out."""
    names = {s.name.removeprefix("gumbel_ext::") for s in torch._C._jit_get_all_schemas() if "gumbel_ext::" in s.name}
    names -= {"_build_info", "_force_cpu_plan", "empty_cache"}  # no tensors
    found = {(name, overload) for name in names for overload in getattr(ops, name).overloads()}
    assert found == {(name, overload) for name, overload, _, _ in SCHEMAS}


class Model(torch.nn.Module):
    """Every differentiable operation between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(6, 12), torch.nn.Linear(12, 1)
        self.log_tau = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, seed: int | None = 5) -> torch.Tensor:
        u = self.inner(x)
        mask = torch.arange(12) != 3
        hard = gumbel_ext.gumbel_softmax(u, 0.7, hard=True, seed=seed)
        soft = gumbel_ext.gumbel_softmax(u, self.log_tau.exp() * torch.ones(x.shape[0], 1), mask=mask, seed=seed)
        straight = gumbel_ext.straight_through(u.unflatten(-1, (3, 4)), dim=1).flatten(1)
        drawn = gumbel_ext.gumbel_max(u.detach(), 0.5, num_samples=2, seed=seed).sum(-1, keepdim=True)
        return self.outer(hard + 2 * soft + straight + gumbel_ext.softmax(u)) + drawn


def run(model: Any, parameters: list[torch.Tensor], x: torch.Tensor, **kwargs: Any) -> list[torch.Tensor]:
    y = model(x, **kwargs)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), parameters)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_model_equals_eager(backend: str, dynamic: bool) -> None:
    """One graph, forward and backward, static and dynamic shapes: eager's numbers."""
    if backend == "inductor" and dynamic:
        pytest.skip("slow, and covered by the other two")
    model = Model()
    parameters = list(model.parameters())
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    for batch in (4, 9, 2) if dynamic else (4,):
        x = torch.randn(batch, 6)
        for found, expected in zip(run(compiled, parameters, x), run(model, parameters, x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_noise_is_fresh(backend: str) -> None:
    """Without a seed each call of the compiled graph takes new noise, governed by torch.manual_seed."""

    def draw(x: torch.Tensor) -> torch.Tensor:
        return gumbel_ext.gumbel_softmax(x, hard=True) + gumbel_ext.gumbel_max(x)[:, None]

    compiled = torch.compile(draw, backend=backend, fullgraph=True)
    x = torch.zeros(32, 16)
    torch.manual_seed(3)
    first, second = compiled(x), compiled(x)
    torch.manual_seed(3)
    assert not torch.equal(first, second)
    assert torch.equal(compiled(x), first) and torch.equal(compiled(x), second)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("kwargs", [{"device": "cpu"}, {"dtype": torch.float64, "device": "cpu"}, {}], ids=str)
def test_compiled_noise_tensor(kwargs: dict[str, Any], backend: str) -> None:
    """gumbel_noise in one graph, with dtype and device given and by default."""
    compiled = torch.compile(lambda: gumbel_ext.gumbel_noise((3, 5), seed=2, **kwargs), backend=backend, fullgraph=True)
    assert torch.equal(compiled(), gumbel_ext.gumbel_noise((3, 5), seed=2, **kwargs))


DRAWS: dict[str, Any] = {
    "gumbel_softmax": lambda x: gumbel_ext.gumbel_softmax(x, 0.5),
    "hard": lambda x: gumbel_ext.gumbel_softmax(x, 0.5, hard=True),
    "gumbel_max": lambda x: gumbel_ext.gumbel_max(x)[:, None] + 0 * x,
    "gumbel_noise": lambda x: gumbel_ext.gumbel_noise([64, 6], dtype=x.dtype) + 0 * x,
    "operator": lambda x: ops.gumbel_softmax(x, 0.5),
}
MAPPED = functools.partial(torch.func.vmap, in_dims=0, randomness="different")


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", [*DRAWS, "vmap"])
def test_draws_in_one_graph_differ(name: str, backend: str, grad: bool) -> None:
    """No compiler pass takes two draws for one, where a gradient is wanted (and the graph cut in two) neither."""
    draw = MAPPED(lambda row: gumbel_ext.gumbel_softmax(row, 0.5)) if name == "vmap" else DRAWS[name]
    compiled = torch.compile(lambda x: draw(x) - draw(x), backend=backend, fullgraph=True)
    found = compiled(torch.zeros(64, 6, requires_grad=grad))
    assert (found != 0).any(-1).sum() > 20
    torch.manual_seed(1)
    first, second = (compiled(torch.zeros(64, 6, requires_grad=grad)) for _ in range(2))
    assert not torch.equal(first, second)


class Drawing(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(64, 6))

    def forward(self) -> torch.Tensor:
        x = self.logits
        first = gumbel_ext.gumbel_softmax(x, 0.5) + gumbel_ext.gumbel_max(x, 1.0)[:, None]
        second = gumbel_ext.gumbel_softmax(x, 0.5) + gumbel_ext.gumbel_max(x, 1.0)[:, None]
        return first - second + gumbel_ext.gumbel_noise([1]) - gumbel_ext.gumbel_noise([1])


TORCHSCRIPT: dict[str, Any] = {
    "script": torch.jit.script,
    "trace": lambda module: torch.jit.trace(module, (), check_trace=False),
    "freeze": lambda module: torch.jit.freeze(torch.jit.script(module.eval())),
    "optimize_for_inference": lambda module: torch.jit.optimize_for_inference(torch.jit.script(module.eval())),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", TORCHSCRIPT)
def test_torchscript_draws_anew(way: str) -> None:
    """Each draw its own, in each call new, also after the calls in which TorchScript optimises."""
    module = TORCHSCRIPT[way](Drawing())
    results = [module() for _ in range(5)]
    assert all((y != 0).any(-1).sum() > 20 for y in results)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(results, 2))


TAU_SHAPES: list[tuple[int, ...]] = [(), (1,), (1, 1), (3, 1)]


@pytest.mark.parametrize("way", ["operator", "compiled", "subclass"])
@pytest.mark.parametrize("shape", TAU_SHAPES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "straight_through", "gumbel_softmax"])
def test_tau_has_its_gradient_by_every_way(name: str, shape: tuple[int, ...], way: str) -> None:
    """A tensor of one element is still a tensor: not a number without gradient."""
    kwargs = {"seed": 3} if name == "gumbel_softmax" else {}
    function = functools.partial(getattr(gumbel_ext, name), **kwargs)
    x, tau = logits(3, 5), torch.full(shape, 0.6).requires_grad_()
    (expected,) = torch.autograd.grad(function(x, tau)[:, 0].sum(), tau)
    if way == "operator":
        y = getattr(ops, name)(x, tau, **kwargs)
    elif way == "compiled":
        y = torch.compile(function, backend="aot_eager", fullgraph=True)(x, tau)
    else:
        y = function(x.as_subclass(Subclass), tau).as_subclass(torch.Tensor)
    (found,) = torch.autograd.grad(y[:, 0].sum(), tau)
    torch.testing.assert_close(found, expected)


class Subclass(torch.Tensor):
    """A tensor whose operations Python sees."""


@pytest.mark.parametrize("name", ["softmax", "straight_through", "gumbel_softmax", "gumbel_max"])
def test_subclasses_are_kept(name: str) -> None:
    """A subclass goes in and comes out, as with torch's own functions."""
    x = torch.randn(3, 5)
    kwargs = {"seed": 1} if "gumbel" in name else {}
    found = getattr(gumbel_ext, name)(x.as_subclass(Subclass), **kwargs)
    assert type(found) is Subclass
    assert torch.equal(found.as_subclass(torch.Tensor), getattr(gumbel_ext, name)(x, **kwargs))


def test_export() -> None:
    """torch.export with a dynamic batch, saved and loaded."""
    model, x = Model(), torch.randn(4, 6)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    for batch in (4, 7):
        x = torch.randn(batch, 6)
        torch.testing.assert_close(loaded(x), model(x))


@pytest.mark.parametrize("name", ["softmax", "straight_through", "gumbel_softmax"])
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_autocast(name: str, dtype: torch.dtype) -> None:
    """Under autocast on the CPU the dtype is that of torch's own function: the logits'."""
    x, function = logits(3, 5, dtype=dtype), getattr(gumbel_ext, name)
    kwargs = {"seed": 1} if name == "gumbel_softmax" else {}
    with torch.autocast("cpu", torch.bfloat16):
        y = function(x, **kwargs)
        theirs = torch.nn.functional.gumbel_softmax(x)
    assert y.dtype == theirs.dtype == dtype
    assert torch.equal(y, function(x, **kwargs))
    assert torch.autograd.grad(y[0, 0], x)[0].dtype == dtype


SCRIPT = """
def sample(x: Tensor, tau: float, seed: Tensor) -> Tuple[Tensor, Tensor]:
    y = torch.ops.gumbel_ext.gumbel_softmax(x, tau, True, dim=-1, seed=seed)
    return y, torch.ops.gumbel_ext.gumbel_max(x, 1.0, num_samples=2, seed=7)
"""


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript() -> None:
    """The operators in TorchScript, with their gradients."""
    unit = torch.jit.CompilationUnit(SCRIPT)
    x, seed = logits(3, 5), seeds(3)
    y, index = unit.sample(x, 0.5, seed)
    assert torch.equal(y, gumbel_ext.gumbel_softmax(x, 0.5, True, seed=seed))
    assert torch.equal(index, gumbel_ext.gumbel_max(x, num_samples=2, seed=7))
    expected = torch.autograd.grad(gumbel_ext.gumbel_softmax(x, 0.5, True, seed=seed)[:, 0].sum(), x)[0]
    assert torch.equal(torch.autograd.grad(y[:, 0].sum(), x)[0], expected)


MODULES = [
    gumbel_ext.nn.GumbelSoftmax(0.5, hard=True, dim=0),
    gumbel_ext.nn.GumbelSoftmax(torch.tensor(0.7)),
    gumbel_ext.nn.StraightThrough(2.0, dim=1),
]


@pytest.mark.parametrize("module", MODULES, ids=str)
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_modules_are_copied_and_saved(module: torch.nn.Module, way: str) -> None:
    """Copies behave alike; the representation tells the settings."""
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copied = copy.deepcopy(module) if way == "deepcopy" else torch.load(buffer, weights_only=True)
    x = logits(3, 5)
    kwargs = {"seed": 3} if isinstance(module, gumbel_ext.nn.GumbelSoftmax) else {}
    assert torch.equal(copied(x, **kwargs), module(x, **kwargs))
    assert repr(copied) == repr(module) and f"dim={module.dim}" in repr(module)


def test_modules_are_the_functions() -> None:
    """Every argument arrives, in evaluation mode as in training."""
    x, mask, tau = logits(3, 5), MASK, rows(3, 1)
    module = gumbel_ext.nn.GumbelSoftmax(tau, True)
    expected = gumbel_ext.gumbel_softmax(x, tau, True, mask=mask, seed=4)
    assert torch.equal(module(x, mask, 4), expected) and torch.equal(module.eval()(x, mask, seed=4), expected)
    source = [torch.Generator().manual_seed(2) for _ in range(2)]
    assert torch.equal(module(x, generator=source[0]), gumbel_ext.gumbel_softmax(x, tau, True, generator=source[1]))
    mask = torch.tensor([[True], [True], [False]])
    straight = gumbel_ext.nn.StraightThrough(0.3, dim=0)(x, mask)
    assert torch.equal(straight, gumbel_ext.straight_through(x, 0.3, dim=0, mask=mask))


def test_operators_are_the_functions() -> None:
    """torch.ops takes the same arguments, in the same order."""
    x, generator = logits(3, 5), torch.Generator()
    assert torch.equal(ops.softmax(x, 0.5, dim=0), gumbel_ext.softmax(x, 0.5, dim=0))
    found = ops.gumbel_softmax(x, 0.5, True, dim=0, mask=None, seed=None, generator=generator.manual_seed(1))
    expected = gumbel_ext.gumbel_softmax(x, 0.5, True, dim=0, generator=generator.manual_seed(1))
    assert torch.equal(found, expected)
    assert torch.equal(
        ops.gumbel_max(x, 0.5, num_samples=3, seed=2), gumbel_ext.gumbel_max(x, 0.5, num_samples=3, seed=2)
    )
    assert torch.equal(ops.gumbel_noise([3], seed=2), gumbel_ext.gumbel_noise(3, seed=2))
