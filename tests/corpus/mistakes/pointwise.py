"""Mistakes in activations, constants and gradients between two layers."""

import jax
import jax.numpy as jnp
import torch
from torch.nn import functional as F

from tests.corpus.code import Code, family

CODES = {
    "leaky_slope": Code(
        "jax.nn.leaky_relu has slope 0.01 unless told",
        lambda x: F.leaky_relu(x, 0.2),
        jax.nn.leaky_relu,
        lambda x: jax.nn.leaky_relu(x, 0.2),
        ("leaky_slope",),
    ),
    "gelu_tanh": Code(
        "jax.nn.gelu is the tanh form unless told",
        F.gelu,
        jax.nn.gelu,
        lambda x: jax.nn.gelu(x, approximate=False),
        ("gelu_approximation",),
    ),
    "quick_gelu_missing": Code(
        "x sigmoid(1.702 x) in torch, the tanh GELU in Flax",
        lambda x: x * torch.sigmoid(1.702 * x),
        jax.nn.gelu,
        lambda x: x * jax.nn.sigmoid(1.702 * x),
        ("activation_swapped",),
    ),
    "silu_for_gelu": Code(
        "swish for GELU", F.gelu, jax.nn.silu, lambda x: jax.nn.gelu(x, approximate=False), ("activation_swapped",)
    ),
    "elu_alpha": Code(
        "alpha of ELU left at 1", lambda x: F.elu(x, 0.5), jax.nn.elu, lambda x: jax.nn.elu(x, 0.5), ("elu_alpha",)
    ),
    "softplus_beta": Code(
        "beta of softplus left out",
        lambda x: F.softplus(x, beta=2.0),
        jax.nn.softplus,
        lambda x: jax.nn.softplus(2.0 * x) / 2.0,
        ("softplus_beta",),
    ),
    "hard_sigmoid_slope": Code(
        "Keras's hard sigmoid: slope 0.2",
        F.hardsigmoid,
        lambda x: jnp.clip(0.2 * x + 0.5, 0, 1),
        jax.nn.hard_sigmoid,
        ("activation_swapped",),
    ),
    "hard_swish_for_swish": Code(
        "hard swish for swish", F.silu, jax.nn.hard_silu, jax.nn.silu, ("activation_swapped",)
    ),
    "relu6_for_relu": Code(
        "ReLU6 for ReLU: the same below 6", F.relu, jax.nn.relu6, jax.nn.relu, ("activation_swapped",)
    ),
    "clip_bounds": Code(
        "clipped to (-1, 1) in place of (-2, 2)",
        lambda x: x.clamp(-2, 2),
        lambda x: jnp.clip(x, -1, 1),
        lambda x: jnp.clip(x, -2, 2),
        ("clamp_bounds",),
    ),
    "normalize_epsilon": Code(
        "epsilon added to the norm: F.normalize takes the larger of the two",
        lambda x: F.normalize(x, dim=1, eps=1e-2),
        lambda x: x / (jnp.linalg.norm(x, axis=1, keepdims=True) + 1e-2),
        lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-2),
    ),
    "stop_gradient_left": Code(
        "a stop_gradient that torch has not",
        lambda x: x * torch.sigmoid(x),
        lambda x: x * jax.nn.sigmoid(jax.lax.stop_gradient(x)),
        lambda x: x * jax.nn.sigmoid(x),
        ("gradient_stopped", "stop_gradient_extra"),
        direction="backward",
        places=("before fc2", "inside fc1", "after fc1"),
    ),
    "detach_missing": Code(
        "torch detaches, the port does not",
        lambda x: x * torch.sigmoid(x.detach()),
        lambda x: x * jax.nn.sigmoid(x),
        lambda x: x * jax.nn.sigmoid(jax.lax.stop_gradient(x)),
        ("gradient_not_stopped",),
        direction="backward",
        places=("before fc2", "inside fc1", "after fc1"),
    ),
    "round_trip_float16": Code(
        "a cast to float16 left in from an experiment",
        torch.tanh,
        lambda x: jnp.tanh(x.astype(jnp.float16)).astype(x.dtype),
        jnp.tanh,
        ("lower_precision",),
    ),
    "scale_missing": Code(
        "a constant factor left out",
        lambda x: torch.tanh(x) * 12**0.5,
        jnp.tanh,
        lambda x: jnp.tanh(x) * 12**0.5,
        ("factor_missing",),
    ),
    "temperature": Code(
        "logits multiplied by the temperature instead of divided",
        lambda x: torch.softmax(x / 0.5, 1),
        lambda x: jax.nn.softmax(x * 0.5, 1),
        lambda x: jax.nn.softmax(x / 0.5, 1),
        ("constant_inverted",),
    ),
    "activation_missing": Code("no activation", torch.tanh, lambda x: x, jnp.tanh, ("activation_missing",)),
    "residual_missing": Code(
        "skip connection forgotten", lambda x: x + torch.tanh(x), jnp.tanh, lambda x: x + jnp.tanh(x), ("term_missing",)
    ),
    "log_without_epsilon": Code(
        "log(x + 1e-6) for log(max(x, 1e-6))",
        lambda x: torch.log(F.relu(x).clamp(min=1e-2)),
        lambda x: jnp.log(jax.nn.relu(x) + 1e-2),
        lambda x: jnp.log(jnp.maximum(jax.nn.relu(x), 1e-2)),
    ),
}

FAMILY = family("pointwise", CODES)
