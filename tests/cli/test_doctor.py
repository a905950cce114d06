"""The doctor and the fleet's inventory, as people ask for them; with a coordinator that runs."""

import http.client
import json
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from deskgrid.agent.enrol import enrol
from deskgrid.agent.settings import ca_file, credential_file
from deskgrid.cli.desktop.doctor import way
from deskgrid.cli.output import Exit
from deskgrid.host.doctor.facts import Level
from deskgrid.hypervisor.confine.cgroup import GroupLevel as Group
from deskgrid.hypervisor.confine.cgroup import GroupsSeen
from deskgrid.model.desktop import Availability, Room
from deskgrid.model.inventory import Inventory, Trial, Verdict, Virtualisation
from deskgrid.wire.messages import Report

from .conftest import Command, Office, agent_toml

pytestmark = pytest.mark.slow


def findings(said: object) -> dict[str, dict[str, object]]:
    assert isinstance(said, list)
    return {finding["name"]: finding for finding in said}


def test_on_an_enrolled_desktop_the_doctor_asks_its_coordinator_and_leaves_out_what_only_builders_need(
    deskgrid: Command, office: Office, tmp_path: Path
) -> None:
    settings = agent_toml(tmp_path, office.url, "desk-doctor")
    made = office.operator.make_token(3600, 1)
    enrol(office.url, "desk-doctor", f"{made.token}@{made.ca_fingerprint}", tmp_path / "state")
    began = time.monotonic()
    found = findings(deskgrid("doctor", "--settings", settings, "--no-trial", "--json").json())
    print(f"doctor without trials: {time.monotonic() - began:.1f} s")
    assert found["coordinator"]["level"] == "ok"
    assert found["coordinator-clock"]["level"] == "ok"
    assert found["state-folder"]["level"] in ("ok", "bad")  # bad when root runs this test: root's folder
    assert "mmdebstrap" not in found
    everything = findings(deskgrid("doctor", "--settings", settings, "--no-trial", "--for", "all", "--json").json())
    assert "mmdebstrap" in everything


def test_a_coordinator_that_is_not_there_is_a_finding_with_a_command(
    deskgrid: Command, office: Office, tmp_path: Path
) -> None:
    settings = agent_toml(tmp_path, "https://localhost:1")
    (tmp_path / "state").mkdir(mode=0o700)
    ca_file(tmp_path / "state").write_bytes((office.state / "ca.pem").read_bytes())
    said = deskgrid("doctor", "--settings", settings, "--no-trial")
    assert said.code == Exit.NO
    assert "The coordinator https://localhost:1 can't be reached" in said.out
    assert "curl -v --insecure https://localhost:1/v1/health" in said.out


def test_settings_that_are_named_and_missing_are_an_error(deskgrid: Command, tmp_path: Path) -> None:
    assert deskgrid("doctor", "--settings", tmp_path / "agent.toml").code == Exit.WRONG


def test_a_group_that_is_not_idle_beside_peoples_sessions_is_a_warning() -> None:
    assert way(None).level is Level.OK
    assert way(GroupsSeen("/a", "", (), None)).level is Level.OK
    assert way(GroupsSeen("/a", "", (Group("/deskgrid.slice", 1, 0),), True)).level is Level.OK
    found = way(GroupsSeen("/a", "", (Group("/system.slice", 0, 100),), False))
    assert (found.level, found.mend) == (Level.WARN, ("systemctl set-property deskgrid.slice CPUWeight=idle",))


def say(office: Office, name: str, inventory: Inventory, state: Path) -> None:
    """A new desktop's first report, as its agent would send it."""
    made = office.operator.make_token(3600, 1)
    enrol(office.url, name, f"{made.token}@{made.ca_fingerprint}", state)
    at = urlsplit(office.url)
    trust = ssl.create_default_context(cafile=str(ca_file(state)))
    line = http.client.HTTPSConnection(at.hostname or "", at.port, timeout=30, context=trust)
    no_room, now = Room(0, 0, 0, 0), datetime.now(UTC)
    report = Report("first", 1, now, Availability(False), no_room, 4, 8 << 30, inventory=inventory)
    headers = {"Authorization": f"Bearer {name}:{credential_file(state).read_text().strip()}"}
    line.request("POST", "/v1/report", msgspec.json.encode(report), headers)
    assert line.getresponse().status == 200
    line.close()


OFF = Inventory(
    system="Debian GNU/Linux 13 (trixie)",
    kernel="Linux 6.12",
    processor="Intel(R) Core(TM) i5-10500",
    memory_bytes=16 << 30,
    maker="LENOVO",
    product="M75q[bold]",
    firmware="LENOVO M3BKT",
    virtualisation=Virtualisation.OFF,
    trials=(Trial("tcg", Verdict.WORKS, 300, "a guest ran on it in 300 ms"),),
    qemu="10.0.2 (Debian)",
    problems=("cpu", "accelerators"),
)


def test_the_operator_sees_how_many_of_each_product_have_virtualisation_off(
    deskgrid: Command, office: Office, tmp_path: Path
) -> None:
    for name in ("desk-off-1", "desk-off-2"):
        say(office, name, OFF, tmp_path / name)
    table = deskgrid("desktop", "inventory", "--settings", office.settings).out
    (line,) = [line for line in table.splitlines() if "M75q" in line]
    assert " ".join(line.split()) == "LENOVO M75q[bold] off-in-firmware 2 tcg 2 cpu 2, accelerators 2"
    each = deskgrid("desktop", "inventory", "--each", "--settings", office.settings).out
    assert [line.split()[0] for line in each.splitlines() if "M75q" in line] == ["desk-off-1", "desk-off-2"]
    fleet = json.loads(deskgrid("desktop", "inventory", "--json", "--settings", office.settings).out)
    (kind,) = [kind for kind in fleet["kinds"] if kind["product"] == "LENOVO M75q[bold]"]
    assert (kind["virtualisation"], kind["desktops"], kind["proven"]) == ("off-in-firmware", 2, {"tcg": 2})


def test_one_desktop_is_shown_with_what_it_is_made_of(deskgrid: Command, office: Office, tmp_path: Path) -> None:
    shown = msgspec.structs.replace(OFF, product="M90s")
    say(office, "desk-shown", shown, tmp_path / "state")
    said = deskgrid("desktop", "show", "desk-shown", "--settings", office.settings).out
    assert "LENOVO M90s, firmware LENOVO M3BKT" in said
    assert "virtualisation off-in-firmware; QEMU 10.0.2" in said
    assert "minds: cpu, accelerators" in said
