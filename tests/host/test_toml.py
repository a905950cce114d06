"""Settings files: every fault is named at once, with its path."""

from pathlib import Path

import msgspec
import pytest

from deskgrid.host.toml import BadSettings, parse, parse_bytes, read
from deskgrid.model.policy import Policy


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
