"""Where an agent's files lie in its state folder (mode 0700)."""

from pathlib import Path


def credential_file(state: Path) -> Path:
    """The desktop's own credential, mode 0600. SECRET."""
    return state / "credential"


def ca_file(state: Path) -> Path:
    """The coordinator's CA certificate, pinned at enrolment."""
    return state / "coordinator-ca.pem"


def status_file(state: Path) -> Path:
    """What the agent tells its owner."""
    return state / "status.json"
