"""Runs one pure function on one device or on many; the only file that knows of pmap, meshes and shard_map.

| strategy | program                | devices                                        |
|----------|------------------------|------------------------------------------------|
| pmap     | ``pmap(f)``            | all, of all processes (default)                |
| jit      | ``jit(f)``             | one                                            |
| shard    | ``jit(shard_map(f))``  | a mesh of all, of all processes                |

The function has the form ``f(state, *shared, *own, device) -> result``. State, shared arguments and results are the
same on every device and have no leading device axis; ``own`` and ``device`` differ from device to device.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from fcjax.config import STRATEGIES, UsageError

__all__ = ["AXIS", "Parallel", "choose_devices", "make_parallel"]

AXIS = "devices"


@dataclass(frozen=True)
class Parallel:
    """A strategy and the devices it runs on."""

    strategy: str
    devices: tuple[jax.Device, ...]

    @property
    def axis_name(self) -> str | None:
        """What ``psum`` sums over; None where there is one device and nothing to sum."""
        return AXIS if len(self.devices) > 1 else None

    @property
    def sharding(self) -> Sharding:
        """A full copy on every device."""
        if self.strategy == "jit":
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """A copy of every array on every device."""
        if jax.process_count() > 1:
            return jax.tree.map(self._share, tree)
        # Copied first: device_put may reuse the source's memory, and donating the result would then delete the source.
        return jax.device_put(jax.tree.map(partial(jnp.array, copy=True), tree), self.sharding)

    def _share(self, leaf: Any) -> jax.Array:
        """The same array in every process, of which each places its own devices' copies."""
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(self._share(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        host = np.array(leaf, copy=True)
        return jax.make_array_from_callback(host.shape, self.sharding, lambda index: host[index])

    def share(self, tree: Any) -> Any:
        """Every NumPy array of ``tree`` on every device, straight from the host; not to be donated."""

        def place(source: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(source.shape, self.sharding, lambda index: source[index])

        return jax.tree.map(place, tree)

    def spread(self, shape: tuple[int, ...], dtype: Any, part: Callable[[int], np.ndarray]) -> jax.Array:
        """An array of ``shape`` ``(devices, ...)`` of which each device holds its own entry.

        Args:
            shape, dtype: of the whole.
            part: gives the entry of a device; asked for the devices of this process alone.
        """

        def entry(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            return np.asarray(part(index[0].start or 0), dtype)[None]

        return jax.make_array_from_callback(shape, self._spread, entry)

    def example(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        """Stands for what ``spread`` gives, in ``compile``."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._spread)

    def on_the_host(self) -> AbstractContextManager[Any]:
        """JAX's computations inside it run on the CPU and leave the devices alone."""
        try:
            return jax.default_device(jax.local_devices(backend="cpu")[0])
        except RuntimeError:  # JAX was told to leave the CPU out
            return nullcontext()

    @property
    def device_memory(self) -> int:
        """Bytes that every device of this process has at least; 0 where they don't say."""
        own = [device for device in self.devices if device.process_index == jax.process_index()]
        return min((device.memory_stats() or {}).get("bytes_limit", 0) for device in own)

    def compile(
        self,
        function: Callable[..., Any],
        state: Any,
        *shared: Any,
        own: tuple[Any, ...] = (),
        own_per_replica: bool = False,
        replicas: int = 1,
        donate: bool = False,
    ) -> tuple[Callable[..., Any], float]:
        """Compiles ``function(state, *shared, *own, device)`` ahead of its first call.

        Args:
            function: the same on every device; reduces over ``axis_name`` itself.
            state: an example, placed by ``replicate``.
            shared: further arguments, placed by ``replicate`` or ``share``.
            own: arguments placed by ``spread``, or examples of them; the function sees one device's entry.
            own_per_replica: whether each entry of ``own`` in its turn has an entry for each replica.
            replicas: with more than one, every leaf of the state has a leading replica axis, and so have the results.
            donate: the call may overwrite its ``state``, which saves a copy; the caller must not use it afterwards.

        Returns:
            The compiled ``(state, *shared, *own) -> result``, and the seconds that compiling took.
        """
        started = time.perf_counter()
        numbers = np.arange(len(self.devices), dtype=np.int32)
        # Every process fills in its own part; pmap, too, takes arrays over all processes once it is compiled.
        index = jax.make_array_from_callback(numbers.shape, self._spread, lambda part: numbers[part])
        if replicas > 1:
            own_axes = (0 if own_per_replica else None,) * len(own)
            function = jax.vmap(function, in_axes=(0, *(None,) * len(shared), *own_axes, None))
        program = self._program(function, len(shared), len(own) + 1, (0,) if donate else ())
        # On a GPU sums are otherwise added in any order: a resumed run could not end bit for bit like another.
        options: dict[str, Any] = {"xla_gpu_deterministic_ops": True} if self.devices[0].platform == "gpu" else {}
        compiled = program.lower(state, *shared, *own, index).compile(options)
        return lambda state, *rest: compiled(state, *rest, index), time.perf_counter() - started

    @property
    def _spread(self) -> Sharding:
        """One entry per device, along the first axis."""
        if self.strategy == "jit":
            return self.sharding
        return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec(AXIS))

    def _program(self, function: Callable[..., Any], shared: int, own: int, donated: tuple[int, ...]) -> Any:
        if self.strategy == "pmap":
            axes = (None,) * (1 + shared) + (0,) * own
            # out_axes=None takes one device's result on trust; the tests compare the shards bit by bit.
            return jax.pmap(function, AXIS, in_axes=axes, out_axes=None, devices=self.devices, donate_argnums=donated)
        whole, split = PartitionSpec(), PartitionSpec(AXIS)

        def own_entry(*arguments: Any) -> Any:
            entries = jax.tree.map(lambda x: x.reshape(x.shape[1:]), arguments[-own:])  # (1, ...) -> (...)
            return function(*arguments[:-own], *entries)

        if self.strategy == "jit":
            return jax.jit(own_entry, donate_argnums=donated)
        mapped = jax.shard_map(
            own_entry,
            mesh=Mesh(np.array(self.devices), (AXIS,)),
            in_specs=(whole,) * (1 + shared) + (split,) * own,
            out_specs=whole,
            # With the check on, gradients arrive already summed and the step's own psum would count them again.
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=donated)


def make_parallel(strategy: str = "pmap", devices: str | int | None = None) -> Parallel:
    """The strategy called ``strategy`` on the devices that ``devices`` names (see ``choose_devices``).

    Raises:
        UsageError: an unknown strategy, devices that aren't there, or ``jit`` with more than one.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"strategy: expected one of {', '.join(STRATEGIES)}; found {strategy!r}")
    chosen = choose_devices(devices)
    if strategy == "jit":
        if jax.process_count() > 1:
            raise UsageError(f"strategy: jit runs in one process, found {jax.process_count()}; pmap and shard take all")
        if devices is not None and str(devices).isdecimal() and len(chosen) > 1:
            raise UsageError(
                f"devices: the strategy jit runs on 1 device, found {devices}; pmap and shard take several"
            )
        chosen = chosen[:1]
    return Parallel(strategy, tuple(chosen))


def choose_devices(wanted: str | int | None = None) -> Sequence[jax.Device]:
    """Devices of all processes: all of JAX's default kind (None), of a kind (``"cpu"``, ``"gpu"``), or N per process.

    Raises:
        UsageError: there are none of that kind, or not as many.
    """
    if wanted is None:
        return jax.devices()
    name = str(wanted)
    if name in ("cpu", "gpu"):
        try:
            return jax.devices(name)
        except RuntimeError:
            kinds = sorted({device.platform for device in jax.local_devices()})
            raise UsageError(f"devices: expected a {name}, found only {', '.join(kinds)}") from None
    present = jax.local_devices()
    if not name.isdecimal() or not 1 <= int(name) <= len(present):
        raise UsageError(
            f"devices: expected cpu, gpu, or a number from 1 to {len(present)} (the devices that JAX finds here), "
            f"found {name!r}"
        )
    by_process = [jax.local_devices(process_index=number) for number in range(jax.process_count())]
    return [device for devices in by_process for device in devices[: int(name)]]
