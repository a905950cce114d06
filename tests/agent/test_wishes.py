"""Any story of wishes: nobody makes the grid run against a wish of somebody else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.agent.owner.wishes import MAX_ACCOUNTS, ROOT, AccountWish, Denied, WishBook, decide, standing, strongest
from deskgrid.model.wish import Ask, Wish

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
AGENT = 999
ACCOUNTS = (1001, 1002, 1003)
steps = st.lists(
    st.tuples(
        st.sampled_from((*ACCOUNTS, ROOT, AGENT)),
        st.sampled_from(list(Ask)),
        st.one_of(st.none(), st.integers(1, 300)),
        st.integers(0, 100),
    ),
    max_size=25,
)


def weight(wish: Wish) -> tuple[bool, float]:
    return wish.ask is Ask.PAUSE, wish.until.timestamp() if wish.until else float("inf")


@given(steps)
def test_what_holds_is_never_less_than_what_anybody_else_has_asked(
    story: list[tuple[int, Ask, int | None, int]],
) -> None:
    said: tuple[AccountWish, ...] = ()
    now = START
    for uid, ask, seconds, passing in story:
        now += timedelta(seconds=passing)
        until = now + timedelta(seconds=seconds) if seconds and ask is not Ask.RESUME else None
        others = [one for one in standing(said, now) if one.uid != uid]
        try:
            said = decide(said, uid, Wish(ask, str(uid), now, until), AGENT, now)
        except Denied:
            assert ask is Ask.RESUME and uid in ACCOUNTS and others
        holds = strongest(said, now)
        if ask is Ask.RESUME and uid in (ROOT, AGENT):
            assert holds is None
            continue
        for one in others:
            assert holds is not None and weight(holds.wish) >= weight(one.wish)
        if ask is not Ask.RESUME:
            assert holds is not None and weight(holds.wish) >= weight(Wish(ask, "", now, until))
        assert len({one.uid for one in said}) == len(said)


def test_so_many_accounts_may_ask_and_no_more() -> None:
    said: tuple[AccountWish, ...] = ()
    for uid in range(1, MAX_ACCOUNTS + 1):
        said = decide(said, uid, Wish(Ask.PAUSE, "x", START), AGENT, START)
    with pytest.raises(Denied, match="it does"):
        decide(said, 7000, Wish(Ask.PAUSE, "x", START), AGENT, START)
    assert len(decide(said, 5, Wish(Ask.FINISH, "x", START), AGENT, START)) == MAX_ACCOUNTS


def test_a_clock_that_is_set_back_only_makes_a_wish_last_longer(tmp_path: Path) -> None:
    book = WishBook(tmp_path / "wish.json", AGENT, START)
    book.say(1001, Wish(Ask.PAUSE, "anna", START, START + timedelta(hours=1)), START)
    assert WishBook(tmp_path / "wish.json", AGENT, START - timedelta(days=1)).strongest(START - timedelta(days=1))


def test_the_file_is_for_the_agent_alone_and_whole(tmp_path: Path) -> None:
    book = WishBook(tmp_path / "wish.json", AGENT, START)
    book.say(1001, Wish(Ask.PAUSE, "anna", START), START)
    assert (tmp_path / "wish.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["wish.json"]
    assert WishBook(tmp_path / "wish.json", AGENT, START).said == book.said
