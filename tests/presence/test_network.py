"""Which way the network goes, from tables as kernels print them."""

import os
from pathlib import Path

import pytest

from deskgrid.presence.linux.network import default_device, wireless

ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
wlp2s0	00000000	0100A8C0	0003	0	0	600	00000000	0	0	0
enp3s0	00000000	0100A8C0	0003	0	0	100	00000000	0	0	0
enp3s0	0000A8C0	00000000	0001	0	0	100	00FFFFFF	0	0	0
"""
HEAD = ROUTES.splitlines(keepends=True)[0]
WIFI = "".join(line for line in ROUTES.splitlines(keepends=True) if not line.startswith("enp3s0"))
TUNNEL = (
    HEAD + "tun0	00000000	00000000	0001	0	0	50	00000000	0	0	0\n" + WIFI.removeprefix(HEAD)
)
NOWHERE = "00000000000000000000000000000000"
ROUTES6 = f"""\
fe80000000000000{NOWHERE[:16]} 40 {NOWHERE} 00 {NOWHERE} 00000100 00000001 00000000 00000001   enp3s0
{NOWHERE} 00 {NOWHERE} 00 fe80000000000000021122fffe334455 00000400 00000001 00000000 00450003   wlp2s0
{NOWHERE} 00 {NOWHERE} 00 {NOWHERE} ffffffff 00000001 00000000 00200200       lo
"""


class Net:
    """A made-up /proc and /sys with a wired, a wireless, a mobile and a made-up device."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.sys = folder / "proc", folder / "sys"
        (self.proc / "net").mkdir(parents=True)
        for name, kind in (("enp3s0", ""), ("wlp2s0", "DEVTYPE=wlan\n"), ("wwan0", "DEVTYPE=wwan\n"), ("tun0", "")):
            folder = self.sys / "class/net" / name
            folder.mkdir(parents=True)
            (folder / "uevent").write_text(kind + f"INTERFACE={name}\n")
            if name != "tun0":
                (folder / "device").mkdir()
        (self.sys / "class/net/wlp2s0/wireless").mkdir()
        self.up("enp3s0", "wlp2s0")

    def up(self, *names: str) -> None:
        for folder in (self.sys / "class/net").iterdir():
            (folder / "operstate").write_text("up\n" if folder.name in names else "down\n")

    def is_wireless(self, routes: str, routes6: str = "") -> bool | None:
        (self.proc / "net/route").write_text(routes)
        (self.proc / "net/ipv6_route").write_text(routes6)
        return wireless(self.proc, self.sys)


def test_the_default_route_is_the_one_that_the_kernel_prefers() -> None:
    assert default_device(ROUTES, "") == "enp3s0"
    assert default_device(WIFI, ROUTES6) == "wlp2s0"
    assert default_device(HEAD, ROUTES6) == "wlp2s0"
    assert default_device(HEAD, "") is None
    assert default_device("", "") is None


ODD = ("a\u2003zz", "a\x85zz", "a\x1czz", "\u2028", "\udcff")
"""Names that the kernel takes: what Python takes for a blank or a line's end, and what is no text."""


@pytest.mark.parametrize("name", ODD)
def test_a_device_may_have_any_name_that_the_kernel_takes(tmp_path: Path, name: str) -> None:
    assert default_device(ROUTES.replace("enp3s0", name), ROUTES6.replace("enp3s0", name)) == name
    assert default_device(HEAD, ROUTES6.replace("wlp2s0", name)) == name
    net = Net(tmp_path)
    (net.sys / "class/net/enp3s0").rename(net.sys / "class/net" / name)
    net.up(name, "wlp2s0")
    (net.proc / "net/ipv6_route").write_text("")
    (net.proc / "net/route").write_bytes(os.fsencode(ROUTES.replace("enp3s0", name)))
    assert wireless(net.proc, net.sys) is False


def test_a_table_that_is_none_makes_it_unknown(tmp_path: Path) -> None:
    net = Net(tmp_path)
    assert net.is_wireless(HEAD + "enp3s0\n") is None
    assert net.is_wireless(ROUTES.replace("0003", "zzzz")) is None
    assert net.is_wireless(ROUTES, "a b\n") is None


def test_what_the_route_goes_through_decides(tmp_path: Path) -> None:
    net = Net(tmp_path)
    assert net.is_wireless(ROUTES) is False
    assert net.is_wireless(WIFI) is True
    assert net.is_wireless(WIFI.replace("wlp2s0", "wwan0")) is True
    assert net.is_wireless(HEAD) is False


def test_a_tunnel_is_wireless_if_nothing_wired_is_up(tmp_path: Path) -> None:
    net = Net(tmp_path)
    assert net.is_wireless(TUNNEL) is False
    net.up("wlp2s0")
    assert net.is_wireless(TUNNEL) is True
    net.up()
    assert net.is_wireless(TUNNEL) is False


def test_without_the_kernels_devices_it_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(ROUTES)
    assert wireless(tmp_path / "proc", tmp_path / "sys") is None


def test_this_kernels_own_tables_can_be_read() -> None:
    assert wireless(Path("/proc"), Path("/sys")) in (True, False)
