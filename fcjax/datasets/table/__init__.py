"""The user's own table: read, split, encoded as numbers, and the same encoding for new files."""

from fcjax.datasets.table.loading import load_table
from fcjax.datasets.table.preprocessing import Preprocessing
from fcjax.datasets.table.reading import read_table

__all__ = ["Preprocessing", "load_table", "read_table"]
