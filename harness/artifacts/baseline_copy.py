"""What the manifest of a saved run says of the copy: where it is from, and whether it can be
reduced again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

SAVED: Final = "saved"
"""Key of the manifest; runs as they were made have none."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A copy of a run.

    Attributes:
        source: name of the folder that it was copied from.
        reducible: whether everything that the reduction reads is in it.
        left_out: what is not, beside journals, logs and pages, with the reason.
    """

    source: str
    reducible: bool
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"from": self.source, "reducible": self.reducible, "left_out": list(self.left_out)}


def saved_of(manifest: Mapping[str, Any]) -> Saved | None:
    """What a manifest says of the copy that it is in; None in a run as it was made."""
    raw = manifest.get(SAVED)
    if not isinstance(raw, Mapping):
        return None
    left_out = raw.get("left_out")
    listed = tuple(str(one) for one in left_out) if isinstance(left_out, list) else ()
    return Saved(str(raw.get("from") or "unknown"), raw.get("reducible") is not False, listed)
