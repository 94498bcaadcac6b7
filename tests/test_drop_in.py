"""gumbel_ext in place of torch's own functions and modules: the same positions, names, warnings, shapes and strides. A
temperature or a seed changes from call to call without a new compilation."""

from __future__ import annotations

import functools
import inspect
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import gumbel_ext
from gumbel_ext import ops

# ---- Arguments --------------------------------------------------------------------------------------


def test_gumbel_softmax_has_torchs_arguments() -> None:
    theirs = inspect.signature(F.gumbel_softmax).parameters
    ours = inspect.signature(gumbel_ext.gumbel_softmax).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default and ours[name].kind == parameter.kind
    assert all(ours[name].kind == inspect.Parameter.KEYWORD_ONLY for name in list(ours)[len(theirs) :])


@pytest.mark.parametrize("arguments", [(0.5, True, 1e-10, 1), (0.5, False, 1e-10, 0), (2, True)], ids=str)
def test_arguments_by_position(arguments: tuple[Any, ...]) -> None:
    x = torch.randn(4, 6)
    torch.manual_seed(1)
    found = gumbel_ext.gumbel_softmax(x, *arguments)
    tau, hard, _, dim = (*arguments, *(1.0, False, 1e-10, -1)[len(arguments) :])
    torch.manual_seed(1)
    assert torch.equal(found, gumbel_ext.gumbel_softmax(x, tau=tau, hard=hard, dim=dim))
    assert found.shape == F.gumbel_softmax(x, *arguments).shape


def test_eps_warns_as_torch_does() -> None:
    x, messages = torch.zeros(2, 3), []
    for function in (F.gumbel_softmax, gumbel_ext.gumbel_softmax):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function(x, 1.0, False, 1e-5)
            function(x, eps=1e-5)
            function(x, eps=1e-10)
        messages.append([(str(w.message), w.category, w.filename) for w in caught])
    assert messages[0] == messages[1] and len(messages[1]) == 2


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(0, 2, 3, 1),
    "transposed": lambda x: x.transpose(1, 3),
    "sliced": lambda x: x[:, ::2, 1:],
    "expanded": lambda x: x[:1].expand(3, -1, -1, -1),
    "large": lambda x: torch.zeros(2, 64, 512, 256).permute(0, 2, 3, 1),  # from the library's own allocator
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_results_are_contiguous_as_torchs_are(view: str, device: str) -> None:
    x = VIEWS[view](torch.randn(2, 6, 5, 4)).to(device, memory_format=torch.preserve_format)
    for dim in (1, -1):
        for y in (
            gumbel_ext.softmax(x, dim=dim),
            gumbel_ext.straight_through(x, dim=dim),
            gumbel_ext.gumbel_softmax(x, 1.0, True, dim=dim),
            gumbel_ext.gumbel_softmax(x.detach().requires_grad_(), 1.0, True, dim=dim),
        ):
            assert y.stride() == F.gumbel_softmax(x, dim=dim).stride() and y.is_contiguous()
            assert y.view(-1).numel() == x.numel()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3, 1)], ids=str)
