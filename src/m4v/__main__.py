"""`python -m m4v` is `m4v`: the form that `torchrun -m` takes."""

import sys

from m4v.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
