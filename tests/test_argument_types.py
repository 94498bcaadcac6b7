"""Types and kinds of arguments: what is refused is refused in one sentence, saying what was expected and what came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_arguments import tensor

import gumbel_ext

WRONG: list[tuple[str, Any, type[Exception]]] = [
    ("tau", 10**400, ValueError), ("tau", "1", TypeError), ("tau", None, TypeError), ("tau", 1j, TypeError),
    ("hard", 0.5, TypeError), ("hard", None, TypeError), ("hard", 2, TypeError), ("hard", "True", TypeError),
    ("dim", 0.0, TypeError), ("dim", None, TypeError), ("mask", [True], TypeError), ("mask", 1, TypeError),
    ("generator", 5, TypeError), ("seed", 1.5, TypeError),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "value", "error"), WRONG, ids=str)
def test_types_of_arguments(argument: str, value: Any, error: type[Exception]) -> None:
    """One sentence: what was expected, and what came."""
    with pytest.raises(error, match=f"^{argument}: expected [^\n]*, got [^\n]*$"):
        gumbel_ext.gumbel_softmax(tensor(2, 3), **{argument: value})


KINDS: dict[str, Any] = {
    "sparse": lambda: tensor(2, 3).to_sparse(),
    "sparse rows": lambda: tensor(2, 3).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(tensor(2, 3), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([tensor(3), tensor(2)]),
    "mkldnn": lambda: tensor(2, 3).to_mkldnn(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["function", "operator"])
@pytest.mark.parametrize("argument", ["logits", "tau", "mask", "seed"])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_not_dense(kind: str, argument: str, way: str) -> None:
    """Sparse, quantized, nested and MKL-DNN tensors are refused in one sentence, wherever they come."""
    if kind == "mkldnn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no MKL-DNN")
    place = gumbel_ext if way == "function" else torch.ops.gumbel_ext
    arguments = {"logits": tensor(2, 3), argument: KINDS[kind]()}
    with pytest.raises(TypeError, match=f"^{argument}: expected a dense tensor, got a [^\n]*$"):
        place.gumbel_softmax(**{"tau": 1.0} | arguments)


class Interrupted:
    """A number whose conversion is interrupted."""

    def __float__(self) -> float:
        raise KeyboardInterrupt

    def __index__(self) -> int:
        raise KeyboardInterrupt


class InterruptedInt(Interrupted, int):
    """An int of one's own."""


@pytest.mark.parametrize(
    ("argument", "value"),
    [("tau", Interrupted()), ("tau", InterruptedInt(2)), ("hard", Interrupted()), ("dim", Interrupted()),
     ("seed", Interrupted())],
    ids=["tau", "tau, an int", "hard", "dim", "seed"],
)  # fmt: skip
def test_conversions_do_not_hide_other_errors(argument: str, value: Any) -> None:
    """What a user's own conversion raises passes through."""
    with pytest.raises(KeyboardInterrupt):
        gumbel_ext.gumbel_softmax(tensor(2, 3), **{argument: value})


def test_numbers_of_numpy() -> None:
    """NumPy's numbers are as good as Python's."""
    x, one = tensor(2, 3), np.int64(1)
    expected = gumbel_ext.gumbel_softmax(x, 0.5, True, dim=1, seed=1)
    assert torch.equal(gumbel_ext.gumbel_softmax(x, np.float32(0.5), np.bool_(True), dim=one, seed=one), expected)
    assert torch.equal(
        gumbel_ext.gumbel_max(x, num_samples=one, seed=1), gumbel_ext.gumbel_max(x, num_samples=1, seed=1)
    )
    assert gumbel_ext.gumbel_noise(np.int64(3), seed=0).shape == gumbel_ext.gumbel_noise([np.int32(3)], seed=0).shape
