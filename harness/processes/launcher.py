"""Script that asks the kernel for SIGTERM when the harness dies, then executes a child's command.

`python -I -S launcher.py PARENT_PID COMMAND ARG…`: PR_SET_PDEATHSIG must be set inside the child,
and a function between fork and exec is not safe in a process with threads. It survives the exec.
SIGTERM lets the command end its own children; if it ignores that, the next start of the harness
ends it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(argv: list[str]) -> int:
    """Set the death signal, restore what Python changed, exec."""
    parent, command = int(argv[1]), argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above, so no signal will come
        return 1
    # Python ignores SIGPIPE and SIGXFSZ. Ignored signals and the thread's mask survive exec.
    for name in ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.execvp(command[0], command)  # noqa: S606 (no shell on purpose)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv))
