"""The same weights with and without ReLU, on the input [[1, -1, 0.5]].

    python examples/04_with_and_without_activation.py

Expected: two different outputs. The hidden row shows why: ReLU has set its negative entries to zero. With doubled
input (and the biases at zero) both nets double their output; with the sign turned only the linear one turns its own.
"""

import jax.numpy as jnp
from flax import nnx

from fcjax.models import FlaxModel, FlaxModelWithActivation

x = jnp.array([[1, -1, 0.5]])

plain = FlaxModel(3, 5, 2, rngs=nnx.Rngs(0))
active = FlaxModelWithActivation(3, 5, 2, rngs=nnx.Rngs(1))
nnx.update(active, nnx.state(plain))  # the two classes have the same layers, so the weights fit

print("hidden, without activation:", plain.layer1(x))
print("hidden, with ReLU:         ", nnx.relu(active.layer1(x)))
print("output, without activation:", plain(x))
print("output, with ReLU:         ", active(x))

for layer in (plain.layer1, plain.layer2, active.layer1, active.layer2):
    layer.bias[...] = jnp.zeros_like(layer.bias[...])
# In float32 doubling and turning are exact, but sums may be taken in another order: a few roundings of 6e-8.
for name, model in (("without activation", plain), ("with ReLU", active)):
    doubled = jnp.allclose(model(2 * x), 2 * model(x), rtol=1e-5)
    turned = jnp.allclose(model(-x), -model(x), rtol=1e-5)
    print(f"{name + ':':19} f(2x) = 2 f(x) is {doubled}, f(-x) = -f(x) is {turned}")
