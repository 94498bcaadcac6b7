"""Bad arguments raise at once, of the right type, saying what was expected; on every device the same."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import reference
import torch

import gumbel_ext

INF, NAN = float("inf"), float("nan")
OPERATIONS: dict[str, Any] = {
    "softmax": gumbel_ext.softmax,
    "straight_through": gumbel_ext.straight_through,
    "gumbel_softmax": gumbel_ext.gumbel_softmax,
    "hard": functools.partial(gumbel_ext.gumbel_softmax, hard=True),
    "gumbel_max": gumbel_ext.gumbel_max,
    "sample": lambda *args, **kwargs: gumbel_ext.sample(*args, **kwargs).log_prob,
    "gumbel_top_k": lambda logits, *args, **kwargs: gumbel_ext.gumbel_top_k(logits, 1, *args, **kwargs).log_probs,
    "relaxed_top_k": lambda logits, *args, **kwargs: gumbel_ext.relaxed_top_k(logits, 1, *args, **kwargs),
}
GREEDY = ["gumbel_max", "sample", "gumbel_top_k"]
NOISY = ["gumbel_softmax", "hard", "gumbel_max", "sample", "gumbel_top_k", "relaxed_top_k"]
DEVICES = ["cpu", "meta"]


def tensor(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.ones(shape, dtype=dtype, device=device)


def raises(error: type[Exception], fragment: str, name: str, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(error, match=fragment):
        OPERATIONS[name](*args, **kwargs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("tau", "error", "fragment"),
    [
        (-1.0, ValueError, "got -1"),
        (INF, ValueError, "got inf"),
        (-INF, ValueError, "got -inf"),
        (NAN, ValueError, "finite.*got nan"),
        (-1, ValueError, "got -1"),
        ("1", TypeError, ""),
        (None, TypeError, ""),
        ([1.0], TypeError, ""),
        (1j, TypeError, ""),
        (tensor(1, dtype=torch.bool), TypeError, "tensor of real numbers, got a Bool"),
        (tensor(1, dtype=torch.complex64), TypeError, "tensor of real numbers, got a Complex"),
        (tensor(2, dtype=torch.int64), ValueError, "broadcasts"),
        (tensor(3), ValueError, "broadcasts.*size 1 along dim 1"),
        (tensor(2, 3), ValueError, "broadcasts.*size 1 along dim 1"),
        (tensor(2), ValueError, "broadcasts"),
        (tensor(3, 1), ValueError, "broadcasts"),
        (tensor(1, 2, 1), ValueError, "broadcasts"),
        (tensor(0), ValueError, "broadcasts"),
    ],
    ids=str,
)
def test_tau(tau: Any, error: type[Exception], fragment: str, name: str, device: str) -> None:
    """tau: positive and finite, or a tensor of real numbers, one a row."""
    if isinstance(tau, torch.Tensor):
        tau = tau.to(device)
    raises(error, fragment, name, tensor(2, 3, device=device), tau)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in GREEDY])
@pytest.mark.parametrize("tau", [0, 0.0, -0.0])
def test_zero_tau(tau: float, name: str, device: str) -> None:
    """Only draws of an index have a temperature of 0."""
    raises(ValueError, "tau: expected a positive finite number, got -?0", name, tensor(2, 3, device=device), tau)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("value", [0.0, -1.0, INF, NAN])
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_value_of_one_row(value: float, dtype: torch.dtype, name: str) -> None:
    """Every row's temperature is checked."""
    tau = torch.tensor([[1.0], [value]], dtype=dtype)
    if name in GREEDY and value == 0:
        assert OPERATIONS[name](tensor(2, 3), tau)[1] == 0
    else:
        raises(ValueError, f"expected.*finite.*got {value:g}", name, tensor(2, 3), tau)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    "dtype",
    [
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.complex128,
        torch.float8_e4m3fn,
    ],
    ids=str,
)
def test_dtype_of_logits(dtype: torch.dtype, name: str, device: str) -> None:
    """Logits of another dtype are not converted."""
    x = torch.empty(2, 3, dtype=dtype, device=device)
    raises(TypeError, "logits: expected float32, float64, float16 or bfloat16, got", name, x)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("x", [[1.0, 2.0], 1.0, None, "x", tensor(2).numpy()], ids=str)
