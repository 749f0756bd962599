"""What the caller's program has switched on, and no check may depend on."""

import contextlib
import threading
from collections.abc import Iterator

import jax
import torch

__all__ = ["own_surroundings"]

# One check at a time: torch's default dtype, and the functions that are watched, belong to the whole process.
_ALONE = threading.RLock()


@contextlib.contextmanager
def own_surroundings() -> Iterator[None]:
    """Switches as a check needs them, wherever it is called from; afterwards they are the caller's again.

    Under ``torch.no_grad()`` torch would have no gradients, autocast would round what both sides compute, tensors would
    lie on another default device than the models' copies, and ``jax.disable_jit()`` or a transfer guard would keep the
    port from running. The caller's random numbers go on as if nothing had been drawn.
    """
    with _ALONE, contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        if torch.get_default_device().type != "cpu":  # the context would slow every call of torch
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(jax.disable_jit(False))
        stack.enter_context(jax.transfer_guard("allow"))
        yield
