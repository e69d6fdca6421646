"""What every test shares: no network, one thread per process, repeatable property tests."""

import os

# Before any test imports torch, triton, numba or transformers: these are read once, at import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels are tested without a device; 0 compiles them for one

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci",
    deadline=None,  # shared machines stall
    derandomize=True,  # a red run can be repeated
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
