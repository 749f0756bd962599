"""Eight virtual CPU devices for every test, programs compiled in haste, repeatable examples, long files first."""

import os

# Nets here are tiny: compiling takes longer than running, and what a program computes does not depend on these.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)

# The same examples every time, however slow the machine is.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

# Files that take a worker for minutes: started first, so that no worker waits for them at the end.
_LONG = ("test_resume.py", "test_distributed.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first; ``--no-loadscope-reorder`` keeps them there."""
    items.sort(key=lambda item: item.path.name not in _LONG)
