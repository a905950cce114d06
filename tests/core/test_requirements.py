"""Which condition of a job no machine of an image meets: as far as it can be told, and never what may be met."""

import time

import pytest

from deskgrid.core.fleet.requirements import Unmet, unmet
from deskgrid.model.image import Attribute
from deskgrid.model.lease import Size
from deskgrid.model.policy import GIB
from deskgrid.model.pool import OfflineAd

SAYS = (
    Attribute("HasFileTransfer", "true"),
    Attribute("HasVM", "false"),
    Attribute("OpSysAndVer", '"Debian13"'),
    Attribute("OpSysMajorVer", "13"),
)
AD = OfflineAd("demo", Size(2, GIB), GIB, SAYS)
PLAIN = OfflineAd("demo", Size(2, GIB), GIB)


@pytest.mark.parametrize(
    "met",
    [
        "",
        "true",
        'TARGET.OpSysAndVer == "debian13"',
        'TARGET.OpSysAndVer is "Debian13"',
        '(TARGET.OpSysAndVer =?= "Debian13") && (TARGET.HasFileTransfer)',
        'OpSysAndVer != "Debian12" && (OpSysMajorVer >= 12 && OpSysMajorVer <= 13)',
        'TARGET.Nothing isnt "x"',
        'TARGET.Nothing =!= "x"',
        "TARGET.OpSysMajorVer > 12 && TARGET.OpSysMajorVer < 14 && TARGET.OpSysMajorVer != 12",
        "TARGET.OpSysMajorVer == 13 && TARGET.HasFileTransfer == true",
        "TARGET.Memory >= 1024 && TARGET.Cpus >= 2 && TARGET.Disk >= 1048576",
        # what is more involved is passed over
        'TARGET.OpSysAndVer == "Debian12" || TARGET.OpSysMajorVer == 13',
        '(TARGET.OpSysAndVer == "Debian12" || true) && TARGET.HasFileTransfer',
        'TARGET.Nothing ?: true && TARGET.OpSysAndVer == "Debian12"',
        "TARGET.Memory >= RequestMemory",
        'stringListMember("x && y", TARGET.Nothing)',
        # an attribute that the machine does not say may be the job's own
        'Nothing == "x"',
        # broken text is nobody's fault here
        '(TARGET.OpSysAndVer == "Debian13',
        'TARGET.HasFileTransfer == "true" || (',
        "true) && TARGET.HasFileTransfer",
    ],
)
def test_what_is_met_or_cant_be_told_is_not_named(met: str) -> None:
    assert unmet(met, AD) is None


@pytest.mark.parametrize(
    ("asked", "condition", "why"),
    [
        ('TARGET.OpSysAndVer == "Debian12"', None, 'its machines say OpSysAndVer = "Debian13"'),
        ('TARGET.OpSysAndVer is "debian13"', None, 'its machines say OpSysAndVer = "Debian13"'),
        ('TARGET.OpSysAndVer != "DEBIAN13"', None, 'its machines say OpSysAndVer = "Debian13"'),
        ('TARGET.OpSysAndVer isnt "Debian13"', None, 'its machines say OpSysAndVer = "Debian13"'),
        ("TARGET.OpSysAndVer == 13", None, 'its machines say OpSysAndVer = "Debian13"'),
        ("TARGET.OpSysMajorVer == 12", None, "its machines say OpSysMajorVer = 13"),
        ("true && ((OpSysMajorVer < 13))", "OpSysMajorVer < 13", "its machines say OpSysMajorVer = 13"),
        ("TARGET.HasVM", None, "its machines say HasVM = false"),
        ("TARGET.HasDocker", None, "its machines say nothing of HasDocker"),
        ('TARGET.Nothing == "a\\"b"', None, "its machines say nothing of Nothing"),
        ('TARGET.Microarch >= "x86_64-v3"', None, "Microarch depends on the desktop"),
        ("TARGET.Memory > 1024", None, "its machines say Memory = 1024"),
    ],
)
def test_a_condition_that_is_not_met_is_named_with_what_the_machines_say(
    asked: str, condition: str | None, why: str
) -> None:
    found = unmet(asked, AD)
    assert found is not None
    assert (found.condition, why in found.why) == (condition or asked, True), found


def test_of_an_image_that_was_never_tried_only_the_size_is_weighed() -> None:
    assert unmet('TARGET.OpSysAndVer == "Debian12" && TARGET.HasDocker', PLAIN) is None
    assert unmet("TARGET.Memory >= 2000", PLAIN) == Unmet("TARGET.Memory >= 2000", "its machines say Memory = 1024")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 9_000 + "true" + ")" * 9_000,
        "(a && " * 3_000 + "b" + ")" * 2_000,
        "(" * 300 + 'Foo =!= "' + "x" * 19_000 + '"' + ")" * 300,
        '"\\"' * 5_000 + "\\",
        "(" * 9_000 + '"' + "([{" * 3_000,
        "TARGET.HasVM && " * 100_000,
    ],
)
def test_requirements_of_any_shape_are_soon_looked_through(text: str) -> None:
    began = time.process_time()
    assert unmet(text, AD) is None
    assert time.process_time() - began < 0.5


def test_what_stands_within_many_brackets_is_found() -> None:
    found = unmet("(" * 1_000 + "true && (TARGET.HasVM)" + ")" * 1_000, AD)
    assert found is not None and found.condition == "TARGET.HasVM"
