"""The image's packages as a CycloneDX document: `sbom.json`.

Rules:
- Each package has its version and the SHA-256 of the .deb that it came from, as the archive's signed lists say. What is
  in no list (installed by a script from elsewhere) has the sum of dpkg's own list of its files instead, as a property.
- The same packages give the same bytes: no time, and a serial number made from the content.

Source: CycloneDX 1.6; package-url's type deb.
"""

import hashlib
import re
import uuid
from collections.abc import Sequence

import msgspec

from deskgrid.images.build.roottar import RootTar
from deskgrid.model.values.outside import read_json

FILES_SUM = "deskgrid:sha256-of-dpkg-md5sums"
_STATUS = "var/lib/dpkg/status"


class Deb(msgspec.Struct, frozen=True, order=True):
    """An installed package. sha256: of its .deb, "" when no list has it; then files_sha256: of dpkg's list of files."""

    name: str
    version: str
    architecture: str
    source: str
    sha256: str = ""
    files_sha256: str = ""


def installed(tree: RootTar, facts_list: str) -> list[Deb]:
    """Return what is installed in a tree. facts_list: where the tree has what APT says of the packages."""
    said = tree.read(facts_list).decode(errors="replace") if facts_list in tree.members else ""
    sums = {_key(fields): fields["SHA256"] for fields in _stanzas(said) if "SHA256" in fields}
    found = []
    for fields in _stanzas(tree.read(_STATUS).decode(errors="replace")):
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version, architecture = _key(fields)
        source = fields.get("Source", name).split(" ")[0]
        sha256 = sums.get(_key(fields), "")
        other = "" if sha256 else _files_sum(tree, name, architecture)
        found.append(Deb(name, version, architecture, source, sha256, other))
    return sorted(found)


def document(image: str, suite: str, debs: Sequence[Deb]) -> bytes:
    """Return the document of an image's packages."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    digest = hashlib.sha256(msgspec.json.encode([image, suite, debs])).hexdigest()
    whole = Component(name=image, type=ComponentType.OPERATING_SYSTEM, bom_ref=f"image:{image}")
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"deskgrid sbom {digest}"),
        metadata=BomMetaData(component=whole),
    )
    bom.metadata.timestamp = None  # type: ignore[assignment]  # the library's default is now
    for deb in debs:
        about = {"arch": deb.architecture, "distro": suite}
        url = PackageURL("deb", "debian", deb.name, deb.version, about)
        component = Component(
            name=deb.name,
            version=deb.version,
            type=ComponentType.LIBRARY,
            purl=url,
            bom_ref=url.to_string(),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=deb.sha256)] if deb.sha256 else [],
            properties=[Property(name="deskgrid:source", value=deb.source)]
            + ([Property(name=FILES_SUM, value=deb.files_sha256)] if deb.files_sha256 else []),
        )
        bom.components.add(component)
    bom.register_dependency(whole, bom.components)
    written = read_json(JsonV1Dot6(bom).output_as_string())
    written.pop("dependencies", None)  # the library names every package once more: nothing is said of dependencies
    return msgspec.json.encode(written, order="sorted") + b"\n"


def sums(content: bytes) -> dict[str, str]:
    """Return the SHA-256 of each package's .deb by "name:architecture", of a document that we wrote."""
    found = {}
    for component in read_json(content).get("components", []):
        architecture = re.search(r"[?&]arch=([^&]+)", component.get("purl", ""))
        known = {one["alg"]: one["content"] for one in component.get("hashes", [])}
        found[f"{component['name']}:{architecture[1] if architecture else ''}"] = known.get("SHA-256", "")
    return found


def _stanzas(text: str) -> list[dict[str, str]]:
    blocks = (block for block in text.split("\n\n") if block.strip())
    return [
        dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] not in " \t")
        for block in blocks
    ]


def _key(fields: dict[str, str]) -> tuple[str, str, str]:
    return fields.get("Package", ""), fields.get("Version", ""), fields.get("Architecture", "")


def _files_sum(tree: RootTar, name: str, architecture: str) -> str:
    for stem in (name, f"{name}:{architecture}"):
        path = f"var/lib/dpkg/info/{stem}.md5sums"
        if path in tree.members:
            return hashlib.sha256(tree.read(path)).hexdigest()
    return ""
