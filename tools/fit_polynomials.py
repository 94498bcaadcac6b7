"""Prints the minimax coefficients in csrc/core/elementary.h and csrc/cuda/approximate.cuh, with their largest error
(needs mpmath).

Remez's exchange in 50 digits: for a target function and a weight on the error, the polynomial of a given
degree whose largest weighted error is smallest. Source: Muller, "Elementary functions", 3rd ed., section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 50
Function = Callable[[mp.mpf], mp.mpf]
GRID = 2000


def solve(points: list[mp.mpf], target: Function, weight: Function, degree: int) -> list[mp.mpf]:
    """The polynomial whose weighted error alternates with equal size over `points`, lowest power first."""
    size = degree + 2
    matrix, values = mp.matrix(size, size), mp.matrix(size, 1)
    for i, x in enumerate(points):
        for power in range(degree + 1):
            matrix[i, power] = x**power
        matrix[i, degree + 1] = (-1) ** i / weight(x)
        values[i] = target(x)
    solution = mp.lu_solve(matrix, values)
    return [solution[power] for power in range(degree + 1)]


def extrema(error: list[mp.mpf], count: int) -> list[int]:
    """Where the error has its largest value in each run of one sign: `count` of them."""
    found: list[int] = []
    for i, value in enumerate(error):
        if found and mp.sign(error[found[-1]]) == mp.sign(value):
            if abs(value) > abs(error[found[-1]]):
                found[-1] = i
        else:
            found.append(i)
    while len(found) > count:
        found.pop(0 if abs(error[found[0]]) < abs(error[found[-1]]) else -1)
    return found


def remez(target: Function, weight: Function, low: mp.mpf, high: mp.mpf, degree: int) -> tuple[list[mp.mpf], mp.mpf]:
    """Coefficients, lowest power first, and the largest weighted error."""
    size = degree + 2
    points = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * i / (size - 1)) for i in range(size)]
    grid = [low + (high - low) * i / GRID for i in range(GRID + 1)]
    for _ in range(30):
        coefficients = solve(points, target, weight, degree)
        error = [weight(x) * (mp.polyval(coefficients[::-1], x) - target(x)) for x in grid]
        chosen = extrema(error, size)
        if len(chosen) < size or [grid[i] for i in chosen] == points:
            break
        points = [grid[i] for i in chosen]
    return coefficients, max(abs(value) for value in error)


def log_target(f: mp.mpf) -> mp.mpf:
    """(log(1 + f) - f) / f^2, by its series where the difference cancels."""
    return -mp.mpf(1) / 2 + f / 3 - f**2 / 4 if abs(f) < mp.mpf("1e-15") else (mp.log1p(f) - f) / f**2


def exp2_target(r: mp.mpf) -> mp.mpf:
    """(2^r - 1) / r."""
    return mp.log(2) if abs(r) < mp.mpf("1e-30") else mp.expm1(r * mp.log(2)) / r


def log2_target(v: mp.mpf) -> mp.mpf:
    """-log2(1 - v) / (2 v)."""
    return 1 / mp.log(4) if abs(v) < mp.mpf("1e-30") else -mp.log1p(-v) / (mp.log(4) * v)


def main() -> None:
    least = mp.mpf("1e-4")  # keeps the weights off zero
    third, half = mp.mpf(1) / 3, mp.mpf(1) / 2
    fits = [
        ("log_polynomial(float)", log_target, lambda f: max(f * f, least), -third, third, 8, 24),
        ("log_polynomial(double)", log_target, lambda f: max(f * f, least), -third, third, 20, 53),
        ("exp2_polynomial(float)", exp2_target, lambda r: max(abs(r) / mp.power(2, r), least), -half, half, 5, 24),
        ("exp2_polynomial(double)", exp2_target, lambda r: max(abs(r) / mp.power(2, r), least), -half, half, 10, 53),
        ("Approximate::score", log2_target, lambda v: 1 / log2_target(v), mp.mpf(0), half, 8, 24),
    ]
    for name, target, weight, low, high, degree, bits in fits:
        coefficients, error = remez(target, weight, low, high, degree)
        print(f"{name}: degree {degree}, largest error {mp.nstr(error * 2**bits, 3)} * 2^-{bits}; highest power first")
        print("  " + ", ".join(mp.nstr(c, 20) for c in reversed(coefficients)))


if __name__ == "__main__":
    main()
