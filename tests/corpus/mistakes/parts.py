"""Mistakes in which entries, parts and copies of an array are taken, and in numbers that code writes twice."""

import jax
import jax.numpy as jnp
import torch
from torch.nn import functional as F

from tests.corpus.code import Code, family, flat, sequence

Array = jax.Array


def _modulated(x: Array, order: tuple[int, int]) -> Array:
    parts = jnp.split(x, 2, -1)
    return parts[order[0]] * (1 + parts[order[1]])


def _torch_modulated(x: torch.Tensor) -> torch.Tensor:
    value, scale = x.chunk(2, -1)
    return value * (1 + scale)


CODES = {
    "modulation_parts": Code(
        "value and scale of a modulation exchanged",
        _torch_modulated,
        lambda x: _modulated(x, (1, 0)),
        lambda x: _modulated(x, (0, 1)),
        ("halves_swapped", "parts_order"),
        width=6,
    ),
    "modulation_one": Code(
        "scale for 1 + scale",
        _torch_modulated,
        lambda x: x[:, :6] * x[:, 6:],
        lambda x: _modulated(x, (0, 1)),
        ("constant_missing",),
        width=6,
    ),
    "last_for_first": Code(
        "the last token for the first",
        lambda x: sequence(x)[:, 0],
        lambda x: sequence(x)[:, -1],
        lambda x: sequence(x)[:, 0],
        ("wrong_index",),
        width=4,
    ),
    "mean_with_class_token": Code(
        "the class token takes part in the mean",
        lambda x: sequence(x)[:, 1:].mean(1),
        lambda x: sequence(x).mean(1),
        lambda x: sequence(x)[:, 1:].mean(1),
        ("wrong_index",),
        width=4,
    ),
    "positions_on_patches_only": Code(
        "what is added to every token misses the first",
        lambda x: flat(sequence(x) + torch.cos(x)[:, None, :4]),
        lambda x: flat(sequence(x).at[:, 1:].add(jnp.cos(x)[:, None, :4])),
        lambda x: flat(sequence(x) + jnp.cos(x)[:, None, :4]),
        ("term_missing",),
    ),
    "split_lengths": Code(
        "channels shuffled in 3 groups of 4 for 4 of 3",
        lambda x: flat(x.view(len(x), 4, 3).transpose(1, 2)),
        lambda x: flat(x.reshape(len(x), 3, 4).swapaxes(1, 2)),
        lambda x: flat(x.reshape(len(x), 4, 3).swapaxes(1, 2)),
        ("reshape_order",),
    ),
    "capped_twice": Code(
        "a cap of 2 for 3, which the code writes twice",
        lambda x: 3.0 * torch.tanh(x / 3.0),
        lambda x: 2.0 * jnp.tanh(x / 2.0),
        lambda x: 3.0 * jnp.tanh(x / 3.0),
        ("constant_value",),
    ),
    "standardised_axis": Code(
        "mean and deviation both over another axis",
        lambda x: flat((sequence(x) - sequence(x).mean(1, keepdim=True)) / sequence(x).std(1, keepdim=True)),
        lambda x: flat((sequence(x) - sequence(x).mean(2, keepdims=True)) / sequence(x).std(2, keepdims=True, ddof=1)),
        lambda x: flat((sequence(x) - sequence(x).mean(1, keepdims=True)) / sequence(x).std(1, keepdims=True, ddof=1)),
        ("wrong_axis",),
    ),
    "epsilon_under_root": Code(
        "epsilon under the root for beside it",
        lambda x: x / (x.std(-1, keepdim=True) + 1e-3),
        lambda x: x / jnp.sqrt(x.var(-1, keepdims=True, ddof=1) + 1e-3),
        lambda x: x / (x.std(-1, keepdims=True, ddof=1) + 1e-3),
        ("norm_epsilon_inside_root",),
    ),
    "floor_for_round": Code(
        "floor for round, with the gradient passed through",
        lambda x: x + (torch.round(4 * x) / 4 - x).detach(),
        lambda x: x + jax.lax.stop_gradient(jnp.floor(4 * x) / 4 - x),
        lambda x: x + jax.lax.stop_gradient(jnp.round(4 * x) / 4 - x),
        ("rounding_mode",),
    ),
    "two_in_one_place": Code(
        "another activation, and a softmax over the positions, with nothing between them to tell them apart",
        lambda x: flat(torch.softmax(sequence(F.silu(x)), -1)),
        lambda x: flat(jax.nn.softmax(sequence(jnp.tanh(x)), 1)),
        lambda x: flat(jax.nn.softmax(sequence(jax.nn.silu(x)), -1)),
        ("activation_swapped", "softmax_axis"),
    ),
}

FAMILY = family("parts", CODES)
