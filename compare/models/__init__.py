"""The references: every model of the article in PyTorch, and in float64 NumPy with a hand-written backward pass."""
