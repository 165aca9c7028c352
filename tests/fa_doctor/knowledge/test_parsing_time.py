"""`fa-doctor check --level quick` has a third of a second in all: reading the tables must stay a small part of it."""

from __future__ import annotations

import subprocess
import sys

READ_ALL = """
import time
from fa_doctor.knowledge import gpus, products, stacks, variables
start = time.process_time()
gpus.architectures(), products.products(), products.product_name(0x744c, 0xc8), stacks.stacks(), variables.variables()
print(time.process_time() - start)
"""


def test_all_tables_are_read_in_a_tenth_of_a_second() -> None:
    times = [
        float(subprocess.run([sys.executable, "-c", READ_ALL], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 0.1
