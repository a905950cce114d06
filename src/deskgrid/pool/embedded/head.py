"""The configuration of the embedded pool's head: central manager and schedd in one folder, reached by one port.

Pure: settings in, files out. All daemons run as one unprivileged user and listen on the loopback interface only.
Guests behind QEMU's user network see the host as 10.0.2.2: the daemons advertise that address
(TCP_FORWARDING_HOST) beside their real one, which those use that share their PRIVATE_NETWORK_NAME. With a shared
port all of them, the collector too, are behind the one port that a guest must reach.
"""

from pathlib import Path

import msgspec

from deskgrid.pool.config import ConfigSetting, DropIn, PoolSettings


class HeadSettings(msgspec.Struct, frozen=True):
    """What can be chosen about the embedded pool.

    port: of everything; 0: a free one. guest_host: the host as guests see it.
    cycle_seconds: time between two negotiation cycles.
    """

    pool: PoolSettings = PoolSettings()
    port: int = 0
    guest_host: str = "10.0.2.2"
    cycle_seconds: int = 3


class Folders(msgspec.Struct, frozen=True):
    """Where the parts of one embedded pool are; everything below `run`."""

    run: Path
    sockets: Path

    @property
    def config(self) -> Path:
        """The file that CONDOR_CONFIG names."""
        return self.run / "etc/condor_config"

    @property
    def dropins(self) -> Path:
        """The folder of the drop-ins."""
        return self.run / "etc/config.d"

    @property
    def keys(self) -> Path:
        """The folder of signing keys, readable by the pool's account only."""
        return self.run / "etc/passwords.d"

    @property
    def collector_address(self) -> Path:
        """The file that tells the collector its address."""
        return self.run / "etc/collector_address"

    @property
    def tokens(self) -> Path:
        """The folder with the coordinator's token."""
        return self.run / "etc/coordinator.d"

    @property
    def ended(self) -> Path:
        """The file of VMs that have ended."""
        return self.run / "etc/ended-vms"

    @property
    def pid(self) -> Path:
        """The file in which the master writes its process id."""
        return self.run / "master.pid"


def main_config(folders: Folders) -> str:
    """Return the file that CONDOR_CONFIG names: where things are."""
    run = folders.run
    return "\n".join(
        (
            "# Written by deskgrid: an embedded pool.",
            "RELEASE_DIR = /usr",
            f"LOCAL_DIR = {run}",
            f"LOG = {run}/log",
            f"SPOOL = {run}/spool",
            f"EXECUTE = {run}/execute",
            f"LOCK = {run}/lock",
            f"RUN = {run}/lock",
            f"ETC = {run}/etc",
            "BIN = $(RELEASE_DIR)/bin",
            "SBIN = $(RELEASE_DIR)/sbin",
            "LIB = $(RELEASE_DIR)/lib/condor",
            "LIBEXEC = $(RELEASE_DIR)/libexec/condor",
            "SHARE = $(RELEASE_DIR)/share/condor",
            f"LOCAL_CONFIG_DIR = {folders.dropins}",
            "",
        )
    )


def collector_address(port: int) -> str:
    """Return the ad from which the collector learns its address, in place of the one of the shared port."""
    return f'MyAddress = "<127.0.0.1:{port}?addrs=127.0.0.1-{port}>"\n'


def head_dropin(settings: HeadSettings, folders: Folders, port: int) -> DropIn:
    """Return the drop-in of the embedded head; it comes before those of `config.dropins`."""
    return DropIn(
        path="50-deskgrid-head.conf",
        why="The embedded pool: central manager and schedd as one unprivileged user on the loopback interface.",
        settings=(
            _daemons(),
            _network(settings, folders, port),
            _security(settings, folders),
            _pace(settings.cycle_seconds),
            ConfigSetting("MAX_DEFAULT_LOG = 4 Mb\nMAX_NUM_DEFAULT_LOG = 1", "Keeps the folder small."),
        ),
    )


