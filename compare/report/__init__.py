"""Reports: text, JSON and the table of ports."""
