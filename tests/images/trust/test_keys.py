"""Keys in encrypted files, and on a PKCS#11 token that is real software: SoftHSM."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deskgrid.images.trust.errors import Duty
from deskgrid.images.trust.keys import make_key, open_signer, read_public, take_token_key
from deskgrid.images.trust.roles import OWNER, owner
from deskgrid.images.trust.values import Version

from .rig import NOW, Grid, desktop, refused

WORK = 1 << 10
"""Little, so that tests are fast."""
PASSWORD = "correct horse battery"


def ask(_: str) -> str:
    return PASSWORD


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_key_file_signs_for_who_knows_its_password(tmp_path: Path, kind: str) -> None:
    key = make_key(tmp_path / "rita", "rita", PASSWORD, kind, WORK)  # type: ignore[arg-type]
    signer = open_signer(tmp_path / "rita", ask)
    key.verify_signature(signer.sign(b"x"), b"x")
    assert read_public(tmp_path / "rita.pub") == read_public(tmp_path / "rita") == signer.public_key == key
    assert key.unrecognized_fields[OWNER] == "rita"
    assert owner(key) == f"rita ({key.keyid[:8]})"


def test_no_file_has_the_private_key_in_the_clear_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    make_key(tmp_path / "rita", "rita", PASSWORD, scrypt=WORK)
    signer = open_signer(tmp_path / "rita", ask)
    secret = signer.private_bytes  # type: ignore[attr-defined]
    body = b"".join(secret.splitlines()[1:-1])
    for file in tmp_path.iterdir():
        assert body not in file.read_bytes()
        assert PASSWORD.encode() not in file.read_bytes()
    assert (tmp_path / "rita").stat().st_mode & 0o777 == 0o600


def test_a_wrong_password_and_a_damaged_file_are_sentences(tmp_path: Path) -> None:
    file = tmp_path / "rita"
    make_key(file, "rita", PASSWORD, scrypt=WORK)
    refused("wrong-password", Duty.REQUEST, lambda: open_signer(file, lambda _: "wrong"))
    content = file.read_text()
    for damaged, code in (
        (content.replace('"owner": "rita"', '"owner": "ri/ta"'), "bad-key"),
        (content.replace('"scrypt": 1024', '"scrypt": 1099511627776'), "bad-key"),
        (content.replace('"scrypt": 1024', '"scrypt": 1025'), "wrong-password"),
        (content.replace('"nonce": "', '"nonce": "A'), "wrong-password"),
        ("{}", "bad-key"),
        ("", "bad-key"),
    ):
        file.write_text(damaged)
        refused(code, Duty.REQUEST, lambda: open_signer(file, ask))
    refused("no-key", Duty.REQUEST, lambda: open_signer(tmp_path / "none", ask))
    refused("bad-key", Duty.REQUEST, lambda: read_public(file))


def test_a_public_key_with_another_one_s_id_is_refused_wherever_it_is_read(tmp_path: Path) -> None:
    ada, mallory = (make_key(tmp_path / name, name, PASSWORD, scrypt=WORK) for name in ("ada", "mallory"))
    for name in ("ada.pub", "ada"):
        file = tmp_path / name
        swapped = file.read_text().replace(ada.keyval["public"], mallory.keyval["public"])
        file.write_text(swapped)
        said = refused("bad-id", Duty.SIGNERS, lambda file=file: read_public(file))  # type: ignore[misc]
        assert mallory.keyid in said
    refused("bad-id", Duty.SIGNERS, lambda: open_signer(tmp_path / "ada", ask))


def test_a_key_written_in_another_way_is_refused(tmp_path: Path) -> None:
    key = make_key(tmp_path / "ada", "ada", PASSWORD, scrypt=WORK)
    file = tmp_path / "ada.pub"
    file.write_text(file.read_text().replace(key.keyval["public"], key.keyval["public"].upper()))
    refused("bad-id", Duty.SIGNERS, lambda: read_public(file))


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rita"
    make_key(file, "rita", PASSWORD, scrypt=WORK)
    file.chmod(0o644)
    assert "chmod 600" in refused("open-key", Duty.REQUEST, lambda: open_signer(file, ask))


def test_a_key_is_never_written_over_and_needs_a_password_and_a_name(tmp_path: Path) -> None:
    make_key(tmp_path / "rita", "rita", PASSWORD, scrypt=WORK)
    refused("key-exists", Duty.REQUEST, lambda: make_key(tmp_path / "rita", "rita", PASSWORD, scrypt=WORK))
    refused("short-password", Duty.REQUEST, lambda: make_key(tmp_path / "x", "x", "1234567", scrypt=WORK))
    refused("bad-name", Duty.REQUEST, lambda: make_key(tmp_path / "x", "a b\n", PASSWORD, scrypt=WORK))
    assert not (tmp_path / "x").exists()


# -- PKCS#11 --------------------------------------------------------------------------------------------------

LIBRARY = next((p for p in Path("/usr/lib").glob("**/libsofthsm2.so")), None)
needs_softhsm = pytest.mark.skipif(
    LIBRARY is None or shutil.which("softhsm2-util") is None, reason="SoftHSM is not installed (package softhsm2)"
)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A token with an ECDSA key of number 2; the library's path."""
    pkcs11 = pytest.importorskip("pkcs11")
    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        argv = ["softhsm2-util", "--init-token", "--free", "--label", "grid", "--pin", "123456", "--so-pin", "654321"]
        subprocess.run(argv, check=True, capture_output=True)
        assert LIBRARY is not None
        with pkcs11.lib(str(LIBRARY)).get_token(token_label="grid").open(user_pin="123456", rw=True) as session:
            curve = pkcs11.util.ec.encode_named_curve_parameters("secp256r1")
            parameters = session.create_domain_parameters(
                pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
            )
            parameters.generate_keypair(store=True, id=bytes([2]), label="paul")
        yield str(LIBRARY)