def _daemons() -> ConfigSetting:
    return ConfigSetting(
        "DAEMON_LIST = MASTER COLLECTOR SHARED_PORT NEGOTIATOR SCHEDD\n"
        "COLLECTOR_NAME = deskgrid\n"
        "USE_PROCD = False\n"
        "MASTER_BACKOFF_CONSTANT = 1\n"
        "MASTER_BACKOFF_CEILING = 10\n"
        "SCHEDD_NAME = deskgrid@\n"
        "PREEN =\n"
        "MAIL = /bin/true\n"
        "UID_DOMAIN = $(TRUST_DOMAIN)\n"
        "FILESYSTEM_DOMAIN = $(TRUST_DOMAIN)-head",
        "What runs. No job runs on the head, so no process tracker is needed. A daemon that dies is started again "
        "at once. Guests share no file system with the head: files are transferred.",
    )


def _network(settings: HeadSettings, folders: Folders, port: int) -> ConfigSetting:
    return ConfigSetting(
        "CONDOR_HOST = 127.0.0.1\n"
        f"COLLECTOR_HOST = 127.0.0.1:{port}\n"
        "NETWORK_INTERFACE = 127.0.0.1\n"
        "BIND_ALL_INTERFACES = False\n"
        "ENABLE_IPV6 = False\n"
        "USE_SHARED_PORT = True\n"
        f"SHARED_PORT_PORT = {port}\n"
        f"DAEMON_SOCKET_DIR = {folders.sockets}\n"
        f"TCP_FORWARDING_HOST = {settings.guest_host}\n"
        "COLLECTOR.TCP_FORWARDING_HOST =\n"
        f"COLLECTOR.SHARED_PORT_DAEMON_AD_FILE = {folders.collector_address}\n"
        "PRIVATE_NETWORK_NAME = deskgrid-head\n"
        "PRIVATE_NETWORK_INTERFACE = 127.0.0.1\n"
        "UPDATE_COLLECTOR_WITH_TCP = True",
        "One port on the loopback interface for everything. What the daemons tell guests about themselves is the "
        "host's address in QEMU's user network; those on the head use the loopback. Not so the collector: guests know "
        "its address from their instance data, but schedd and shadows call guests through it by the address that it "
        "gives as its own (CCB), which drops the private one.",
    )


def _security(settings: HeadSettings, folders: Folders) -> ConfigSetting:
    own = "deskgrid@$(TRUST_DOMAIN)"
    allow = (
        "ADMINISTRATOR CONFIG OWNER DAEMON NEGOTIATOR WRITE READ "
        "ADVERTISE_STARTD ADVERTISE_SCHEDD ADVERTISE_MASTER CLIENT"
    )
    return ConfigSetting(
        "SEC_DEFAULT_AUTHENTICATION = REQUIRED\n"
        "SEC_DEFAULT_ENCRYPTION = REQUIRED\n"
        "SEC_DEFAULT_INTEGRITY = REQUIRED\n"
        "SEC_DEFAULT_AUTHENTICATION_METHODS = FS, IDTOKENS\n"
        f"SEC_PASSWORD_DIRECTORY = {folders.keys}\n"
        f"SEC_TOKEN_POOL_SIGNING_KEY_FILE = {folders.keys}/{settings.pool.key}\n"
        f"SEC_TOKEN_ISSUER_KEY = {settings.pool.key}\n"
        f"SEC_TOKEN_DIRECTORY = {folders.run}/etc/tokens.d\n"
        f"SEC_TOKEN_SYSTEM_DIRECTORY = {folders.run}/etc/tokens.d\n"
        + "\n".join(f"ALLOW_{level} = {'*' if level == 'CLIENT' else own}" for level in allow.split()),
        "Those on the head are known by the file system, everybody else by a token of our key. Only the pool's own "
        "account submits and administers.",
    )


def _pace(cycle_seconds: int) -> ConfigSetting:
    return ConfigSetting(
        f"NEGOTIATOR_INTERVAL = {cycle_seconds}\n"
        f"NEGOTIATOR_CYCLE_DELAY = {max(1, cycle_seconds - 1)}\n"
        "NEGOTIATOR_MIN_INTERVAL = 1\n"
        f"NEGOTIATOR_UPDATE_INTERVAL = {max(5, cycle_seconds)}\n"
        f"SCHEDD_INTERVAL = {cycle_seconds}\n"
        "SCHEDD_MIN_INTERVAL = 1\n"
        "JOB_START_DELAY = 0\n"
        "SCHEDD_ASSUME_NEGOTIATOR_GONE = 60\n"
        "COLLECTOR_UPDATE_INTERVAL = 60",
        "Cycles of seconds instead of minutes: a pool for a first look, not for thousands of machines.",
    )
