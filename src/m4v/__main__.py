"""`python -m m4v` is `m4v`; under torchrun, `torchrun --nproc-per-node N -m -- m4v ...`.

Without `--` torchrun takes `--run` and other flags for its own.
"""

import sys

from m4v.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
