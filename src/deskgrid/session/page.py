"""The owner's page: what `deskgrid status` says, as one HTML file. Functions of values to text.

Rules:
- Everything that comes from outside is escaped here, where it meets HTML, and nowhere else.
- Facts and buttons work without JavaScript; a few lines only fetch the same page again.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from string import Template

import msgspec

from deskgrid.model.desktop import VmReport, VmState
from deskgrid.model.values.text import counted
from deskgrid.model.wish import Ask
from deskgrid.session import pictures
from deskgrid.session import sentences as words
from deskgrid.session.sentences import escape
from deskgrid.wire.local import Rights, Status

BUTTONS = (
    ("pause", "1h", "Pause for 1 hour"),
    ("pause", "today", "Pause for today"),
    ("pause", "forever", "Pause until I resume"),
    ("finish", "forever", "Let it finish, start nothing new"),
)


class Shown(msgspec.Struct, frozen=True):
    """What the page shows. status: None: no agent could be asked and none left anything.

    rights: None: no agent answers; `fault` says why. said: what came of the last button.
    """

    status: Status | None
    rights: Rights | None
    fault: str = ""
    said: str = ""
    said_wrong: bool = False


def render(shown: Shown, form_key: str, nonce: str, now: datetime) -> str:
    """The page.

    Args: form_key: goes into each form, so that only this page can send it. SECRET. nonce: of the page's one script.
    """
    desktop = shown.status.desktop if shown.status else "this computer"
    return _template().substitute(
        title=escape(f"deskgrid on {desktop}"), facts=facts(shown, form_key, now), nonce=escape(nonce)
    )


def facts(shown: Shown, form_key: str, now: datetime) -> str:
    """What is inside of the page."""
    parts = [_head(shown, now)]
    if shown.said:
        parts.append(f'<p class="said{" wrong" if shown.said_wrong else ""}" role="status">{escape(shown.said)}</p>')
    if shown.rights is not None and shown.status is not None:
        parts.append(_asks(shown.status, shown.rights, form_key))
    if (status := shown.status) is not None:
        parts += [_machines(status, now), _gift(status), _hours(status, now), _reasons(status, now)]
        parts.append(_foot(status, now))
    return "\n".join(part for part in parts if part)


def _head(shown: Shown, now: datetime) -> str:
    status = shown.status
    if status is None:
        return f'<h1>Nothing is known here.</h1><p class="because">{escape(shown.fault)}</p>'
    where = f'<p class="where">{escape(status.desktop)}, {escape(words.clock(status.at, now))}</p>'
    if shown.rights is None:
        return (
            f'{where}<h1>No agent runs here.</h1><p class="because">{escape(shown.fault)}</p>'
            f'<p class="ends">What follows is what was so at {escape(words.clock(status.at, now))}.</p>'
        )
    what, because = words.headline(status, now)
    parts = [where, f"<h1>{escape(what)}</h1>"]
    if because:
        parts.append(f'<p class="because">{escape(because)}</p>')
        if (ends := words.why_ends(status)) is not None:
            parts.append(f'<p class="ends">That should end at {escape(words.clock(ends, now))}.</p>')
    parts += [f'<p class="said wrong">{escape(fault)}</p>' for fault in status.faults]
    return "".join(parts)


def _asks(status: Status, rights: Rights, form_key: str) -> str:
    buttons = []
    hint = "Virtual machines leave by themselves when you use this computer. These are for when that is not enough."
    if status.wish is not None:
        off = "" if rights.may_resume else " disabled"
        buttons.append(_button("resume", "", "Resume", form_key, first=True, more=off))
        hint = rights.why_not or "Resume takes back what you asked; policy and your using the computer count as always."
    paused = status.wish is not None and status.wish.ask is Ask.PAUSE and status.wish.until is None
    buttons += [
        _button(ask, how_long, text, form_key)
        for ask, how_long, text in BUTTONS
        if not (paused and ask == "pause" and how_long == "forever")
    ]
    return (
        f'<section><h2>Make it stop</h2><div class="asks">{"".join(buttons)}</div>'
        f'<p class="hint">{escape(hint)}</p></section>'
    )


def _button(ask: str, how_long: str, text: str, form_key: str, first: bool = False, more: str = "") -> str:
    kind = ' class="first"' if first else ""
    return (
        f'<form method="post" action="/{ask}"><input type="hidden" name="key" value="{escape(form_key)}">'
        f'<input type="hidden" name="how_long" value="{escape(how_long)}">'
        f"<button{kind}{more}>{escape(text)}</button></form>"
    )


def _machines(status: Status, now: datetime) -> str:
    if not status.vms:
        return ""
    return f"<section><h2>Here now</h2>{''.join(_machine(vm, status, now) for vm in status.vms)}</section>"


def _machine(vm: VmReport, status: Status, now: datetime) -> str:
    used = status.cpu.get(vm.vm_id)
    cores = counted(vm.size.cpus, "processor core")
    uses = f" (uses {used:.1f} now)" if used is not None else ""
    why = "" if vm.state is VmState.RUNNING else f'<p class="facts">{escape(vm.reason.sentence)}</p>'
    return (
        f'<div class="vm"><p class="name">{escape(vm.image.name)}</p>'
        f'<p class="facts">{words.STATES[vm.state]} since {escape(words.clock(vm.since, now))} · {cores}{uses} · '
        f"{vm.size.memory_bytes / (1 << 30):.1f} GiB of memory</p>"
        f'<p class="facts">for {escape(words.for_whom(vm))}</p>{why}</div>'
    )


def _gift(status: Status) -> str:
    if status.gift is None:
        return ""
    total = status.gift.total()
    images = ", ".join(
        f"{escape(name)} {escape(words.span(used.vm_seconds))}" for name, used in sorted(status.gift.month.items())
    )
    return (
        f"<section><h2>What this computer gave</h2><p>{escape(words.gift_sentence(total))}</p>"
        f"{pictures.days_picture(status.gift.days)}"
        + (f'<p class="hint">{images}</p>' if images else "")
        + "</section>"
    )


def _hours(status: Status, now: datetime) -> str:
    if status.policy is None:
        return ""
    key: Sequence[tuple[str, str]] = (
        ("open", "when the computer is not in use"),
        ("nobody", "only with nobody logged in"),
        ("shut", "never"),
    )
    keys = "".join(f'<li><span class="{kind}"></span>{text}</li>' for kind, text in key)
    return (
        f"<section><h2>Hours in which virtual machines may run</h2>{pictures.week_picture(status.policy, now)}"
        f'<ul class="key">{keys}</ul></section>'
    )


def _reasons(status: Status, now: datetime) -> str:
    reasons = list(status.availability.refusals)
    if status.go_on is not None and status.go_on not in reasons:
        reasons.insert(0, status.go_on)
    if not reasons and not status.presence_faults:
        return ""
    rows = []
    for one in reasons:
        ends = f" Should end at {words.clock(one.until, now)}." if one.until else ""
        rows.append(f"<dt>{escape(one.sentence)}</dt><dd>{escape(one.reading)}{escape(ends)} [{escape(one.name)}]</dd>")
    rows += [f"<dt>Not seen</dt><dd>{escape(fault)}</dd>" for fault in status.presence_faults]
    count = counted(len(reasons), "reason")
    return f"<section><details><summary>Why not: {count}</summary><dl>{''.join(rows)}</dl></details></section>"


def _foot(status: Status, now: datetime) -> str:
    parts = [f"You, as seen by: {', '.join(status.sources)}." if status.sources else ""]
    if status.link_fault:
        parts.append(f"The grid cannot be reached: {status.link_fault}")
    elif status.reached_at is not None:
        parts.append(f"The grid was last reached at {words.clock(status.reached_at, now)}.")
    parts.append("On a terminal: deskgrid status")
    return f"<footer>{'<br>'.join(escape(part) for part in parts if part)}</footer>"


@cache
def _template() -> Template:
    return Template(resources.files("deskgrid.session").joinpath("page.html").read_text(encoding="utf-8"))
