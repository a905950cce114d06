"""coordinator.toml: what is wrong in it is told at once, with its path."""

from pathlib import Path

import pytest

from deskgrid.coordinator.settings import CoordinatorSettings, read_settings
from deskgrid.host.system.toml import BadSettings
from deskgrid.model.lease import Size


def written(folder: Path, text: str) -> Path:
    path = folder / "coordinator.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, "")) == CoordinatorSettings()


def test_a_file_names_only_what_differs(tmp_path: Path) -> None:
    chosen = read_settings(
        written(
            tmp_path,
            """
            port = 1234
            state_dir = "/srv/deskgrid"
            names = ["grid.example.org", "192.0.2.7"]
            cycle_seconds = 2
            [guest]
            collector = "grid.example.org:9618"
            [plan]
            ramp = 5
            [[plan.sizes]]
            cpus = 2
            memory_bytes = "2GiB"
            """,
        )
    )
    assert (chosen.port, chosen.state_dir, chosen.plan.ramp) == (1234, Path("/srv/deskgrid"), 5)
    assert chosen.plan.sizes == (Size(2, 2 << 30),)
    assert chosen.database_url == "sqlite:////srv/deskgrid/coordinator.sqlite"


@pytest.mark.parametrize("collector", ["cm:9618", "10.0.2.2:9618?sock=collector", "cm.example.org:9618?sock=c12"])
def test_a_collector_is_named_by_host_and_port_or_behind_the_shared_port(tmp_path: Path, collector: str) -> None:
    text = f'[guest]\ncollector = "{collector}"'
    assert read_settings(written(tmp_path, text)).guest.collector == collector


def test_the_images_come_from_a_repository_with_keys_beside_it(tmp_path: Path) -> None:
    text = """
    [images]
    repository = "/srv/images"
    online_key = "/etc/deskgrid/online"
    online_password_file = "/etc/deskgrid/online.password"
    keys = "/etc/deskgrid/project-keys"
    sources = ["http://cache.example.org/images"]
    """
    chosen = read_settings(written(tmp_path, text)).images
    assert (chosen.repository, chosen.keys) == (Path("/srv/images"), Path("/etc/deskgrid/project-keys"))
    assert (chosen.sources, chosen.renew_seconds) == (("http://cache.example.org/images",), 300.0)


def test_all_faults_of_a_file_are_told_at_once_with_their_paths(tmp_path: Path) -> None:
    text = """
    prot = 1
    port = 99999
    cycle_seconds = "soon"
    [guest]
    unused_seconds = 1
    [plan]
    rampp = 3
    """
    with pytest.raises(BadSettings) as bad:
        read_settings(written(tmp_path, text))
    told = str(bad.value)
    for part in (
        "prot: unknown, did you mean 'port'?",
        "port: ",
        "cycle_seconds: ",
        "guest.unused_seconds: ",
        "plan.rampp: unknown, did you mean 'ramp'?",
    ):
        assert part in told
    assert len(bad.value.faults) == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hold_seconds = 100", "plan.stale_seconds: got 120, expected at least 240"),
        ("hold_seconds = 200", "plan.lease_seconds: got 300, expected at least 440"),
        ("names = []", "names: got none"),
        ("[plan]\nramp = 0", "plan.ramp: got 0, expected more than 0"),
        ("[plan]\nsizes = []", "plan.sizes: got none"),
        ("[plan]\n[[plan.sizes]]\ncpus = 0\nmemory_bytes = 1", "plan.sizes[0].cpus: got 0"),
        ("[plan]\n[[plan.sizes]]\ncpus = 1\nmemory_bytes = 1", "plan.sizes[0].memory_bytes: got 1"),
        (f'[guest]\ncollector = "c:9618?sock={"x" * 65}"', 'expected "host:port" or "host:port?sock=NAME"'),
        ('[guest]\ncollector = "c:9618?sock=a&alias=b"', 'expected "host:port" or "host:port?sock=NAME"'),
        ('[guest]\ncollector = "here"', "guest: collector: got 'here', expected \"host:port\""),
        ('[guest]\ntrust_domain = "a b"', "guest: trust_domain: got 'a b'"),
        ('[images]\nkeys = "/k"', "images: keys: got /k without repository, expected both"),
        ('[images]\nrepository = "/r"\nkeys = "/r/keys"', "images: keys: got /r/keys, expected a place outside"),
        ('[images]\nrepository = "/r"\nonline_key = "/k"', "images: online_password_file: missing"),
        ('[images]\nsources = ["ftp://x"]', "images: sources: got 'ftp://x', expected http://… or https://…"),
        ('[images]\nsources = ["http://a:b@x"]', "images: sources: got 'http://a:b@x'"),
        ("[images]\nrenew_seconds = 1", "images.renew_seconds: "),
    ],
)
def test_settings_that_would_defeat_each_other_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BadSettings) as bad:
        read_settings(written(tmp_path, text))
    assert told in str(bad.value)


def test_a_database_password_is_in_no_text_of_the_settings() -> None:
    assert "hunter2" not in repr(CoordinatorSettings(database="postgresql://grid:hunter2@db/grid"))
