"""One check per file: from the evidence to a ``CheckResult``."""
