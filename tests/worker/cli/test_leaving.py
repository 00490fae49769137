"""The exit code is the worker's word to its supervisor: nothing that is still at work may change it."""

from __future__ import annotations

import subprocess
import sys

LEAVES = """
import sys, threading, time, torch
from tidegate_worker.__main__ import leave
def work():
    while True:
        torch.randn(1500, 1500) @ torch.randn(1500, 1500)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.5)
print("last words")
leave(75)
"""


def test_a_thread_in_native_code_does_not_turn_an_exit_into_a_crash() -> None:
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=120, check=False)
        assert (ended.returncode, ended.stdout) == (75, "last words\n"), ended.stderr[-500:]
