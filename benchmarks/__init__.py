"""Side-by-side timings: every figure is a ratio measured in one run."""
