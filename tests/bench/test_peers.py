"""What others move, when one of them fails: its own column, with its words, and nothing else."""

from pathlib import Path

from bench.image_peers import FILES, Peer, Peers
from bench.link import Sent

COPY = ("cp", "{file}", "{out}")
SOUND = Peer("sound", "a", COPY, ("cp", "{folder}/{new}", "fetched"))
PACKS_NOT = Peer("packs-not", "b", ("sh", "-c", "echo no room >&2; exit 3"), ("true",))
FETCHES_NOT = Peer("fetches-not", "c", COPY, ("sh", "-c", "exit 4"))
ABSENT = Peer("absent", "d", ("no-such-program",), ("true",))


class Web:
    url = "http://nowhere"

    def sent(self) -> Sent:
        return Sent(0, 0)


def images(folder: Path) -> list[Path]:
    found = []
    for name in ("0123456789abcdef", "fedcba9876543210"):
        (folder / name).mkdir()
        for file in FILES:
            (folder / name / file).write_text(f"{name} {file}")
        found.append(folder / name)
    return found


def test_a_peer_that_fails_costs_its_own_column(tmp_path: Path) -> None:
    peers = Peers(tmp_path / "peers", lambda _: None, (PACKS_NOT, SOUND, FETCHES_NOT, ABSENT))
    found = {one.name: one.told for one in peers.compare(Web(), *images(tmp_path))}  # type: ignore[arg-type]
    assert found["packs-not"] == "packs-not not measured: sh -c ended with code 3: no room"
    assert found["fetches-not"] == "fetches-not not measured: sh -c ended with code 4: without a word"
    assert "no-such-program is not installed" in found["absent"]
    assert found["sound"].startswith("sound 0.0 MB")


def test_what_was_packed_is_kept_and_what_is_of_other_images_goes(tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    first, second = images(tmp_path)
    Peers(folder, lambda _: None, (SOUND,)).compare(Web(), first, second)  # type: ignore[arg-type]
    broken = Peer("sound", "a", ("false",), SOUND.fetch)
    again = Peers(folder, lambda _: None, (broken,))
    assert [one.fault for one in again.compare(Web(), first, second)] == [""]  # type: ignore[arg-type]
    assert [one.fault for one in again.compare(Web(), first, first)] != [""]  # type: ignore[arg-type]
