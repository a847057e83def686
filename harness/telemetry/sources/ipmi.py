"""Node power from its management controller: IPMI's DCMI extension through `ipmitool`."""

import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.core.network import is_loopback
from harness.core.records import Boundary
from harness.processes.command import Command
from harness.telemetry.sources.base import DeviceProbe, PolledSource, PowerProbe, PowerReading, What
from harness.telemetry.sources.secret import read_secret

COMMAND: Final = "ipmitool"

_INSTANT: Final = re.compile(r"^\s*Instantaneous power reading\s*:\s*(\d+)\s+Watts", re.MULTILINE)
_INACTIVE: Final = re.compile(r"Power reading state is\s*:\s*deactivated")
_SYSTEM: Final = ("/usr/", "/bin/", "/sbin/", "/opt/", "/nix/")  # where a system keeps its programs
# where ipmitool's `open` interface looks
_DEVICES: Final = ("/dev/ipmi0", "/dev/ipmi/0", "/dev/ipmidev/0")


@dataclass(eq=False, kw_only=True)
class IpmiPowerSource(PolledSource):
    """One management controller. Resolution is 1 W at best; averaging depends on the vendor.

    Attributes:
        host: controller on the network (lanplus, UDP `port`); None: this machine's.
        cipher_suite: of the network session; None: negotiated.
        root: where /dev is.
    """

    name = "ipmi"
    host: str | None = None
    port: int = 623
    user: str | None = None
    password_env: str | None = None
    password_file: str | None = None
    cipher_suite: int | None = None
    command: str = COMMAND
    interval_s: float = 2.0
    timeout_s: float = 5.0
    root: Path = Path("/")

    def __post_init__(self) -> None:
        self._environment: dict[str, str] = {}
        self._running: Command | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def _device(self) -> str:
        return self.host or "bmc"

    def probe(self) -> PowerProbe:
        program = shutil.which(self.command)
        if program is None:
            return PowerProbe(
                self.name,
                why_not=f"{self.command} is not installed (`apt-get install ipmitool`)",
                origin=self.command,
            )
        double = None
        if (
            Path(self.command).name != self.command
            or Path(program).name != COMMAND
            or not program.startswith(_SYSTEM)
        ):
            double = f"node power is read by {program} instead of the system's ipmitool"
        elif self.host is not None and is_loopback(self.host):
            double = f"the management controller at {self.host} is this machine itself"
        if (
            self.host is None
            and double is None
            and not any((self.root / path.lstrip("/")).exists() for path in _DEVICES)
        ):
            why_not = (
                "no management controller device (/dev/ipmi0): this machine has none, or run"
                " `modprobe ipmi_devintf ipmi_si`"
            )
            return self._missing(why_not, program)
        try:
            secret = read_secret(self.password_env, self.password_file)
        except ValueError as error:
            return self._missing(error, program)
        if secret is not None:
            # not on the command line, where every user sees it
            self._environment = {"IPMI_PASSWORD": secret}
        try:
            self._read_w()
        except ValueError as error:
            return self._missing(error, program, double)
        self._usable = True
        device = DeviceProbe(self._device, Boundary.NODE, "ipmi", None)
        return PowerProbe(self.name, (device,), origin=program, double=double)

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        before = self.clock()
        try:
            watts = self._read_w()
        except ValueError as error:
            if not self._closed:
                self.trouble.note(f"ipmi {self._device}: {error}")
            return ()
        t_ns = (before + self.clock()) // 2
        return (PowerReading(t_ns, Boundary.NODE, self._device, watts, None, "ipmi"),)

    def _read_w(self) -> float:
        """Watts.

        Raises:
            ValueError: no reading; the text is the reason.
        """
        argv = [self.command]
        if self.host is not None:
            argv += ["-I", "lanplus", "-H", self.host, "-p", str(self.port)]
            argv += ["-U", self.user] if self.user is not None else []
            argv += ["-C", str(self.cipher_suite)] if self.cipher_suite is not None else []
            argv += ["-E"] if self._environment else []
        argv += ["dcmi", "power", "reading"]
        with self._lock:
            if self._closed:
                raise ValueError("closed")
            try:
                self._running = command = Command(argv, env={"LC_ALL": "C", **self._environment})
            except OSError as error:
                raise ValueError(f"{self.command} cannot be started: {error.strerror}") from error
        try:
            status, out, err = command.answer(self.timeout_s)
        except TimeoutError:
            suite = self.host is not None and self.cipher_suite is None
            hint = "; some controllers need `cipher_suite: 3`" if suite else ""
            raise ValueError(f"no response within {self.timeout_s:g} s{hint}") from None
        match = _INSTANT.search(out)
        if match is None:
            why = " ".join((err or out).split())[:200]
            raise ValueError(f"no power reading: {why or f'{self.command} ended with {status}'}")
        if _INACTIVE.search(out) or not int(match[1]):
            raise ValueError("the controller does not measure power (reading is deactivated or 0)")
        return float(match[1])

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._running is not None:
                self._running.kill()
