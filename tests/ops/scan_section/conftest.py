"""Kernels run in Triton's interpreter here: the variable is read when they are first imported, which only these do."""

import os
from importlib.util import find_spec

os.environ["TRITON_INTERPRET"] = "1"
# Triton is optional, and exists for Linux only.
collect_ignore = [] if find_spec("triton") else ["test_kernels.py", "test_custom_op.py", "test_hopper.py"]
