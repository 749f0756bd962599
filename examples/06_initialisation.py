"""Initialise a whole model by one line: PyTorch's ``model.apply(init_weights)`` in Flax.

    python examples/06_initialisation.py

Expected: layers start from PyTorch's own law, U(+-1/sqrt(in)) for weights and biases; after the one line every kernel
is Xavier-uniform, U(+-sqrt(6 / (in + out))), and every bias 0.01. Largest weights stand just below their bounds.
"""

import math

import numpy as np
from flax import nnx

from fcjax.initializers import init_weights, kaiming_normal
from fcjax.models import MLP

SIZES = (64, 128, 32, 10)


def describe(model: MLP) -> None:
    """One line per layer: the largest weight, the two laws' bounds, and the range of the biases."""
    print(f"{'layer':9} {'largest':>8} {'1/sqrt(in)':>11} {'xavier':>8}   biases")
    for i, layer in enumerate(model.layers):
        kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
        m, n = kernel.shape
        bounds = f"{1 / math.sqrt(m):11.4f} {math.sqrt(6 / (m + n)):8.4f}"
        print(f"layers.{i}  {np.abs(kernel).max():8.4f} {bounds}   {bias.min():+.4f} to {bias.max():+.4f}")


model = MLP(SIZES, rngs=nnx.Rngs(0))
print("as PyTorch's Linear starts:")
describe(model)

init_weights(model, nnx.Rngs(1))  # the one line

print("\nafter init_weights(model, rngs):")
describe(model)

# Any other law is as short; here Kaiming's, made for ReLU.
rngs = nnx.Rngs(2)
for layer in model.layers:
    layer.kernel[...] = kaiming_normal()(rngs.params(), layer.kernel[...].shape)
spread = [np.asarray(layer.kernel[...]).std() * math.sqrt(layer.in_features / 2) for layer in model.layers]
print("\nkaiming_normal, standard deviation / sqrt(2 / in):", " ".join(f"{s:.3f}" for s in spread))
