"""What videos are signed with: a certificate that is made on this machine, or the user's own."""

import contextlib
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from asymtalker.errors import UserError
from asymtalker.media.atomic import beside
from asymtalker.media.read import check_file
from asymtalker.media.registry import cache_dir

LOCAL_NAME = "AsymTalker, a certificate made on the signer's machine"
"""Says no more of its user than that: the same one signs all videos of a machine."""
YEARS = 10
"""That a local certificate is good for; without a time stamp a video is valid as long as its certificate."""
C2PA_SIGNING = ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
LEAST_RSA = 2048


@dataclass(frozen=True)
class SigningIdentity:
    """A key and the certificates that say whose it is.

    Attributes:
        chain: PEM, the signer's own first.
        key: PEM (PKCS 8), not encrypted.
        algorithm: C2PA's name of it.
        remark: a sentence to be said to the user, or "".
    """

    chain: bytes
    key: bytes
    algorithm: str
    remark: str = ""


def signing_identity(certificate: Path | None = None, key: Path | None = None) -> SigningIdentity:
    """The user's own, of two files; or that of this machine, made where there is none.

    Raises:
        UserError: if a file of the user's can't be used, or one is given without the other.
    """
    if certificate is None and key is None:
        return _local()
    if certificate is None or key is None:
        raise UserError("A certificate and its key go together: give both --certificate and --key.")
    return _own(check_file(certificate, "certificate"), check_file(key, "key"))


def _own(certificate: Path, key: Path) -> SigningIdentity:
    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    except ValueError as error:
        raise UserError(
            f"The certificate {certificate} is not PEM: give a file that says BEGIN CERTIFICATE."
        ) from error
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except TypeError as error:
        raise UserError(
            f"The key {key} has a password: take it off by openssl pkey -in {key} -out FILE, readable to you alone."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"The key {key} is not PEM: give a file with BEGIN PRIVATE KEY in it.") from error
    if private.public_key() != chain[0].public_key():
        raise UserError(f"The key {key} is not that of the first certificate in {certificate}: give those that match.")
    if chain[0].issuer == chain[0].subject:
        raise UserError(
            f"The certificate {certificate} is signed by itself, which C2PA does not allow: give one that was issued."
        )
    now = datetime.now(UTC)
    if now > chain[0].not_valid_after_utc:
        raise UserError(f"The certificate {certificate} expired on {chain[0].not_valid_after_utc:%Y-%m-%d}: renew it.")
    if now < chain[0].not_valid_before_utc:
        raise UserError(f"The certificate {certificate} begins on {chain[0].not_valid_before_utc:%Y-%m-%d}: wait.")
    return SigningIdentity(b"".join(map(_pem, chain)), _key_pem(private), _algorithm(private, key))


def _algorithm(key: PrivateKeyTypes, path: Path) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= LEAST_RSA:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise UserError(f"The key {path} is of a kind that C2PA does not sign with: give P-256, P-384, RSA or Ed25519.")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def local_file() -> Path:
    """Where this machine's certificates and key lie, for its user alone to read."""
    return cache_dir() / "signing" / "identity.pem"


def _local() -> SigningIdentity:
    path = local_file()
    remark = ""
    with contextlib.suppress(FileNotFoundError):
        try:
            return _parsed(path.read_bytes())
        except ValueError:
            remark = f"The certificate in {path} is damaged or has expired: a new one was made."
        except FileNotFoundError:
            raise
        except OSError as error:
            return _for_this_run(path, error.strerror)
    try:
        return replace(_written(path, replaces=bool(remark)), remark=remark)
    except OSError as error:
        return _for_this_run(path, error.strerror)


@cache
def _for_this_run(path: Path, reason: str | None) -> SigningIdentity:
    """One that is not kept; the same for all videos of this process."""
    remark = f"The certificate can't be kept in {path} ({reason}): this run's videos are signed by one of their own."
    return replace(_parsed(make_identity()), remark=remark)


def _written(path: Path, replaces: bool) -> SigningIdentity:
    """A new one, kept in a file; or that of another process, which was quicker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    partial = beside(path, "part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(make_identity())
        if replaces:
            os.replace(partial, path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(partial, path)  # which, unlike a move, takes nothing's place
    finally:
        partial.unlink(missing_ok=True)
    return _parsed(path.read_bytes())


def _parsed(text: bytes) -> SigningIdentity:
    """An identity of :func:`make_identity`.

    Raises:
        ValueError: if it is damaged or has expired.
    """
    begin = text.find(b"-----BEGIN PRIVATE KEY")
    chain = x509.load_pem_x509_certificates(text[: max(begin, 0)])
    key = serialization.load_pem_private_key(text[begin:], password=None)
    if key.public_key() != chain[0].public_key() or datetime.now(UTC) > chain[0].not_valid_after_utc:
        raise ValueError("not of one piece, or expired")
    return SigningIdentity(text[:begin], text[begin:], "es256")


def make_identity() -> bytes:
    """Certificate, that of its issuer and key (P-256), as PEM.

    C2PA takes no certificate that signed itself, so it is issued by one whose key is forgotten at once, and which
    can issue no other.
    """
    issuer_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, subject = (
        x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, LOCAL_NAME),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {x509.random_serial_number():x}"[:20]),
            ]
        )
        for name in ("issuer", "signer")
    )
    root = (
        _builder(issuer, issuer, issuer_key, issuer_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    leaf = (
        _builder(subject, issuer, key, issuer_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([C2PA_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    )
    signed = [_pem(builder.sign(issuer_key, hashes.SHA256())) for builder in (leaf, root)]
    return b"".join([*signed, _key_pem(key)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) - timedelta(days=1)  # of clocks that are late
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _usage(digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
