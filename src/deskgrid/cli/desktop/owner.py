"""The owner's commands: what runs here and why, and to make it stop. Without administrator rights.

Exit codes: 0 done; 2 wrong words; 3 no agent runs here (`status` then shows what the last one left); 4 refused.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from deskgrid.agent.clock import local_now
from deskgrid.agent.owner.requests import account_name
from deskgrid.agent.owner.status import read_status
from deskgrid.agent.settings import AgentSettings, status_file
from deskgrid.cli.connect import Json
from deskgrid.cli.desktop.agent import Settings as SettingsOption
from deskgrid.cli.desktop.agent import meant
from deskgrid.cli.output import CommandFailed, Exit, ago, show, show_json, size, tell
from deskgrid.host.system import toml
from deskgrid.host.system.paths import SYSTEM
from deskgrid.host.system.programs import python
from deskgrid.model.desktop import VmReport, VmState
from deskgrid.model.reason import Reason
from deskgrid.model.values.text import counted
from deskgrid.session import sentences as words
from deskgrid.session.client import NoAgent, ask, places
from deskgrid.wire.local import (
    Answer,
    AskFinish,
    AskPause,
    AskResume,
    AskStatus,
    Denial,
    Granted,
    Now,
    Question,
    Status,
)

HowLong = Annotated[
    str, typer.Argument(metavar="[HOW_LONG]", help="30m, 1h, 2h30m, 1d, 18:00, today, or forever (until you resume).")
]
Why = Annotated[bool, typer.Option("--why", "--all", help="All reasons, with what was read and when each should end.")]


def sockets(settings: Path | None) -> tuple[tuple[Path, ...], Path | None]:
    """Where the agent may listen, and its state folder, if the settings can be read by this account."""
    file = meant(settings)
    try:
        chosen = toml.read(file, AgentSettings)
    except toml.BadSettings:
        if settings is not None or not file.is_relative_to(SYSTEM):
            raise
        return places(None, None), None
    return places(chosen.local, chosen.state), chosen.state


def status(settings: SettingsOption = None, why: Why = False, as_json: Json = False) -> None:
    """What runs on this computer, for whom and since when, why or why nothing does, and what it gave this month."""
    tried, state = sockets(settings)
    try:
        answer = ask(tried, AskStatus())
    except NoAgent as error:
        _left_behind(error, tried, state, why, as_json)
        return
    if isinstance(answer, Denial):
        raise CommandFailed(Exit.REFUSED, answer.sentence)
    assert isinstance(answer, Now)
    if as_json:
        show_json({"running": True, "status": answer.status, "rights": answer.rights})
        return
    _show(answer.status, why)
    if answer.status.wish is not None and not answer.rights.may_resume:
        tell(answer.rights.why_not)


def pause(how_long: HowLong = "forever", settings: SettingsOption = None) -> None:
    """Let nothing run on this computer, for a time or until `deskgrid resume`."""
    _wish(settings, AskPause, how_long)


def finish(how_long: HowLong = "forever", settings: SettingsOption = None) -> None:
    """Let nothing new start on this computer; what runs may end its work."""
    _wish(settings, AskFinish, how_long)


def resume(settings: SettingsOption = None) -> None:
    """Take back what you asked with `pause` or `finish`."""
    _wish(settings, AskResume)


def _wish(
    settings: Path | None, ask_for: type[AskPause] | type[AskFinish] | type[AskResume], how_long: str = ""
) -> None:
    """Say a wish. Times of day are those of the clock that the policy goes by, which the agent tells."""
    here = local_now()
    try:
        words.until_of(how_long or "forever", here)  # wrong words are told whether an agent runs or not
        tried = sockets(settings)[0]
        told = _ask(tried, AskStatus())
        zone = told.status.zone if isinstance(told, Now) else ""
        now = words.wall(here, zone)
        answer = _ask(tried, AskResume() if ask_for is AskResume else ask_for(words.until_of(how_long, now)))
    except words.BadDuration as error:
        raise CommandFailed(Exit.WRONG, str(error)) from None
    if isinstance(answer, Denial):
        raise CommandFailed(Exit.REFUSED, answer.sentence)
    assert isinstance(answer, Granted)
    tell(words.done_sentence(answer, account_name(os.geteuid()), now))
    if (note := words.zone_sentence(here, zone)) and answer.wish is not None and answer.wish.until is not None:
        tell(note)


def _ask(tried: tuple[Path, ...], question: Question) -> Answer:
    try:
        return ask(tried, question)
    except NoAgent as error:
        raise CommandFailed(Exit.UNREACHABLE if error.missing else Exit.REFUSED, str(error)) from None


def _left_behind(error: NoAgent, tried: tuple[Path, ...], state: Path | None, why: bool, as_json: bool) -> None:
    """What the last agent has left, in its state folder or beside its socket; the exit code says that it is gone."""
    left = _newest_left(tried, state)
    if left is None:
        raise CommandFailed(Exit.UNREACHABLE if error.missing else Exit.REFUSED, str(error))
    if as_json:
        show_json({"running": False, "status": left, "fault": str(error)})
    else:
        tell(f"{left.desktop}, as it was {ago(left.at)}:")
        _show(left, why)
    raise CommandFailed(Exit.UNREACHABLE, str(error))


def _newest_left(tried: Sequence[Path], state: Path | None) -> Status | None:
    folders = [path.parent for path in tried] + ([state] if state else [])
    known = [left for folder in folders if (left := read_status(status_file(folder))) is not None]
    return max(known, key=lambda one: one.at, default=None)


def _show(status: Status, why: bool) -> None:
    now = words.wall(local_now(), status.zone)
    what, because = words.headline(status, now)
    tell(f"{status.desktop}: {what} {because}".rstrip(), style="bold")
    if (ends := words.why_ends(status)) is not None and because:
        tell(f"That should end at {words.clock(ends, now)}.")
    if note := words.zone_sentence(local_now(), status.zone):
        tell(note)
    if status.vms:
        tell("")
        columns = ("image", "state", "since", "CPUs", "uses now", "memory", "for", "why")
        show(None, False, columns, (_row(vm, status, now) for vm in status.vms))
        tell("")
    refusals = status.availability.refusals
    if why:
        _reasons(status, now)
    elif len(refusals) > 1:
        more = len(refusals) - 1
        tell(f"{counted(more, 'more reason')}: `deskgrid status --why`")
    if status.gift is not None:
        tell(words.gift_sentence(status.gift.total()))
    if status.wall is not None and (why or status.wall.name != "seccomp"):
        tell(status.wall.sentence)
    for fault in status.faults:
        tell(f"wrong: {fault}", style="bold")
    if status.link_fault:
        tell(f"the grid cannot be reached: {status.link_fault}")


def _row(vm: VmReport, status: Status, now: datetime) -> tuple[object, ...]:
    used = status.cpu.get(vm.vm_id)
    return (
        vm.image.name,
        words.STATES[vm.state],
        words.clock(vm.since, now),
        vm.size.cpus,
        "" if used is None else f"{used:.1f}",
        size(vm.size.memory_bytes),
        words.for_whom(vm),
        "" if vm.state is VmState.RUNNING else vm.reason.sentence,
    )


def _reasons(status: Status, now: datetime) -> None:
    rows: list[Reason] = list(status.availability.refusals)
    if status.go_on is not None and status.go_on not in rows:
        rows.insert(0, status.go_on)
    if rows:
        tell("")
        show(None, False, ("why not", "what was read", "ends", "name"), (_reason(one, now) for one in rows))
        tell("")
    room = status.room
    if status.availability.available:
        tell(f"room for {counted(room.vms, 'virtual machine')}, {counted(room.cpus, 'CPU')}, {size(room.memory_bytes)}")
    if status.sources:
        tell(f"you, as seen by: {', '.join(status.sources)}")
    for fault in status.presence_faults:
        tell(f"not seen: {fault}")


def _reason(reason: Reason, now: datetime) -> tuple[object, ...]:
    ends = words.clock(reason.until, now) if reason.until else ""
    return reason.sentence, reason.reading, ends, reason.name


def page(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    show_it: Annotated[bool, typer.Option("--open", help="Open it in your browser.")] = False,
    settings: SettingsOption = None,
) -> None:
    """Show the same on a page for you alone, with buttons, until Ctrl-C."""
    from deskgrid.session.serve import Page, PageServer, browser, door

    tried, state = sockets(settings)
    told = Page(lambda question: ask(tried, question), lambda: _newest_left(tried, state), local_now)
    try:
        server = PageServer(told, port)
    except OSError as error:
        raise CommandFailed(
            Exit.NO, f"port {port} on 127.0.0.1: {error.strerror}; choose another with --port"
        ) from None
    tell(f"Your page, until Ctrl-C: {server.url}")
    file = door(server.url) if show_it else None
    try:
        if file is not None:
            _open_browser(browser(file))
        server.serve_forever()
    finally:
        server.server_close()
        if file is not None:
            file.unlink(missing_ok=True)


def _open_browser(argv: Sequence[str]) -> None:
    try:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as error:
        tell(f"{argv[0]}: {error.strerror}; open the address above yourself")


def session(
    tray: Annotated[bool, typer.Option("--tray/--no-tray", help="Show a sign in the tray, where there is one.")] = True,
    settings: SettingsOption = None,
) -> None:
    """Tell the agent when this session is in use, until the session ends. Desktops start this at login."""
    words = list(map(str, sockets(settings)[0]))
    if tray:
        asked = [] if settings is None else ["--settings", str(settings)]
        words += ["--", *python("deskgrid", ["page", "--open", *asked])]
    sys.stdout.flush()
    os.execv(sys.executable, python("deskgrid.session", words))  # noqa: S606  a small process for a long time
