"""Every activation with its derivative, and when to use which.

    python examples/05_activations.py [PICTURE.png]

Expected: a table of values and derivatives at -2, 0 and 2 with a word on where each belongs; sigmoid's slope is at
most 0.25, which is why deep nets of it stop learning, and relu's is 0 or 1. With a file name, a picture of them all.
"""

import sys

import jax
import jax.numpy as jnp

from fcjax.activations import ACTIVATIONS

WHEN = {
    "linear": "output of a regression (a price)",
    "relu": "hidden layers: the usual first choice",
    "leaky_relu": "hidden layers where relu units die",
    "elu": "hidden layers, smooth for negative input",
    "gelu": "hidden layers of transformers; exact, by erf",
    "gelu_tanh": "the same, approximated by tanh",
    "silu": "hidden layers, smooth, not monotone",
    "sigmoid": "output: one yes-or-no answer; rarely hidden",
    "tanh": "hidden layers of small or recurrent nets",
    "softplus": "output that must be positive (a variance)",
}
"""Softmax and log_softmax act on a whole vector and are shown apart."""


def with_derivative(name: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``f(x)`` and ``f'(x)`` for each entry of ``x``."""
    return jax.jit(jax.vmap(jax.value_and_grad(ACTIVATIONS[name])))(x)


header = "".join(f"{title:>9}" for title in ("f(-2)", "f(0)", "f(2)", "f'(-2)", "f'(0)", "f'(2)"))
print(f"{'name':11}{header}   when")
for name, when in WHEN.items():
    values, slopes = with_derivative(name, jnp.array([-2.0, 0.0, 2.0]))
    numbers = [*values.tolist(), *slopes.tolist()]
    print(f"{name:11}" + "".join(f"{number:9.4f}" for number in numbers) + f"   {when}")

logits = jnp.array([2.0, 1.0, -1e4])
print("\nsoftmax, one class out of many:      ", ACTIVATIONS["softmax"](logits))
print("log_softmax, with a likelihood loss: ", ACTIVATIONS["log_softmax"](logits))
print("log of softmax, the naive way:       ", jnp.log(ACTIVATIONS["softmax"](logits)))

if len(sys.argv) > 1:
    from matplotlib.figure import Figure  # no window, no global state

    figure = Figure(figsize=(15, 6), layout="constrained")
    x = jnp.linspace(-5, 5, 1001)
    for axes, name in zip(figure.subplots(2, 5, sharex=True).flat, WHEN, strict=True):
        values, slopes = with_derivative(name, x)
        axes.plot(x, values, label="f")
        axes.plot(x, slopes, "--", label="derivative")
        axes.set(title=name, ylim=(-2, 3))
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", fontsize="small")
    figure.savefig(sys.argv[1], dpi=100)
    print("\nwrote", sys.argv[1])
