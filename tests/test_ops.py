"""gumbel_ext.ops is torch.ops.gumbel_ext, and its stub says of every operator what its schemas say."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import gumbel_ext
from gumbel_ext import ops

STUB = ast.parse((Path(gumbel_ext.__file__).parent / "ops.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
# name: annotation, as the stub has it at its top level
OPERATORS = {
    node.target.id: ast.unparse(node.annotation)
    for node in STUB.body
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id != "NAMES"
}
# Of an argument, by its overloads' types in the schemas.
TYPES = {
    ("Tensor",): "Tensor",
    ("Tensor", "number"): "float | Tensor",
    ("Optional[Tensor]",): "Tensor | None",
    ("Optional[Tensor]", "number"): "float | Tensor",
    ("str",): "str",
    ("Optional[int]",): "int | None",
    ("Optional[int]", "Tensor"): "int | Tensor | None",
    ("Optional[Generator]",): "torch.Generator | None",
    ("List[int]",): "Sequence[int]",
    ("bool",): "bool",
    ("int",): "int",
}


def test_every_public_operator_has_a_type() -> None:
    schemas = torch._C._jit_get_all_schemas()
    names = {schema.name.removeprefix("gumbel_ext::") for schema in schemas if schema.name.startswith("gumbel_ext::")}
    assert set(OPERATORS) == set(ops.NAMES) == set(dir(ops)) == {name for name in names if not name.startswith("_")}
    with pytest.raises(AttributeError, match="no attribute 'relu'"):
        _ = ops.relu  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", OPERATORS)
def test_the_stub_has_the_schemas_arguments(name: str) -> None:
    packet = getattr(torch.ops.gumbel_ext, name)
    assert getattr(ops, name) is packet
    body = CLASSES[OPERATORS[name]].body
    overloads = {
        node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert overloads == {overload or "default" for overload in packet.overloads()}
    (call,) = (node for node in body if isinstance(node, ast.FunctionDef))
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()]
    positional, keywords = call.args.args[1:], call.args.kwonlyargs
    for schema in schemas:
        assert [a.name for a in schema.arguments if not a.kwarg_only] == [a.arg for a in positional]
        assert [a.name for a in schema.arguments if a.kwarg_only] == [a.arg for a in keywords]
    for argument in positional + keywords:
        if argument.arg in ("dtype", "device"):  # which a schema takes for int and Device
            continue
        types = {str(a.type) for schema in schemas for a in schema.arguments if a.name == argument.arg}
        assert argument.annotation and ast.unparse(argument.annotation) == TYPES[tuple(sorted(types))], argument.arg
    defaults = call.args.defaults + [value for value in call.args.kw_defaults if value is not None]
    expected = [a.default_value for a in packet.default._schema.arguments if a.has_default_value()]
    assert [ast.literal_eval(value) for value in defaults] == expected


TAU, SEED = torch.tensor([[0.5], [2.0]]), torch.tensor([3, 4])


@pytest.mark.parametrize("name", [name for name in ops.NAMES if name != "empty_cache"])
def test_an_operator_finds_the_overload_of_its_arguments(name: str) -> None:
    """Without trying others: the error is about one alone."""
    packet = getattr(ops, name)
    first: list[Any] = [[2, 3] if name == "gumbel_noise" else torch.randn(2, 3)]
    if name == "straight_through_embedding":
        first.append(torch.randn(3, 4))
    if name in ("gumbel_top_k", "relaxed_top_k"):
        first.append(2)
    number = {} if name in ("softmax", "straight_through") else {"seed": 3}
    arguments: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "default": ([], number),
        "tau_tensor": ([TAU], number),
        "seed_tensor": ([], {"seed": SEED}),
        "tensors": ([TAU], {"seed": SEED}),
    }
    for overload in packet.overloads():
        args, kwargs = arguments[overload]
        found, expected = packet(*first, *args, **kwargs), getattr(packet, overload)(*first, *args, **kwargs)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        with pytest.raises(RuntimeError, match="Unknown keyword argument 'wrong'") as error:
            packet(*first, *args, **kwargs, wrong=1)
        assert "failed to match any schema" not in str(error.value)


def test_a_temperature_by_name_finds_its_overload() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(ops.gumbel_max(x, temperature=TAU, seed=SEED), ops.gumbel_max.tensors(x, TAU, seed=SEED))
    tau = TAU.clone().requires_grad_()
    assert ops.gumbel_softmax(x, hard=True, tau=tau).requires_grad


SAMPLES: dict[str, Any] = {
    "softmax": lambda f, x: f(x),
    "straight_through": lambda f, x: f(x, 0.5),
    "gumbel_softmax": lambda f, x: f(x, hard=True),
    "gumbel_max": lambda f, x: f(x),
    "sample": lambda f, x: f(x)[1],
    "gumbel_top_k": lambda f, x: f(x, 2)[1],
    "one_hot_sample": lambda f, x: f(x, estimator="reinmax"),
    "straight_through_embedding": lambda f, x: f(x, torch.ones(5, 2))[0],
    "gumbel_noise": lambda f, x: f([4, 5]),
}


BACKWARD = ("GumbelExtSoftmaxBackward", "GumbelExtEstimatorBackward", "gumbel_ext::_log_prob_backward")


@pytest.mark.parametrize("name", SAMPLES)
def test_profilers_see_the_operation_by_its_name(name: str) -> None:
    """Once, with the shape of its logits, and its gradient; by the function and by the operator."""
    for function in (getattr(gumbel_ext, name), getattr(ops, name)):
        x = torch.randn(4, 5, requires_grad=True)
        with torch.profiler.profile(record_shapes=True) as profile:
            y = SAMPLES[name](function, x)
            if y.requires_grad:
                y.sum().backward()
        events = {event.name: event for event in profile.events()}
        assert [event.name for event in profile.events()].count(f"gumbel_ext::{name}") == 1
        assert name == "gumbel_noise" or events[f"gumbel_ext::{name}"].input_shapes[0] == [4, 5]
        assert any(event in events for event in BACKWARD) == y.requires_grad


def test_the_flop_counter_counts_as_with_torchs() -> None:
    """Products of matrices, of a model around the operations, and nothing for a softmax."""
    counts = []
    for softmax in (torch.nn.functional.gumbel_softmax, gumbel_ext.gumbel_softmax):
        inner, outer, x = torch.nn.Linear(5, 6), torch.nn.Linear(6, 2), torch.randn(3, 5)
        with FlopCounterMode(display=False) as counter:
            outer(softmax(inner(x), 0.5, True)).sum().backward()
        counts.append(counter.get_flop_counts()["Global"])
    assert counts[0] == counts[1] and sum(counts[0].values()) > 0


@pytest.mark.parametrize("name", ["softmax", "gumbel_max"])
def test_a_traced_graph_takes_any_temperature(name: str) -> None:
    """Which overload, a graph of fx finds when it runs."""
    kwargs = {"seed": 3} if name == "gumbel_max" else {}
    graph = torch.fx.symbolic_trace(lambda x, tau: getattr(torch.ops.gumbel_ext, name)(x, tau, **kwargs))
    x = torch.randn(2, 3)
    for tau in (0.5, 2, torch.tensor(0.5), TAU):
        assert torch.equal(graph(x, tau), getattr(gumbel_ext, name)(x, tau, **kwargs))
