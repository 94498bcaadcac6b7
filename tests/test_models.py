"""Models of `transformers` train with `gumbel_ext.gumbel_softmax` as they do on torch's arithmetic.

The models are small and of random weights; the function is put where they look theirs up. The reference takes its
noise from `gumbel_ext.gumbel_noise`. Neither is given a seed: both draw from torch's generator, and so the same noise,
as long as they number the rows alike and each call takes as much of the generator.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import gumbel_ext

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),  # of what their code makes Dynamo do
]

Function = Callable[..., Tensor]
Loss = Callable[[Any, int], Tensor]  # of the model, as it is or compiled, at a step
STEPS = 10


def torchs_arithmetic(
    logits: Tensor, tau: float = 1.0, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """`torch.nn.functional.gumbel_softmax`, but for its noise; in float32, and rounded once."""
    noise = gumbel_ext.gumbel_noise(logits.movedim(dim, -1).shape, dtype=torch.float32).movedim(-1, dim)
    scores = logits.float() + noise
    soft = (scores / tau).softmax(dim)
    one_hot = torch.zeros_like(soft).scatter(dim, scores.argmax(dim, keepdim=True), 1.0)
    return (one_hot - soft.detach() + soft if hard else soft).to(logits.dtype)


# ---- Models -----------------------------------------------------------------------------------------


def transformers() -> Any:
    return pytest.importorskip("transformers", reason="needs transformers: `pip install --group models`")


def wav2vec2() -> tuple[Any, Loss]:
    """One-hot codes of speech, [rows, classes], at a temperature that falls from step to step."""
    config = transformers().Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(16, 16),
        conv_kernel=(8, 4), conv_stride=(4, 4), num_feat_extract_layers=2, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, num_codevectors_per_group=12, num_codevector_groups=2, codevector_dim=16,
        proj_codevector_dim=16, num_negatives=6, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        layerdrop=0.0,
    )  # fmt: skip
    model = transformers().Wav2Vec2ForPreTraining(config)
    wave = torch.randn(3, 800)
    length = int(model._get_feat_extract_output_lengths(wave.shape[1]))
    masked = torch.rand(3, length) < 0.5
    negatives = torch.randint(3 * length, (3, length, config.num_negatives))

    def loss(run: Any, step: int) -> Tensor:
        model.set_gumbel_temperature(2.0 * 0.9**step)
        return run(wave, mask_time_indices=masked, sampled_negative_indices=negatives).loss / masked.sum()

    return model, loss


def group_vit() -> tuple[Any, Loss]:
    """Patches of a picture assigned to groups, [batch, classes, rows], twice a step; under autocast in bfloat16."""
    config = transformers().GroupViTConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "depths": [1, 1, 1],
            "num_hidden_layers": 3, "num_group_tokens": [8, 4, 0], "num_output_groups": [8, 4, 4], "image_size": 16,
            "patch_size": 2,
        },
        text_config={
            "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 1,
            "vocab_size": 40, "max_position_embeddings": 8, "bos_token_id": 38, "eos_token_id": 39,
        },
        projection_dim=16, projection_intermediate_dim=32, logit_scale_init_value=0.0,
    )  # fmt: skip
    model = transformers().GroupViTModel(config)
    words, pixels = torch.randint(2, 38, (16, 8)), torch.randn(16, 3, 16, 16)
    words[:, -1] = 39
    return model, lambda run, step: run(input_ids=words, pixel_values=pixels, return_loss=True).loss


def ovis2() -> tuple[Any, Loss]:
    """One-hot visual words, [batch, rows, classes]; what it returns is asked for a picture of its own."""
    module = importlib.import_module("transformers.models.ovis2.modeling_ovis2")
    config = transformers().Ovis2VisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4,
        vocab_size=24, num_visual_indicator_tokens=4, tokenize_function="gumbel_argmax",
    )  # fmt: skip
    pixels, embeddings, target = torch.randn(3, 3, 16, 16), torch.randn(20, 8), torch.randn(3, 16, 8)
    return module.Ovis2VisionModel(
        config
    ), lambda run, step: (run(pixels).pooler_output @ embeddings - target).square().mean()


@dataclass(frozen=True)
class Model:
    build: Callable[[], tuple[Any, Loss]]
    where: str  # the module whose `gumbel_softmax` it calls
    rate: float
    drift: float  # in ten steps in bfloat16: where a rounding turns one choice over, others follow


MODELS = {
    "Wav2Vec2ForPreTraining": Model(wav2vec2, "torch.nn.functional", 0.05, 0.01),
    "GroupViTModel": Model(group_vit, "transformers.models.groupvit.modeling_groupvit", 0.01, 0.3),
    "Ovis2VisionModel": Model(ovis2, "torch.nn.functional", 0.05, 0.05),
}


# ---- Training ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    losses: Tensor
    gradients: dict[str, Tensor]  # the first step's


def trained(name: str, function: Function, dtype: torch.dtype, backend: str | None = None) -> Run:
    """Ten steps of gradient descent with `function` in the place of theirs."""
    transformers()
    torch.manual_seed(1)
    model, loss = MODELS[name].build()
    run = model.train()
    if backend:  # without `fallback_random`, Inductor may draw in another order than the program
        options: Any = {"fallback_random": True} if backend == "inductor" else None
        run = torch.compile(model, backend=backend, options=options)
    optimizer = torch.optim.SGD(model.parameters(), MODELS[name].rate)
    losses, gradients = [], {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module(MODELS[name].where), "gumbel_softmax", function)
        for step in range(STEPS):
            torch.manual_seed(step)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                value = loss(run, step)
            optimizer.zero_grad()
            value.backward()
            losses.append(value.detach())
            if step == 0:
                zeros = {key: torch.zeros_like(p) for key, p in model.named_parameters()}
                gradients = zeros | {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
            optimizer.step()
    return Run(torch.stack(losses), gradients)


@functools.cache
def expected(name: str, dtype: torch.dtype) -> Run:
    return trained(name, torchs_arithmetic, dtype)


# Relative errors allowed; that of all losses is DRIFT in float32, and the model's own in bfloat16.
GRADIENT = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
FIRST_LOSS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
DRIFT = 1e-3


def differences(name: str, found: Run, dtype: torch.dtype) -> dict[str, float]:
    """What is further from the reference than is allowed, how many times: losses, and parameters by their gradients.

    Each gradient is allowed a rounding of the whole: some, as that of an attention's bias, are rounding errors alone.
    """
    right = expected(name, dtype)
    whole = torch.stack([g.norm() for g in right.gradients.values()]).norm()
    times = {
        key: float((found.gradients[key] - g).norm() / (GRADIENT[dtype] * g.norm() + 1e-7 * whole))
        for key, g in right.gradients.items()
    }
    drift = ((found.losses - right.losses) / right.losses).abs()
    times["first loss"] = float(drift[0]) / FIRST_LOSS[dtype]
    times["losses"] = float(drift.max()) / (MODELS[name].drift if dtype == torch.bfloat16 else DRIFT)
    return {key: error for key, error in times.items() if not error <= 1}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Dynamo lists torch's functions at its first use: that is not to be while another is in the place of one."""
    torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# Compiled by Inductor, what lies between two bfloat16 tensors of the program is float32: other numbers, with torch too.
