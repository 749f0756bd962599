"""The bank of hypotheses: edits of the torch computation, each with the mistake it stands for."""
