"""The lease of a run folder: one command at a time writes into it, on disks and object stores.

It is one object that names its holder, created only where there is none, and touched every few
seconds. Whoever finds one decides: a holder that died on this machine is followed at once; one that
was silent for long is watched for a while, as clocks of other machines may be wrong, and followed
if it stays silent; any other is left alone. Who follows first takes a lease on the one that was
left, named after its content, so that of many exactly one replaces it, however slow they are. A
holder that finds its lease gone stops.
"""

import _thread
import contextlib
import hashlib
import os
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from factory.core.errors import HeldError, MissingError, RunBrokenError, StoreError
from factory.core.files.edge import check_run_place
from factory.core.files.store import FileStore

BEAT = 10.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds of silence after which a holder may be dead; one that cannot beat for so long stops."""
WATCH = 25.0
"""Seconds for which a silent holder is watched before it is followed."""
SETTLE = 1.0
"""Seconds after which one who follows a silent holder looks whether that one woke up."""
_TRIES = 5


class Holder(BaseModel):
    """Who holds a lease; `machine` and `started` tell apart what has the same name or number."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: int = 1
    token: str
    command: str
    host: str
    machine: str
    pid: int
    started: str
    since: float
    beat: float

    def describe(self) -> str:
        """Names command, process, machine and times."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        silent = max(0.0, time.time() - self.beat)
        return (
            f"factory {self.command}, process {self.pid} on {self.host}, since {since}, last sign "
            f"of life {silent:.0f} s ago"
        )

    def is_dead(self) -> bool:
        """Whether it is known to have died: a process of this machine that is no more."""
        return self.machine == identify_machine() and not is_alive(self.pid, self.started)

    def is_silent(self) -> bool:
        """Whether its last sign of life is too far from now, on either side."""
        return abs(time.time() - self.beat) > STALE


class Lease:
    """A held lease; a thread gives signs of life."""

    def __init__(self, files: FileStore, name: str, command: str) -> None:
        now = time.time()
        self.files, self.name = files, name
        self.holder = Holder(
            token=secrets.token_hex(16),
            command=command,
            host=socket.gethostname(),
            machine=identify_machine(),
            pid=os.getpid(),
            started=read_start(os.getpid()),
            since=now,
            beat=now,
        )
        self.lost = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._interrupts = threading.current_thread() is threading.main_thread()

    def acquire(self, say: Callable[[str], None]) -> None:
        """Takes the lease.

        Raises:
            HeldError: somebody has it.
            StoreError: storage failed.
        """
        self._acquire(self.name, say)
        self._thread.start()

    def check(self) -> None:
        """Looks whether the lease is still held.

        Raises:
            RunBrokenError: it is not.
            StoreError: storage failed.
        """
        if not self.lost:
            self._look()
        if self.lost:
            raise RunBrokenError(self.lost)

    def release(self) -> None:
        """Gives it back."""
        self._end.set()
        self._thread.join(timeout=BEAT)
        with contextlib.suppress(StoreError):  # then it is found to be that of a dead process
            if not self.lost and self._look() is not None:
                self.files.remove(self.name)

    def _acquire(self, name: str, say: Callable[[str], None]) -> None:
        for _ in range(_TRIES):
            if self.files.create(name, self._dump()):
                return
            with contextlib.suppress(MissingError):  # just given back
                found = self.files.read(name)
                if found == self._dump():
                    return
                self._follow(name, found, say)
        raise HeldError(f"{self.files.url}: several commands want this folder: start one of them")

    def _follow(self, name: str, found: bytes, say: Callable[[str], None]) -> None:
        """Replaces what a holder that is gone left there; leaves what another put there since."""
        holder = _parse(found)
        dead = holder is not None and holder.is_dead()
        if not dead:
            self._watch(name, found, holder, say)
        right = name_right(name, found)
        self._acquire(right, say)
        try:
            if self.files.read(name) != found:
                return
            if holder is not None and name == self.name:
                who = holder.describe()
                say(f"{self.files.url}: going on after {who}, which ended in the middle")
            self.files.write(name, self._dump())
        finally:
            self.files.remove(right)
        if not dead:
            time.sleep(SETTLE)

    def _watch(
        self, name: str, found: bytes, holder: Holder | None, say: Callable[[str], None]
    ) -> None:
        if holder is not None and not holder.is_silent():
            raise self._refuse(holder)
        who = "a damaged lease" if holder is None else holder.describe()
        say(f"{self.files.url}: held by {who}: watching for {WATCH:.0f} s whether it lives")
        until = time.monotonic() + WATCH
        while time.monotonic() < until:
            time.sleep(min(1.0, WATCH / 5))
            now = self.files.read(name)
            if now != found:
                raise self._refuse(_parse(now) or holder)

    def _refuse(self, holder: Holder | None) -> HeldError:
        who = "somebody" if holder is None else holder.describe()
        return HeldError(
            f"{self.files.url}: held by {who}: nothing was touched. Wait until it ends or stop it "
            f"(one that was killed lets go at once on its own machine, elsewhere after {STALE:.0f} "
            "s), or give another folder"
        )

    def _dump(self) -> bytes:
        return self.holder.model_dump_json(indent=1).encode()

    def _look(self) -> Holder | None:
        """Returns the holder, which is this one; else notes that the lease is lost."""
        try:
            holder = _parse(self.files.read(self.name))
        except MissingError:
            holder = None
        if holder is not None and holder.token == self.holder.token:
            return holder
        who = "was removed" if holder is None else f"was taken over by {holder.describe()}"
        self.lost = (
            f"{self.files.url}: the lease of this command {who}, after it gave no sign of life: "
            "stopped, so that not two write here; what is committed is kept"
        )
        return None

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._end.wait(BEAT) and not self.lost:
            try:
                if self._look() is not None:
                    self.holder = self.holder.model_copy(update={"beat": time.time()})
                    self.files.write(self.name, self._dump())
                    last = time.monotonic()
            except StoreError as error:
                if time.monotonic() - last > STALE:
                    self.lost = f"{error}; for {STALE:.0f} s no sign of life could be given"
        if self.lost and self._interrupts and not self._end.is_set():
            _thread.interrupt_main()


@contextlib.contextmanager
def hold(files: FileStore, name: str, command: str, say: Callable[[str], None]) -> Iterator[Lease]:
    """Holds the lease of a folder; leaves no folder behind that was made for it alone.

    Raises:
        InputError: no lease is safe there; nothing was touched.
        HeldError: somebody else holds it; nothing was touched.
        RunBrokenError: it was lost.
    """
    check_run_place(files.url)
    was_there = files.is_local and Path(files.root).is_dir()
    lease = Lease(files, name, command)
    lease.acquire(say)
    try:
        yield lease
    except KeyboardInterrupt:
        if lease.lost:
            raise RunBrokenError(lease.lost) from None
        raise
    finally:
        lease.release()
        if files.is_local:
            with contextlib.suppress(OSError):  # not empty
                Path(files.resolve(name)).parent.rmdir()
                if not was_there:
                    Path(files.root).rmdir()


def name_right(name: str, left: bytes) -> str:
    """Returns the name of the lease on a lease that was left: of one length at any depth."""
    stem = name.split(".json", maxsplit=1)[0]
    return f"{stem}.json.{hashlib.sha256(name.encode() + left).hexdigest()[:16]}"


def identify_machine() -> str:
    """Returns what tells this machine, its boot and its processes' numbers from all others."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    if len(parts) == 1:
        parts.append(str(uuid.getnode()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_start(pid: int) -> str:
    """Returns when a process of this machine started, in the system's own count; "" if unknown."""
    return _read_state(pid)[1]


def is_alive(pid: int, started: str) -> bool:
    """Tells whether a process of this machine still runs: not one of its number that came later."""
    state, now = _read_state(pid)
    if state:
        return state not in "ZX" and now == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _read_state(pid: int) -> tuple[str, str]:
    """Returns state and start of a process (proc(5): fields 3 and 22 of stat), where it shows."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def _parse(data: bytes) -> Holder | None:
    try:
        return Holder.model_validate_json(data)
    except ValidationError:
        return None
