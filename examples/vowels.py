"""Made-up speech: strings of vowels in voices of their own, with the vowel of every frame known.

A vowel is a buzz at the voice's pitch through the resonances (formants) of a vocal tract. Formants: Peterson, Barney,
"Control methods used in a study of the vowels", JASA 1952, table II, men.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FORMANTS = {
    "i": (270, 2290, 3010),
    "ɪ": (390, 1990, 2550),
    "ɛ": (530, 1840, 2480),
    "æ": (660, 1720, 2410),
    "ɑ": (730, 1090, 2440),
    "ɔ": (570, 840, 2410),
    "ʊ": (440, 1020, 2240),
    "u": (300, 870, 2240),
}
VOWELS = tuple(FORMANTS)
RATE = 8000
HOP = 160
WINDOW = 320
BANDS = 24
BANDWIDTHS = torch.tensor([80.0, 100.0, 120.0])
HARMONICS = 40
NOISE = 0.02


@dataclass(frozen=True)
class Speech:
    audio: Tensor  #: ``[utterances, frames * HOP]``
    features: Tensor  #: ``[utterances, frames, BANDS]``, logarithms of energies, of mean 0 and deviation 1 in each band
    vowels: Tensor  #: int64 ``[utterances, frames]``
    pitch: Tensor  #: ``[utterances]``, Hz

    @property
    def voices(self) -> Tensor:
        """Four classes of pitch, of equal size, frame by frame."""
        rank = self.pitch.argsort().argsort() * 4 // len(self.pitch)
        return rank[:, None].expand_as(self.vowels)


def speak(utterances: int, frames: int, generator: torch.Generator) -> Speech:
    """Vowels last 4 to 10 frames of 20 ms; every utterance has a voice of its own."""
    vowels = _strings(utterances, frames, generator)
    pitch = 90 * (250 / 90) ** torch.rand(utterances, generator=generator)
    tract = 0.9 + 0.2 * torch.rand(utterances, generator=generator)  # a shorter one raises all formants
    formants = torch.tensor(list(FORMANTS.values()))[vowels] * tract[:, None, None]
    glide = F.avg_pool1d(formants.transpose(1, 2), 3, 1, padding=1, count_include_pad=False)  # as lips and tongue do
    audio = _voice(glide.transpose(1, 2), pitch)
    audio += NOISE * torch.randn(audio.shape, generator=generator)
    return Speech(audio, _features(audio), vowels, pitch)


def _strings(utterances: int, frames: int, generator: torch.Generator) -> Tensor:
    """Vowels chosen uniformly among those that differ from the one before."""
    rows = []
    for _ in range(utterances):
        row: list[int] = []
        vowel = int(torch.randint(len(VOWELS), (), generator=generator))
        while len(row) < frames:
            row += [vowel] * int(torch.randint(4, 11, (), generator=generator))
            vowel = (vowel + int(torch.randint(1, len(VOWELS), (), generator=generator))) % len(VOWELS)
        rows.append(row[:frames])
    return torch.tensor(rows)


def _voice(formants: Tensor, pitch: Tensor) -> Tensor:
    """The sum of the pitch's harmonics, each as loud as the resonances make it; of deviation 1."""
    utterances, frames, _ = formants.shape
    time = torch.arange(frames * HOP) / RATE
    phase = 2 * math.pi * (pitch[:, None] * time + 0.5 * torch.sin(2 * math.pi * 5 * time))  # 5 Hz vibrato
    audio = torch.zeros(utterances, frames * HOP)
    for harmonic in range(1, HARMONICS + 1):
        frequency = (harmonic * pitch)[:, None, None]
        gain = formants.square() / ((formants.square() - frequency**2).square() + (frequency * BANDWIDTHS) ** 2).sqrt()
        loudness = gain.prod(-1) / harmonic * (frequency[..., 0] < RATE / 2)
        audio += F.interpolate(loudness[:, None], frames * HOP, mode="linear")[:, 0] * torch.sin(harmonic * phase)
    return audio / audio.std(1, keepdim=True)


def _features(audio: Tensor) -> Tensor:
    spectrum = torch.stft(audio, WINDOW, HOP, window=torch.hann_window(WINDOW), pad_mode="reflect", return_complex=True)
    energy = spectrum.abs().square()[..., : audio.shape[1] // HOP].transpose(1, 2)
    logs = (energy @ _mel_bands() + 1e-3).log()
    return (logs - logs.mean((0, 1))) / logs.std((0, 1))


def _mel_bands() -> Tensor:
    """Triangles, evenly spaced on the mel scale, ``[bins, BANDS]``."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, BANDS + 2) / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clamp_min(0)
