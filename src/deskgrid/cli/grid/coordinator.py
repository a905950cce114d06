"""`deskgrid coordinator`: run the service, make enrolment tokens, see the whole."""

from typing import Annotated

import typer

from deskgrid.cli.connect import Json, Settings, coordinator, load
from deskgrid.cli.output import CommandFailed, Exit, ago, sentence, show_json, show_text, size, tell
from deskgrid.coordinator.service import Ready, ServiceError
from deskgrid.coordinator.service import run as run_service
from deskgrid.model.values.text import counted
from deskgrid.pool.tools.driver import CondorPool

app = typer.Typer(help="The service beside HTCondor's central manager.", no_args_is_help=True)


@app.command()
def run(settings: Settings = None) -> None:
    """Run the coordinator until SIGTERM or Ctrl-C."""
    chosen = load(settings)

    def ready(at: Ready) -> None:
        tell(f"coordinator at {at.url}, CA fingerprint {at.fingerprint}")

    try:
        run_service(chosen, CondorPool(chosen.pool), ready)
    except ServiceError as error:
        raise CommandFailed(Exit.REFUSED, str(error)) from None


@app.command()
def status(settings: Settings = None, as_json: Json = False) -> None:
    """Show the whole: desktops, VMs, demand, and what is short."""
    with coordinator(settings) as client:
        now = client.status()
    if as_json:
        show_json(now)
        return
    tell(
        f"{counted(now.desktops, 'desktop')}, of which {now.reporting} report; {now.available} available, "
        f"{now.held_reports} wait for word"
    )
    tell(f"{counted(now.vms, 'virtual machine')}, {now.joined} in the pool; last cycle {ago(now.cycle_at)}")
    for fault in now.pool_faults:
        tell(f"HTCondor: {fault}", style="yellow")
    for problem in now.problems:
        tell(problem, style="yellow")
    for problem in now.image_problems:
        tell(f"images: {problem}", style="yellow")
    if now.wants is None:
        tell("demand: unknown")
    for want in now.wants or ():
        tell(
            f"demand: {counted(want.vms, 'VM')} of {want.image} "
            f"({counted(want.size.cpus, 'CPU')}, {size(want.size.memory_bytes)}) for {counted(want.jobs, 'job')}"
        )
    for short in now.shortages:
        tell(f"short: {counted(short.vms, 'VM')} of {short.image}: {sentence(short.reason)}", style="yellow")
    for ad in now.ads:
        tell(f"on offer: {ad.image}, {counted(ad.size.cpus, 'CPU')}, {size(ad.size.memory_bytes)}")


@app.command()
def token(
    uses: Annotated[int, typer.Option(min=1, max=100_000, help="How many desktops may enrol with it.")] = 1,
    hours: Annotated[float, typer.Option(min=0.01, max=2160, help="How long it is valid.")] = 24.0,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Make an enrolment text for desktops: a secret, limited in time and count. Give it to `deskgrid agent enrol`."""
    with coordinator(settings) as client:
        made = client.make_token(hours * 3600, uses)
    text = f"{made.token}@{made.ca_fingerprint}"
    if as_json:
        show_json({"text": text, "id": made.id, "expires_at": made.expires_at, "uses": made.uses})
    else:
        show_text(text)
