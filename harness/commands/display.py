"""Progress of a run: `LiveView` on a terminal, `PlainView` line by line elsewhere, `QuietView` with
warnings only. With `--json` they write to stderr, since stdout is for the summary.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, TextIO

from harness.core.clock import now_ns, seconds
from harness.core.progress import TelemetryProgress, TrafficProgress
from harness.core.units import human_duration, human_number

if TYPE_CHECKING:
    from rich.panel import Panel

_PIPE_WIDTH: Final = 400


@dataclass(frozen=True, slots=True)
class Progress:
    """State of the load.

    Attributes:
        stage: name of the load stage.
        phase: `warm-up`, `window`, `draining` or `sessions`.
        elapsed_s: time since the stage's start.
        total_s: planned warm-up and window; None if the stage ends with its sessions.
        run_left_s: minimum time left of the whole run.
        output_tok_s: rate over the last seconds; None if not yet available.
        traffic: latest state of the load generator.
        telemetry: latest state of servers and GPUs.
    """

    stage: str
    phase: str
    elapsed_s: float
    total_s: float | None
    run_left_s: float
    output_tok_s: float | None
    traffic: TrafficProgress
    telemetry: TelemetryProgress


class View(Protocol):
    """Receives the progress of a run."""

    def phase(self, name: str, detail: str = "", left_s: float | None = None) -> None:
        """A new phase begins; `left_s`: minimum time left of the whole run."""

    def note(self, text: str) -> None:
        """An informational line."""

    def warn(self, text: str) -> None:
        """A warning, shown even with `--quiet`."""

    def progress(self, progress: Progress) -> None:
        """State of the load, about four times a second."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class QuietView:
    """Warnings only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def phase(self, name: str, detail: str = "", left_s: float | None = None) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=self._stream, flush=True)

    def progress(self, progress: Progress) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def _run_left(left_s: float) -> str:
    return f"run: at least {human_duration(left_s)} left"


def progress_line(progress: Progress) -> str:
    """One line for a log."""
    traffic, telemetry = progress.traffic, progress.telemetry
    left = None if progress.total_s is None else max(0.0, progress.total_s - progress.elapsed_s)
    parts = [f"{progress.stage} {progress.phase} {human_duration(progress.elapsed_s)}"]
    if left is not None:
        parts.append(f"{human_duration(left)} left")
    if progress.run_left_s > (left or 0.0):
        parts.append(_run_left(progress.run_left_s))
    if traffic.in_flight is not None:
        parts.append(f"in flight {traffic.in_flight}")
    if progress.output_tok_s is not None:
        parts.append(f"{human_number(progress.output_tok_s)} tok/s")
    if traffic.ttft_p50_s is not None:
        parts.append(
            f"TTFT p50 {human_duration(traffic.ttft_p50_s)} p99"
            f" {human_duration(traffic.ttft_p99_s or traffic.ttft_p50_s)}"
        )
    if traffic.ok is not None:
        parts.append(f"ok {traffic.ok}")
    if traffic.failed:
        parts.append(f"failed {traffic.failed}")
    if traffic.dropped:
        parts.append(f"dropped {traffic.dropped}")
    if telemetry.power_w is not None:
        parts.append(f"{human_number(telemetry.power_w)} W")
    return " · ".join(parts)


class PlainView(QuietView):
    """One line per event; progress every `interval_s`."""

    def __init__(self, stream: TextIO | None = None, *, interval_s: float = 5.0) -> None:
        super().__init__(stream)
        self._interval_s = interval_s
        self._last_ns: int | None = None
        self._start_ns = now_ns()

    def _line(self, text: str) -> None:
        print(
            f"[{seconds(now_ns() - self._start_ns):7.1f} s] {text}", file=self._stream, flush=True
        )

    def phase(self, name: str, detail: str = "", left_s: float | None = None) -> None:
        left = f" ({_run_left(left_s)})" if left_s else ""
        self._line(f"{name}{': ' + detail if detail else ''}{left}")

    def note(self, text: str) -> None:
        self._line(text)

    def progress(self, progress: Progress) -> None:
        now = now_ns()
        if self._last_ns is None or seconds(now - self._last_ns) >= self._interval_s:
            self._last_ns = now
            self._line(progress_line(progress))


class LiveView(QuietView):
    """A panel redrawn in place, with phases and notes scrolling above it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=self._stream, highlight=False)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._phase = ""
        self._start_ns = now_ns()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def phase(self, name: str, detail: str = "", left_s: float | None = None) -> None:
        from rich.markup import escape

        self._phase, self._progress = name + (f" · {_run_left(left_s)}" if left_s else ""), None
        stamp = f"{seconds(now_ns() - self._start_ns):6.1f} s"
        self._console.print(
            f"[dim]{stamp}[/dim] "
            f" [bold]{escape(name)}[/bold]{'  ' + escape(detail) if detail else ''}",
            soft_wrap=True,
        )
        self._redraw()

    def note(self, text: str) -> None:
        from rich.markup import escape
        from rich.padding import Padding

        self._console.print(Padding(escape(text), (0, 0, 0, 10), expand=False))

    def warn(self, text: str) -> None:
        from rich.markup import escape

        self._console.print(f"[yellow]warning:[/yellow] {escape(text)}", soft_wrap=True)

    def progress(self, progress: Progress) -> None:
        self._progress = progress
        self._redraw()

    def _redraw(self) -> None:
        from rich.spinner import Spinner

        self._live.update(
            Spinner("dots", text=f" {self._phase}…")
            if self._progress is None
            else _panel(self._progress)
        )


