"""A digest as words, for two people who compare it by telephone.

Rules, told first
- Eight words of a list of 2,048: 88 bits. Nobody finds another key or file whose digest has the same words.
- The list is BIP-39's English one: no two words begin with the same four letters.
"""

from functools import cache

from mnemonic import Mnemonic

_WORDS, _BITS = 8, 11


def words_of(digest: str) -> str:
    """The words of a SHA-256, which is given as 64 hexadecimal digits."""
    number = int(digest, 16) >> (256 - _WORDS * _BITS)
    listed = _list()
    return " ".join(listed[number >> (_BITS * at) & (2**_BITS - 1)] for at in reversed(range(_WORDS)))


@cache
def _list() -> list[str]:
    return Mnemonic("english").wordlist
