"""Random permutations without sorting: where nets are small, sorting would be most of an epoch."""

import math

import jax
import jax.numpy as jnp

from fcjax.hashing import hashed, mixed

__all__ = ["ROUNDS", "shuffled"]

# Four mix the halves of large sets; those of six samples, which have three and two values, need more (see the tests).
ROUNDS = 12


def shuffled(key: jax.Array, samples: int) -> jax.Array:
    """A random permutation of ``0 ... samples - 1``, each number found from its place alone.

    A place ``p = l b + r``, ``l < a``, ``r < b``, goes through a Feistel network, whose rounds can be undone whatever
    the hash h, so that no two places meet: ``l ← (l + h(r)) mod a``, ``r ← (r + h(l)) mod b``. With ``a = ⌈√n⌉`` and
    ``b = ⌈n / a⌉`` fewer than ``a`` of the ``a b`` places are no samples; a place that comes to one goes on from there.

    Args:
        key: a scalar key.
        samples: how many, n, below 2^31.

    Returns:
        int32 of shape ``(samples,)``.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.
    """
    rows = math.isqrt(max(samples - 1, 0)) + 1
    columns = -(-samples // rows)
    words = jax.random.key_data(key).astype(jnp.uint32)
    numbers = jnp.arange(2 * ROUNDS, dtype=jnp.uint32)
    # A key for either half of each round.
    keys = hashed(numbers + 1, words[0], words[1]).reshape(ROUNDS, 2)

    def shift(half: jax.Array, key: jax.Array) -> jax.Array:
        return mixed(mixed(half ^ key) + key)

    def once(halves: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        row, column = halves
        row = (row + shift(column, key[0]) % rows) % rows
        column = (column + shift(row, key[1]) % columns) % columns
        return (row, column), None

    def network(place: jax.Array) -> jax.Array:
        (row, column), _ = jax.lax.scan(once, (place // columns, place % columns), keys)
        return row * columns + column

    def walk(place: jax.Array) -> jax.Array:
        return jnp.where(place < samples, place, network(place))

    first = network(jnp.arange(samples, dtype=jnp.uint32))
    return jax.lax.while_loop(lambda place: jnp.any(place >= samples), walk, first).astype(jnp.int32)
