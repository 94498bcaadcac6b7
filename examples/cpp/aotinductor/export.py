"""Compiles the digits model ahead of time, for `main.cpp`: torch.export, then AOTInductor.

python ../../discrete_vae.py --save model.pt
python export.py model.pt model.pt2
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from digits_model import CategoricalVAE


class Served(nn.Module):
    """Images ``(batch, pixels)`` and a seed to codes ``(batch, N)`` and pixel probabilities ``(batch, pixels)``.

    The seed is a tensor without dimensions: `torch.export` would make a constant of a number. Variable ``n`` is
    drawn with the seed ``seed + n``, so that an image's code is the same in whatever batch it comes.
    """

    def __init__(self, model: CategoricalVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        seeds = (seed + torch.arange(self.model.latents)).expand(images.shape[0], -1)
        codes = torch.ops.gumbel_ext.gumbel_max(self.model.encoder(images), seed=seeds)
        return codes, self.model.decode(codes)


def load(path: str) -> Served:
    """The model that `discrete_vae.py --save` wrote."""
    scripted = torch.jit.load(path)
    model = CategoricalVAE()
    model.load_state_dict(scripted.state_dict())
    return Served(model).eval()


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit("usage: python export.py MODEL.pt MODEL.pt2")
    served = load(sys.argv[1])
    images, seed = torch.rand(2, 64), torch.tensor(0)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.no_grad():
        program = torch.export.export(served, (images, seed), dynamic_shapes={"images": {0: batch}, "seed": None})
        torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[2])


if __name__ == "__main__":
    main()
