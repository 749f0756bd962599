"""Reports: text, JSON, HTML and the table of ports."""
