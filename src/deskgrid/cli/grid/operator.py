"""What the operator asks about desktops, virtual machines and jobs."""

import re
from collections.abc import Mapping
from typing import Annotated

import typer

from deskgrid.cli.connect import Json, Settings, coordinator
from deskgrid.cli.output import CommandFailed, Exit, ago, sentence, show, show_json, size, tell
from deskgrid.core.fleet.why import Why
from deskgrid.model.values.names import name as check_name
from deskgrid.model.values.text import counted
from deskgrid.wire.operator import DesktopInventory, ImageView

token_app = typer.Typer(help="Enrolment tokens that were made.", no_args_is_help=True)
desktop_app = typer.Typer(help="The desktops of the fleet.", no_args_is_help=True)
vm_app = typer.Typer(help="The virtual machines.", no_args_is_help=True)
why_app = typer.Typer(help="Why something is as it is: one sentence.", no_args_is_help=True)

Because = Annotated[str, typer.Option("--reason", help="Why, for the record.")]


@token_app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The part of its text between the first two '_'.")],
    reason: Because = "",
    settings: Settings = None,
) -> None:
    """End an enrolment token. Desktops that have enrolled with it stay (see `deskgrid desktop revoke`)."""
    with coordinator(settings) as client:
        tell(client.revoke_token(check_name("token id", token_id), reason).sentence)


@desktop_app.command("list")
def desktops(settings: Settings = None, as_json: Json = False) -> None:
    """List the desktops: do they report, are they available, and why not."""
    with coordinator(settings) as client:
        found = client.desktops()
    rows = [
        (
            d.name,
            d.state,
            ago(d.reported_at),
            len(d.vms),
            d.reason.sentence if d.reason else "",
        )
        for d in found
    ]
    show(found, as_json, ("desktop", "state", "reported", "VMs", "why"), rows)


@desktop_app.command("show")
def desktop(name: str, settings: Settings = None, as_json: Json = False) -> None:
    """Show one desktop."""
    with coordinator(settings) as client:
        d = client.desktop(check_name("desktop name", name))
    if as_json:
        show_json(d)
        return
    tell(
        f"{d.name}: {d.state}; enrolled {ago(d.enrolled_at)}, reported {ago(d.reported_at)}, "
        f"agent {d.agent_version or '?'}"
    )
    if d.room is not None:
        tell(
            f"{counted(d.cpus, 'CPU')}, {size(d.memory_bytes)}; room for {counted(d.room.vms, 'VM')}, "
            f"{counted(d.room.cpus, 'CPU')}, {size(d.room.memory_bytes)}"
        )
    for reason in (*(d.availability.refusals if d.availability else ()), *d.warnings):
        tell(f"- {sentence(reason)}")
    for vm in d.vms:
        tell(f"VM {vm.vm_id} of {vm.image.name}: {vm.state} since {vm.since:%H:%M:%S} UTC; {sentence(vm.reason)}")

    if d.inventory is not None:
        _tell_inventory(d.inventory)


def _tell_inventory(said: DesktopInventory) -> None:
    made = said.inventory
    product = " ".join(f"{made.maker} {made.product}".split()) or "an unknown product"
    tell(f"{product}, firmware {made.firmware or '?'}; {made.processor or '?'}; {made.system}, {made.kernel}")
    tell(f"virtualisation {made.virtualisation}; QEMU {made.qemu or 'missing'}")
    if made.virtualbox:
        tell(f"VirtualBox {made.virtualbox}")
    for trial in made.trials:
        tell(f"- {trial.accelerator} {trial.verdict}: {trial.sentence}")
    if made.problems:
        tell(f"its doctor, {ago(said.at)}, minds: {', '.join(made.problems)}")


