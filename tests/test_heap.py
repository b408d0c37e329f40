import platform
import subprocess
import sys

import pytest

SCATTERED = """
from pathlib import Path
from rs_pipeline.heap import give_back_free_memory, share_one_heap

def resident_mb():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1000

share_one_heap()
large, small = [], []
for _ in range(2000):
    large.append(bytearray(100_000))
    small.append(bytearray(1000))
before = resident_mb()
large.clear()
give_back_free_memory()
print(before - resident_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own doing")
def test_memory_that_is_free_between_what_is_kept_goes_back_to_the_system():
    given_back_mb = float(subprocess.run([sys.executable, "-c", SCATTERED], check=True, capture_output=True, text=True).stdout)
    assert given_back_mb > 150
