"""The recipes of examples/, each by its command with `--quick`: what their tables say, and that there is a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import ROOT, run

for package in ("matplotlib", "sklearn", "tqdm"):
    pytest.importorskip(package)

pytestmark = pytest.mark.long  # half a minute together
Table = dict[str, dict[str, float]]
"""Rows by their first cell, columns by their header; the mean where a cell says a spread. Empty cells are left out."""


def tables(printed: str) -> list[Table]:
    found = []
    for block in printed.split("\n\n"):
        if block.startswith("|"):
            header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
            found.append(
                {
                    row[0]: {
                        name: float(cell.split()[0]) for name, cell in zip(header[1:], row[1:], strict=True) if cell
                    }
                    for row in rows
                }
            )
    return found


def quick(recipe: str, folder: Path) -> list[Table]:
    picture = folder / f"{recipe}.png"
    printed = run(sys.executable, ROOT / "examples" / f"{recipe}.py", "--quick", "--out", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    return tables(printed)


def test_codes_of_audio_tell_vowels_and_forget_voices(tmp_path: Path) -> None:
    (codes,) = quick("audio_quantizer", tmp_path)
    trained, untrained = codes["τ 2 → 0.5"], codes["untrained"]
    assert trained["nats about the vowel"] > untrained["nats about the vowel"] + 0.25
    assert trained["nats about the voice"] < untrained["nats about the voice"]
    assert untrained["perplexity"] + 3 < trained["perplexity"] <= 32
    assert codes["τ 2 → 0.5, no diversity"]["perplexity"] < trained["perplexity"] - 5


def test_a_learned_router_beats_a_random_one(tmp_path: Path) -> None:
    (routers,) = quick("routing", tmp_path)
    learned = routers["Gumbel, learned"]
    for other, margin in (("experts at random", 15), ("router never trained", 10), ("dense, an expert's size", 5)):
        assert learned["accuracy, %"] > routers[other]["accuracy, %"] + margin, other
    assert learned["experts used"] > routers["Gumbel, without balance"]["experts used"] + 2
    assert routers["experts at random"]["experts used"] > 7.9


def test_learned_features_beat_filters(tmp_path: Path) -> None:
    accuracy, difference = quick("feature_selection", tmp_path)
    learned = accuracy["learned"]["k = 8"]
    for other, margin in (("F test", 4), ("mutual information", 4), ("at random", 8)):
        assert learned > accuracy[other]["k = 8"] + margin, other
        assert difference[other]["k = 8"] == pytest.approx(learned - accuracy[other]["k = 8"], abs=0.11)
    assert accuracy["learned, relaxed"]["k = 8"] > accuracy["F test"]["k = 8"] + 4


def test_estimators_differ_as_their_papers_say(tmp_path: Path) -> None:
    gradients, elbos = quick("estimators", tmp_path)
    gumbel, rao = gradients["gumbel, τ = 0.5"], gradients["rao, τ = 0.5"]
    assert rao["spread / exact"] < 0.8 * gumbel["spread / exact"]
    assert rao["bias / exact"] == pytest.approx(gumbel["bias / exact"], abs=0.1)
    assert gradients["reinmax, τ = 1"]["bias / exact"] < 0.1 < 0.2 < gradients["gumbel, τ = 1"]["bias / exact"]
    assert gradients["softmax, τ = 1"]["spread / mean"] < 0.6 * gradients["gumbel, τ = 1"]["spread / mean"]
    untrained = -64 * 0.6931  # a coin for each pixel
    assert all(row["ELBO"] > untrained + 10 for row in elbos.values())
