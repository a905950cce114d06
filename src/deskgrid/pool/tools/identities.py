"""Each VM has an identity of its own, which says when it is over; what it may say to the collector follows from it.

Rules:
- `deskgrid-vm.<end>.<vm id>@<trust domain>`: the end in seconds since 1970, so that an ad is refused after it, however
  old the connection is that brings it. A renewed token is an identity with a later end.
- A VM's ads are machines, daemons of machines and nothing else, with its own id in attribute and name, and no offline
  ads. COLLECTOR_REQUIREMENTS sees to that: the collector writes AuthenticatedIdentity into every ad itself.
- Any attribute may be an expression, and the collector evaluates it anew each time that it needs it: one that calls
  `random` is one thing while it is weighed and another when the ad is filed. So nothing of a VM's ad is believed by
  its value: only the text as it is written counts, and only where it can be nothing but a plain value.
- An ad ends: its lifetime is bounded, and when it was heard of is the collector's to say. What a snapshot reads of it
  is short. The collector knows an ad by its name, so a VM has no more ads than it may have names.
- A VM that has ended is named in a file that the collector reads (`ended.py`): its token is dead though it is valid.
- HTCondor lets whoever may advertise a startd also take any startd's ads away (INVALIDATE_STARTD_ADS looks at nobody's
  identity), so the collector ignores such commands. Who may, writes `gone_ad` over an ad instead: it matches nothing,
  is none of ours, and is over in a second.
"""

from deskgrid.pool.tools.ads import Ad, BadText, Expression, Value, ad_text, text_of

VM_USER = "deskgrid-vm"
"""The first part of the identity in the token of every VM."""
ENDED_MAP = "deskgrid_ended"
"""HTCondor's name for the file of VMs that have ended."""

_PREFIX = f"{VM_USER}."
_MINE = 'split(AuthenticatedIdentity, ".@")'
_ID = f"{_MINE}[2]"
_NAME = rf'strcat("^\"(slot1(_[0-9]{{1,3}})?@)?", {_ID}, "(@", {_ID}, ")?([.]deskgrid[.]internal)?\"$")'
"""What a VM's ads may be called: its slots as guests name them, its daemons."""
_TYPES = ("Machine", "StartD", "StartDaemon", "DaemonMaster")
_NEVER = ("Offline", "deskgrid_offline", "LastHeardFrom")
"""What a VM's ad never has, whatever its value."""
_WHOLE = "string(TARGET)"
"""The ad as it is written, in one line: `[ Name = "x"; Cpus = 1 ]`."""
_LIFETIME_DIGITS = 3
_AD_CHARS, _PART_CHARS, _TEXT_CHARS, _OTHER_CHARS = 100_000, 20_000, 1000, 100
"""Longest ad of a slot, of a dynamic slot (which names no others), and longest text read from either."""
GONE_SECONDS = 1


def identity(vm_id: str, ends_at: int, trust_domain: str) -> str:
    """The identity of one VM. vm_id: a name without a dot. ends_at: seconds since 1970."""
    return f"{_PREFIX}{ends_at}.{vm_id}@{trust_domain}"


def identities(trust_domain: str) -> str:
    """All of them, as HTCondor's ALLOW settings name them."""
    return f"{_PREFIX}*@{trust_domain}"


def is_vms(ad: Ad) -> bool:
    """Whether an ad came with the identity of a VM."""
    return (text_of(ad, "AuthenticatedIdentity") or "").startswith(VM_USER)


def requirements(read: str) -> str:
    """What an ad must be for the collector to take it: an expression over the ad.

    Args: read: attributes that a snapshot reads, with commas between them.
    """
    types = ", ".join(rf'"\"{one}\""' for one in _TYPES)
    own = " && ".join(
        (
            f"member({_written('MyType')}, {{ {types} }})",
            rf'{_written("deskgrid_vm_id")} =?= strcat("\"", {_ID}, "\"")',
            f"regexp({_NAME}, {_written('Name')})",
            f"int({_MINE}[1]) > time()",
            f'userMap("{ENDED_MAP}", {_ID}) =?= undefined',
            f'size({_WHOLE}) < ifThenElse(regexp("^.slot1_", {_written("Name")}), {_PART_CHARS}, {_AD_CHARS})',
            f'regexp("[[;] deskgrid_vm_id = ", {_WHOLE}, "i")',  # it is written as _odd takes it to be
            f'! regexp("{_odd(read)}", {_WHOLE}, "i")',
        )
    )
    return f'ifThenElse(substr(AuthenticatedIdentity ?: "", 0, {len(_PREFIX)}) =?= "{_PREFIX}", {own}, true)'


def _written(attribute: str) -> str:
    """The text of an attribute, not its value; false follows for one that is missing."""
    return f"evalInEachContext(unparse({attribute}), {{TARGET}})[0]"


def _odd(read: str) -> str:
    """What is in an ad that has what no VM's has, that lives for long, or of which much would be read.

    A text that only looks so is refused too: that costs its teller.
    """
    short = rf"(\"[^\"]{{0,{_TEXT_CHARS}}}\"|[^\";]{{0,{_OTHER_CHARS}}})"
    lifetime = f"ClassAdLifetime = (?![0-9]{{1,{_LIFETIME_DIGITS}}} ?[];])"
    return f"[[;] (({'|'.join(_NEVER)}) = |{lifetime}|({read.replace(',', '|')}) = (?!{short} ?[];]))"


def gone_ad(ad: Ad) -> str | None:
    """What is written over an ad to take it away; None: nothing can be (its text is odd; it ends by itself)."""
    kind, name, address = (text_of(ad, key) for key in ("MyType", "Name", "MyAddress"))
    if kind is None or name is None or address is None:
        return None
    attributes: dict[str, Value | Expression] = {
        "MyType": kind,
        "Name": name,
        "Machine": text_of(ad, "Machine") or name,
        "MyAddress": address,
        "SlotID": 2,  # with 1 the collector would make up a daemon ad beside it
        "State": "Owner",
        "Activity": "Idle",
        "Start": False,
        "Requirements": False,
        "deskgrid_gone": True,
        "ClassAdLifetime": GONE_SECONDS,
    }
    try:
        return ad_text(attributes)
    except BadText:
        return None
