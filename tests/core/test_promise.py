"""What is recorded of a machine's ad: all that is the image's, and nothing that is one machine's or one moment's."""

import pytest

from deskgrid.core.fleet.promise import Promise, belongs, promise
from deskgrid.model.image import Attribute

AD: dict[str, str | int | float | bool] = {
    "Name": "slot1@vm-1",
    "CondorVersion": "$CondorVersion: 23.9.6 2024-08-08 BuildID: x $",
    "Cpus": 4,
    "HasFileTransfer": True,
    "HasMatlab": "R2026a",
    "Microarch": "x86_64-v3",
    "MonitorSelfAge": 7,
    "Start": "\\/Expr(TARGET.x)\\/",
    "MyOwn": "/Expr(1 + 1)/",
    "OpSysMajorVer": 13,
    "Ratio": 0.5,
    "TotalDisk": 1693780,
    "Odd": 'with "quotes"',
    "Long": "x" * 2000,
    "no name": 1,
}


def test_an_image_says_what_its_machine_said_but_the_passing_and_the_expressions() -> None:
    assert promise(AD).says == (
        Attribute("CondorVersion", '"$CondorVersion: 23.9.6 2024-08-08 BuildID: x $"'),
        Attribute("HasFileTransfer", "true"),
        Attribute("HasMatlab", '"R2026a"'),
        Attribute("OpSysMajorVer", "13"),
        Attribute("Ratio", "0.5"),
    )


def test_no_more_room_is_promised_than_a_job_finds() -> None:
    free = promise(AD).free_bytes
    assert free <= 1693780 * 1024 < free + (16 << 20)
    assert promise({"TotalDisk": "much"}) == promise({"TotalDisk": -5}) == promise({}) == Promise()


@pytest.mark.parametrize(
    "name", ["vm_name", "VM_NAME", "offline", "RecentJobStarts", "recentclaimrequests", "Requirements", "boinc_state"]
)
def test_names_know_no_case(name: str) -> None:
    assert not belongs(name)