def test_tau_tensors_of_any_real_dtype(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, tau = torch.randn(3, 5), torch.full(shape, 2, dtype=dtype)
    assert torch.equal(gumbel_ext.softmax(x, tau), gumbel_ext.softmax(x, 2.0))
    assert torch.equal(gumbel_ext.gumbel_max(x, tau, seed=1), gumbel_ext.gumbel_max(x, 2.0, seed=1))
    with pytest.raises(TypeError, match="tau: expected a number or a tensor of real numbers, got a Bool tensor"):
        gumbel_ext.softmax(x, torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("hard", [False, True])
def test_a_tau_without_dimensions_goes_with_logits_anywhere(hard: bool) -> None:
    """As in torch's own arithmetic; on the CPU its value is checked, and its gradient comes back."""
    x, tau = torch.randn(4, 5, device="meta", requires_grad=True), torch.tensor(0.5)
    y = gumbel_ext.gumbel_softmax(x, tau, hard, seed=1)
    assert y.device == torch.autograd.grad(y.sum(), x)[0].device == x.device
    real, tau = torch.randn(4, 5), tau.requires_grad_()
    (grad_tau,) = torch.autograd.grad(gumbel_ext.gumbel_softmax(real, tau, hard, seed=1)[:, 0].sum(), tau)
    rows = torch.full((4, 1), 0.5, requires_grad=True)
    (grad_rows,) = torch.autograd.grad(gumbel_ext.gumbel_softmax(real, rows, hard, seed=1)[:, 0].sum(), rows)
    assert grad_tau.shape == ()
    torch.testing.assert_close(grad_tau, grad_rows.sum())
    with pytest.raises(ValueError, match="tau: expected a tensor on meta"):
        gumbel_ext.gumbel_softmax(x, torch.full((4, 1), 0.5))
    with pytest.raises(ValueError, match="tau: expected a positive finite number, got -1"):
        gumbel_ext.softmax(torch.zeros(2, 3), torch.tensor(-1.0))


# ---- Compilation ------------------------------------------------------------------------------------


def with_module(x: Tensor, number: float, module: gumbel_ext.nn.GumbelSoftmax) -> Tensor:
    module.tau = number
    return module(x, seed=3)


TEMPERATURES = [2.0 * 0.7**i for i in range(12)]
SEEDS = list(range(2, 14))
WHOLE = list(range(13, 1, -1))
CHANGING: dict[str, tuple[Callable[..., Tensor], list[Any]]] = {
    "softmax": (lambda x, t: gumbel_ext.softmax(x, t), TEMPERATURES),
    "straight_through": (lambda x, t: gumbel_ext.straight_through(x, t), TEMPERATURES),
    "gumbel_softmax": (lambda x, t: gumbel_ext.gumbel_softmax(x, t, seed=3), TEMPERATURES),
    "gumbel_softmax, hard": (lambda x, t: gumbel_ext.gumbel_softmax(x, t, True, seed=3), TEMPERATURES),
    "gumbel_max": (lambda x, t: gumbel_ext.gumbel_max(x, t, seed=3), TEMPERATURES),
    "module": (functools.partial(with_module, module=gumbel_ext.nn.GumbelSoftmax()), TEMPERATURES),
    "whole numbers": (lambda x, t: gumbel_ext.softmax(x, t), WHOLE),
    "whole numbers of an index": (lambda x, t: gumbel_ext.gumbel_max(x, t, seed=3), WHOLE),
    "whole numbers of an operator": (lambda x, t: ops.gumbel_softmax(x, tau=t, seed=3), WHOLE),
    "softmax as an operator": (lambda x, t: ops.softmax(x, t), TEMPERATURES),
    "operator, named, a seed a row": (
        lambda x, t: ops.gumbel_softmax(x, tau=t, seed=torch.arange(4)),
        TEMPERATURES,
    ),
    "operator of an index": (lambda x, t: ops.gumbel_max(x, t, seed=3), TEMPERATURES),
    "seed": (lambda x, s: gumbel_ext.gumbel_softmax(x, seed=s), SEEDS),
    "seed of an index": (lambda x, s: gumbel_ext.gumbel_max(x, seed=s), SEEDS),
    "seed of noise": (lambda x, s: x + gumbel_ext.gumbel_noise(x.shape, seed=s), SEEDS),
    "seed of an operator": (lambda x, s: ops.gumbel_max(x, seed=s), SEEDS),
}


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", CHANGING)
def test_numbers_do_not_recompile(name: str, dynamic: bool | None) -> None:
    """At most twice for twelve values, to the bits of eager."""
    torch._dynamo.reset()
    function, values = CHANGING[name]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=dynamic)
    for value in values:
        x = torch.randn(4, 7)
        assert torch.equal(compiled(x, value), function(x, value))
    assert counter.frame_count <= 2


def test_compiled_autograd_does_not_recompile_for_a_temperature() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    for tau in TEMPERATURES:
        x = torch.randn(4, 7, requires_grad=True)
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend=counter, fullgraph=True)):
            gumbel_ext.gumbel_softmax(x, tau, seed=1)[:, 0].sum().backward()
        y = gumbel_ext.gumbel_softmax(x, tau, seed=1)[:, 0].sum()
        torch.testing.assert_close(x.grad, torch.autograd.grad(y, x)[0])
    assert counter.frame_count <= 2


def test_a_seed_is_an_input_of_an_exported_program() -> None:
    class Sampler(torch.nn.Module):
        def forward(self, x: Tensor, seed: int) -> Tensor:
            return gumbel_ext.gumbel_max(x, seed=seed)

    x = torch.randn(4, 7)
    shapes = {"x": None, "seed": torch.export.Dim.DYNAMIC}
    program = torch.export.export(Sampler(), (x, 5), dynamic_shapes=shapes).module()
    for seed in (5, 2, 2**40, 123):
        assert torch.equal(program(x, seed), gumbel_ext.gumbel_max(x, seed=seed))


