"""Mistakes in axes, orders and reductions between two layers."""

import jax
import jax.numpy as jnp
import torch
from torch.nn import functional as F

from tests.corpus.code import Code, family, flat, sequence

CODES = {
    "std_biased": Code(
        "jnp.std divides by n, torch.std by n - 1",
        lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
        lambda x: (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True),
        lambda x: (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True, ddof=1),
        ("variance_correction",),
    ),
    "var_biased": Code(
        "jnp.var divides by n, torch.var by n - 1",
        lambda x: x * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5),
        lambda x: x * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5),
        lambda x: x * jax.lax.rsqrt(x.var(-1, keepdims=True, ddof=1) + 1e-5),
        ("variance_correction",),
    ),
    "softmax_axis": Code(
        "softmax over the positions in place of the features",
        lambda x: flat(torch.softmax(sequence(x), dim=-1)),
        lambda x: flat(jax.nn.softmax(sequence(x), axis=1)),
        lambda x: flat(jax.nn.softmax(sequence(x), axis=-1)),
        ("softmax_axis", "reduction_axis"),
    ),
    "softmax_for_log_softmax": Code(
        "softmax for log-softmax",
        lambda x: F.log_softmax(x, dim=1),
        lambda x: jax.nn.softmax(x, axis=1),
        lambda x: jax.nn.log_softmax(x, axis=1),
        ("softmax_for_log_softmax",),
    ),
    "repeat_for_tile": Code(
        "torch's repeat is jnp.tile; jnp.repeat is repeat_interleave",
        lambda x: x.repeat(1, 2),
        lambda x: jnp.repeat(x, 2, axis=1),
        lambda x: jnp.tile(x, (1, 2)),
        ("repeat_for_tile",),
        width=24,
    ),
    "split_sizes_as_indices": Code(
        "torch.split takes sizes, jnp.split positions",
        lambda x: torch.cat(x.split([8, 4], 1)[::-1], 1),
        lambda x: jnp.concatenate(jnp.split(x, [4], 1)[::-1], 1),
        lambda x: jnp.concatenate(jnp.split(x, [8], 1)[::-1], 1),
    ),
    "chunks_swapped": Code(
        "gate and value of a GLU exchanged",
        lambda x: F.glu(x, 1),
        lambda x: jax.nn.sigmoid(x[:, :6]) * x[:, 6:],
        lambda x: jax.nn.glu(x, 1),
        ("glu_halves_swapped", "chunks_swapped"),
        width=6,
    ),
    "cat_order": Code(
        "parts concatenated in the other order",
        lambda x: torch.cat([x, torch.relu(-x)], 1),
        lambda x: jnp.concatenate([jax.nn.relu(-x), x], 1),
        lambda x: jnp.concatenate([x, jax.nn.relu(-x)], 1),
        ("concatenation_order",),
        width=24,
    ),
    "reshape_for_transpose": Code(
        "reshape where torch transposes",
        lambda x: flat(sequence(x).transpose(1, 2)),
        lambda x: flat(sequence(x).reshape(x.shape[0], 4, 3)),
        lambda x: flat(sequence(x).swapaxes(1, 2)),
        ("flatten_order", "reshape_for_transpose", "transpose_missing"),
    ),
    "cumsum_axis": Code(
        "cumulative sum over the flattened features",
        lambda x: flat(torch.cumsum(sequence(x), 1)),
        lambda x: flat(jnp.cumsum(sequence(x), 2)),
        lambda x: flat(jnp.cumsum(sequence(x), 1)),
        ("reduction_axis",),
    ),
    "mean_for_sum": Code(
        "positions averaged in place of added",
        lambda x: sequence(x).sum(1),
        lambda x: sequence(x).mean(1),
        lambda x: sequence(x).sum(1),
        ("mean_for_sum",),
        width=4,
    ),
    "max_for_mean": Code(
        "max pooling for mean pooling over positions",
        lambda x: sequence(x).mean(1),
        lambda x: sequence(x).max(1),
        lambda x: sequence(x).mean(1),
        ("max_for_mean", "another_reduction"),
        width=4,
    ),
    "median_of_even": Code(
        "torch's median is the lower of the two middle values, jnp's their mean",
        lambda x: x - x.median(1, keepdim=True).values,
        lambda x: x - jnp.median(x, 1, keepdims=True),
        lambda x: x - jnp.sort(x, 1)[:, 5:6],
        ("median_of_even",),
    ),
    "normalize_axis": Code(
        "norm over the whole batch: no axis",
        lambda x: F.normalize(x, dim=1),
        lambda x: x / jnp.linalg.norm(x),
        lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True),
        ("reduction_axis",),
    ),
    "broadcast_over_features": Code(
        "a mean over the batch in place of the features",
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: x - x.mean(0, keepdims=True),
        lambda x: x - x.mean(1, keepdims=True),
        ("reduction_axis",),
    ),
    "roll_direction": Code(
        "rolled the other way", lambda x: torch.roll(x, 1, 1), lambda x: jnp.roll(x, -1, 1), lambda x: jnp.roll(x, 1, 1)
    ),
    "roll_flat": Code(
        "jnp.roll without an axis rolls the flattened array",
        lambda x: torch.roll(x, 1, 1),
        lambda x: jnp.roll(x, 1),
        lambda x: jnp.roll(x, 1, 1),
        ("reduction_axis",),
    ),
    "sort_descending": Code(
        "torch sorts descending here, jnp.sort always ascending",
        lambda x: x.sort(1, descending=True).values,
        lambda x: jnp.sort(x, 1),
        lambda x: -jnp.sort(-x, 1),
        ("sort_order",),
    ),
    "logsumexp_axis": Code(
        "logsumexp over everything",
        lambda x: x - torch.logsumexp(x, 1, keepdim=True),
        lambda x: x - jax.scipy.special.logsumexp(x, keepdims=True),
        lambda x: x - jax.scipy.special.logsumexp(x, 1, keepdims=True),
        ("reduction_axis",),
    ),
    "remainder_sign": Code(
        "torch.fmod keeps the dividend's sign, jnp.mod the divisor's",
        lambda x: torch.fmod(x, 1.0),
        lambda x: jnp.mod(x, 1.0),
        lambda x: jnp.fmod(x, 1.0),
    ),
}

FAMILY = family("between", CODES)
