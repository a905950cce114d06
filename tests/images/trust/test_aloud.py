"""Words for a digest."""

import hashlib

from mnemonic import Mnemonic

from deskgrid.images.trust.signing.covered import words_of


def test_eight_words_say_the_first_88_bits() -> None:
    assert words_of("0" * 64) == " ".join(["abandon"] * 8)
    assert words_of("f" * 64) == " ".join(["zoo"] * 8)
    digest = hashlib.sha256(b"ada").hexdigest()
    listed = Mnemonic("english").wordlist
    number = 0
    for word in words_of(digest).split():
        number = number << 11 | listed.index(word)
    assert number == int(digest, 16) >> 168
    assert len(words_of(digest).split()) * 11 >= 80


def test_no_two_words_begin_alike() -> None:
    listed = Mnemonic("english").wordlist
    assert len({word[:4] for word in listed}) == len(listed) == 2048
