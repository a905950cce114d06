#!/usr/bin/python3
"""Makes a virtual machine a member of an HTCondor pool, and lets it leave at once.

Runs inside the guest: one file, standard library only, Python 3.11 or later. `init` starts it, and powers off when it
ends. What it imports is chosen with care: each module costs tens of milliseconds under software emulation.

Rules:
- It says `hello` on its serial port every second until `join` brings its instance data; then it starts HTCondor's
  startd and says `joined`. A repeated `join` is answered with `joined` again.
- On `leave` it ends HTCondor fast (SIGQUIT): jobs are killed, the schedd hears it, the ads are taken out of the
  collector. When none of its processes runs any more, it says `left`, each second until its own end.
- Nothing that came over the port is trusted: what does not look as expected is refused before it meets a file.
- The token lies in memory only (a tmpfs), readable by root; it is never logged. `renew` brings a newer one.
- After a pause the machine's clock is behind; the hardware clock is not. The clock is set forward by that.
- In a trial (the boot before an image is published) it says what its slot's ad says, as `machine`, before it leaves.

Protocol: deskgrid/wire/guest.py. JSON lines, at most 64 KiB each.
"""

import json
import os
import re
import select
import signal
import sys
import time

LINE_BYTES = 64 * 1024
HELLO_SECONDS = 1.0
QUIT_SECONDS = 5.0
"""How long a fast shutdown may take before it is ended by force."""
CLOCK_SECONDS = 5.0
TRIAL_SECONDS = 60.0
"""How long a trial waits until its startd can be asked."""

NETWORK_SECONDS = 30.0

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
TEXTS = {
    "vm_id": _NAME,
    "vm_name": _NAME,
    "desktop": _NAME,
    "collector": r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}:[0-9]{1,5}(\?sock=[A-Za-z0-9][A-Za-z0-9._-]{0,63})?",
    "token": r"[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+",
    "trust_domain": r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}",
}
NUMBERS = {"cpus": (1, 4096), "memory_mb": (64, 1 << 26), "unused_seconds": (1, 1 << 31)}
UNUSED_SECONDS = 600

