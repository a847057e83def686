"""Record of a run in progress: manifest.json, events.jsonl and the view."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from harness.artifacts.events import EventLog
from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import Manifest
from harness.commands.display import View
from harness.commands.steps.prepare import Prepared, first_manifest_fields
from harness.core.clock import now_ns, take_anchor
from harness.core.errors import ArtifactError, HarnessError, InterruptedRunError
from harness.core.records import Concern, RunState, Severity


class RunRecord:
    """Written during the whole run; thread-safe. `left_s` returns the run's minimum time left from
    the start of a phase, if it is known; `labels`: the manifest's `repeat` and `sweep`.

    Attributes:
        prepared: what is run.
        run_dir: where it is recorded.
        view: receives progress.
        anchor: relates monotonic to wall time.
        events: events.jsonl.
        manifest: manifest.json.
    """

    def __init__(
        self,
        prepared: Prepared,
        run_dir: RunDir,
        view: View,
        *,
        overrides: Sequence[str],
        labels: Mapping[str, Mapping[str, Any] | None],
        left_s: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        started_ns = now_ns()
        self.prepared = prepared
        self.run_dir = run_dir
        self.view = view
        self._left_s = left_s
        self.anchor = take_anchor()
        self.events = EventLog(run_dir.events)
        fields = first_manifest_fields(prepared, self.run_id, started_ns, self.anchor, overrides)
        given = {key: dict(label) for key, label in labels.items() if label is not None}
        self.manifest = Manifest(run_dir, fields | given)

    @property
    def run_id(self) -> str:
        """Name of the run directory."""
        return self.run_dir.root.name

    def phase(
        self, name: str, detail: str = "", *, event: str | None = None, show: bool = True
    ) -> None:
        """Begin a phase.

        Args:
            name: shown in the view.
            detail: shown after the name.
            event: name in events.jsonl; default: `name`.
            show: whether to show it.
        """
        self.events.append("phase", phase=event or name)
        if show:
            self.view.phase(name, detail, self._left_s(event or name))

    def concern(self, concern: Concern) -> None:
        """Record a concern, and show a warning unless it is a note."""
        self.manifest.add_concern(concern)
        if concern.severity is not Severity.NOTE:
            self.view.warn(concern.message)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Record an exception in the manifest before it propagates.

        Raises:
            InterruptedRunError: for KeyboardInterrupt.
        """
        try:
            yield
        except HarnessError as error:
            self._fail(error)
            raise
        except KeyboardInterrupt as error:
            interrupted = InterruptedRunError(
                "interrupted before the load began",
                next_step=f"read the records in {self.run_dir.root}",
            )
            self._fail(interrupted)
            raise interrupted from error
        except BaseException as error:
            self._fail(
                HarnessError(f"{type(error).__name__}: {error}", cause="a defect in the harness")
            )
            raise

    def end(self, *, interrupted: bool) -> None:
        """Record the end of a run without failure."""
        self.manifest.update(
            state=RunState.INTERRUPTED if interrupted else RunState.COMPLETE, ended_ns=now_ns()
        )

    def _fail(self, error: HarnessError) -> None:
        state = RunState.INTERRUPTED if isinstance(error, InterruptedRunError) else RunState.FAILED
        try:
            self.manifest.update(
                state=state,
                ended_ns=now_ns(),
                error={"what": error.what, "cause": error.cause, "next_step": error.next_step},
            )
        except ArtifactError as second:
            # The disk failed: the manifest stays `running`, which readers treat as a run that did
            # not finish.
            self.view.warn(f"the manifest could not be updated: {second.what}")
