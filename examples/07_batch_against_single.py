"""Why batches: the time per sample of 784-512-256-10, by the number of samples per call.

    python examples/07_batch_against_single.py

Expected: the same outputs whatever the batch, and far less time per sample in large ones. The last column is the
speed against single samples: on two CPU cores about 6x for a batch of 32 and 10x for one of 1024; a GPU gains more.
"""

import time

import jax
import numpy as np
from flax import nnx

from fcjax.models import MNISTClassifier

BATCHES = (1, 2, 8, 32, 128, 512, 1024)
SAMPLES = 1024

model = MNISTClassifier(rngs=nnx.Rngs(0))
model.eval()
graphdef, state = nnx.split(model)
images = np.random.default_rng(0).random((SAMPLES, 784), np.float32)


@jax.jit
def predict(state: nnx.State, batch: jax.Array) -> jax.Array:
    """``(batch, 784) -> (batch, 10)``."""
    return nnx.merge(graphdef, state)(batch)


def measure(batch: int) -> tuple[float, np.ndarray]:
    """Seconds for all samples in calls of ``batch`` each, the best of three, and the outputs."""
    parts = jax.device_put(np.split(images, SAMPLES // batch))  # the data is on the device before the clock starts
    jax.block_until_ready(predict(state, parts[0]))  # compiling is not part of the time
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        outputs = jax.block_until_ready([predict(state, part) for part in parts])
        seconds.append(time.perf_counter() - start)
    return min(seconds), np.concatenate(outputs)


print(f"{jax.devices()[0].platform}, {SAMPLES} samples")
print(f"{'batch':>6} {'us/sample':>10} {'samples/s':>12} {'ratio':>7} {'difference':>11}")
single, reference = measure(1)
for batch in BATCHES:
    seconds, outputs = (single, reference) if batch == 1 else measure(batch)
    difference = np.abs(outputs - reference).max()
    columns = f"{batch:6} {seconds / SAMPLES * 1e6:10.2f} {SAMPLES / seconds:12,.0f}"
    print(f"{columns} {single / seconds:6.1f}x {difference:11.1e}")
