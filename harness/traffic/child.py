"""What the supervisor and its Locust processes share; plain, so that both sides can import it."""

import ctypes
import signal
import sys
from typing import Final

FDS_VARIABLE: Final = "HARNESS_TRAFFIC_FDS"
"""Environment variable with the inherited pipes of a Locust process: `<commands>,<events>`."""

PARENT_VARIABLE: Final = "HARNESS_TRAFFIC_SUPERVISOR"
"""Environment variable with the supervisor's process id."""

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when the thread that started it ends (Linux);
    elsewhere nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
