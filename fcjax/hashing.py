"""Random numbers from counters: a few integer operations each, which XLA fuses with what is around them.

JAX's generator is a loop of its own, which on a CPU takes longer than a small layer. It makes the first key of a run;
inside an epoch everything random is a hash of that key and of what it is for: a step, a row, a position.
"""

import jax
import jax.numpy as jnp

__all__ = ["folded", "hashed", "mixed"]


def hashed(number: jax.Array, first: jax.Array, second: jax.Array, multiplier: int = 0x9E3779B9) -> jax.Array:
    """Random bits for ``number`` from a key of two words; for one key a bijection. All are uint32 and broadcast.

    Args:
        number: what is counted.
        first, second: the words of the key.
        multiplier: odd; another one gives other bits.
    """
    # Two rounds: with one, keys whose first words lie close together would give shifted copies of one sequence.
    return mixed(mixed(number * jnp.uint32(multiplier) + first) ^ second)


def folded(keys: jax.Array, number: jax.Array | int) -> jax.Array:
    """New keys, of the shape that ``keys`` and ``number`` broadcast to: ``jax.random.fold_in``, but cheap in a loop.

    For one key, different numbers never give the same key.
    """
    words = jax.random.key_data(keys).astype(jnp.uint32)
    first, second, *others = jnp.moveaxis(words, -1, 0)
    number = jnp.asarray(number).astype(jnp.uint32)
    first = hashed(number, first, second)
    # Depends on both words and, with the multiplier of its own, on the number in another way.
    second = hashed(number, second, first, multiplier=0x85EBCA6B)
    changed = jnp.broadcast_arrays(first, second, *others)
    return jax.random.wrap_key_data(jnp.stack(changed, axis=-1), impl=jax.random.key_impl(keys))


def mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which each bit of the result depends on every bit of ``x``.

    Source: the multipliers are those with the smallest bias that C. Wellons' search found for this form.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
    return x ^ (x >> 15)
