"""``python -m fcjax``: the same as the command ``fcjax``."""

from fcjax.cli import main

if __name__ == "__main__":
    main()