CONFIGURATION = """\
# Written for one life of this machine. What the image's recipe adds is read last; nothing else is read.
LOCAL_CONFIG_DIR = /etc/deskgrid/condor.d
RELEASE_DIR = /usr
BIN = /usr/bin
SBIN = /usr/sbin
LIB = /usr/lib/condor
LIBEXEC = /usr/libexec/condor
SHARE = /usr/share/condor
ETC = /etc/condor
LOCAL_DIR = {run}
RUN = {run}
LOG = {run}/log
LOCK = {run}/lock
SPOOL = {run}/spool
EXECUTE = {execute}
DAEMON_LIST = STARTD

# Where the pool is. The guest is behind NAT: it is called through the collector (CCB). No DNS anywhere.
COLLECTOR_HOST = {collector}
CCB_ADDRESS = $(COLLECTOR_HOST)
CCB_HEARTBEAT_INTERVAL = 60
USE_SHARED_PORT = False
ENABLE_IPV6 = False
NO_DNS = True
DEFAULT_DOMAIN_NAME = deskgrid.internal
NETWORK_HOSTNAME = {vm_id}.deskgrid.internal
WANT_UDP_COMMAND_SOCKET = False

# Who may do what: tokens only, always encrypted; the schedd comes with the claim's own session.
TRUST_DOMAIN = {trust_domain}
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = IDTOKENS
SEC_CLIENT_AUTHENTICATION_METHODS = IDTOKENS
SEC_DEFAULT_ENCRYPTION = REQUIRED
SEC_DEFAULT_INTEGRITY = REQUIRED
SEC_ENABLE_MATCH_PASSWORD_AUTHENTICATION = True
SEC_TOKEN_DIRECTORY = {run}/tokens.d
SEC_TOKEN_SYSTEM_DIRECTORY = {run}/tokens.d
SEC_PASSWORD_DIRECTORY = {run}/passwords.d
# Shorter than half a token's life: with a renewed token the startd is known anew.
SEC_DEFAULT_SESSION_DURATION = 120
ALLOW_READ = *

# What it says of itself.
STARTD_NAME = {vm_id}
vm_name = "{vm_name}"
deskgrid_vm_id = "{vm_id}"
deskgrid_desktop = "{desktop}"
ClassAdLifetime = 180
STARTD_ATTRS = vm_name, deskgrid_vm_id, deskgrid_desktop, ClassAdLifetime
UPDATE_INTERVAL = 60

# One slot that jobs take their part of.
NUM_CPUS = {cpus}
MEMORY = {memory_mb}
NUM_SLOTS = 1
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = True

# Jobs that name this image, and jobs that name none.
START = isUndefined(TARGET.vm_name) || TARGET.vm_name =?= MY.vm_name
RANK = ifThenElse(TARGET.vm_name =?= MY.vm_name, 1, 0)

# Whoever must leave leaves at once; the owner of the desktop waits.
PREEMPT = False
WANT_SUSPEND = False
WANT_VACATE = False
MAXJOBRETIREMENTTIME = 0
MachineMaxVacateTime = 1
# A starter that is killed before it has told its shadow leaves the job behind: on a busy desktop it may take its time,
# as long as the owner gives it.
KILLING_TIMEOUT = 20

# Jobs run as an account of their slot, or nobody; never as a user of the pool.
UID_DOMAIN = {vm_id}.deskgrid.internal
FILESYSTEM_DOMAIN = {vm_id}.deskgrid.internal
STARTER_ALLOW_RUNAS_OWNER = False
{slot_users}
USE_PROCD = False
# Under emulation, startd and starter were seen to die by signal 11 just when they start a process: by fork it is safer
# than by clone(2), whose child lives in its parent's memory on a stack of a few KiB.
USE_CLONE_TO_CREATE_PROCESSES = False
# A job that takes more memory than it asked for is held with a sentence; its neighbours in this machine live.
BASE_CGROUP = htcondor
CGROUP_MEMORY_LIMIT_POLICY = hard
JOB_RENICE_INCREMENT = 0

# Nothing that costs a start: no benchmarks, no search for what this image does not have, no extra daemons.
RunBenchmarks = False
BENCHMARKS_JOBLIST =
STARTD_CRON_JOBLIST =
STARTD_DETECT_GPUS =
HIBERNATION_PLUGIN =
DOCKER =
SINGULARITY =
DOCKER_PERFORM_TEST = False
USE_SINGULARITY_TEST_SANDBOX = False
FILETRANSFER_PLUGINS = $(LIBEXEC)/curl_plugin
ENABLE_SSH_TO_JOB = False
ENABLE_KERNEL_TUNING = False
DISCARD_SESSION_KEYRING_ON_STARTUP = False
STARTD_SHOULD_WRITE_CLAIM_ID_FILE = False
STARTD_HISTORY =
CONSOLE_DEVICES =
"""


class CannotJoin(Exception):
    """The machine can't be a member; the message says why, for people."""


def checked(instance: object) -> dict[str, str | int]:
    """Return the instance data if every field is as expected.

    Raises:
        CannotJoin: naming the first field that is not; the token's value is never in the message.
    """
    if not isinstance(instance, dict):
        raise CannotJoin(f"instance data: got {type(instance).__name__}, expected an object")
    known: dict[str, str | int] = {}
    for key, pattern in TEXTS.items():
        text = instance.get(key)
        if not isinstance(text, str) or not re.fullmatch(pattern, text):
            shown = "something else" if key == "token" else repr(text)[:100]
            raise CannotJoin(f"instance data, {key}: got {shown}, expected text like {pattern}")
        known[key] = text
    for key, (least, most) in NUMBERS.items():
        number = instance.get(key, UNUSED_SECONDS if key == "unused_seconds" else None)
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
            raise CannotJoin(
                f"instance data, {key}: got {number!r:.100}, expected a whole number from {least} to {most}"
            )
        known[key] = number
    known["trial"] = instance.get("trial") is True
    return known


def configuration(instance: dict[str, str | int], run: str, execute: str, users: list[str]) -> str:
    """Return HTCondor's whole configuration for this machine, without the token. users: one account for each slot."""
    slot_users = "\n".join(f"SLOT1_{number}_USER = {user}" for number, user in enumerate(users, start=1))
    if users:
        slot_users += f"\nDEDICATED_EXECUTE_ACCOUNT_REGEXP = {'|'.join(users)}"
    known = {key: value for key, value in instance.items() if key != "token"}
    return CONFIGURATION.format(run=run, execute=execute, slot_users=slot_users, **known)