WAYS = [
    (None, torch.float32),
    (None, torch.bfloat16),
    ("aot_eager", torch.float32),
    ("aot_eager", torch.bfloat16),
    ("inductor", torch.float32),
]


@pytest.mark.parametrize(("backend", "dtype"), WAYS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_as_on_torchs_arithmetic(name: str, backend: str | None, dtype: torch.dtype) -> None:
    """The first step's loss and gradients, and ten steps' losses, are the reference's; and the model learns."""
    found = trained(name, gumbel_ext.gumbel_softmax, dtype, backend)
    assert differences(name, found, dtype) == {}
    assert found.losses.isfinite().all() and found.losses[-3:].mean() < found.losses[0]


# ---- Mistakes ---------------------------------------------------------------------------------------


def no_noise(logits: Tensor, tau: float = 1.0, hard: bool = False, dim: int = -1) -> Tensor:
    gumbel_ext.gumbel_noise(1)
    return gumbel_ext.straight_through(logits, tau, dim=dim)


def no_gradient(*args: Any, **kwargs: Any) -> Tensor:
    y = gumbel_ext.gumbel_softmax(*args, **kwargs)
    return y.detach() + 0 * y


def relaxed(*args: Any, **kwargs: Any) -> Tensor:
    return gumbel_ext.gumbel_softmax(*args, **{**kwargs, "hard": False})


def another_temperature(logits: Tensor, tau: float = 1.0, **kwargs: Any) -> Tensor:
    return gumbel_ext.gumbel_softmax(logits, 1.1 * tau, **kwargs)


def last_row_first(logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return gumbel_ext.gumbel_softmax(logits.flip(0), *args, **kwargs).flip(0)


def noise_of_the_first_step(*args: Any, **kwargs: Any) -> Tensor:
    torch.manual_seed(0)
    return gumbel_ext.gumbel_softmax(*args, **kwargs)


MISTAKES = [no_noise, no_gradient, relaxed, another_temperature, last_row_first, noise_of_the_first_step]


@pytest.mark.parametrize("dtype", GRADIENT, ids=str)
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_a_mistake_shows(name: str, mistake: Function, dtype: torch.dtype) -> None:
    """The same comparison finds a wrong function."""
    assert differences(name, trained(name, mistake, dtype), dtype)
