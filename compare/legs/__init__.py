"""One leg per framework: each runs a model on a case and returns the same plain ``Run``."""
