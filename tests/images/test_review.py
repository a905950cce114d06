"""What an approver is told of a manifest: "the same" only of what is, and all that is not."""

from typing import Any

import msgspec

from deskgrid.images.format.manifest import Package
from deskgrid.images.format.published import decode, encode, encode_order
from deskgrid.images.publish.review import differences
from deskgrid.model.image import Attribute
from tests.images.trust.published import manifest

ONE = manifest("einstein/search/1.0", chunks=tuple("abcd"))


def other(before: bytes = ONE, **fields: Any) -> bytes:
    return encode(msgspec.structs.replace(decode(before)[0], version="2.0", **fields))


def test_the_same_chunks_in_another_order_are_another_disk() -> None:
    _, table = decode(ONE)
    table.packs[0], table.packs[2] = table.packs[2], table.packs[0]
    told = differences(ONE, other(table=table.encode()))
    assert "chunks: 0 of 4 are new, 0 of 4000 bytes; 0 are gone" in told
    assert "content of disk: 2 of 5 places have other chunks" in told
    assert "content of disk: the same" in differences(ONE, other())


def test_another_boot_order_of_as_many_chunks_is_not_the_same() -> None:
    before = other(boot=encode_order((0, 1)))
    assert "boot order: 2 chunks, not the same" in differences(before, other(boot=encode_order((1, 0))))
    assert "boot order: 2 chunks, the same" in differences(before, other(boot=encode_order((0, 1))))


def test_what_machines_say_is_told_attribute_by_attribute_however_long_it_is() -> None:
    says = tuple(Attribute(f"A{number:03}", '"' + "x" * 900 + '"') for number in range(12))
    before = other(says=says)
    told = differences(before, other(says=(*says[1:], Attribute("HasTrust", "true"))))
    assert "its machines say: + HasTrust = true" in told
    assert f"its machines say: - A000 = {says[0].text}" in told
    assert "its machines say of themselves: the same" in differences(before, other(says=says))


def test_packages_that_came_went_or_are_of_another_version_are_told() -> None:
    before = other(packages=(Package("bash", "5.1"), Package("gcc", "12.2"), Package("telnet", "1")))
    after = other(packages=(Package("bash", "5.1"), Package("gcc", "12.3"), Package("mpi", "4")))
    assert list(differences(before, after))[-3:] == ["+ mpi 4", "- telnet 1", "gcc 12.2 → 12.3"]
    assert differences(before, before)[-1] == "the same packages"
    assert differences(None, after)[-1] == "the first version, with 3 packages"
    assert differences(None, other(packages=()))[-1] == "it lists no packages: look into it"


def test_what_a_researcher_wrote_cannot_move_the_cursor_of_who_reads_it() -> None:
    before = other(packages=(Package("gcc\x1b[2K", "1\n2"),))
    after = other(packages=(Package("sh\x1b[2K", "1\n2"),))
    assert differences(before, after)[-2:] == ("+ sh\\x1b[2K 1\\n2", "- gcc\\x1b[2K 1\\n2")


def test_all_packages_of_one_name_are_told() -> None:
    before = other(packages=(Package("openssl", "3.0"),))
    after = other(packages=(Package("openssl", "1.0-evil"), Package("openssl", "3.0")))
    assert "openssl 3.0 → 1.0-evil, 3.0" in differences(before, after)
