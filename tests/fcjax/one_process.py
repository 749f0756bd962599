"""One process of a run by several; started by test_distributed.py.

python one_process.py FOLDER PORT PROCESSES NUMBER STRATEGY DEVICES '{"seed": 0}' [CHANGED DATA]
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.models import MLP
from fcjax.run import Run
from fcjax.trainer import fit


def net(rngs: nnx.Rngs) -> MLP:
    model = MLP((3, 5, 1), dropout=0.2, rngs=rngs)
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model, nnx.Param)))
    return model


def main() -> None:
    folder, port, processes, number, strategy, devices, changes, shift = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(25, 3)).astype(np.float32) + float(shift)
    split = Split(x[:18], x[:18, :1]), Split(x[18:], x[18:, :1])
    config = TrainConfig(epochs=10, batch_size=4, strategy=strategy, learning_rate=1e-2, run_dir=Path(folder))  # type: ignore[arg-type]
    if int(processes) > 1:
        meeting = {"coordinator": f"127.0.0.1:{port}", "num_processes": int(processes), "process_id": int(number)}
        config = replace(config, **meeting)  # type: ignore[arg-type]
    changed = json.loads(changes)
    if steps := changed.pop("dies_after", None):
        segment, left = Run.segment, [steps]

        def dying(self: Run) -> bool:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return segment(self)

        Run.segment = dying  # type: ignore[method-assign]
    try:
        fit(net, Dataset("line", "regression", *split), replace(config, **changed))
    except UsageError as error:
        print(f"UsageError: {error}", flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
