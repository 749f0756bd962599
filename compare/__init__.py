"""Is a PyTorch-to-Flax port right, where does it go wrong, and what is the mistake?"""
