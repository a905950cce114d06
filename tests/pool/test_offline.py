"""Offline ads: what is said, and how the negotiator's answer is read."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from deskgrid.model.image import Attribute
from deskgrid.model.lease import Size
from deskgrid.model.pool import Match, OfflineAd
from deskgrid.model.values.names import BadName
from deskgrid.pool.tools.ads import Ad
from deskgrid.pool.tools.offline import ad_name, counted_once, lost, matches, offline_ad, remembered

MIB = 1 << 20
SMALL, LARGE = Size(1, 512 * MIB), Size(4, 2048 * MIB)
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
IMAGE = OfflineAd("img-a", SMALL, 4096 * MIB)


def seen(size: Size = SMALL, *records: tuple[str, int, int]) -> Ad:
    return {
        "Name": ad_name(OfflineAd("img-a", size, 0)),
        "vm_name": "img-a",
        "MachineLastMatchTime": int(NOW.timestamp()),
        "OfflineMatches": [{"Scheduler": s, "AutoclusterID": c, "RequestCount": n} for s, c, n in records],
    }


def test_the_ad_says_what_the_machine_will_say_of_itself_and_no_image_says_what_is_not_its_own() -> None:
    says = (
        Attribute("CondorVersion", '"$CondorVersion: 23.9.6 x $"'),
        Attribute("Cpus", "4096"),
        Attribute("HasFileTransfer", "false"),
        Attribute("OFFLINE", "false"),
        Attribute("Vm_Name", '"other"'),
    )
    lines = offline_ad(msgspec.structs.replace(IMAGE, says=says), 900).splitlines()
    assert {'CondorVersion = "$CondorVersion: 23.9.6 x $"', "HasFileTransfer = false", "Cpus = 1"} <= set(lines)
    names = [line.partition(" = ")[0].lower() for line in lines]
    assert len(names) == len(set(names))
    assert 'OpSys = "LINUX"' not in lines, "what its machine did not say is not made up"


def test_the_ad_says_what_the_fleet_could_start() -> None:
    lines = offline_ad(IMAGE, 900).splitlines()
    for line in (
        'Name = "deskgrid-offline-img-a-1x512"',
        "Offline = true",
        'vm_name = "img-a"',
        "Cpus = 1",
        "Memory = 512",
        "Disk = 4194304",
        'State = "Unclaimed"',
        "WantAdRevaluate = true",
        "ClassAdLifetime = 900",
    ):
        assert line in lines


def test_a_name_that_is_no_name_never_gets_into_an_ad() -> None:
    with pytest.raises(BadName):
        offline_ad(OfflineAd('x"\nOffline = false', SMALL, 0), 900)


def test_what_the_negotiator_wrote_is_carried_over_a_refresh() -> None:
    text = offline_ad(IMAGE, 900, seen(SMALL, ("<10.0.2.2:1?a=b>", 7, 25), ("<10.0.2.2:2>", 1, 3)))
    assert (
        'OfflineMatches = { [ Scheduler = "<10.0.2.2:1?a=b>"; AutoclusterID = 7; RequestCount = 25 ], '
        '[ Scheduler = "<10.0.2.2:2>"; AutoclusterID = 1; RequestCount = 3 ] }'
    ) in text
    assert f"MachineLastMatchTime = {int(NOW.timestamp())}" in text
    assert "OfflineMatches" not in offline_ad(IMAGE, 900, {"Name": "x"})


def test_matches_name_the_schedd_by_its_address() -> None:
    found = matches([seen(SMALL, ("<a>", 7, 25), ("<unknown>", 7, 2))], {"<a>": "schedd-1"})
    assert found == (
        Match("img-a", SMALL, "<unknown>", 7, 2, NOW),
        Match("img-a", SMALL, "schedd-1", 7, 25, NOW),
    )


def test_several_submitters_of_one_autocluster_are_added() -> None:
    assert [match.count for match in matches([seen(SMALL, ("<a>", 7, 25), ("<a>", 7, 5))], {})] == [30]


def test_an_ad_that_was_never_matched_or_makes_no_sense_has_no_matches() -> None:
    broken = seen(SMALL, ("<a>", 1, 1)) | {"OfflineMatches": [{"Scheduler": 1}, "x", {"AutoclusterID": 2}]}
    nameless = seen(SMALL, ("<a>", 1, 1)) | {"Name": "someone-elses"}
    unmatched = {"Name": ad_name(IMAGE), "vm_name": "img-a"}
    assert matches([broken, nameless, unmatched], {}) == ()


def test_a_group_counts_once_on_the_smallest_size_with_the_newest_time() -> None:
    later = NOW + timedelta(seconds=5)
    found = counted_once([Match("img-a", LARGE, "s", 7, 25, later), Match("img-a", SMALL, "s", 7, 25, NOW)])
    assert found == (Match("img-a", SMALL, "s", 7, 25, later),)


def test_a_group_that_is_missing_from_one_answer_is_remembered_for_a_while() -> None:
    before = [Match("img-a", SMALL, "s", 1, 5, NOW), Match("img-a", SMALL, "s", 2, 6, NOW)]
    later = NOW + timedelta(seconds=30)
    known = [Match("img-a", SMALL, "s", 1, 4, later)]
    assert set(remembered(known, later, before, [seen()], None)) == {known[0], before[1]}
    assert remembered([], NOW + timedelta(minutes=11), before, [seen()], None) == []
    assert remembered([], later, before, [], None) == [], "the ad was withdrawn"
    assert remembered([], later, before, [seen()], {("s", 2)}) == [before[1]], "the others do not wait any more"


def test_a_match_of_a_clock_that_was_ahead_is_forgotten_and_hides_no_other() -> None:
    ahead = Match("img-a", SMALL, "s", 1, 5, NOW + timedelta(days=365))
    assert remembered([ahead], NOW, [ahead], [seen()], None) == []
    now = Match("img-a", LARGE, "s", 1, 4, NOW)
    assert remembered([now], NOW, [ahead], [seen(), seen(LARGE)], None) == [now]


def test_an_ad_that_the_collector_lacks_is_named() -> None:
    assert lost([seen()], ["deskgrid-offline-img-a-1x512", "deskgrid-offline-img-b-1x512"]) == (
        "deskgrid-offline-img-b-1x512",
    )
