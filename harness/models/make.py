"""Builds one built-in model and prints its folder: `python -m harness.models.make NAME`.

A process of its own, so that the supervisor never imports torch.
"""

import os
import sys

from harness.core.errors import HarnessError
from harness.models import cache, smollm2, tiny

MAKERS = {"tiny": (tiny.name, tiny.build), "smollm2-135m": (smollm2.name, smollm2.build)}


def main(argv: list[str]) -> int:
    """Build the model named by the only argument; the exit status."""
    if len(argv) != 1 or argv[0] not in MAKERS:
        sys.stderr.write(f"usage: python -m harness.models.make {'|'.join(MAKERS)}\n")
        return 2
    # Nothing here may contact a model hub.
    os.environ["HF_HUB_OFFLINE"] = "1"
    name, build = MAKERS[argv[0]]
    try:
        sys.stdout.write(f"{cache.make_once(name(), build)}\n")
    except HarnessError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
