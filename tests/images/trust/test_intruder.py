"""An intruder has the repository's folder, the online key and one key more, and changes any file between two commands
of the people who sign: whatever he does and they type, no desktop takes an image that its signers did not see."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .conftest import MEMORY
from .town import APPROVER, RESEARCHER, Intruder, Town, town

STOLEN = (None, "rita", "paul", "ada", "bob")
BOTH = (RESEARCHER, APPROVER)
ACTS: dict[str, Callable[[Intruder], object]] = {
    "nothing": lambda it: it.nothing(),
    "put back": lambda it: it.put_back(),
    "put back served": lambda it: it.put_back_served(),
    "put back all": lambda it: it.put_back(0),
    "forge both": lambda it: it.forge(*BOTH),
    "forge researcher": lambda it: it.forge(RESEARCHER),
    "forge approver": lambda it: it.forge(APPROVER),
    "number up": lambda it: it.number_up(*BOTH),
    "number up approver": lambda it: it.number_up(APPROVER),
    "lay researcher": lambda it: it.lay(RESEARCHER),
    "lay approver": lambda it: it.lay(APPROVER),
    "lay hidden": lambda it: it.lay_hidden(APPROVER),
    "lay keys": lambda it: it.lay_keys(),
    "lay more keys": lambda it: it.lay_more_keys(),
    "pose": lambda it: it.pose(),
    "swap manifests": lambda it: it.swap_manifests(),
    "swap version": lambda it: it.swap_version(),
    "take away": lambda it: it.take_away(APPROVER),
    "take targets away": lambda it: it.take_away("targets"),
    "take root away": lambda it: it.take_away("root"),
    "forge root": lambda it: it.forge_root(),
    "lay earlier": lambda it: it.lay_earlier(),
    "lay back": lambda it: it.lay_back(),
    "lay revoked": lambda it: it.lay_revoked(),
    "lay unrevoked": lambda it: it.lay_unrevoked(),
    "list all": lambda it: it.list_all(),
}
HONEST = ("propose", "approve", "new_life")


def unseen(here: Town, intruder: Intruder, home: str) -> list[str]:
    """What a desktop takes though a signer, whose key is his own, did not see it."""
    honest = [saw for who, saw in here.saw.items() if who != intruder.stolen]
    return [version for version, digest in here.look(home).items() if any(digest not in saw for saw in honest)]


def served(here: Town, intruder: Intruder) -> list[str]:
    """What a desktop takes, unseen, once the intruder has served all that he has."""
    intruder.number_up(*BOTH)
    intruder.list_all()
    return unseen(here, intruder, "desktop")


def act(here: Town, intruder: Intruder, name: str) -> None:
    if name in ACTS:
        ACTS[name](intruder)
    else:
        getattr(here, name)()


def test_without_an_intruder_what_both_saw_is_taken(place: Path, built: Path) -> None:
    with town(place, built) as here:
        assert here.new_life()
        assert here.propose()
        assert here.approve()
        here.renew()
        assert here.look("desktop").keys() == {"1.0", "2.0"}
        assert unseen(here, Intruder(here, None), "desktop") == []
        assert here.revoke()
        here.renew()
        assert here.look("desktop").keys() == {"1.0"}


STORIES = {
    "a base that was forged": ("forge both", "propose", "approve", "put back served", "renew"),
    "a base that was forged, listed by the thief": ("forge both", "propose", "approve", "list all"),
    "a higher number": ("number up", "propose", "approve", "list all"),
    "a draft for the approver": ("propose", "lay approver", "approve", "list all"),
    "a draft for both": ("lay researcher", "propose", "lay approver", "approve", "list all"),
    "other keys under the same ids": ("lay keys", "new_life", "pose", "list all"),
    "more keys under the same names": ("lay more keys", "new_life", "number up", "list all"),
    "another manifest": ("swap manifests", "propose", "swap manifests", "approve", "swap manifests", "renew"),
    "a delegation": ("propose", "lay hidden", "approve", "list all"),
    "a revocation taken back": ("propose", "approve", "revoke", "lay unrevoked", "approve", "list all"),
}


@pytest.mark.parametrize("stolen", STOLEN)
@pytest.mark.parametrize("story", STORIES)
def test_what_an_intruder_is_known_to_try_gets_no_image_past_its_signers(
    place: Path, built: Path, story: str, stolen: str | None
) -> None:
    with town(place, built) as here:
        intruder = Intruder(here, stolen)
        for name in STORIES[story]:
            act(here, intruder, name)
        assert unseen(here, intruder, "desktop") == []


WHILE_ASKED = ["forge both", "lay approver", "swap manifests", "number up", "put back all", "swap version"]


@pytest.mark.parametrize("name", WHILE_ASKED)
@pytest.mark.parametrize("stolen", [None, "rita"])
def test_what_changes_while_the_approver_is_asked_is_not_signed(
    place: Path, built: Path, name: str, stolen: str | None
) -> None:
    with town(place, built) as here:
        intruder = Intruder(here, stolen)
        here.propose()
        here.approve(meanwhile=lambda: ACTS[name](intruder))
        intruder.list_all()
        assert unseen(here, intruder, "desktop") == []


@pytest.mark.parametrize("stolen", [None, "ada"])
def test_what_changes_while_an_administrator_is_asked_is_not_signed(
    place: Path, built: Path, stolen: str | None
) -> None:
    with town(place, built) as here:
        intruder = Intruder(here, stolen)
        here.new_life(meanwhile=intruder.lay_more_keys)
        assert served(here, intruder) == []


@pytest.mark.parametrize("who", ["rita", "paul"])
@pytest.mark.parametrize("stolen", [None, "rita", "paul"])
def test_who_holds_no_root_signs_nothing_that_a_root_of_the_intruder_s_would_show(
    place: Path, built: Path, who: str, stolen: str | None
) -> None:
    with town(place, built) as here:
        intruder = Intruder(here, stolen)
        here.propose()
        intruder.remember()
        intruder.take_away("root")
        before = here.signatures()
        here.first_command(who, intruder.forge_root)
        made = here.signatures() - before
        assert not any(signer == here.keyid(who) for _, signer in made)
        intruder.put_back(-2)
        assert served(here, intruder) == []


LATEST_STORIES = {
    "a pointer that was good before": ("lay earlier", "propose", "list all"),
    "a step back that is none of now": ("lay back", "propose", "approve", "list all"),
    "a step back that waits": ("propose", "lay back", "approve", "list all"),
    "a revoked pointer": ("lay revoked", "approve", "list all"),
}


@pytest.mark.parametrize("stolen", [None, "rita", "paul"])
@pytest.mark.parametrize("story", LATEST_STORIES)
def test_latest_goes_back_only_if_its_signers_were_shown_that_it_does(
    place: Path, built: Path, story: str, stolen: str | None
) -> None:
    with town(place, built) as here:
        assert here.propose()
        assert here.approve()
        here.renew()
        was = here.latest("desktop")
        intruder = Intruder(here, stolen)
        for name in LATEST_STORIES[story]:
            act(here, intruder, name)
        latest = here.latest("desktop")
        assert latest >= was or not latest or here.were_shown_a_step_back(stolen)


class Intrusion(RuleBasedStateMachine):
    """Weeks of people who publish, and of somebody who is always there."""

    begun: Path

    @initialize(stolen=st.sampled_from(STOLEN))
    def begin(self, stolen: str | None) -> None:
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))) / "town"
        self.town = self.stack.enter_context(town(folder, self.begun))
        self.intruder = Intruder(self.town, stolen)
        self.looks = self.latest = 0

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()

    @rule(acts=st.lists(st.sampled_from(sorted(ACTS)), min_size=4, max_size=4))
    def a_week(self, acts: list[str]) -> None:
        """Rita proposes, paul approves, the coordinator lists; he acts before each, and while paul is asked."""
        first, second, asked, third = (lambda name=name: ACTS[name](self.intruder) for name in acts)
        self.town.propose(meanwhile=first)
        second()
        self.town.approve(meanwhile=asked)
        third()
        self.town.renew()

    @rule(before=st.sampled_from(sorted(ACTS)), asked=st.sampled_from(sorted(ACTS)))
    def a_new_life(self, before: str, asked: str) -> None:
        ACTS[before](self.intruder)
        self.town.new_life(meanwhile=lambda: ACTS[asked](self.intruder))

    @rule(
        who=st.sampled_from(("rita", "paul", "ada")),
        before=st.sampled_from(("take root away", *sorted(ACTS))),
        asked=st.sampled_from(("forge root", *sorted(ACTS))),
    )
    def a_first_command(self, who: str, before: str, asked: str) -> None:
        """Somebody lost what he held, or never had it; he acts before, and while the password is asked."""
        ACTS[before](self.intruder)
        self.town.first_command(who, lambda: ACTS[asked](self.intruder))

    @rule()
    def a_revocation(self) -> None:
        self.town.revoke()

    @rule(name=st.sampled_from(sorted(ACTS)))
    def he_acts(self, name: str) -> None:
        ACTS[name](self.intruder)

    @rule(which=st.integers(0, 30))
    def he_puts_back_what_was(self, which: int) -> None:
        self.intruder.put_back(which)

    @rule()
    def he_lists(self) -> None:
        self.intruder.list_all()

    @invariant()
    def no_desktop_takes_what_its_signers_did_not_see(self) -> None:
        self.looks += 1
        for home in ("desktop", f"new desktop {self.looks}"):  # one that remembers, one that never saw anything
            assert unseen(self.town, self.intruder, home) == []
        latest = self.town.latest("desktop")
        assert latest >= self.latest or not latest or self.town.were_shown_a_step_back(self.intruder.stolen)
        self.latest = max(latest, self.latest)


@pytest.mark.slow
def test_whatever_an_intruder_does_no_desktop_takes_what_its_signers_did_not_see(built: Path) -> None:
    machine = type("Here", (Intrusion,), {"begun": built})
    machine.TestCase.settings = settings(max_examples=12, stateful_step_count=7, deadline=None)
    machine.TestCase("runTest").runTest()
