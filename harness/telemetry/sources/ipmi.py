"""The node's power by its management controller: IPMI's DCMI extension through `ipmitool`."""

import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from harness.core.clock import now_ns
from harness.core.network import is_loopback
from harness.core.records import Boundary
from harness.processes.command import Command
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What
from harness.telemetry.sources.secret import read_secret

COMMAND: Final = "ipmitool"

_INSTANT: Final = re.compile(r"^\s*Instantaneous power reading\s*:\s*(\d+)\s+Watts", re.MULTILINE)
_INACTIVE: Final = re.compile(r"Power reading state is\s*:\s*deactivated")
_SYSTEM: Final = ("/usr/", "/bin/", "/sbin/", "/opt/", "/nix/")  # where a system keeps its programs
_DEVICES: Final = (
    "/dev/ipmi0",
    "/dev/ipmi/0",
    "/dev/ipmidev/0",
)  # as ipmitool's `open` interface looks for them


class IpmiPowerSource:
    """One management controller. Its resolution is a watt at best, and what it averages over is its
    maker's choice.

    Args:
        host: controller to reach over the network (lanplus); None: this machine's own.
        port: UDP port of that controller.
        user: name for the network.
        password_env: environment variable that holds the password.
        password_file: file that holds it.
        cipher_suite: of the network session; None: asked for.
        command: the program.
        interval_s: between two readings.
        timeout_s: limit of one.
        clock: monotonic nanoseconds.
        root: where /dev is.
    """

    name = "ipmi"

    def __init__(
        self,
        *,
        host: str | None = None,
        port: int = 623,
        user: str | None = None,
        password_env: str | None = None,
        password_file: str | None = None,
        cipher_suite: int | None = None,
        command: str = COMMAND,
        interval_s: float = 2.0,
        timeout_s: float = 5.0,
        clock: Callable[[], int] = now_ns,
        root: Path = Path("/"),
    ) -> None:
        self.trouble = ReadFailures()
        self._host = host
        self._port = port
        self._user = user
        self._password_env = password_env
        self._password_file = password_file
        self._cipher_suite = cipher_suite
        self._command = command
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._root = root
        self._answers = False
        self._environment: dict[str, str] = {}
        self._running: Command | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def intervals_s(self) -> Mapping[What, float]:
        return {"power": self._interval_s} if self._answers else {}

    @property
    def _device(self) -> str:
        return self._host or "bmc"

    def probe(self) -> PowerProbe:
        program = shutil.which(self._command)
        if program is None:
            return PowerProbe(
                self.name,
                why_not=f"{self._command} is not installed (`apt-get install ipmitool`)",
                origin=self._command,
            )
        double = None
        if (
            Path(self._command).name != self._command
            or Path(program).name != COMMAND
            or not program.startswith(_SYSTEM)
        ):
            double = f"power of the node is read by {program} in place of the system's ipmitool"
        elif self._host is not None and is_loopback(self._host):
            double = f"the management controller is at {self._host}: this machine plays it"
        if (
            self._host is None
            and double is None
            and not any((self._root / path.lstrip("/")).exists() for path in _DEVICES)
        ):
            why_not = (
                "there is no management controller's device (/dev/ipmi0): no such controller, or"
                " `modprobe ipmi_devintf ipmi_si`"
            )
            return PowerProbe(self.name, why_not=why_not, origin=program)
        try:
            secret = read_secret(self._password_env, self._password_file)
        except ValueError as error:
            return PowerProbe(self.name, why_not=str(error), origin=program)
        if secret is not None:
            self._environment = {
                "IPMI_PASSWORD": secret
            }  # not on the command line, where every user sees it
        try:
            self._read_w()
        except ValueError as error:
            return PowerProbe(self.name, why_not=str(error), origin=program, double=double)
        self._answers = True
        return PowerProbe(
            self.name,
            (DeviceProbe(self._device, Boundary.NODE, "ipmi", None),),
            origin=program,
            double=double,
        )

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        before = self._clock()
        try:
            watts = self._read_w()
        except ValueError as error:
            if not self._closed:
                self.trouble.note(f"ipmi {self._device}: {error}")
            return ()
        return (
            PowerReading(
                (before + self._clock()) // 2, Boundary.NODE, self._device, watts, None, "ipmi"
            ),
        )

    def _read_w(self) -> float:
        """Watts.

        Raises:
            ValueError: there are none; the text says why.
        """
        argv = [self._command]
        if self._host is not None:
            argv += ["-I", "lanplus", "-H", self._host, "-p", str(self._port)]
            argv += ["-U", self._user] if self._user is not None else []
            argv += ["-C", str(self._cipher_suite)] if self._cipher_suite is not None else []
            argv += ["-E"] if self._environment else []
        argv += ["dcmi", "power", "reading"]
        with self._lock:
            if self._closed:
                raise ValueError("closed")
            try:
                self._running = command = Command(argv, env={"LC_ALL": "C", **self._environment})
            except OSError as error:
                raise ValueError(f"{self._command} cannot be started: {error.strerror}") from error
        try:
            status, out, err = command.answer(self._timeout_s)
        except TimeoutError:
            hint = (
                "; some controllers need `cipher_suite: 3`"
                if self._host is not None and self._cipher_suite is None
                else ""
            )
            raise ValueError(f"no answer within {self._timeout_s:g} s{hint}") from None
        match = _INSTANT.search(out)
        if match is None:
            said = " ".join((err or out).split())[:200]
            raise ValueError(f"no power reading: {said or f'{self._command} ended with {status}'}")
        if _INACTIVE.search(out) or not int(match[1]):
            raise ValueError(
                "the controller does not measure power (its reading is deactivated or 0)"
            )
        return float(match[1])

    def close(self) -> None:
        """End a reading that is under way."""
        with self._lock:
            self._closed = True
            if self._running is not None:
                self._running.kill()
