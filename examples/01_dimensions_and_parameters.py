"""What a fully connected layer does to dimensions, and what it costs in parameters.

    python examples/01_dimensions_and_parameters.py

Expected: one sample and the same sample in a batch give the same two numbers; the table shows 3 -> 5 -> 2 and
20 + 12 = 32 parameters, by the model's state and by the formula (in + 1) * out; doubling the width of the hidden
layers makes the net about four times as big, adding a layer always costs the same.
"""

import jax.numpy as jnp
from flax import nnx

from fcjax.models import FlaxModel
from fcjax.summary import fully_connected_count, growth_table, parameter_count, summary

model = FlaxModel(3, 5, 2, rngs=nnx.Rngs(0))

# y = x W + b, for one sample of three features and for a batch of them.
batch = jnp.array([[3.1, 1.3, 1.2], [2.1, 1.3, 13.0], [1.0, -1.0, 0.5], [0.0, 0.0, 0.0]])  # (4, 3)
sample = batch[0]  # (3,)
W, b = model.layer1.kernel[...], model.layer1.bias[...]  # (3, 5), (5,)
print("layer1 by hand:      ", sample @ W + b)
print("layer1:              ", model.layer1(sample))
print("model, one sample:   ", model(sample), model(sample).shape)
print("model, row 0 of four:", model(batch)[0], model(batch).shape)

print()
print(summary(model, batch))

print()
print("by the state:  ", parameter_count(model))
print("by the formula: (3 + 1) * 5 + (5 + 1) * 2 =", fully_connected_count((3, 5, 2)))

print()
print("784 inputs, 10 outputs: parameters by width and depth of the hidden layers")
print(growth_table(784, 10, widths=(64, 128, 256, 512, 1024), depths=(1, 2, 3, 4)))
