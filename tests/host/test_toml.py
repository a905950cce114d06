"""Settings files: every fault is named at once, with its path."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from deskgrid.agent.policy.files import PolicyTable
from deskgrid.agent.settings import AgentSettings
from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.core.desktop.cases import Case
from deskgrid.host.system.toml import BadSettings, convert, parse, parse_bytes, read
from deskgrid.images.format.recipe import Recipe
from deskgrid.model.policy import Policy
from deskgrid.model.values.names import Name


class Part(msgspec.Struct, frozen=True):
    name: str
    size_bytes: int = 0


class Whole(msgspec.Struct, frozen=True):
    folder: Path
    policy: Policy = Policy()
    parts: tuple[Part, ...] = ()
    words: tuple[str, ...] = ()


def test_a_file_without_faults_becomes_typed_values() -> None:
    whole = parse(
        'folder = "/srv"\nwords = ["a"]\n[policy]\nclosed = ["08:30-18:00"]\n'
        'memory_reserve_bytes = "3 GiB"\n[[parts]]\nname = "x"\nsize_bytes = "1k"',
        Whole,
    )
    assert whole.folder == Path("/srv")
    assert whole.policy.closed == ("08:30-18:00",)
    assert whole.policy.memory_reserve_bytes == 3 << 30
    assert whole.parts == (Part("x", 1024),)


def test_all_faults_of_a_file_are_named_at_once_with_their_paths() -> None:
    with pytest.raises(BadSettings) as caught:
        parse(
            'fodler = "/srv"\nwords = ["a", 3]\n[policy]\nidle_seconds = -1\ngrace = 3\n'
            'disk_floor_bytes = "many"\n[[parts]]\nsize_bytes = true',
            Whole,
            "agent.toml",
        )
    faults = caught.value.faults
    assert len(faults) == 8, faults
    text = str(caught.value)
    for expected in (
        "agent.toml: fodler: unknown, did you mean 'folder'?",
        "agent.toml: folder: missing, expected Path",
        "agent.toml: words[1]: got 3",
        "agent.toml: policy.idle_seconds: got -1",
        "agent.toml: policy.grace: unknown, did you mean 'grace_seconds'?",
        "agent.toml: policy.disk_floor_bytes: got 'many', expected a size",
        "agent.toml: parts[0].name: missing, expected str",
        "agent.toml: parts[0].size_bytes: got True",
    ):
        assert expected in text


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5GiB", "2PiB"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_bytes(text)


def test_a_missing_file_and_broken_toml_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="cannot be read: No such file"):
        read(tmp_path / "none.toml", Whole)
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(BadSettings, match="not valid TOML"):
        read(tmp_path / "bad.toml", Whole)


class Patterned(msgspec.Struct, frozen=True):
    name: Name
    policy: PolicyTable = PolicyTable()


def test_what_is_wrong_with_hours_zone_and_names_is_told_in_words_and_in_one_go() -> None:
    with pytest.raises(BadSettings) as caught:
        parse(
            'name = "a b"\n[policy]\nclosed = ["Mon-Fri 7:00-17:00", "Mon–Fri 07:00–17:00", "08:00-08:00"]\n'
            'zone = "Europe/berlin"\nidle_seconds = -1',
            Patterned,
        )
    assert [fault.partition(", expected")[0] for fault in caught.value.faults] == [
        "name: got 'a b'",
        "policy.zone: got 'Europe/berlin'",
        "policy.closed[0]: got 'Mon-Fri 7:00-17:00'",
        "policy.closed[1]: got 'Mon–Fri 07:00–17:00'",
        "policy.closed[2]: got '08:00-08:00'",
        "policy.idle_seconds: got -1: Expected `float` >= 0.0",
    ]
    assert 'expected hours such as "Mon-Fri 07:00-17:00"' in str(caught.value)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing(
    tmp_path: Path, mark: bytes, line_end: bytes
) -> None:
    file = tmp_path / "whole.toml"
    file.write_bytes(mark + line_end.join([b'folder = "/srv"', b"[policy]", b"idle_seconds = 900", b""]))
    assert read(file, Whole).policy.idle_seconds == 900


def test_another_encoding_is_named(tmp_path: Path) -> None:
    file = tmp_path / "whole.toml"
    for content, said in (
        ('folder = "/srv"'.encode("utf-16"), "UTF-16"),
        (b'# a\nfolder = "/caf\xe9"', "not UTF-8 in line 2"),
    ):
        file.write_bytes(content)
        with pytest.raises(BadSettings, match=said):
            read(file, Whole)


def _wrong(kind: Any) -> Iterator[object]:
    """Values that are wrong in one place each, for each text with a pattern that is part of this type."""
    if any(isinstance(meta, msgspec.Meta) and meta.pattern for meta in getattr(kind, "__metadata__", ())):
        yield "\x01 ?!"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield from ({field.encode_name: one} for one in _wrong(field.type))
    elif get_origin(kind) in (tuple, list):
        yield from ([one] for one in _wrong(get_args(kind)[0]))
    elif get_origin(kind) is dict:
        name, element = get_args(kind)
        yield from ({one: 1} for one in _wrong(name))
        yield from ({"a": one} for one in _wrong(element))
    else:
        for part in get_args(kind):
            yield from _wrong(part)


def test_a_wrong_value_is_explained_in_words_and_never_by_a_pattern() -> None:
    kinds = (AgentSettings, CoordinatorSettings, Recipe, PolicyTable, Case)
    tables = [(kind, table) for kind in kinds for table in _wrong(kind)]
    assert (Recipe, {"priorities": {"\x01 ?!": 1}}) in tables
    for kind, table in tables:
        with pytest.raises(BadSettings) as caught:
            convert(table, kind, "given")  # type: ignore[arg-type]
        assert "\\x01" in str(caught.value) and "regex" not in str(caught.value), str(caught.value)


def test_a_name_of_before_is_read_and_its_user_is_told_the_new_one(caplog: pytest.LogCaptureFixture) -> None:
    chosen = parse('state_dir = "/s"\n[plan]\nfiller = "boinc"\nfiller_vms = 7\n', CoordinatorSettings)
    assert (chosen.plan.backfill, chosen.plan.backfill_vms) == ("boinc", 7)
    assert "plan.filler: is called plan.backfill now" in caplog.text
    with pytest.raises(BadSettings, match="filler"):
        parse('state_dir = "/s"\n[plan]\nfiller = "a"\nbackfill = "b"\n', CoordinatorSettings)
