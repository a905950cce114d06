"""What a boot reads is unpacked ahead of the guest."""

import time
from pathlib import Path

from deskgrid.images.fetch.fetch import Fetcher
from deskgrid.images.fetch.source import open_source
from deskgrid.images.format.keys import ProjectKey
from deskgrid.images.format.published import boot_order
from deskgrid.images.serve.prefetch import ReadAhead
from deskgrid.images.serve.reader import Pieces
from deskgrid.images.store.store import ChunkStore
from tests.images.chunks.ground import KEY, ROOMY, content, origin, published


def test_what_a_boot_reads_is_unpacked_before_it_is_asked_for_and_is_no_read_of_the_guests(tmp_path: Path) -> None:
    made = published(tmp_path, content(), first_reads=tuple(range(0, 1 << 20, 4096)))
    store = ChunkStore(tmp_path / "store", ROOMY)
    with store.admit(made.path.read_bytes()) as image:
        Fetcher(store, image, [open_source(origin(tmp_path))]).whole()
        pieces = Pieces(store, image, ProjectKey(KEY))
        order = [number for number in boot_order(image.manifest) if number < image.manifest.disk.pieces]
        warm = ReadAhead(pieces, order)
        until = time.monotonic() + 30
        while warm.busy and time.monotonic() < until:
            time.sleep(0.01)
        assert not warm.busy and not pieces.first_reads
        store.files.close()
        for path in (tmp_path / "store/packs").glob("*/*"):
            path.unlink()
        assert all(pieces.plain(number) is not None for number in order)
        warm.close()
