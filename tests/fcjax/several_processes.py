"""A program that trains a tiny net by several processes; used by test_distributed.py, which writes it one task a line.

    {"folder": "F", "processes": 2, "strategy": "pmap", "devices": 1, "runs": [{}, {"resume": true}]}

``runs`` are done one after the other by the same processes: settings, and for one process each ``own``, a list with
further settings, ``shift`` of the data, after how many segments it kills itself (``dies_after``) or is asked to stop
(``term_after``). One interpreter imports everything once; each process is a fork of it. Answers with a line of JSON:
how each process ended, and its output.
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

from fcjax import distributed
from fcjax.compilation_cache import use_compilation_cache
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.models import MLP
from fcjax.run import Run
from fcjax.trainer import TrainingInterrupted, fit

LIMIT_SECONDS = 240
CONFIG = TrainConfig(
    epochs=5,  # of 10 steps, the last of them uneven
    batch_size=4,
    learning_rate=1e-2,
    checkpoint_seconds=1e9,
    checkpoint_every=1,
    keep_checkpoints=2,
)


def net(rngs: nnx.Rngs) -> MLP:
    model = MLP((3, 5, 1), dropout=0.2, rngs=rngs)
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model, nnx.Param)))
    return model


def data(shift: float) -> Dataset:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(45, 3)).astype(np.float32) + np.float32(shift)
    return Dataset("line", "regression", Split(x[:38], x[:38, :1]), Split(x[38:], x[38:, :1]))


def signal_after(segments: int, number: signal.Signals) -> None:
    """Sends this process a signal before its next segment but ``segments``, once."""
    original, left = Run.segment, [segments]

    def segment(self: Run) -> bool:
        left[0] -= 1
        if left[0] == -1:
            os.kill(os.getpid(), number)
        return original(self)

    Run.segment = segment  # type: ignore[method-assign]


def train(config: TrainConfig, settings: dict[str, Any]) -> int:
    """One run of one process; returns what its exit code would be."""
    folder = settings.pop("folder", None)
    config = replace(config, run_dir=Path(folder)) if folder else config
    shift = settings.pop("shift", 0)
    for name, number in (("dies_after", signal.SIGKILL), ("term_after", signal.SIGTERM)):
        if segments := settings.pop(name, None):
            signal_after(segments, number)
    try:
        fit(net, data(shift), replace(config, **settings))
    except UsageError as error:
        print(f"UsageError: {error}", flush=True)
        return 2
    except TrainingInterrupted as stop:
        print(f"TrainingInterrupted: {stop}", flush=True)
        return 128 + stop.signum
    return 0


def work(task: dict[str, Any], number: int, port: int) -> int:
    """All runs of one process, which says how each of them ended; returns the exit code of the last."""
    jax.config.update("jax_num_cpu_devices", task["devices"])
    jax.config.update("jax_enable_x64", True)
    use_compilation_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # Who waits for a dead process waits so long; where none dies, a slow machine is no reason to end the run.
    distributed.HEARTBEAT_SECONDS = task.get("heartbeat", LIMIT_SECONDS)
    config = replace(CONFIG, run_dir=Path(task["folder"]), strategy=task["strategy"])
    if task["processes"] > 1:
        meeting = {"coordinator": f"127.0.0.1:{port}", "num_processes": task["processes"], "process_id": number}
        config = replace(config, **meeting)
    codes = []
    for run in task["runs"]:
        own = run.get("own", [{}] * task["processes"])[number]
        codes.append(train(config, {name: value for name, value in run.items() if name != "own"} | own))
        print(f"-- ended with {codes[-1]}", flush=True)
    return codes[-1]


def fork(task: dict[str, Any], number: int, port: int, log: Path) -> int:
    """Starts a process whose output goes to ``log``; returns its id."""
    child = os.fork()
    if child:
        return child
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        code = work(task, number, port)
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
    with socket.socket() as held:
        # Kept for as long as the processes live, or another program might be given the same port. gRPC, too, shares
        # the ports that it listens on, and this socket doesn't listen.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        base = Path(task["folder"])
        logs = [base.with_name(f"{base.name}-{number}.log") for number in range(task["processes"])]
        children = [fork(task, number, port, log) for number, log in enumerate(logs)]
        until = time.monotonic() + LIMIT_SECONDS
        codes = [wait(child, until) for child in children]
    return {"codes": codes, "outputs": [log.read_text() for log in logs]}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=r".*os\.fork\(\)")
    for line in sys.stdin:
        print(json.dumps(scenario(json.loads(line))), flush=True)