class Port:
    """The serial port, or any terminal: JSON lines both ways, never blocking, never failing for what the peer does."""

    def __init__(self, path: str) -> None:
        import termios

        self.handle = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""
        raw, speed = termios.CS8 | termios.CREAD | termios.CLOCAL, termios.B115200
        special: list[bytes | int] = [b"\0"] * 32
        special[termios.VMIN], special[termios.VTIME] = 1, 0
        attributes: list[int | list[bytes | int]] = [0, 0, raw, 0, speed, speed, special]
        termios.tcsetattr(self.handle, termios.TCSANOW, attributes)

    def say(self, **message: object) -> None:
        """Send one message; dropped when nobody takes it for half a second."""
        line = json.dumps(message, ensure_ascii=True).encode() + b"\n"
        until = time.monotonic() + 0.5
        while line and time.monotonic() < until:
            try:
                line = line[os.write(self.handle, line) :]
                until = time.monotonic() + 0.5
            except BlockingIOError:
                select.select([], [self.handle], [], 0.1)
            except OSError:
                return

    def heard(self) -> list[dict[str, object]]:
        """Return the messages that have come; what is no message is left out."""
        try:
            data = os.read(self.handle, LINE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:  # the other side has hung up: it may come back
            time.sleep(0.2)
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES:
            self._rest = b""
        return [message for message in map(_message, lines) if message is not None]


def _message(line: bytes) -> dict[str, object] | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


class Clock:
    """Sets the system's clock forward by what the hardware clock gained on it, as after a pause of the machine."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._ahead_seconds = self._ahead()
        self._next = 0.0

    def tend(self) -> None:
        """Look every few seconds."""
        if self._ahead_seconds is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + CLOCK_SECONDS
        ahead = self._ahead()
        gained = 0.0 if ahead is None else ahead - self._ahead_seconds
        if gained > 2.0:
            time.clock_settime(time.CLOCK_REALTIME, time.time() + gained)

    def _ahead(self) -> float | None:
        """Return by how many seconds the hardware clock is ahead; None when there is none."""
        import fcntl
        import struct

        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            raw = fcntl.ioctl(handle, 0x80247009, bytes(36))  # RTC_RD_TIME, struct rtc_time
        except OSError:
            return None
        finally:
            os.close(handle)
        second, minute, hour, day, month, year = struct.unpack_from("6i", raw)
        today = hour * 3600 + minute * 60 + second
        return float(_seconds_since_1970(year + 1900, month + 1, day) + today - time.time())


def _seconds_since_1970(year: int, month: int, day: int) -> int:
    """Return the start of a day (UTC): `calendar.timegm` without its imports."""
    year -= month <= 2
    era_day = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return (365 * year + year // 4 - year // 100 + year // 400 + era_day - 719468) * 86400


def environment(run: str, trial: bool) -> dict[str, str]:
    """Return what HTCondor's programs find around them. trial: root may ask this machine's startd, and nobody else."""
    found = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    found |= {"CONDOR_CONFIG": f"{run}/condor_config", "HOME": "/root"}
    if trial:
        found |= {f"_CONDOR_SEC_{side}_AUTHENTICATION_METHODS": "FS" for side in ("DEFAULT", "CLIENT")}
    return found


class Daemon:
    """HTCondor's startd, and the jobs below it."""

    def __init__(self, argv: list[str], run: str, trial: bool = False) -> None:
        self.run, self._log = run, f"{run}/log/StartLog"
        try:
            self.pid = os.posix_spawn(argv[0], argv, environment(run, trial), setsid=True)
        except OSError as error:
            raise CannotJoin(f"{argv[0]} could not be started: {error.strerror}") from None
        self.ended = os.pidfd_open(self.pid)
        self._kill_at = 0.0

    def quit(self) -> None:
        """End it fast; jobs are killed; the daemons say so to schedd and collector."""
        if not self._kill_at:
            self._kill_at = time.monotonic() + QUIT_SECONDS
            os.kill(self.pid, signal.SIGQUIT)

    def reread(self) -> None:
        """Let it read its configuration again, and speak to the collector anew, by the token that is there now."""
        if not self._kill_at:
            os.kill(self.pid, signal.SIGHUP)

    def tend(self) -> None:
        """End it by force when its time to quit is over."""
        if self._kill_at and time.monotonic() > self._kill_at:
            os.kill(self.pid, signal.SIGKILL)

    def busy(self) -> bool:
        """Whether a job runs: the startd has a starter."""
        try:
            with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:  # noqa: PTH123 -- pathlib is slow to load
                return file.read().strip() != ""
        except OSError:
            return False

    def result(self) -> str | None:
        """Return how it ended, for people; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"HTCondor's startd {how}: {self._last_words()}"

    def _last_words(self) -> str:
        try:
            with open(self._log, "rb") as file:  # noqa: PTH123
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return "it wrote no log"
        telling = [line for line in lines if "ERROR" in line] or lines or ["its log is empty"]
        return telling[-1][:250]


def prepare(instance: dict[str, str | int], run: str, execute: str, users: list[str]) -> None:
    """Write configuration and token below `run` (a tmpfs) and make the folders. Raises: CannotJoin."""
    owner = _account("condor")
    try:
        os.makedirs(run, 0o755, exist_ok=True)  # noqa: PTH103
        for name in ("log", "lock", "spool"):
            _folder(f"{run}/{name}", 0o755, owner)
        _folder(execute, 0o755, owner)
        for name in ("tokens.d", "passwords.d"):
            _folder(f"{run}/{name}", 0o700, None)
        _write(f"{run}/tokens.d/pool", f"{instance['token']}\n", 0o600)
        _write(f"{run}/condor_config", configuration(instance, run, execute, users), 0o644)
    except OSError as error:
        raise CannotJoin(f"HTCondor's configuration could not be written: {error}") from None


def renew(token: object, run: str) -> None:
    """Put a token in the place of the one before; one that does not look like a token changes nothing."""
    if isinstance(token, str) and re.fullmatch(TEXTS["token"], token):
        _write(f"{run}/new-token", f"{token}\n", 0o600)
        os.replace(f"{run}/new-token", f"{run}/tokens.d/pool")  # noqa: PTH105


def know_oneself(hosts: str) -> None:
    """See to it that this machine can look up its own name: HTCondor's curl_plugin crashes where it can't."""
    name = os.uname().nodename
    try:
        with open(hosts, "a+") as file:  # noqa: PTH123
            file.seek(0)
            if not any(name in line.partition("#")[0].split()[1:] for line in file):
                file.write(f"\n127.0.0.1 {name}\n")
    except OSError as error:
        print(f"deskgrid: {hosts}: {error.strerror}; jobs with addresses as input may be held", flush=True)


def _folder(path: str, mode: int, owner: tuple[int, int] | None) -> None:
    os.makedirs(path, mode, exist_ok=True)  # noqa: PTH103
    os.chmod(path, mode)  # noqa: PTH101
    if owner is not None and os.geteuid() == 0:
        os.chown(path, *owner)


def _write(path: str, text: str, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(handle, mode)
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _account(name: str) -> tuple[int, int] | None:
    import pwd

    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return found.pw_uid, found.pw_gid


def slot_users(count: int) -> list[str]:
    """Return the accounts slot1, slot2, … that this image has, at most `count`."""
    users = (f"slot{number}" for number in range(1, count + 1))
    return [user for user in users if _account(user) is not None]


def await_join(port: Port) -> dict[str, str | int] | None:
    """Say hello until the instance data come. Returns None when asked to leave before. Raises: CannotJoin."""
    next_hello = 0.0
    while True:
        now = time.monotonic()
        if now >= next_hello:
            port.say(type="hello")
            next_hello = now + HELLO_SECONDS
        select.select([port.handle], [], [], max(0.0, next_hello - now))
        for message in port.heard():
            if message.get("type") == "leave":
                return None
            if message.get("type") == "join":
                return checked(message.get("instance"))


def await_network(ready: str) -> None:
    """Wait until `init` says by a file that there is a network: HTCondor looks for it only once. Raises: CannotJoin."""
    until = time.monotonic() + NETWORK_SECONDS
    while ready and not os.path.exists(ready):  # noqa: PTH110
        if time.monotonic() > until:
            raise CannotJoin(f"no network after {NETWORK_SECONDS:.0f} s: no card eth0, or neither NAT nor DHCP answers")
        time.sleep(0.02)


def described(run: str, tool: str) -> dict[str, object]:
    """Return what the slot's ad says now, as HTCondor's own tool reads it of the startd; nothing after a while."""
    until = time.monotonic() + TRIAL_SECONDS
    while time.monotonic() < until:
        try:
            with open(f"{run}/log/.startd_address") as file:  # noqa: PTH123
                address = file.readline().strip()
            argv, output = [tool, "-direct", address, "-json"], f"{run}/slot.json"
            opened = (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.waitpid(os.posix_spawn(tool, argv, environment(run, True), file_actions=[opened]), 0)
            with open(output) as file:  # noqa: PTH123
                for slot in json.load(file):
                    return {name: value for name, value in slot.items() if isinstance(value, str | int | float)}
        except (OSError, ValueError, AttributeError):
            pass  # not yet
        time.sleep(0.5)
    return {}


def live(port: Port, daemon: Daemon, clock: Clock, unused_seconds: float, trial: str = "") -> tuple[str, str]:
    """Be a member until HTCondor has ended. trial: the tool that asks. Returns cause and sentence for `left`."""
    cause, sentence = "failed", ""
    last_used = time.monotonic()
    while True:
        select.select([port.handle, daemon.ended], [], [], 1.0)
        for message in port.heard():
            if message.get("type") == "join":
                port.say(type="joined")
            elif message.get("type") == "renew":
                renew(message.get("token"), daemon.run)
                daemon.reread()
            elif message.get("type") == "leave" and cause != "asked":
                cause, sentence = "asked", "asked to leave; the jobs have been given back"
                if trial:
                    port.say(type="machine", ad=described(daemon.run, trial))
                daemon.quit()
        result = daemon.result()
        if result is not None:
            return cause, sentence or result
        daemon.tend()
        clock.tend()
        now = time.monotonic()
        if daemon.busy():
            last_used = now
        elif cause == "failed" and now - last_used > unused_seconds:
            cause, sentence = "unused", f"no job for {now - last_used:.0f} s"
            daemon.quit()


def farewell(port: Port, cause: str, sentence: str, seconds: float) -> None:
    """Say each second, for this time, that nothing runs here any more."""
    until = time.monotonic() + seconds
    while True:
        port.say(type="left", cause=cause, sentence=sentence[:300])
        if time.monotonic() >= until:
            return
        time.sleep(min(1.0, seconds))


def modules() -> list[str]:
    """Return the source files of all modules that a life as a member loads, for compiling them beforehand."""
    import fcntl  # noqa: F401
    import pwd  # noqa: F401
    import struct  # noqa: F401
    import termios  # noqa: F401

    files = (getattr(module, "__file__", None) for name, module in sys.modules.items() if name != "__main__")
    return sorted({file for file in files if file and file.endswith(".py")})


DEFAULTS = {
    "show": "",
    "port": "/dev/ttyS1",
    "run": "/run/condor",
    "execute": "/var/lib/condor/execute",
    "startd": "/usr/sbin/condor_startd",
    "status": "/usr/bin/condor_status",
    "hosts": "/etc/hosts",
    "rtc": "/dev/rtc0",
    "network": "/run/network-is-up",
    "farewell_seconds": "20",
}


def main(argv: list[str]) -> int:
    """Live one life as a member. argv: `key=value` for what differs from DEFAULTS."""
    settings = DEFAULTS | dict(word.split("=", 1) for word in argv)
    if settings["show"] == "modules":
        print("\n".join(modules()))
        return 0
    os.umask(0o022)
    port = Port(settings["port"])
    clock = Clock(settings["rtc"])
    try:
        instance = await_join(port)
        if instance is None:
            cause, sentence = "asked", "asked to leave before there was anything to do"
        else:
            prepare(instance, settings["run"], settings["execute"], slot_users(int(instance["cpus"])))
            know_oneself(settings["hosts"])
            await_network(settings["network"])
            daemon = Daemon([settings["startd"], "-f"], settings["run"], bool(instance["trial"]))
            port.say(type="joined")
            trial = settings["status"] if instance["trial"] else ""
            cause, sentence = live(port, daemon, clock, float(instance["unused_seconds"]), trial)
    except CannotJoin as fault:
        cause, sentence = "failed", str(fault)
    print(f"deskgrid: left ({cause}): {sentence}", flush=True)
    farewell(port, cause, sentence, float(settings["farewell_seconds"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
