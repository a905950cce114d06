"""The words of helpers: kept, aged, forgotten, cut to size."""

import time

from deskgrid.model.presence import SessionReading
from deskgrid.presence.helpers import HelperWords


def test_what_was_idle_grows_until_it_is_said_again() -> None:
    told = HelperWords()
    began = time.monotonic()
    told.take(1000, SessionReading("mutter", 60.0))
    time.sleep(0.1)
    (word,) = told.words()
    assert word.idle_seconds is not None
    assert 60.1 <= word.idle_seconds <= 60 + time.monotonic() - began
    assert word.fresh


def test_a_sign_is_news_and_idle_time_that_only_grew_is_not() -> None:
    told = HelperWords()
    assert told.take(1000, SessionReading("mutter", 60.0))
    assert not told.take(1000, SessionReading("mutter", 60.0))
    assert told.take(1000, SessionReading("mutter", 0.0))
    assert told.take(1000, SessionReading("mutter", None))
    assert told.take(1000, SessionReading("mutter", None, full_screen=True))
    assert not told.take(1000, SessionReading("mutter", None, full_screen=True))
    assert told.take(1000, None)
    assert not told.take(1000, None)
    assert told.words() == ()


def test_each_source_of_an_account_has_its_own_word_and_no_account_more_than_eight() -> None:
    told = HelperWords()
    for number in range(20):
        told.take(1000, SessionReading(f"source {number}", 1.0))
    told.take(1001, SessionReading("mutter", 1.0))
    assert [one.source for one in told.words() if one.uid == 1000] == [f"source {number}" for number in range(12, 20)]
    told.take(1000, None)
    assert [one.uid for one in told.words()] == [1001]


def test_nonsense_is_busy_and_texts_are_cut_to_size_and_made_printable() -> None:
    told = HelperWords()
    told.take(1000, SessionReading("a\nb", float("nan"), watching=("x" * 1000,) * 100))
    told.take(1000, SessionReading("minus", -5.0))
    nan, minus = told.words()
    assert (nan.source, len(nan.watching), len(nan.watching[0])) == ("a b", 8, 80)
    assert nan.idle_seconds is not None
    assert minus.idle_seconds is not None
    assert nan.idle_seconds < 5
    assert minus.idle_seconds < 5