# ---- Modules ----------------------------------------------------------------------------------------


def test_a_modules_tau_is_what_it_was_given() -> None:
    number, buffer, parameter = (
        gumbel_ext.nn.GumbelSoftmax(tau) for tau in (0.5, torch.tensor([0.5]), torch.nn.Parameter(torch.tensor([0.5])))
    )
    assert number.tau == 0.5 and not number.state_dict()
    assert [name for name, _ in buffer.named_buffers()] == ["tau"] and not list(buffer.parameters())
    assert [name for name, _ in parameter.named_parameters()] == ["tau"]
    for module in (buffer, parameter):
        module.load_state_dict({"tau": torch.tensor([0.25])})
        assert module.tau == 0.25 and module.to(torch.float64).tau.dtype == torch.float64 and "tau=0.25" in repr(module)
    straight = gumbel_ext.nn.StraightThrough(torch.full((3, 1), 0.5))
    assert "tensor of shape (3, 1)" in repr(straight) and "tau" in straight.state_dict()


def test_evaluation_may_take_the_likeliest_class() -> None:
    x = torch.randn(8, 5)
    module = gumbel_ext.nn.GumbelSoftmax(0.7, sample_in_eval=False)
    assert torch.equal(module(x, seed=1), gumbel_ext.gumbel_softmax(x, 0.7, seed=1))
    mask = torch.arange(5) > 1
    assert torch.equal(module.eval()(x, mask), F.one_hot(x.masked_fill(~mask, -torch.inf).argmax(-1), 5).float())
    assert "sample_in_eval=False" in repr(module)
    sampling = gumbel_ext.nn.GumbelSoftmax().eval()
    assert not torch.equal(sampling(x, seed=1), sampling(x, seed=2))


def test_weights_are_loaded_alone() -> None:
    buffer = io.BytesIO()
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), gumbel_ext.nn.GumbelSoftmax(torch.tensor(0.5)))
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), gumbel_ext.nn.GumbelSoftmax(torch.tensor(2.0)))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    x = torch.randn(2, 3)
    torch.manual_seed(0)
    y = model(x)
    torch.manual_seed(0)
    assert torch.equal(other(x), y)


MODULES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "relaxed": (lambda: gumbel_ext.nn.GumbelSoftmax(0.5, dim=0), {"seed": 3}),
    "hard, a seed a row": (lambda: gumbel_ext.nn.GumbelSoftmax(0.5, hard=True), {"seed": torch.arange(4)}),
    "a buffer": (lambda: gumbel_ext.nn.GumbelSoftmax(torch.tensor(0.5)), {"seed": 3}),
    "a parameter": (lambda: gumbel_ext.nn.GumbelSoftmax(torch.nn.Parameter(torch.tensor(0.5))), {"seed": 3}),
    "likeliest in evaluation": (lambda: gumbel_ext.nn.GumbelSoftmax(sample_in_eval=False).eval(), {}),
    "straight-through": (lambda: gumbel_ext.nn.StraightThrough(0.5), {"mask": torch.arange(5) > 1}),
}
TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "fx": torch.fx.symbolic_trace,
    "script": torch.jit.script,
    "compile": lambda module: torch.compile(module, backend="aot_eager", fullgraph=True),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", MODULES)
def test_modules_are_transformed(name: str, transform: str) -> None:
    """Alone and in a model, with every kind of argument, in training and in evaluation: the same values."""
    make, arguments = MODULES[name]
    module, x = make(), torch.randn(4, 5)
    expected = module(x, **arguments)
    assert torch.equal(TRANSFORMS[transform](module)(x, **arguments), expected)
    model = torch.nn.Sequential(torch.nn.Linear(5, 5), module)
    torch.manual_seed(1)
    expected = model(x)
    transformed = TRANSFORMS[transform](model)
    torch.manual_seed(1)
    assert torch.equal(transformed(x), expected)


def test_completion_shows_the_api() -> None:
    assert set(dir(gumbel_ext)) == {*gumbel_ext.__all__, "__version__"}
    assert set(ops.NAMES) <= set(dir(torch.ops.gumbel_ext))