@desktop_app.command("inventory")
def inventory(
    each: Annotated[bool, typer.Option("--each", help="One row for each desktop, not for each product.")] = False,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """What the desktops are made of, and how many of each product have virtualisation off."""
    with coordinator(settings) as client:
        found = client.inventory()
    if each:
        show(found, as_json, _COLUMNS, (_row(one) for one in found.desktops))
        return
    counts = [
        (k.product, str(k.virtualisation), k.desktops, _counts(k.proven), _counts(k.problems)) for k in found.kinds
    ]
    if found.silent:
        counts.append(("not said yet", "", found.silent, "", ""))
    show(found, as_json, ("product", "virtualisation", "desktops", "proven", "problems"), counts)


_COLUMNS = ("desktop", "product", "virtualisation", "proven", "QEMU", "memory", "problems", "said")


def _row(said: DesktopInventory) -> tuple[str, ...]:
    made = said.inventory
    product = " ".join(f"{made.maker} {made.product}".split())
    proven, problems = " ".join(made.proven), " ".join(made.problems)
    version = made.qemu.partition(" ")[0]
    return said.desktop, product, made.virtualisation, proven, version, size(made.memory_bytes), problems, ago(said.at)


def _counts(table: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in table.items())


@desktop_app.command("revoke")
def revoke(name: str, reason: Because = "", settings: Settings = None) -> None:
    """Take a desktop's membership away: its credential is worth nothing from now on."""
    with coordinator(settings) as client:
        tell(client.revoke(check_name("desktop name", name), reason).sentence)


@vm_app.command("list")
def vms(settings: Settings = None, as_json: Json = False) -> None:
    """List the virtual machines that live."""
    with coordinator(settings) as client:
        found = client.vms()
    rows = [
        (v.vm_id, v.image.name, v.desktop, v.state, "yes" if v.joined_at else "no", " ".join(v.jobs), ago(v.granted_at))
        for v in found
    ]
    show(found, as_json, ("VM", "image", "desktop", "state", "in pool", "jobs", "leased"), rows)


@vm_app.command("show")
def vm(vm_id: str, settings: Settings = None, as_json: Json = False) -> None:
    """Show the lease of one virtual machine, living or ended."""
    check_name("VM id", vm_id)
    with coordinator(settings) as client:
        found = client.lease(vm_id)
    if as_json:
        show_json(found)
        return
    lease = found.lease
    tell(f"{vm_id}: {lease.image.name} on {lease.desktop}, leased {ago(lease.granted_at)}: {sentence(lease.reason)}")
    tell(f"joined the pool {ago(found.joined_at)}" + (f", ended {ago(found.ended_at)}" if found.ended_at else ""))
    if found.end is not None:
        tell(sentence(found.end))


@vm_app.command("end")
def end(vm_id: str, reason: Because = "", settings: Settings = None) -> None:
    """End a virtual machine: its jobs are vacated and run elsewhere."""
    with coordinator(settings) as client:
        tell(client.end_vm(check_name("VM id", vm_id), reason).sentence)


@why_app.command("job")
def why_job(
    job: Annotated[str, typer.Argument(help="cluster.proc, such as 12.0")],
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Why does this job wait, or where is it?"""
    with coordinator(settings) as client:
        _answer(client.why_job(_checked_job(job)), as_json)


@why_app.command("desktop")
def why_desktop(name: str, settings: Settings = None, as_json: Json = False) -> None:
    """Why does this desktop run what it runs, or nothing?"""
    with coordinator(settings) as client:
        _answer(client.why_desktop(check_name("desktop name", name)), as_json)


def images(settings: Settings = None, as_json: Json = False) -> None:
    """List the images: every version, who signed it, whether jobs get it, and why not."""
    with coordinator(settings) as client:
        found = client.catalogue()
    rows = [
        (
            f"{v.project}/{v.image}" if v.project else v.image,
            v.version,
            v.digest[:12],
            _standing(v),
            " ".join(v.signers),
            size(v.memory_bytes) if v.memory_bytes else "",
            size(v.disk_bytes) if v.disk_bytes else "",
            size(v.size_bytes) if v.size_bytes else "",
            v.held_by,
            v.running,
            v.wanted,
        )
        for v in found.versions
    ]
    show(found, as_json, _IMAGE_COLUMNS, rows)
    if as_json:
        return
    for v in found.versions:
        if v.refused is not None:
            tell(f"- {sentence(v.refused)}")
    for problem in found.problems:
        tell(f"! {problem}", style="yellow")
    if found.until is not None:
        tell(f"without news nothing new starts after {found.until.astimezone():%Y-%m-%d %H:%M}")


_IMAGE_COLUMNS = (
    "image",
    "version",
    "digest",
    "state",
    "signed by",
    "memory",
    "disk",
    "to fetch",
    "held by",
    "VMs",
    "wanted",
)


def _standing(version: ImageView) -> str:
    if version.refused is not None:
        return version.refused.name.removeprefix("image-")
    return "on offer" if version.offered else "older" if not version.latest else "not on offer"


def story(
    vm_id: Annotated[
        str | None, typer.Argument(help="The id that a VM has from demand to its end; the newest VM's if not given.")
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """A virtual machine's life, across coordinator and agent."""
    with coordinator(settings) as client:
        if vm_id is None:
            newest = client.leases(limit=1)
            if not newest:
                raise CommandFailed(Exit.ABSENT, "no virtual machine was ever ordered here")
            vm_id = newest[0].lease.vm_id
            if not as_json:
                tell(vm_id, style="bold")
        lines = client.story(check_name("VM id", vm_id))
    rows = [
        (line.at.astimezone().strftime("%H:%M:%S.%f")[:-3], line.source, line.state, line.sentence) for line in lines
    ]
    show(lines, as_json, ("at", "who", "state", "what"), rows)


def _checked_job(job: str) -> str:
    """A job's id as HTCondor writes it. Raises: CommandFailed, before it meets a URL."""
    if re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", job) is None:
        raise CommandFailed(Exit.WRONG, f'job: got {job[:40]!r}, expected "cluster.proc", such as 12.0')
    return job


def _answer(why: Why, as_json: bool) -> None:
    if as_json:
        show_json(why)
        return
    tell(f"{why.subject}: {sentence(why.reason)}")
    for reason in why.further:
        tell(f"- {sentence(reason)}")
    for vm_id in why.vms:
        tell(f"see: deskgrid story {vm_id}")
