"""HTTP/1.1 framing of one response, from the reads of a socket with their times.

httptools (llhttp) does the framing. While a stream runs, a read costs an append and a look at its
last bytes; the parser sees the reads only for the headers, and again when the message may be
complete. Afterwards `body` and `body_ends` show which read brought which byte.
"""

from dataclasses import dataclass, field
from enum import Enum

import httptools

from harness.api import response

_CHUNKED_END = b"\r\n\r\n"
MAX_HEADER_BYTES = 256 * 1024
"""More header bytes than this are not HTTP; servers limit theirs to 8-64 KiB."""
_KEPT_READS = 64


class _Mode(Enum):
    HEADERS = 1  # headers not complete yet: every read goes to the parser
    CHUNKED = 2
    LENGTH = 3
    UNTIL_EOF = 4
    COMPLETE = 5


@dataclass(slots=True, eq=False)
class Framing:
    """Collects the reads of one response.

    Attributes:
        times_ns: monotonic time of each read, taken after the bytes arrived and before they are
            examined.
        status: HTTP status once the headers are complete, else None.
        headers: lower-case name -> last value.
        body_ends: for each read that the parser has seen, the length of the body after it.
        error: why the bytes are not HTTP, or too many, else None.
        extra: bytes followed the end of the message.
        keep_alive: the connection can carry another request.
        read_times: times are those of the reads, because the kernel gives no arrival times.
    """

    reads: list[bytes] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body_ends: list[int] = field(default_factory=list)
    error: str | None = None
    extra: bool = False
    keep_alive: bool = False
    read_times: bool = False
    _mode: _Mode = _Mode.HEADERS
    _left: int = 0
    _fed: int = 0
    _bytes: int = 0
    _parts: list[bytes] = field(default_factory=list)
    _body_bytes: int = 0
    _parser: httptools.HttpResponseParser = field(init=False)

    def __post_init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)

    @property
    def complete(self) -> bool:
        return self._mode is _Mode.COMPLETE

    @property
    def body(self) -> bytes:
        """The body as far as the parser has seen it; complete after `finish`."""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0] if self._parts else b""

    def add(self, data: bytes, now_ns: int) -> bool:
        """Keep one read. True if the response is over: complete, or not HTTP (`error`)."""
        self.reads.append(data)
        self.times_ns.append(now_ns)
        self._bytes += len(data) + response.PIECE_BYTES
        if self._bytes > response.MOST_BYTES:
            self._overflow()
            return True
        mode = self._mode
        if mode is _Mode.CHUNKED:
            # The last read ends with an empty line: the last chunk, with or without extensions and
            # trailers. Content can look like one: the parser decides.
            if len(data) >= 4 and not data.endswith(_CHUNKED_END):
                return False
        elif mode is _Mode.LENGTH:
            self._left -= len(data)
            if self._left > 0:
                return False
        elif mode is _Mode.UNTIL_EOF:
            return False
        self._feed()
        if mode is _Mode.HEADERS and self._mode is _Mode.LENGTH:
            # body that came with the headers; later reads are counted without the parser
            self._left -= self._body_bytes
        return self.error is not None or self._mode is _Mode.COMPLETE

    def _overflow(self) -> None:
        """Release all but the first reads, which have the status and the first tokens."""
        for kept in (self.reads, self.times_ns, self.body_ends):
            del kept[_KEPT_READS:]
        if self._fed > _KEPT_READS:
            self._fed, self._body_bytes = _KEPT_READS, self.body_ends[-1]
            self._parts = [self.body[: self._body_bytes]]
        self._feed()
        self.error = self.error or response.too_long()

    def end_of_file(self) -> None:
        """The server closed its side, which ends a message without a length."""
        self._feed()
        if self._mode is _Mode.UNTIL_EOF:
            self._mode = _Mode.COMPLETE
            self.keep_alive = False

    def finish(self) -> None:
        """Pass the remaining reads to the parser. Never raises."""
        self._feed()

    def _feed(self) -> None:
        while self._fed < len(self.reads):
            data = self.reads[self._fed]
            self._fed += 1
            if self.complete:
                self.extra = True
                self.keep_alive = False
            elif self.error is None:
                try:
                    self._parser.feed_data(data)
                except httptools.HttpParserUpgrade:
                    self.error = "the server switched protocols"
                except httptools.HttpParserError as error:
                    self._not_http(error, data)
                if (
                    self._mode is _Mode.HEADERS
                    and self.error is None
                    and self._bytes > MAX_HEADER_BYTES + response.PIECE_BYTES * self._fed
                ):
                    self.error = f"more than {MAX_HEADER_BYTES} bytes of headers"
            self.body_ends.append(self._body_bytes)

    def _not_http(self, error: Exception, data: bytes) -> None:
        if self.complete:  # the message was; what follows it is not
            self.extra = True
            self.keep_alive = False
        else:
            self.error = f"not HTTP/1.1: {error} (the read began with {data[:40]!r})"

    # Called by httptools.

    def on_message_begin(self) -> None:
        if self._mode is _Mode.COMPLETE:
            self.extra = True
            self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._mode is _Mode.HEADERS:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        if self._mode is not _Mode.HEADERS:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # informational: the response itself follows
            self.headers.clear()
            return
        self.status = status
        self.keep_alive = bool(self._parser.should_keep_alive())
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._mode = _Mode.CHUNKED
        elif self.headers.get("content-length", "").isdigit():
            self._mode = _Mode.LENGTH
            self._left = int(self.headers["content-length"])
        else:
            self._mode = _Mode.UNTIL_EOF

    def on_body(self, data: bytes) -> None:
        if self._mode is not _Mode.COMPLETE:
            self._parts.append(data)
            self._body_bytes += len(data)

    def on_message_complete(self) -> None:
        if self.status is not None:
            self._mode = _Mode.COMPLETE
