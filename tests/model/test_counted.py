"""Numbers in sentences: one desktop, two desktops."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import deskgrid
from deskgrid.model.values.text import counted

_THINGS = re.compile(
    r" (?:[a-z]+ )?(?:accounts|ads|blocks|cases|chunks|cores|CPUs?|days|desktops|devices|entries|failures|files|images|"
    r"jobs|keys|letters|machines|packs|packages|pieces|processes|reasons|reports|sessions|signatures|starts|times|uses|"
    r"VMs?)\b"
)
_CONSTANT = re.compile(r"[A-Z_]+(\.[a-z]+)?\Z")


def test_one_is_one_and_all_else_are_several() -> None:
    assert [counted(number, "desktop") for number in (0, 1, 2)] == ["0 desktops", "1 desktop", "2 desktops"]
    assert (counted(1, "entry", "entries"), counted(3, "entry", "entries")) == ("1 entry", "3 entries")


def test_no_sentence_counts_by_hand() -> None:
    """A number that is put before a noun as it is says "1 desktops" one day; `counted` is the one way."""
    by_hand = []
    for path in sorted(Path(deskgrid.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for value, text in pairwise(node.values) if isinstance(node, ast.JoinedStr) else ():
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    told = ast.unparse(value.value)
                    if _THINGS.match(str(text.value)) and not _CONSTANT.match(told):
                        by_hand.append(f"{path.name}:{node.lineno}: {{{told}}}{str(text.value)[:30]}")
    assert by_hand == []
