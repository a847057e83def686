"""Executes the plan: starts sessions at their scheduled times, sends their turns, records every
request.

One dispatcher per worker. It owns its greenlets: Locust's users do not run requests, so Locust's
shutdown cannot lose one.
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
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
from harness.profile.search import Condition
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
"""The end of a sleep is left to `alarm`; the rest to the loop's timers, which are up to 2 ms late
but can be interrupted.
"""
_DROPS_AT_ONCE: Final = 16
"""Records of never-started sessions between two turns of the loop: about a millisecond."""

_STOPPED: Final = "the run was stopped"

_log = logging.getLogger(__name__)

PREPARE_NS: Final = 100_000_000
"""A request's body is built this long before it is due, so that building it does not delay it. The
first bodies of a closed loop are built as soon as the stage is known.
"""

PAUSE_AFTER_FAILURE_S: Final = 0.1
"""A closed loop's slot waits this long after a failed conversation: otherwise a server that refuses
at once would be queried as fast as a core can.
"""


PRIMES_IN_FLIGHT: Final = 4
"""Per worker. A server computes long prompts one after the other; more would only wait in its
queue, and evict each other's prefixes from its cache.
"""


@dataclass(eq=False)
class Dispatcher:
    """Runs stages of a plan.

    Attributes:
        targets: endpoints, in the profile's order.
        routing: `round_robin` or `least_busy`, for new conversations.
        drain_timeout_s: maximum wait after a window for its requests.
        on_record: called with every record, after the recorder has it.
        conditions: of single requests, counted in `counts`.
    """

    plan: RunPlan
    targets: list[Target]
    recorder: Recorder
    _: KW_ONLY
    worker: int
    workers: int
    routing: str
    drain_timeout_s: float
    on_record: Callable[[Record], None]
    conditions: Sequence[Condition] = ()

    def __post_init__(self) -> None:
        self.counts = Counts()
        self.error: str | None = None
        self._api = Api(self.plan.settings.api)
        self._texts = Texts(self.plan.seed, self.plan.tok_per_word)
        self._in_wire: set[gevent.Greenlet] = set()
        self._stage: StageRun | None = None
        self._primed: dict[int, Primed] = {}
        self._wind_down = Event()
        self._stop_grace_s: float | None = None

    def is_stopped(self) -> bool:
        return self._stop_grace_s is not None

    def warm_up(self) -> None:
        """Build the corpus and the prompts' shared heads before the first request needs them."""
        session = self.plan.session(0, 0)
        for target in self.targets:
            self._conversation(session, target).body(0)
            for one in self.plan.classes:
                head = replace(session, system=one.head.system, tools=one.head.tools)
                self._conversation(head, target)

    def _conversation(self, session: Session, target: Target) -> Conversation:
        return Conversation(session, self.plan.settings, target.model, self._texts)

    def stop(self, grace_s: float) -> None:
        """Start no new turns; requests in flight may continue for `grace_s`, then they are recorded
        as interrupted. Idempotent.
        """
        self._stop_grace_s = grace_s
        if self._stage is not None:
            self._stage.closing.set()
            self._stage.progress.set()
        self._wind_down.set()

    def wind_down(self) -> None:
        self._wind_down.set()
        if self._stage is not None:
            self._stage.progress.set()

    def prime(self, index: int, announce: Callable[[StageMark], None]) -> None:
        """Before a stage: send the history of conversations that start in the middle, so that the
        servers cache it.

        Returns when all have ended. Their records have the class with `PRIME_SUFFIX`; a failed one
        costs its conversation only the cached prefix.
        """
        plan = self.plan.stages[index]
        assert plan.concurrency is not None
        count = min(plan.concurrency, plan.sessions or plan.concurrency)
        left = deque(range(self.worker, count, self.workers))
        outcomes: list[Outcome] = []
        started_ns = monotonic_ns()

        def walk() -> None:
            while left and not self.is_stopped():
                session = self.plan.session(index, left.popleft())
                if session.primed:
                    outcomes.append(self._prime(session))

        greenlets = [self._spawn(walk) for _ in range(PRIMES_IN_FLIGHT)]
        stopped_ns: int | None = None
        while len(gevent.joinall(greenlets, timeout=0.1)) < len(greenlets):
            if self._stop_grace_s is None:
                continue
            stopped_ns = stopped_ns or monotonic_ns()
            if monotonic_ns() >= stopped_ns + self._stop_grace_s * NS_PER_S:
                self._interrupt(_STOPPED)
        failed = sum(outcome is not Outcome.OK for outcome in outcomes)
        announce(StagePrimed(plan.name, index, started_ns, monotonic_ns(), len(outcomes), failed))

    def _prime(self, session: Session) -> Outcome:
        target = self._route(session)
        target.live += 1  # until its conversation ends
        conversation = self._conversation(session, target)
        body = conversation.priming_body()
        record = self._record(session, session.turns[session.priming_turn], monotonic_ns())
        record.workload_class += PRIME_SUFFIX
        record.target_output_tok = 1
        self._request(record, target, body, None)
        self._keep(record)
        self._primed[session.number] = Primed(session, target, conversation)
        return record.answer.outcome

    def run_stage(self, index: int, start_ns: int, announce: Callable[[StageMark], None]) -> None:
        plan = self.plan.stages[index]
        window_start_ns = start_ns + plan.warmup_ns
        window_end_ns = None if plan.window_ns is None else window_start_ns + plan.window_ns
        stage = self._stage = StageRun(plan, start_ns, window_start_ns, window_end_ns)
        self.counts.new_stage(len(self.conditions))
        self._wind_down.clear()
        if self.is_stopped():
            stage.closing.set()
        announce(StageStarted(plan.name, index, start_ns, window_start_ns, window_end_ns))
        self._start_sources(stage)
        end_of_window_ns = _NEVER_NS if window_end_ns is None else window_end_ns
        deadline_ns = end_of_window_ns + round(self.drain_timeout_s * NS_PER_S)

        def idle() -> bool:
            return stage.open_sources == 0 and self.counts.live_sessions == 0

        def over() -> bool:
            return idle() or stage.closing.is_set()

        self._wait(stage, over, end_of_window_ns)
        if not over():
            # The window is over; load continues until all requests scheduled in it have ended, here
            # and in the other workers.
            self._wait(stage, lambda: over() or stage.window_is_done, deadline_ns)
            announce(WindowDone(plan.name, index))
            self._wait(stage, lambda: over() or self._wind_down.is_set(), deadline_ns)
        stage.closing.set()
        self._drain(stage, idle, deadline_ns)
        end_ns = monotonic_ns()
        self._stage = None
        announce(
            StageEnded(
                plan.name,
                index,
                end_ns,
                min(end_ns, end_of_window_ns),
                turns_not_happened=stage.turns_not_happened,
                turns_cut=stage.turns_cut,
                replies_not_carried=stage.replies_not_carried,
            )
        )

    # --- ends ---

    def _wait(self, stage: StageRun, done: Callable[[], bool], until_ns: int) -> None:
        while not done() and (left_ns := until_ns - monotonic_ns()) > 0:
            stage.progress.wait(min(0.1, left_ns / NS_PER_S))
            stage.progress.clear()

    def _drain(self, stage: StageRun, idle: Callable[[], bool], deadline_ns: int) -> None:
        closed_ns = monotonic_ns()

        def limit_ns() -> int:
            if self._stop_grace_s is None:
                return deadline_ns
            return min(deadline_ns, closed_ns + round(self._stop_grace_s * NS_PER_S))

        while not idle() and (left_ns := limit_ns() - monotonic_ns()) > 0:
            self._wait(stage, idle, monotonic_ns() + min(100_000_000, left_ns))
        drained = f"drain timeout of {self.drain_timeout_s:g} s"
        why = _STOPPED if self.is_stopped() else drained
        while not idle():
            self._interrupt(why)
            self._wait(stage, idle, monotonic_ns() + 20_000_000)

    def _interrupt(self, why: str) -> None:
        for greenlet in list(self._in_wire):
            greenlet.kill(Cancelled(Outcome.INTERRUPTED, why), block=False)

    # --- sources of sessions ---

    def _start_sources(self, stage: StageRun) -> None:
        if stage.plan.concurrency:
            slots = range(self.worker, stage.plan.concurrency, self.workers)
            stage.open_sources = len(slots)
            for slot in slots:
                self._spawn(self._source, stage, self._closed_loop, slot)
        else:
            stage.open_sources = 1
            self._spawn(self._source, stage, self._open_loop, 0)

    def _spawn(self, run: Callable[..., object], *args: object) -> gevent.Greenlet:
        greenlet = gevent.spawn(run, *args)
        greenlet.link_exception(self._crashed)
        return greenlet

    def _crashed(self, greenlet: gevent.Greenlet) -> None:
        """A defect of ours (network and server cannot cause one): the run must not continue without
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
        assert stage.plan.concurrency is not None
        intended_ns = stage.start_ns
        number = slot
        prepare_ns = count = _NEVER_NS
        if stage.plan.sessions is not None:
            count = stage.plan.sessions
        while number < count and not stage.closing.is_set():
            primed = self._primed.pop(number, None)
            try:
                session = primed.session if primed else self.plan.session(stage.plan.index, number)
            except LookupError:  # the trace has no more
                break
            due_ns = intended_ns + session.first_gap_ns
            if not self._live(stage, session, due_ns, prepare_ns, primed):
                stage.closing.wait(PAUSE_AFTER_FAILURE_S)
            intended_ns = monotonic_ns()
            number += stage.plan.concurrency
            prepare_ns = PREPARE_NS

    def _open_loop(self, stage: StageRun, _slot: int) -> None:
        sessions: Iterator[Session] = self.plan.sessions(
            stage.plan.index, worker=self.worker, workers=self.workers
        )
        for session in sessions:
            assert session.intended_offset_ns is not None
            intended_ns = stage.walked_ns = stage.start_ns + session.intended_offset_ns
            # A little more than the session itself needs, so that it builds its body while this
            # loop continues.
            if not self._sleep_until(stage, intended_ns - 2 * PREPARE_NS):
                self._drop_overdue(stage, itertools.chain((session,), sessions))
                return
            self._spawn(self._live, stage, session, intended_ns)
            if monotonic_ns() > intended_ns - PREPARE_NS:
                # Behind schedule, without a sleep between two starts: nothing else would ever run,
                # not even the started sessions.
                loop_turns.wait()
        stage.walked_ns = _NEVER_NS

    def _drop_overdue(self, stage: StageRun, sessions: Iterator[Session]) -> None:
        """The stage is closing: record due sessions that were not even started as dropped. They
        come in the plan's order.
        """
        until_ns = min(monotonic_ns(), stage.window_end_ns or _NEVER_NS)
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
        """Sleep; False if the stage stops launching before that time."""
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
        """One conversation with its subagents; False if one of its own turns failed or was
        dropped.
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
        """The turns of one conversation; its first body is built `prepare_ns` before it is due.
        Returns whether none failed or was dropped, and when the last one ended.
        """
        done = 0
        failed = False
        back_ns = intended_ns  # when the turn before and its subagents have ended
        turns = session.live_turns
        target = primed.target if primed else self._route(session)
        target.live += primed is None
        try:
            conversation = primed.conversation if primed else self._conversation(session, target)
            for turn in turns:
                ahead_ns = PREPARE_NS if done else prepare_ns
                ended_ns = self._turn(
                    stage, session, turn, conversation, target, intended_ns, ahead_ns
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
                        # a replay of times also waits for these
                        intended_ns = max(intended_ns, stage.start_ns + offset_ns)
        finally:
            left = sum(turn.requests for turn in turns[done:])
            if failed:
                # with the subagents of the failed turn
                stage.turns_not_happened += left + turns[done - 1].requests - 1
            else:
                stage.turns_cut += left
            target.live -= 1
        return not failed, monotonic_ns() if failed else back_ns

    def _subagents(self, stage: StageRun, session: Session, turn: Turn, ended_ns: int) -> int:
        """Run the subagents of a turn's tool call and wait for them. Returns when the last of them
        ended, or the turn itself if it has none.

        A failed subagent still gives its parent a result, an error: the parent continues.
        """
        children = session.subagents(turn)
        if not children:
            return ended_ns
        if len(children) == 1:
            return self._converse(stage, children[0], ended_ns)[1]
        greenlets = [self._spawn(self._converse, stage, child, ended_ns) for child in children]
        gevent.joinall(greenlets)
        ends_ns = (greenlet.value[1] for greenlet in greenlets if greenlet.successful())
        return max(ends_ns, default=ended_ns)

    def _route(self, session: Session) -> Target:
        targets = self.targets
        first = session.number % len(targets)
        if self.routing != "least_busy" or len(targets) == 1:
            return targets[first]
        order = targets[first:] + targets[:first]  # ties rotate
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
        """One request. Returns when it ended, -1 if it failed, None if the stage stopped launching
        before it was due.
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
                ok, last = record.answer.outcome is Outcome.OK, turn is session.turns[-1]
                if self.plan.settings.live and ok and not last:
                    carried = conversation.answered(turn.index, record.answer.parts)
                    stage.replies_not_carried += not carried
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
            worker=self.worker,
            intended_ns=intended_ns,
            target_input_tok=turn.target_input_tok,
            target_output_tok=turn.target_output_tok,
            answer=Answer(Outcome.DROPPED),
        )

    def _cut(self, record: Record, *, counted: bool) -> int | None:
        """The stage stopped launching before a request was sent: one that was due in the window is
        dropped.
        """
        if not counted or self.is_stopped() or monotonic_ns() < record.intended_ns:
            return None
        self._never_sent(record)
        return -1

    def _never_sent(self, record: Record) -> None:
        record.answer.error = "never sent: the load generator was too far behind its schedule"
        record.done_ns = monotonic_ns()
        self._keep(record)

    def _share(self, cap: int) -> int:
        return cap // self.workers + (self.worker < cap % self.workers)

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
                keep_parts=self.plan.settings.live,
            )
        except Exception as error:  # noqa: BLE001 - a defect in reading must cost one record's detail, not the record
            _log.exception("a response cannot be read")
            why = f"the reader failed: {error!r}"
            record.answer = Answer(Outcome.MALFORMED, why, exchange.framing.status)

    def _keep(self, record: Record) -> None:
        counts, outcome = self.counts, record.answer.outcome
        counts.sent += record.sent_ns is not None
        if outcome is Outcome.OK:
            counts.ok += 1
        elif outcome is Outcome.DROPPED:
            counts.dropped += 1
        elif outcome is not Outcome.CANCELLED:  # the plan's own cancellations are not failures
            counts.failed += 1
        if self._stage is not None and self.conditions and outcome is not Outcome.CANCELLED:
            in_window = self._stage.in_window(record.intended_ns)
            counts.judge(record.met(self.conditions), in_window=in_window)
        self.recorder.add(record)
        self.on_record(record)


def _let_others() -> None:
    """Let the loop serve other streams between two parts of a long response."""
    with suppress(Cancelled):  # thrown once the response had arrived: it stays complete
        loop_turns.wait()
