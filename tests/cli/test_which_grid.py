"""Which grid is meant: the one that is named, else the account's own, else the computer's; what is said when none is.

Each command runs in a process of an ordinary account, with a home of its own.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from deskgrid.agent.settings import AgentSettings
from deskgrid.cli.output import Exit
from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.demo import first_look
from deskgrid.demo.signers import SignersFolders
from deskgrid.host.system.account import Account, become, service_account
from deskgrid.host.system.files import own_folder
from deskgrid.host.system.toml import read
from deskgrid.host.trees.trees import Tree
from deskgrid.pool.embedded.place import (
    EmbeddedError,
    PoolState,
    check_binds,
    folders_of,
    free_port,
    job_folders,
    usual_port,
)
from deskgrid.pool.embedded.pool import EmbeddedPool

from .conftest import Said

pytestmark = pytest.mark.slow


class Home:
    """An ordinary account's home folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.account = folder, service_account()
        own_folder(folder, self.account)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        for parent in reversed(path.parents):
            if parent.is_relative_to(self.folder):
                own_folder(parent, self.account)
        path.write_text(text)
        path.chmod(0o644)
        return path

    def deskgrid(self, *words: object, **environment: object) -> Said:
        ended = subprocess.run(
            [*become(self.account), sys.executable, "-m", "deskgrid", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.folder,
            env={"HOME": str(self.folder), "PATH": os.environ["PATH"], **{k: str(v) for k, v in environment.items()}},
        )
        return Said(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="dg-") as name:
        Path(name).chmod(0o755)
        yield Home(Path(name) / "home")


def grid(home: Home, name: str) -> str:
    """Settings whose coordinator was never started; what it says names its folder."""
    return f'state_dir = "{home.folder}/{name}"\n'


def test_the_grid_that_is_named_goes_first_then_the_environments_then_the_accounts_own(home: Home) -> None:
    home.write(".config/deskgrid/coordinator.toml", grid(home, "own"))
    environments = home.write("environment.toml", grid(home, "environments"))
    named = home.write("named.toml", grid(home, "named"))
    for said, which in (
        (home.deskgrid("vm", "list"), "own"),
        (home.deskgrid("vm", "list", DESKGRID_COORDINATOR=environments), "environments"),
        (home.deskgrid("vm", "list", "--settings", named, DESKGRID_COORDINATOR=environments), "named"),
    ):
        assert said.code == Exit.UNREACHABLE
        assert said.sentence.startswith(f"state folder {home.folder}/{which}: ")


def test_a_grid_that_does_not_answer_is_named_with_the_file_that_meant_it(home: Home) -> None:
    file = home.write(".config/deskgrid/coordinator.toml", grid(home, "gone"))
    said = home.deskgrid("why", "job", "1.0")
    assert f"that is the grid of {file}, another one is named with --settings" in said.sentence


def test_the_folder_of_settings_is_where_the_desktop_standard_says(home: Home) -> None:
    home.write("settings/deskgrid/coordinator.toml", grid(home, "elsewhere"))
    said = home.deskgrid("vm", "list", XDG_CONFIG_HOME=home.folder / "settings")
    assert f"state folder {home.folder}/elsewhere: " in said.sentence


@pytest.mark.skipif(Path("/etc/deskgrid").exists(), reason="this computer has settings of its own")
def test_without_any_settings_a_command_says_how_to_name_a_grid(home: Home) -> None:
    said = home.deskgrid("desktop", "list")
    assert said.code == Exit.UNREACHABLE
    assert "no settings say which grid is meant: name them with --settings, or write " in said.sentence
    assert f"{home.folder}/.config/deskgrid/coordinator.toml" in said.sentence
    said = home.deskgrid("agent", "run")
    assert said.code == Exit.WRONG
    assert said.sentence.startswith("/etc/deskgrid/agent.toml: cannot be read")


def test_faults_of_the_accounts_own_settings_are_told(home: Home) -> None:
    file = home.write(".config/deskgrid/agent.toml", "desktop = 7\n")
    for words in (["status"], ["policy", "show"], ["doctor", "--no-trial"]):
        said = home.deskgrid(*words)
        assert said.code == Exit.WRONG
        assert f"{file}: desktop" in said.err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_takes_no_settings_from_the_home_that_somebody_gave_it(home: Home) -> None:
    home.write(".config/deskgrid/coordinator.toml", grid(home, "persons"))
    home.account = Account(0, 0)
    assert str(home.folder) not in home.deskgrid("vm", "list").err


# -- a first look -----------------------------------------------------------------------------------------------------


def pool(folder: Path, port: int) -> EmbeddedPool:
    tree = Tree(folder / "tree", service_account())
    return EmbeddedPool(
        tree, folders_of(folder / "pool"), PoolState(port, "10.0.2.2", "deskgrid", "deskgrid", ()), None
    )


def test_a_first_look_writes_good_settings_and_the_second_time_nothing(tmp_path: Path) -> None:
    config, folder = tmp_path / "config", tmp_path / "grid"
    written = first_look.write(config, folder, pool(tmp_path, 7777))
    assert sorted(path.relative_to(config).as_posix() for path in written) == [
        "agent.toml",
        "coordinator.toml",
        "policy/grid.toml",
    ]
    coordinator = read(config / "coordinator.toml", CoordinatorSettings)
    agent = read(config / "agent.toml", AgentSettings)
    assert coordinator.guest.collector == "10.0.2.2:7777"
    assert coordinator.images.repository == SignersFolders(folder).repository
    assert agent.coordinator == f"https://localhost:{coordinator.port}"
    assert agent.policy_folder == config / "policy"
    assert Path(agent.presence.removeprefix("file:")).read_text().strip() == "away"
    assert first_look.write(config, folder, pool(tmp_path, 7777)) == []
    Path(agent.presence.removeprefix("file:")).write_text("present")
    assert first_look.write(config, folder, pool(tmp_path, 7778)) == [config / "coordinator.toml"]
    assert read(config / "coordinator.toml", CoordinatorSettings).port == coordinator.port
    assert Path(agent.presence.removeprefix("file:")).read_text() == "present"


def test_settings_of_somebody_else_are_never_written_over(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "agent.toml").write_text("# mine\n")
    with pytest.raises(first_look.NotOurs, match=r"agent.toml: got a file that deskgrid has not written"):
        first_look.write(config, tmp_path / "grid", pool(tmp_path, 7777))
    assert [path.name for path in config.iterdir()] == ["agent.toml"]


# -- the folders that HTCondor sees -----------------------------------------------------------------------------------


def test_a_pool_has_the_port_that_it_had_since_settings_name_it(tmp_path: Path) -> None:
    folders, port = folders_of(tmp_path), free_port()
    assert usual_port(folders) != 0
    (tmp_path / "pool.json").write_bytes(msgspec.json.encode(PoolState(port, "10.0.2.2", "deskgrid", "deskgrid", ())))
    assert usual_port(folders) == port


def test_root_shows_htcondor_no_folder_unless_it_is_told(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree", service_account())
    wished = job_folders(tree, None)
    assert (wished == ()) == (os.geteuid() == 0)
    assert job_folders(tree, [tmp_path]) == (tmp_path,)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: an ordinary user's pool is that user")
def test_a_folder_that_the_pools_account_cannot_reach_is_not_bound(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    (shut / "inside").mkdir(parents=True)
    shut.chmod(0o700)
    with pytest.raises(EmbeddedError, match=r"shut/inside, expected one that user \d+ can reach"):
        check_binds(service_account(), [shut / "inside"])
    check_binds(service_account(), [Path("/tmp")])
