"""Three linear layers in a row are one linear layer; an activation between them makes the difference.

    python examples/03_linear_collapse.py

Expected: the collapsed layer gives the stack's outputs to about 1e-15 with 15 parameters instead of 83; with ReLU in
between the difference is of order one, and no linear layer could do better.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fcjax.collapse import collapse
from fcjax.summary import parameter_count

with jax.enable_x64(True):  # in float64, so that "the same" means the same
    rngs = nnx.Rngs(0)
    layers = [
        nnx.Linear(m, n, bias_init=nnx.initializers.normal(1.0), param_dtype=jnp.float64, rngs=rngs)
        for m, n in ((4, 6), (6, 5), (5, 3))
    ]
    x = jax.random.normal(jax.random.key(1), (100, 4), jnp.float64)

    stacked = layers[2](layers[1](layers[0](x)))
    single = collapse(layers)  # W = W3 W2 W1, b = W3 W2 b1 + W3 b2 + b3
    print("parameters of the stack:     ", sum(parameter_count(layer) for layer in layers))
    print("parameters of the one layer: ", parameter_count(single))
    print(f"largest difference:           {jnp.abs(single(x) - stacked).max():.1e}")

    with_relu = layers[2](jax.nn.relu(layers[1](jax.nn.relu(layers[0](x)))))
    print(f"with ReLU between the layers: {jnp.abs(single(x) - with_relu).max():.1e}")

    # Not merely this layer: a linear one takes the midpoint of two inputs to the midpoint of their outputs.
    a, b = x[0], x[1]
    for name, net in (
        ("linear", single),
        ("with ReLU", lambda x: layers[2](jax.nn.relu(layers[1](jax.nn.relu(layers[0](x)))))),
    ):
        print(f"midpoint error, {name + ':':13} {jnp.abs(net((a + b) / 2) - (net(a) + net(b)) / 2).max():.1e}")
