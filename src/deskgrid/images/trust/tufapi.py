"""What trust uses of python-tuf and securesystemslib, in one place: neither marks for mypy what it exports."""

from securesystemslib.signer import CryptoSigner as CryptoSigner  # type: ignore[attr-defined]
from securesystemslib.signer import HSMSigner as HSMSigner  # type: ignore[attr-defined]
from securesystemslib.signer import Key as Key  # type: ignore[attr-defined]
from securesystemslib.signer import Signature as Signature  # type: ignore[attr-defined]
from securesystemslib.signer import Signer as Signer  # type: ignore[attr-defined]
from securesystemslib.signer import SSlibKey as SSlibKey  # type: ignore[attr-defined]
from tuf.api.metadata import DelegatedRole as DelegatedRole  # type: ignore[attr-defined]
from tuf.api.metadata import Delegations as Delegations  # type: ignore[attr-defined]
from tuf.api.metadata import Metadata as Metadata
from tuf.api.metadata import MetaFile as MetaFile  # type: ignore[attr-defined]
from tuf.api.metadata import Role as Role  # type: ignore[attr-defined]
from tuf.api.metadata import Root as Root  # type: ignore[attr-defined]
from tuf.api.metadata import Snapshot as Snapshot  # type: ignore[attr-defined]
from tuf.api.metadata import TargetFile as TargetFile  # type: ignore[attr-defined]
from tuf.api.metadata import Targets as Targets  # type: ignore[attr-defined]
from tuf.api.metadata import Timestamp as Timestamp  # type: ignore[attr-defined]
from tuf.api.metadata import VerificationResult as VerificationResult  # type: ignore[attr-defined]
