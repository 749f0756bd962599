"""A program that trains the same tiny run by several processes, once per scenario; started by test_distributed.py.

    python several_processes.py '{"folder": "F", "processes": 2, "strategy": "pmap", "devices": 1, "own": [{}, {}]}' ...

``own`` holds what each process has for itself: settings, ``shift`` of the data, after how many segments it kills
itself (``dies_after``) or is asked to stop (``term_after``). One interpreter imports everything once; each process is
a fork of it. Prints a JSON line per scenario: exit codes and outputs.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from orbax.checkpoint import v1  # noqa: F401  (here, so that no process has to load it)

from fcjax.compilation_cache import use_compilation_cache
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.models import MLP
from fcjax.run import Run
from fcjax.trainer import TrainingInterrupted, fit

LIMIT_SECONDS = 120


def net(rngs: nnx.Rngs) -> MLP:
    model = MLP((3, 5, 1), dropout=0.2, rngs=rngs)
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model, nnx.Param)))
    return model


def signal_after(segments: int, number: signal.Signals) -> None:
    """Sends this process a signal before its next segment but ``segments``."""
    original, left = Run.segment, [segments]

    def segment(self: Run) -> bool:
        left[0] -= 1
        if left[0] == -1:
            os.kill(os.getpid(), number)
        return original(self)

    Run.segment = segment  # type: ignore[method-assign]


def train(task: dict[str, Any], number: int, port: int) -> int:
    """One process; returns its exit code."""
    jax.config.update("jax_num_cpu_devices", task["devices"])
    jax.config.update("jax_enable_x64", True)
    use_compilation_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config = TrainConfig(
        epochs=10,
        batch_size=4,
        strategy=task["strategy"],
        learning_rate=1e-2,
        checkpoint_seconds=1e9,
        checkpoint_every=2,
    )
    config = replace(config, run_dir=Path(task["folder"]))
    if task["processes"] > 1:
        meeting = {"coordinator": f"127.0.0.1:{port}", "num_processes": task["processes"], "process_id": number}
        config = replace(config, **meeting)
    own = dict(task.get("own", [{}] * task["processes"])[number])
    rng = np.random.default_rng(1)
    x = rng.normal(size=(25, 3)).astype(np.float32) + np.float32(own.pop("shift", 0))
    split = Split(x[:18], x[:18, :1]), Split(x[18:], x[18:, :1])
    if segments := own.pop("dies_after", None):
        signal_after(segments, signal.SIGKILL)
    if segments := own.pop("term_after", None):
        signal_after(segments, signal.SIGTERM)
    try:
        fit(net, Dataset("line", "regression", *split), replace(config, **task.get("all", {}), **own))
    except UsageError as error:
        print(f"UsageError: {error}")
        return 2
    except TrainingInterrupted as stop:
        print(f"TrainingInterrupted: {stop}")
        return 128 + stop.signum
    return 0


def fork(task: dict[str, Any], number: int, port: int, log: Path) -> int:
    """Starts a process whose output goes to ``log``; returns its id."""
    child = os.fork()
    if child:
        return child
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        code = train(task, number, port)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.exit(code)  # not os._exit: the processes take leave of each other


def wait(child: int, until: float) -> int:
    """Its exit code, minus the signal's number if one ended it; killed where it takes too long."""
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 999


def scenario(task: dict[str, Any]) -> dict[str, Any]:
    """Runs all processes of ``task`` to their end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = Path(task["folder"])
    logs = [base.with_name(f"{base.name}-{task.get('name', '')}-{number}.log") for number in range(task["processes"])]
    children = [fork(task, number, port, log) for number, log in enumerate(logs)]
    until = time.monotonic() + LIMIT_SECONDS
    codes = [wait(child, until) for child in children]
    return {"codes": codes, "outputs": [log.read_text() for log in logs]}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=r".*os\.fork\(\)")
    for given in sys.argv[1:]:
        print(json.dumps(scenario(json.loads(given))), flush=True)
