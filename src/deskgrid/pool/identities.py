"""Each VM has an identity of its own, which says when it is over; what it may say to the collector follows from it.

Rules, told first
- `deskgrid-vm.<end>.<vm id>@<trust domain>`: the end in seconds since 1970, so that an ad is refused after it, however
  old the connection is that brings it. A renewed token is an identity with a later end.
- A VM's ads are those with its own id in attribute and name, and no offline ads. COLLECTOR_REQUIREMENTS sees to that:
  the collector writes AuthenticatedIdentity into every ad itself.
- A VM that has ended is named in a file that the collector reads (`ended.py`): its token is dead though it is valid.
- HTCondor lets whoever may advertise a startd also take any startd's ads away (INVALIDATE_STARTD_ADS looks at nobody's
  identity), so the collector ignores such commands. Who may, writes `gone_ad` over an ad instead: it matches nothing,
  is none of ours, and is over in a second.
"""

from deskgrid.pool.ads import Ad, BadText, Expression, Value, ad_text, text_of

VM_USER = "deskgrid-vm"
"""The first part of the identity in the token of every VM."""
ENDED_MAP = "deskgrid_ended"
"""HTCondor's name for the file of VMs that have ended."""

_MINE = 'split(AuthenticatedIdentity, ".@")'
_NAMED = 'split(Name, "@")'
_BARE = 'split({}, ".")[0]'
"""A machine's name without its domain, such as the guest's own (deskgrid.internal)."""
_PREFIX = f"{VM_USER}."
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


def requirements() -> str:
    """What an ad must be for the collector to take it: an expression over the ad."""
    own = " && ".join(
        (
            f"deskgrid_vm_id =?= {_MINE}[2]",
            f"int({_MINE}[1]) > time()",
            f'userMap("{ENDED_MAP}", {_MINE}[2]) =?= undefined',
            f"({_BARE.format(f'{_NAMED}[0]')} =?= {_MINE}[2] || "
            f'(regexp("^slot[0-9_]+$", {_NAMED}[0]) && {_BARE.format(f"{_NAMED}[1]")} =?= {_MINE}[2]))',
            "Offline =!= true && deskgrid_offline =?= undefined",
        )
    )
    return f'ifThenElse(substr(AuthenticatedIdentity ?: "", 0, {len(_PREFIX)}) =?= "{_PREFIX}", {own}, true)'


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
