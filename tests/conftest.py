"""Eight virtual CPU devices for every test, and programs compiled in haste; set before anything uses jax."""

import os

# Nets here are tiny: compiling takes longer than running, and what a program computes does not depend on these.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