def test_logits_that_are_no_tensor(x: Any, name: str) -> None:
    """Logits are a tensor."""
    raises(TypeError, "logits: expected a torch.Tensor", name, x)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("shape", "dim"), [((2, 3), 2), ((2, 3), -3), ((), 1), ((), -2), ((1,), 1)], ids=str)
def test_dim_out_of_range(shape: tuple[int, ...], dim: int, name: str, device: str) -> None:
    """As torch's own: IndexError."""
    raises(IndexError, "Dimension out of range", name, tensor(*shape, device=device), dim=dim)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dim", ["0", 0.5, None, (0,)])
def test_type_of_dim(dim: Any, name: str) -> None:
    """dim is one int."""
    raises(TypeError, "", name, tensor(2, 3), dim=dim)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("mask", "error", "fragment"),
    [
        (tensor(2, 3), TypeError, "mask: expected a bool tensor, got Float"),
        (tensor(2, 3, dtype=torch.uint8), TypeError, "mask: expected a bool tensor"),
        (tensor(2, dtype=torch.bool), ValueError, "mask: expected a shape that broadcasts"),
        (tensor(3, 3, dtype=torch.bool), ValueError, "mask: expected a shape that broadcasts"),
        (tensor(1, 2, 3, dtype=torch.bool), ValueError, "mask: expected a shape that broadcasts"),
        (tensor(0, 3, dtype=torch.bool), ValueError, "mask: expected a shape that broadcasts"),
        ([True, False, True], TypeError, ""),
        (True, TypeError, ""),
    ],
    ids=str,
)
def test_mask(mask: Any, error: type[Exception], fragment: str, name: str, device: str) -> None:
    """mask: bool, and never larger than the logits."""
    if isinstance(mask, torch.Tensor):
        mask = mask.to(device)
    raises(error, fragment, name, tensor(2, 3, device=device), mask=mask)


SEEDS = [
    (1.5, TypeError, "seed: expected an int or an int64 tensor, got float"),
    ("1", TypeError, "seed: expected an int or an int64 tensor, got str"),
    ([1, 2], TypeError, "seed: expected an int or an int64 tensor, got list"),
    (2**64, ValueError, r"seed: expected an int in \[-2\^63, 2\^64\), got 18446744073709551616"),
    (-(2**63) - 1, ValueError, "seed: expected an int in"),
    (tensor(2), TypeError, "seed: expected an int or an int64 tensor, got a Float tensor"),
    (tensor(2, dtype=torch.int32), TypeError, "seed: expected an int or an int64 tensor, got a Int tensor"),
    (tensor(dtype=torch.int64), ValueError, r"seed: expected one a row, shape \[2\], got \[\]"),
    (tensor(3, dtype=torch.int64), ValueError, r"seed: expected one a row, shape \[2\], got \[3\]"),
    (tensor(1, dtype=torch.int64), ValueError, "seed: expected one a row"),
    (tensor(2, 1, dtype=torch.int64), ValueError, "seed: expected one a row"),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*NOISY, "gumbel_noise"])
@pytest.mark.parametrize(("seed", "error", "fragment"), SEEDS, ids=str)
def test_seed(seed: Any, error: type[Exception], fragment: str, name: str, device: str) -> None:
    """seed: an int of 64 bits, or an int64 tensor with one a row."""
    if isinstance(seed, torch.Tensor):
        seed = seed.to(device)
    if name == "gumbel_noise":
        with pytest.raises(error, match=fragment):
            gumbel_ext.gumbel_noise((2, 3), seed=seed, device=device)
    else:
        raises(error, fragment, name, tensor(2, 3, device=device), seed=seed)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("seed", [0, tensor(2, dtype=torch.int64)], ids=str)
def test_seed_with_generator(seed: Any, name: str, device: str) -> None:
    """One source of noise."""
    seed = seed.to(device) if isinstance(seed, torch.Tensor) else seed
    generator = torch.Generator()
    raises(ValueError, "seed, generator: expected at most one", name, tensor(2, 3, device=device), seed=seed,
           generator=generator)  # fmt: skip
    with pytest.raises(ValueError, match="seed, generator: expected at most one"):
        gumbel_ext.gumbel_noise((2, 3), seed=seed, generator=generator, device=device)


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("generator", [5, "cpu"])
def test_generator_that_is_none(generator: Any, name: str) -> None:
    """generator: a torch.Generator."""
    raises(TypeError, "", name, tensor(2, 3), generator=generator)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("argument", ["mask", "tau", "seed"])
