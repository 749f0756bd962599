"""Which torch array is which Flax array, and how one becomes the other."""
