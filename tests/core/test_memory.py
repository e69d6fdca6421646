"""Peak memory of this process: an allocation shows, stays after it is freed, and is not that of the parent."""

import subprocess
import sys

import numpy as np

CODE = """
import numpy as np, torch
from m4v.core.memory import peak_memory_bytes
cpu = torch.device("cpu")
before = peak_memory_bytes(cpu)
block = np.ones(100_000_000, np.uint8)
during = peak_memory_bytes(cpu)
del block
print(before, during, peak_memory_bytes(cpu))
"""


def test_an_allocation_shows_and_stays_and_that_of_the_parent_does_not_count():
    own = np.ones(600_000_000, np.uint8)
    output = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    before, during, after = map(int, output.split())
    assert before < len(own)
    assert 90e6 < during - before < 120e6
    assert after > during - 5e6  # the system counts pages per core and adds up now and then
