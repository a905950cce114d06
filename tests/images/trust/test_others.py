"""What we publish is TUF as others understand it: python-tuf's own client reads it."""

from datetime import UTC, datetime
from pathlib import Path

from tuf.ngclient import Updater

from .rig import ONE, TWO, Grid, served


def test_python_tuf_s_own_client_finds_and_fetches_what_we_published(tmp_path: Path) -> None:
    grid = Grid(tmp_path / "repository", datetime.now(UTC))
    content = grid.publish(ONE)
    for folder in ("metadata", "targets"):
        (tmp_path / "theirs" / folder).mkdir(parents=True)
    with served(grid.shelf.folder) as url:
        theirs = Updater(
            str(tmp_path / "theirs/metadata"),
            f"{url}/metadata",
            str(tmp_path / "theirs/targets"),
            f"{url}/targets",
            bootstrap=grid.bootstrap,
        )
        theirs.refresh()
        assert theirs.get_targetinfo(TWO.path) is None
        found = theirs.get_targetinfo(ONE.path)
        assert found is not None
        assert Path(theirs.download_target(found)).read_bytes() == content
        assert theirs.get_targetinfo(ONE.latest) is not None
