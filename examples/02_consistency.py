"""One net, three implementations: the same weights must give the same answer in PyTorch, Flax and NumPy.

    python examples/02_consistency.py        (needs PyTorch: pip install "fcjax[compare]")

Expected: the same two rows on all three legs. In float32 the largest difference is a rounding, below 1e-5 (outputs
are up to 1.5, the seventh digit counts); in float64 it is below 1e-14. Forgetting the transpose is a shape error here,
and would be a silent mistake in a square layer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from compare.models.numpy_models import DiyModel
from compare.models.torch_models import TorchModel
from fcjax.models import FlaxModel

INPUTS = [[3.1, 1.3, 1.2], [2.1, 1.3, 13]]


def flax_copy(torch_model: TorchModel) -> FlaxModel:
    """A Flax model with PyTorch's weights: ``kernel`` is ``weight`` transposed, ``bias`` is ``bias``."""
    flax_model = FlaxModel(3, 5, 2, rngs=nnx.Rngs(0))
    for name in ("layer1", "layer2"):
        theirs, ours = getattr(torch_model, name), getattr(flax_model, name)
        # jnp.array copies; after jnp.asarray both frameworks might share the memory.
        ours.kernel.set_value(jnp.array(theirs.weight.detach().numpy().T))  # (out, in) -> (in, out)
        ours.bias.set_value(jnp.array(theirs.bias.detach().numpy()))
    return flax_model


def compare_legs(torch_model: TorchModel) -> None:
    """Prints the outputs of the three legs and their largest difference, in the precision of ``torch_model``."""
    dtype = np.dtype(str(torch_model.layer1.weight.dtype).removeprefix("torch."))
    inputs = np.array(INPUTS, dtype)
    results = {
        "PyTorch": torch_model(torch.tensor(inputs)).detach().numpy(),
        "Flax": np.asarray(flax_copy(torch_model)(jnp.asarray(inputs))),
        "NumPy": DiyModel({name: t.numpy() for name, t in torch_model.state_dict().items()}).forward(inputs)[0],
    }
    print(f"--- {dtype} (NumPy always computes in float64)")
    for leg, outputs in results.items():
        print(f"{leg:8}", np.array2string(outputs, precision=12, separator=", ").replace("\n", ""))
    largest = max(np.abs(a - b).max() for a in results.values() for b in results.values())
    print(f"largest difference: {largest:.1e}")


torch.manual_seed(0)
model = TorchModel(3, 5, 2)
compare_legs(model)
with jax.enable_x64(True):  # without it JAX cuts float64 to float32
    compare_legs(model.double())
