"""Walks the plan: starts sessions when the plan wants them, sends their turns, records every
request.

One dispatcher a worker. It owns its greenlets: Locust's users do not run requests, so nothing that
Locust does when it stops can lose one.
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic_ns
from typing import Final

import gevent
from gevent.event import Event

from harness.core.clock import NS_PER_S
from harness.core.records import Api, Outcome
from harness.plan.bodies import Conversation
from harness.plan.build import RunPlan
from harness.plan.prompt_text import Texts
from harness.plan.types import PRIME_SUFFIX, Session, Turn
from harness.traffic._locust.answer import Answer, read_answer
from harness.traffic._locust.http_client import Cancelled, Target
from harness.traffic._locust.http_client import turns as loop_turns
from harness.traffic._locust.record import Record
from harness.traffic._locust.recorder import Recorder
from harness.traffic._locust.stage import Counts, Primed, StageRun
from harness.traffic._locust.timerfd import alarm
from harness.traffic.events import StageEnded, StageMark, StagePrimed, StageStarted, WindowDone

_NEVER_NS: Final = 1 << 62
_LAST_NS: Final = 4_000_000
"""The last of a sleep is waited for by `alarm`; what comes before it by the loop's timers, which
are late by up to 2 ms but can be cut short.
"""
_DROPS_AT_ONCE: Final = 16
"""Records of what was never started, between two turns of the loop: about a millisecond."""

_log = logging.getLogger(__name__)

PREPARE_NS: Final = 100_000_000
"""A request's body is made this long before it is due, so that making it does not make it late. The
first ones of a closed loop are made as soon as the stage is known.
"""

PAUSE_AFTER_FAILURE_S: Final = 0.1
"""A closed loop's slot waits this long before the next conversation when one ended by a failure: a
server that refuses at once would otherwise be asked as fast as a core can.
"""


PRIMES_IN_FLIGHT: Final = 4
"""Priming requests that a worker has in flight. A server computes long prompts one after the other;
more of them would only wait in its queue, and push each other's prefixes out of its cache.
"""


class Dispatcher:
    """Runs stages of a plan.

    Args:
        plan: the whole plan.
        targets: endpoints, in the profile's order.
        recorder: takes every record.
        worker: index of this worker.
        workers: number of workers.
        routing: `round_robin` or `least_busy`, for new conversations.
        drain_timeout_s: longest wait after a window for its requests.
        on_record: called with every record, after the recorder has it.
    """

    def __init__(
        self,
        plan: RunPlan,
        targets: list[Target],
        recorder: Recorder,
        *,
        worker: int,
        workers: int,
        routing: str,
        drain_timeout_s: float,
        on_record: Callable[[Record], None],
    ) -> None:
        self.counts = Counts()
        self._plan = plan
        self._api = Api(plan.settings.api)
        self._targets = targets
        self._recorder = recorder
        self._worker = worker
        self._workers = workers
        self._least_busy = routing == "least_busy"
        self._drain_timeout_s = drain_timeout_s
        self._on_record = on_record
        self._texts = Texts(plan.seed, plan.tok_per_word)
        self._in_wire: set[gevent.Greenlet] = set()
        self._stage: StageRun | None = None
        self._primed: dict[int, Primed] = {}
        self.error: str | None = None
        self._wind_down = Event()
        self._stop_grace_s: float | None = None

    def is_stopped(self) -> bool:
        """Whether the run is being stopped before its plan's end."""
        return self._stop_grace_s is not None

    def warm_up(self) -> None:
        """Make the corpus and the prompts' shared heads now, not in front of the first request."""
        session = self._plan.session(0, 0)
        for target in self._targets:
            Conversation(session, self._plan.settings, target.model, self._texts).body(0)
            for one in self._plan.classes:
                head = replace(session, system=one.head.system, tools=one.head.tools)
                Conversation(head, self._plan.settings, target.model, self._texts)

    def stop(self, grace_s: float) -> None:
        """Start no new turns; requests in flight may go on for `grace_s`, then they are recorded as
        interrupted. May be called again.
        """
        self._stop_grace_s = grace_s
        if self._stage is not None:
            self._stage.closing.set()
            self._stage.progress.set()
        self._wind_down.set()

    def wind_down(self) -> None:
        """All workers' windows are done: the stage may end."""
        self._wind_down.set()
        if self._stage is not None:
            self._stage.progress.set()

    def prime(self, index: int, announce: Callable[[StageMark], None]) -> None:
        """Before a stage: send the history of the conversations that start in their middle, so that
        the servers' caches hold it.

        Returns when all have been answered. Their records carry the class with `PRIME_SUFFIX`; one
        that fails costs its conversation the cached prefix and nothing else.
        """
        plan = self._plan.stages[index]
        assert plan.concurrency is not None
        numbers = range(
            self._worker, min(plan.concurrency, plan.sessions or plan.concurrency), self._workers
        )
        left = deque(numbers)
        outcomes: list[Outcome] = []
        started_ns = monotonic_ns()

        def walk() -> None:
            while left and not self.is_stopped():
                session = self._plan.session(index, left.popleft())
                if session.primed:
                    outcomes.append(self._prime(session))

        greenlets = [gevent.spawn(walk) for _ in range(PRIMES_IN_FLIGHT)]
        for greenlet in greenlets:
            greenlet.link_exception(self._crashed)
        stopped_ns: int | None = None
        while len(gevent.joinall(greenlets, timeout=0.1)) < len(greenlets):
            if self._stop_grace_s is None:
                continue
            stopped_ns = stopped_ns or monotonic_ns()
            if monotonic_ns() >= stopped_ns + self._stop_grace_s * NS_PER_S:
                for greenlet in list(self._in_wire):
                    greenlet.kill(
                        Cancelled(Outcome.INTERRUPTED, "the run was stopped"), block=False
                    )
        failed = sum(outcome is not Outcome.OK for outcome in outcomes)
        announce(StagePrimed(plan.name, index, started_ns, monotonic_ns(), len(outcomes), failed))

    def _prime(self, session: Session) -> Outcome:
        target = self._route(session)
        target.live += 1  # until its conversation ends
        conversation = Conversation(session, self._plan.settings, target.model, self._texts)
        turn = session.turns[session.priming_turn]
        record = Record(
            session_id=session.session_id,
            turn=turn.index,
            workload_class=session.workload_class + PRIME_SUFFIX,
            stage=session.stage,
            worker=self._worker,
            intended_ns=monotonic_ns(),
            target_input_tok=turn.target_input_tok,
            target_output_tok=1,
            answer=Answer(Outcome.DROPPED),
        )
        body = conversation.priming_body()
        record.intended_ns = monotonic_ns()
        self._request(record, target, body, None)
        self._keep(record)
        self._primed[session.number] = Primed(session, target, conversation)
        return record.answer.outcome

    def run_stage(self, index: int, start_ns: int, announce: Callable[[StageMark], None]) -> None:
        """Run one stage to its end: returns when every request that it started has been
        recorded.
        """
        plan = self._plan.stages[index]
        window_start_ns = start_ns + plan.warmup_ns
        window_end_ns = None if plan.window_ns is None else window_start_ns + plan.window_ns
        stage = self._stage = StageRun(plan, start_ns, window_start_ns, window_end_ns)
        self._wind_down.clear()
        if self.is_stopped():
            stage.closing.set()
        announce(StageStarted(plan.name, index, start_ns, window_start_ns, window_end_ns))
        self._start_sources(stage)
        deadline_ns = (
            None
            if window_end_ns is None
            else window_end_ns + round(self._drain_timeout_s * NS_PER_S)
        )

        def idle() -> bool:
            return stage.open_sources == 0 and self.counts.live_sessions == 0

        self._wait(stage, lambda: idle() or stage.closing.is_set(), window_end_ns)
        if not idle() and not stage.closing.is_set():
            # The window is over; load goes on until all that was intended in it has ended, here and
            # in the other workers.
            self._wait(
                stage, lambda: idle() or stage.closing.is_set() or stage.window_is_done, deadline_ns
            )
            announce(WindowDone(plan.name, index))
            self._wait(
                stage,
                lambda: idle() or stage.closing.is_set() or self._wind_down.is_set(),
                deadline_ns,
            )
        stage.closing.set()
        self._drain(stage, idle, deadline_ns)
        end_ns = monotonic_ns()
        self._stage = None
        announce(
            StageEnded(
                plan.name,
                index,
                end_ns,
                end_ns if window_end_ns is None else min(end_ns, window_end_ns),
                turns_not_happened=stage.turns_not_happened,
                turns_cut=stage.turns_cut,
                replies_not_carried=stage.replies_not_carried,
            )
        )

    # --- ends ---

    def _wait(self, stage: StageRun, done: Callable[[], bool], until_ns: int | None) -> None:
        """Until `done` or a time, woken by `stage.progress` and `_wind_down`."""
        while not done():
            left_s = 0.1 if until_ns is None else min(0.1, (until_ns - monotonic_ns()) / NS_PER_S)
            if left_s <= 0:
                return
            stage.progress.wait(left_s)
            stage.progress.clear()

    def _drain(self, stage: StageRun, idle: Callable[[], bool], deadline_ns: int | None) -> None:
        """Let requests in flight finish, until the deadline of the stage or of the stop; then end
        them.
        """
        closed_ns = monotonic_ns()

        def limit_ns() -> int | None:
            if self._stop_grace_s is None:
                return deadline_ns
            stop_ns = closed_ns + round(self._stop_grace_s * NS_PER_S)
            return stop_ns if deadline_ns is None else min(stop_ns, deadline_ns)

        while not idle():
            limit = limit_ns()
            if limit is not None and monotonic_ns() >= limit:
                break
            self._wait(stage, idle, min(monotonic_ns() + 100_000_000, limit or _NEVER_NS))
        why = (
            "the run was stopped"
            if self.is_stopped()
            else f"drain timeout of {self._drain_timeout_s:g} s"
        )
        while not idle():
            for greenlet in list(self._in_wire):
                greenlet.kill(Cancelled(Outcome.INTERRUPTED, why), block=False)
            self._wait(stage, idle, monotonic_ns() + 20_000_000)

    # --- sources of sessions ---

    def _start_sources(self, stage: StageRun) -> None:
        if stage.plan.concurrency:
            slots = range(self._worker, stage.plan.concurrency, self._workers)
            stage.open_sources = len(slots)
            for slot in slots:
                self._spawn(self._source, stage, self._closed_loop, slot)
        else:
            stage.open_sources = 1
            self._spawn(self._source, stage, self._open_loop, 0)

    def _spawn(self, run: Callable[..., object], *args: object) -> None:
        gevent.spawn(run, *args).link_exception(self._crashed)

    def _crashed(self, greenlet: gevent.Greenlet) -> None:
        """A defect of ours (network and server cannot cause one): the run must not go on without
        the requests that it lost.
        """
        self.error = self.error or f"the dispatcher failed: {greenlet.exception!r}"
        self.stop(0)

    def _source(self, stage: StageRun, run: Callable[[StageRun, int], None], slot: int) -> None:
        try:
            run(stage, slot)
        finally:
            stage.open_sources -= 1
            stage.progress.set()

    def _closed_loop(self, stage: StageRun, slot: int) -> None:
        """One live slot: its sessions of the plan, one after the other."""
        assert stage.plan.concurrency is not None
        intended_ns = stage.start_ns
        number = slot
        prepare_ns = _NEVER_NS
        while not stage.closing.is_set() and (
            stage.plan.sessions is None or number < stage.plan.sessions
        ):
            primed = self._primed.pop(number, None)
            try:
                session = primed.session if primed else self._plan.session(stage.plan.index, number)
            except LookupError:  # a trace that has no more
                break
            if not self._live(
                stage, session, intended_ns + session.first_gap_ns, prepare_ns, primed
            ):
                stage.closing.wait(PAUSE_AFTER_FAILURE_S)
            intended_ns = monotonic_ns()
            number += stage.plan.concurrency
            prepare_ns = PREPARE_NS

    def _open_loop(self, stage: StageRun, _slot: int) -> None:
        """Starts of sessions at their times, whatever became of the others."""
        sessions: Iterator[Session] = self._plan.sessions(
            stage.plan.index, worker=self._worker, workers=self._workers
        )
        for session in sessions:
            assert session.intended_offset_ns is not None
            intended_ns = stage.walked_ns = stage.start_ns + session.intended_offset_ns
            # A little more than the session itself needs, so that it makes its body while this loop
            # walks on.
            if not self._sleep_until(stage, intended_ns - 2 * PREPARE_NS):
                self._drop_overdue(stage, itertools.chain((session,), sessions))
                return
            self._spawn(self._live, stage, session, intended_ns)
            if monotonic_ns() > intended_ns - PREPARE_NS:
                # Behind, with no sleep between two starts: without this nothing else would ever
                # run, not even what was started.
                loop_turns.wait()
        stage.walked_ns = _NEVER_NS

    def _drop_overdue(self, stage: StageRun, sessions: Iterator[Session]) -> None:
        """The stage is closing: what was due in it and was not even started is recorded as dropped.
        It comes in the plan's order.
        """
        until_ns = (
            monotonic_ns()
            if stage.window_end_ns is None
            else min(monotonic_ns(), stage.window_end_ns)
        )
        for number, session in enumerate(sessions):
            assert session.intended_offset_ns is not None
            intended_ns = stage.start_ns + session.intended_offset_ns
            if intended_ns >= until_ns or self.is_stopped():
                return
            self._never_sent(self._record(session, session.turns[0], intended_ns))
            stage.turns_not_happened += sum(later.requests for later in session.turns) - 1
            if number % _DROPS_AT_ONCE == 0:
                loop_turns.wait()

    def _sleep_until(self, stage: StageRun, t_ns: int) -> bool:
        """Sleep; False when the stage stops launching before that time."""
        while (left_ns := t_ns - monotonic_ns()) > 0:
            if left_ns <= _LAST_NS:
                alarm.wait(t_ns)
            elif stage.closing.wait((left_ns - _LAST_NS / 2) / NS_PER_S):
                return False
        return not stage.closing.is_set()

    # --- sessions ---

    def _live(
        self,
        stage: StageRun,
        session: Session,
        intended_ns: int,
        prepare_ns: int = PREPARE_NS,
        primed: Primed | None = None,
    ) -> bool:
        """One conversation with those that its tool calls start; False when a turn of its own
        failed or was dropped.
        """
        self.counts.live_sessions += 1
        try:
            return self._converse(stage, session, intended_ns, prepare_ns, primed)[0]
        finally:
            self.counts.live_sessions -= 1
            stage.progress.set()

    def _converse(
        self,
        stage: StageRun,
        session: Session,
        intended_ns: int,
        prepare_ns: int = PREPARE_NS,
        primed: Primed | None = None,
    ) -> tuple[bool, int]:
        """The turns of one conversation, its first body made `prepare_ns` before it is due: whether
        none failed or was dropped, and when the last one ended.
        """
        done = 0
        failed = False
        back_ns = intended_ns  # when the turn before and its subagents have ended
        turns = session.live_turns
        target = primed.target if primed else self._route(session)
        target.live += primed is None
        try:
            conversation = (
                primed.conversation
                if primed
                else Conversation(session, self._plan.settings, target.model, self._texts)
            )
            for turn in turns:
                ended_ns = self._turn(
                    stage,
                    session,
                    turn,
                    conversation,
                    target,
                    intended_ns,
                    PREPARE_NS if done else prepare_ns,
                )
                if ended_ns is None:
                    break
                done += 1
                if ended_ns < 0:
                    failed = True
                    break
                back_ns = self._subagents(stage, session, turn, ended_ns)
                if done < len(turns):
                    intended_ns = max(ended_ns + turns[done].gap_ns, back_ns)
                    if (offset_ns := turns[done].intended_offset_ns) is not None:
                        intended_ns = max(
                            intended_ns, stage.start_ns + offset_ns
                        )  # a replay of times waits for these as well
        finally:
            left = sum(turn.requests for turn in turns[done:])
            if failed:
                stage.turns_not_happened += (
                    left + turns[done - 1].requests - 1
                )  # with the subagents of the turn that failed
            else:
                stage.turns_cut += left
            target.live -= 1
        return not failed, monotonic_ns() if failed else back_ns

    def _subagents(self, stage: StageRun, session: Session, turn: Turn, ended_ns: int) -> int:
        """Run what a turn's tool call starts, and wait for it: when the last of it has ended, or
        the turn itself without any.

        One that fails gives its parent a result all the same, as an error: the parent goes on.
        """
        children = session.subagents(turn)
        if len(children) < 2:
            return max(
                (self._converse(stage, child, ended_ns)[1] for child in children), default=ended_ns
            )
        greenlets = [gevent.spawn(self._converse, stage, child, ended_ns) for child in children]
        for greenlet in greenlets:
            greenlet.link_exception(self._crashed)
        gevent.joinall(greenlets)
        return max(
            (greenlet.value[1] for greenlet in greenlets if greenlet.successful()), default=ended_ns
        )

    def _route(self, session: Session) -> Target:
        targets = self._targets
        first = session.number % len(targets)
        if not self._least_busy or len(targets) == 1:
            return targets[first]
        order = targets[first:] + targets[:first]  # ties go round
        return min(order, key=lambda target: target.live)

    def _turn(
        self,
        stage: StageRun,
        session: Session,
        turn: Turn,
        conversation: Conversation,
        target: Target,
        intended_ns: int,
        prepare_ns: int,
    ) -> int | None:
        """One request; when it ended, -1 if it did not end well, None if the stage stopped
        launching before it was due.
        """
        counts_for_window = stage.in_window(intended_ns)
        stage.pending_window += counts_for_window
        try:
            record = self._record(session, turn, intended_ns)
            if not self._sleep_until(stage, intended_ns - prepare_ns):
                return self._cut(record, counted=counts_for_window)
            body = conversation.body(turn.index)
            if not self._sleep_until(stage, intended_ns):
                return self._cut(record, counted=counts_for_window)
            if self.counts.in_flight >= self._share(stage.plan.max_in_flight):
                record.done_ns = monotonic_ns()
                record.answer.error = f"{stage.plan.max_in_flight} requests were in flight"
            else:
                self._request(record, target, body, turn.cancel_after_ns)
                if (
                    self._plan.settings.live
                    and record.answer.outcome is Outcome.OK
                    and turn is not session.turns[-1]
                ):
                    stage.replies_not_carried += not conversation.answered(
                        turn.index, record.answer.parts
                    )
            self._keep(record)
        finally:
            stage.pending_window -= counts_for_window
        assert record.done_ns is not None
        planned = {Outcome.OK} if turn.cancel_after_ns is None else {Outcome.OK, Outcome.CANCELLED}
        return record.done_ns if record.answer.outcome in planned else -1

    def _record(self, session: Session, turn: Turn, intended_ns: int) -> Record:
        return Record(
            session_id=session.session_id,
            turn=turn.index,
            workload_class=session.workload_class,
            stage=session.stage,
            worker=self._worker,
            intended_ns=intended_ns,
            target_input_tok=turn.target_input_tok,
            target_output_tok=turn.target_output_tok,
            answer=Answer(Outcome.DROPPED),
        )

    def _cut(self, record: Record, *, counted: bool) -> int | None:
        """The stage stopped launching before a request was sent: one of the window that was overdue
        is a dropped one.
        """
        if not counted or self.is_stopped() or monotonic_ns() < record.intended_ns:
            return None
        self._never_sent(record)
        return -1

    def _never_sent(self, record: Record) -> None:
        record.answer.error = (
            "the load generator was so far behind its schedule that this was never sent"
        )
        record.done_ns = monotonic_ns()
        self._keep(record)

    def _share(self, cap: int) -> int:
        """This worker's part of a cap over all workers."""
        return cap // self._workers + (self._worker < cap % self._workers)

    def _request(
        self, record: Record, target: Target, body: bytes, cancel_after_ns: int | None
    ) -> None:
        counts = self.counts
        counts.in_flight += 1
        greenlet = gevent.getcurrent()
        self._in_wire.add(greenlet)
        try:
            exchange = target.send(body, record.request_id, cancel_after_ns=cancel_after_ns)
        finally:
            self._in_wire.discard(greenlet)
            counts.in_flight -= 1
        record.replica, record.request_bytes = target.name, len(body)
        record.sent_ns, record.done_ns = exchange.sent_ns, exchange.done_ns
        try:
            record.answer = read_answer(
                exchange.framing,
                self._api,
                exchange.ending,
                local=exchange.local,
                error=exchange.error,
                pause=_let_others,
                keep_parts=self._plan.settings.live,
            )
        except Exception as error:  # noqa: BLE001 - a defect in reading must cost one record's detail, not the record
            _log.exception("an answer cannot be read")
            record.answer = Answer(
                Outcome.MALFORMED,
                error=f"the reader failed: {error!r}",
                http_status=exchange.framing.status,
            )

    def _keep(self, record: Record) -> None:
        counts, outcome = self.counts, record.answer.outcome
        counts.sent += record.sent_ns is not None
        if outcome is Outcome.OK:
            counts.ok += 1
        elif outcome is Outcome.DROPPED:
            counts.dropped += 1
        elif outcome is not Outcome.CANCELLED:  # the plan's own cancellations are no failures
            counts.failed += 1
        self._recorder.add(record)
        self._on_record(record)


def _let_others() -> None:
    """Let the loop serve other streams between two parts of a long answer."""
    try:
        loop_turns.wait()
    except (
        Cancelled
    ):  # thrown while the answer was on its way out of the wire: it is complete and stays so
        return
