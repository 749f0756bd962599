"""Fully connected networks in JAX/Flax, trained as fast as the hardware allows."""
