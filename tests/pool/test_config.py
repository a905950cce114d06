"""The configuration drop-ins: explained, whole, and never over somebody else's file."""

import re
from pathlib import Path

import pytest

from deskgrid.coordinator.state.credentials import new_id
from deskgrid.guest.member import CONFIGURATION
from deskgrid.pool.config import ForeignFile, PoolSettings, dropins, install

DOMAIN = "deskgrid.internal"


def test_every_setting_says_why_it_is_there() -> None:
    for file in dropins(PoolSettings()):
        assert file.why and file.path.endswith(".conf")
        for setting in file.settings:
            assert len(setting.why) > 20
            assert setting.line in file.text


def test_the_explanation_is_a_comment_to_the_last_line() -> None:
    for file in dropins(PoolSettings()):
        for setting in file.settings:
            before = file.text.split(setting.line)[0].rstrip("\n").splitlines()
            assert before[-1].startswith("#")


def test_nothing_that_a_pool_has_set_for_its_own_machines_is_overruled() -> None:
    """What a drop-in sets, it sets to what was there and more; `free` is what it may decide."""
    free = {"JOB_DEFAULT_LEASE_DURATION", "TRUST_DOMAIN", "HOUSEKEEPER_INTERVAL", "SCHEDD_ENABLE_PER_USER_MATCH_LIMITS"}
    free |= {"TCP_KEEPALIVE_INTERVAL"}  # docs/adr/0018: else a machine without power is missed for six minutes
    free |= {"IGNORE_INVALIDATE"}  # docs/adr/0022: else one VM could empty the pool
    for file in dropins(PoolSettings()):
        for line in (line.strip() for setting in file.settings for line in setting.line.splitlines()):
            name, assigned, value = line.partition(" = ")
            if assigned and name.isupper() and name not in free and not name.startswith("DESKGRID_"):
                assert f"$({name}" in value, line


def test_only_machines_of_ours_are_given_up_at_once() -> None:
    ours = re.search(r'regexp\("([^"]+)", RemoteHost\)', dropins(PoolSettings())[0].text)
    assert ours is not None
    vm_id = f"vm-{new_id()}"
    assert f"NETWORK_HOSTNAME = {{vm_id}}.{DOMAIN}\n" in CONFIGURATION
    for host in (f"slot1_1@{vm_id}.{DOMAIN}", f"slot1@{vm_id}", f"slot1_2@{vm_id}@host"):
        assert re.search(ours[1], host)
    for host in ("vm-17.cloud.example.edu", "vm-production.example.edu", f"{vm_id}x.{DOMAIN}", "node-1", "a@vm-1"):
        assert not re.search(ours[1], f"slot1_1@{host}")


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        dropins(PoolSettings(trust_domain="a b\nALLOW_ADMINISTRATOR = *", key="", lease_seconds=1))
    message = str(caught.value)
    assert "trust_domain" in message and "key" in message and "lease_seconds" in message


def test_installing_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    files = dropins(PoolSettings())
    assert [path.name for path in install(files, tmp_path)] == [file.path for file in files]
    assert install(files, tmp_path) == ()
    changed = install(dropins(PoolSettings(lease_seconds=60)), tmp_path)
    assert [path.name for path in changed] == ["60-deskgrid-jobs.conf"]


def test_a_file_of_somebody_else_is_not_touched_and_nothing_is_written_beside_it(tmp_path: Path) -> None:
    foreign = tmp_path / "60-deskgrid-negotiator.conf"
    foreign.write_text("NEGOTIATOR_INTERVAL = 20\n")
    with pytest.raises(ForeignFile, match="not written"):
        install(dropins(PoolSettings()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]
    assert foreign.read_text() == "NEGOTIATOR_INTERVAL = 20\n"