def test_device_of_every_tensor(argument: str, name: str) -> None:
    """All tensors are on the logits' device."""
    if argument == "seed" and name not in NOISY:
        pytest.skip("no noise, no seed")
    value = tensor(2, 1, dtype={"mask": torch.bool, "tau": torch.float32, "seed": torch.int64}[argument], device="meta")
    if argument == "seed":
        value = value[:, 0]
    keyword = "temperature" if name in GREEDY and argument == "tau" else argument
    raises(
        ValueError,
        f"{keyword}: expected a tensor on cpu.*got one on meta",
        name,
        tensor(2, 3),
        **{keyword: value},
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "dim"), [((2, 0), -1), ((0,), 0), ((0, 3), 0), ((0, 0), 1)], ids=str)
def test_no_class_to_choose(shape: tuple[int, ...], dim: int, device: str) -> None:
    """An index needs a class, as torch.argmax does."""
    raises(
        IndexError,
        "logits: expected at least one class",
        "gumbel_max",
        tensor(*shape, device=device),
        dim=dim,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("num_samples", "error"),
    [(-1, ValueError), (2**31, ValueError), (1.5, TypeError), ("1", TypeError)],
    ids=str,
)
def test_num_samples(num_samples: Any, error: type[Exception], device: str) -> None:
    """0 <= num_samples < 2^31."""
    raises(error, "", "gumbel_max", tensor(2, 3, device=device), num_samples=num_samples)


@pytest.mark.parametrize(
    ("name", "args"),
    [("softmax", (1.0, -1)), ("straight_through", (1.0, -1)), ("gumbel_max", (1.0, -1)),
     ("gumbel_softmax", (1.0, False, 1e-10, -1, None))],
)  # fmt: skip
def test_what_torch_does_not_have_is_keyword_only(name: str, args: tuple[Any, ...]) -> None:
    """What is none of torch's positions cannot be taken for another."""
    raises(TypeError, "positional", name, tensor(2, 3), *args)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("size", "dtype", "error"),
    [((2, -1), None, ValueError), (-3, None, ValueError), (2.0, None, TypeError), ("23", None, TypeError),
     ((2, 3.0), None, TypeError), (None, None, TypeError), ((2, 3), torch.int64, TypeError),
     ((2, 3), torch.complex64, TypeError), ((2, 3), "float32", TypeError)],
    ids=str,
)  # fmt: skip
def test_noise_arguments(size: Any, dtype: Any, error: type[Exception], device: str) -> None:
    """Sizes are ints, and not negative; noise is of a floating dtype."""
    with pytest.raises(error, match=r"^(size|dtype): expected .*, got "):
        gumbel_ext.gumbel_noise(size, seed=0, dtype=dtype, device=device)


@pytest.mark.parametrize("name", OPERATIONS)
def test_arguments_that_are_right(name: str) -> None:
    """The same arguments, where right, pass on both devices, with the same shape, strides and dtype."""
    x = torch.zeros(4, 3, 2).permute(2, 0, 1)
    kwargs = {"mask": torch.ones(3, dtype=torch.bool)} | ({"seed": 3} if name in NOISY else {})
    real = OPERATIONS[name](x, torch.tensor(0.5), **kwargs)
    kwargs["mask"] = kwargs["mask"].to("meta")
    meta = OPERATIONS[name](x.to("meta"), torch.tensor(0.5, device="meta"), **kwargs)
    assert (real.shape, real.dtype, real.stride()) == (meta.shape, meta.dtype, meta.stride())
    for dim in (0, 1, 2, -3):
        assert OPERATIONS[name](x, dim=dim).shape == OPERATIONS[name](x.to("meta"), dim=dim).shape


@pytest.mark.parametrize("name", OPERATIONS)
def test_errors_come_before_noise_is_taken(name: str) -> None:
    """A refused call leaves the generator where it was."""
    before = torch.get_rng_state()
    raises(ValueError, "", name, tensor(2, 3), torch.tensor([[1.0], [-1.0]]))
    raises(ValueError, "", name, tensor(2, 3), -1.0)
    if name in ("gumbel_max", "sample"):
        raises(ValueError, "num_samples", name, tensor(2, 3), num_samples=-1)
    assert torch.equal(torch.get_rng_state(), before)
