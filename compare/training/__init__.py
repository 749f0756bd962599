"""Training parity: two training loops run side by side in float64, step by step."""