@needs_softhsm
def test_an_approver_s_key_on_a_token_signs_an_image(grid: Grid, home: Path, tmp_path: Path, token: str) -> None:
    key = take_token_key(tmp_path / "petra", "petra", token, 2, "grid", lambda _: "123456")
    petra = open_signer(tmp_path / "petra", lambda _: "123456")
    wanted = Version("hsm", "search", "1.0")
    with grid.shelf.editing():
        grid.shelf.rotate("hsm-researcher", NOW, [grid.rita.public_key])
        grid.shelf.rotate("hsm-approver", NOW, [key])
        grid.signed(grid.ada, grid.bob)
        grid.shelf.propose(wanted, b"{}", NOW)
        grid.signed(grid.rita)
        grid.shelf.approve(wanted, NOW)
        assert grid.shelf.sign(petra) == ["hsm-approver"]
        assert grid.shelf.settle() == ["hsm-approver"]
    grid.renew()
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        assert trusted.manifest(wanted, NOW) == b"{}"
    assert b"123456" not in (tmp_path / "petra").read_bytes()


@needs_softhsm
def test_a_wrong_pin_and_a_missing_token_are_sentences(grid: Grid, tmp_path: Path, token: str) -> None:
    refused("token", Duty.REQUEST, lambda: take_token_key(tmp_path / "a", "a", token, 9, "grid", lambda _: "123456"))
    refused("token", Duty.REQUEST, lambda: take_token_key(tmp_path / "b", "b", token, 2, "none", lambda _: "123456"))
    refused("token", Duty.REQUEST, lambda: take_token_key(tmp_path / "c", "c", "/none.so", 2, None, lambda _: "1"))
    key = take_token_key(tmp_path / "petra", "petra", token, 2, "grid", lambda _: "123456")
    wrong = open_signer(tmp_path / "petra", lambda _: "000000")
    with grid.shelf.editing():
        grid.shelf.rotate("hsm-researcher", NOW, [key])
        grid.signed(grid.ada, grid.bob)
        grid.shelf.propose(Version("hsm", "search", "1.0"), b"{}", NOW)
        said = refused("token", Duty.REQUEST, lambda: grid.shelf.sign(wrong))
        assert "PIN" in said
