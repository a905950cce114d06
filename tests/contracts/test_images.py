"""Every image store keeps the contract: the fake, and a desktop's store of signed images in encrypted chunks."""

import threading
from pathlib import Path

import pytest

from deskgrid.images.contract import ImageError
from deskgrid.images.fake import FakeStore
from deskgrid.model.image import ImageFacts, ImageRef
from tests.images.signed import Rig, signed

pytestmark = pytest.mark.slow

UNKNOWN = ImageRef("gone", "0" * 64)


@pytest.fixture(params=["fake", "desktop"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    if request.param == "fake":
        facts = ImageFacts(ImageRef("demo", "a" * 64), 512 << 20, 1 << 30, "demo", "1.0")
        fake = FakeStore(tmp_path / "opened", held=[facts])
        return Rig(fake, facts, None, lambda: fake.damage(facts.ref))
    return signed(tmp_path)


def test_what_was_fetched_can_be_opened_and_read_in_one_of_two_ways(rig: Rig) -> None:
    rig.store.fetch(rig.facts.ref, rig.grant)
    rig.store.fetch(rig.facts.ref, rig.grant)
    opened = rig.store.open(rig.facts.ref, rig.grant)
    assert opened.ref == rig.facts.ref
    assert (opened.disk is None) is not (opened.served is None)
    for _ in range(2):  # once more than it was opened does no harm
        rig.store.close(rig.facts.ref)


def test_an_unknown_image_is_refused_with_what_to_do(rig: Rig) -> None:
    for ask in (rig.store.fetch, rig.store.open):
        with pytest.raises(ImageError, match=r"gone.*: .+; .+"):
            ask(UNKNOWN, rig.grant)


def test_the_digest_counts_not_only_the_name(rig: Rig) -> None:
    with pytest.raises(ImageError):
        rig.store.fetch(ImageRef(rig.facts.ref.name, "f" * 64), rig.grant)


def test_an_image_that_is_not_allowed_any_more_is_refused_before_the_next_start(rig: Rig) -> None:
    rig.store.fetch(rig.facts.ref, rig.grant)
    rig.take_back()
    with pytest.raises(ImageError, match=r"damaged|it has a hole"):
        rig.store.fetch(rig.facts.ref, rig.grant)


def test_many_threads_may_ask_at_once(rig: Rig) -> None:
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            rig.store.fetch(rig.facts.ref, rig.grant)
            rig.store.open(rig.facts.ref, rig.grant)
            rig.store.held()
            rig.store.close(rig.facts.ref)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
