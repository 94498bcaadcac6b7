"""gumbel_ext.ops is torch.ops.gumbel_ext, and its stub says of every operator what its schemas say."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

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
    first = [2, 3] if name == "gumbel_noise" else torch.randn(2, 3)
    number = {"seed": 3} if "gumbel" in name else {}
    arguments: dict[str, tuple[list[Tensor], dict[str, Any]]] = {
        "default": ([], number),
        "tau_tensor": ([TAU], number),
        "seed_tensor": ([], {"seed": SEED}),
        "tensors": ([TAU], {"seed": SEED}),
    }
    for overload in packet.overloads():
        args, kwargs = arguments[overload]
        assert torch.equal(packet(first, *args, **kwargs), getattr(packet, overload)(first, *args, **kwargs))
        with pytest.raises(RuntimeError, match="Unknown keyword argument 'wrong'") as error:
            packet(first, *args, **kwargs, wrong=1)
        assert "failed to match any schema" not in str(error.value)


def test_a_temperature_by_name_finds_its_overload() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(ops.gumbel_max(x, temperature=TAU, seed=SEED), ops.gumbel_max.tensors(x, TAU, seed=SEED))
    tau = TAU.clone().requires_grad_()
    assert ops.gumbel_softmax(x, hard=True, tau=tau).requires_grad
