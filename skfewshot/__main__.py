"""``python -m skfewshot``: the command line."""

import sys

from skfewshot.cli import main

if __name__ == "__main__":
    sys.exit(main())
