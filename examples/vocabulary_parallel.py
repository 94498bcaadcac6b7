"""Serving with a head that is split over processes: every process holds some of the vocabulary's rows.

    torchrun --nproc-per-node 2 examples/vocabulary_parallel.py

A small transformer (random weights: what it says means nothing) continues a few requests, each under a seed of its
own. Its trunk runs on every process, its head's logits are never gathered: the processes agree on a token by eight
bytes. The tokens are those of one process (`--nproc-per-node 1`), whatever the number of processes and whichever
requests share the batch. Then a table: bytes that a process sends for a row, and milliseconds for a step's sampling,
against gathering the logits.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

import gumbel_ext
from gumbel_ext import distributed


class Model(nn.Module):
    """A causal transformer whose head has the classes [begin, end) of the vocabulary."""

    def __init__(self, vocabulary: int, begin: int, end: int, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)  # the same weights everywhere
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.trunk = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Parameter((torch.randn(vocabulary, width) * 0.4)[begin:end].clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """The local logits of the next token."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        hidden = self.trunk(self.embedding(tokens), mask=mask, is_causal=True)[:, -1]
        return hidden @ self.head.T


def seeds_of(requests: Tensor, step: int) -> Tensor:
    """One for every request and step."""
    return requests * 2**32 + step


@torch.inference_mode()
def generate(model: Model, requests: Tensor, begin: int, length: int, temperature: float) -> Tensor:
    tokens = requests.unsqueeze(1) % 100  # prompts of one token
    for step in range(length):
        seed = seeds_of(requests, step)
        token = distributed.gumbel_max(model(tokens), temperature, class_offset=begin, seed=seed)
        tokens = torch.cat([tokens, token.unsqueeze(1)], 1)
    return tokens


def gathered(local: Tensor, sizes: list[int], seed: Tensor) -> Tensor:
    """The other way: all logits to every process, padded to one size, as collectives want them."""
    most = max(sizes)
    parts = [local.new_empty(local.shape[0], most) for _ in sizes]
    dist.all_gather(parts, nn.functional.pad(local, (0, most - local.shape[1])))
    whole = torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], -1)
    return gumbel_ext.gumbel_max(whole, seed=seed)


def milliseconds(sample: Callable[[], Tensor], repeats: int) -> float:
    """The median's, of all processes together."""
    times = []
    for _ in range(repeats):
        dist.barrier()
        start = time.perf_counter()
        sample()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[repeats // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--tokens", type=int, default=24, help="for each request")
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=21, help="of what is timed")
    args = parser.parse_args()
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    bounds = [args.vocabulary * r // world for r in range(world + 1)]
    begin, end = bounds[rank], bounds[rank + 1]

    model = Model(args.vocabulary, begin, end).eval()
    requests = 1000 + torch.arange(args.requests)
    tokens = generate(model, requests, begin, args.tokens, temperature=0.8)
    if rank == 0:
        for request, line in zip(requests.tolist(), tokens.tolist(), strict=True):
            print(f"request {request}: {' '.join(map(str, line))}")

    if rank == 0:
        print(f"\n| rows | bytes a row | gathered | ms | gathered, ms |\n|{' --: |' * 5}")
    for rows in (1, 16, 64):
        local = torch.randn(rows, end - begin, generator=torch.Generator().manual_seed(rank))
        seed, sizes = torch.arange(rows), [b - a for a, b in itertools.pairwise(bounds)]
        here = functools.partial(distributed.gumbel_max, local, class_offset=begin, seed=seed)
        ours = milliseconds(here, args.repeats)
        theirs = milliseconds(functools.partial(gathered, local, sizes, seed), args.repeats)
        if rank == 0:
            print(f"| {rows} | 8 | {4 * (end - begin)} | {ours:.2f} | {theirs:.2f} |")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