def _panel(progress: Progress) -> "Panel":
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(padding=(0, 3))
    for _ in range(4):
        grid.add_column(justify="left")

    def cell(label: str, value: str, style: str = "bold") -> str:
        return f"[dim]{label}[/dim] [{style}]{value}[/{style}]"

    traffic, telemetry = progress.traffic, progress.telemetry
    failed = (
        None
        if traffic.failed is None or traffic.dropped is None
        else traffic.failed + traffic.dropped
    )
    unknown = human_number(None)
    grid.add_row(
        cell("in flight", human_number(traffic.in_flight)),
        cell("conversations", human_number(traffic.live_sessions)),
        cell("output tok/s", human_number(progress.output_tok_s)),
        cell("queued in server", human_number(telemetry.waiting)),
    )
    grid.add_row(
        cell(
            "TTFT p50",
            unknown if traffic.ttft_p50_s is None else human_duration(traffic.ttft_p50_s),
        ),
        cell(
            "TTFT p99",
            unknown if traffic.ttft_p99_s is None else human_duration(traffic.ttft_p99_s),
        ),
        cell("ok", human_number(traffic.ok)),
        cell("failed or dropped", human_number(failed), "bold red" if failed else "bold"),
    )
    grid.add_row(
        cell(
            "power",
            unknown if telemetry.power_w is None else f"{human_number(telemetry.power_w)} W",
        ),
        "",
        "",
        "",
    )
    outer = Table.grid(expand=True)
    left_s = 0.0
    if progress.total_s:
        left_s = max(0.0, progress.total_s - progress.elapsed_s)
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(
            ProgressBar(
                total=progress.total_s, completed=min(progress.elapsed_s, progress.total_s)
            ),
            f"{human_duration(left_s)} left",
        )
        outer.add_row(bar)
    if progress.run_left_s > left_s:
        outer.add_row(f"[dim]{_run_left(progress.run_left_s)}[/dim]")
    outer.add_row(grid)
    title = f"{progress.stage} · {progress.phase} · {human_duration(progress.elapsed_s)}"
    return Panel(outer, title=title, title_align="left", border_style="cyan")


def choose_view(*, quiet: bool, json_output: bool) -> View:
    """The view for this terminal; on stderr with `--json`."""
    stream = sys.stderr if json_output else sys.stdout
    if quiet:
        return QuietView()
    return LiveView(stream) if stream.isatty() else PlainView(stream)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    stream: TextIO | None = None,
    *,
    text: Sequence[int] = (),
) -> None:
    """Print a table; all columns but the first and those in `text` are right-aligned."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        left = index == 0 or index in text
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*[escape(cell) for cell in row])
    out = stream or sys.stdout
    # In a pipe or a file one row is one line, however long, for grep and the like.
    Console(file=out, highlight=False, width=None if out.isatty() else _PIPE_WIDTH).print(table)


def print_wide_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout; on a terminal that is too narrow, with rows as columns."""
    from rich.console import Console

    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    if sys.stdout.isatty() and sum(widths) + len(widths) - 1 > Console().width:
        columns, *rows = zip(columns, *rows, strict=True)
    print_table(title, columns, rows)
