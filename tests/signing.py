"""Certificates that somebody might own, and a small signed video."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from asymtalker.media.video import VideoWriter
from asymtalker.provenance.certificate import _usage
from asymtalker.provenance.credentials import Made, Signer
from asymtalker.provenance.disclosure import AS_USUAL, Disclosure
from asymtalker.provenance.origin import Provenance

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
ORIGIN = Provenance(
    generator="AsymTalker 0.1.0",
    model="tiny",
    model_version="abc",
    seed=7,
    options={"crop": True},
    portrait_sha256="0a" * 32,
    audio_sha256="0b" * 32,
    consent="signed form 12",
    watermarked=True,
)


def name(common: str) -> x509.Name:
    """A name of a company."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Studio X"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def issue(folder: Path, *, days: int = 30, key=None, usage=ExtendedKeyUsageOID.EMAIL_PROTECTION) -> tuple[Path, Path]:
    """Files of a certificate, issued by another whose file is ``root.pem``, and of its key; good for so many days from
    now, or that ended so many days ago."""
    now = datetime.now(UTC)
    begin, end = (now - timedelta(days=1), now + timedelta(days=days)) if days > 0 else (
        now - timedelta(days=30), now + timedelta(days=days))  # fmt: skip
    root_key, key = ec.generate_private_key(ec.SECP256R1()), key or ec.generate_private_key(ec.SECP256R1())

    def builder(subject, public):
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("root"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    root = (
        builder("root", root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        builder("signer", key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    (folder / "root.pem").write_bytes(root.public_bytes(PEM))
    (folder / "chain.pem").write_bytes(leaf.public_bytes(PEM) + root.public_bytes(PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(PEM, PKCS8, serialization.NoEncryption()))
    return folder / "chain.pem", folder / "key.pem"


def textured(size: tuple[int, int], count: int = 1, seed: int = 0) -> np.ndarray:
    """Frames of a picture with smooth and busy parts, which moves a little."""
    draw = np.random.default_rng(seed)
    height, width = size
    coarse = draw.uniform(60, 200, (height // 32 + 2, width // 32 + 2))
    rows, columns = np.arange(height) / 32, np.arange(width) / 32
    r, c = rows.astype(int)[:, None], columns.astype(int)[None]
    y, x = (rows % 1)[:, None], (columns % 1)[None]
    smooth = (coarse[r, c] * (1 - y) + coarse[r + 1, c] * y) * (1 - x) + (
        coarse[r, c + 1] * (1 - y) + coarse[r + 1, c + 1] * y
    ) * x
    busy = draw.normal(0, 12, size) * (smooth > 130)
    picture = np.clip(smooth + busy, 0, 255).astype(np.uint8)
    tinted = np.stack([picture, picture // 2 + 60, 255 - picture], axis=-1)
    return np.stack([np.roll(tinted, k // 3, axis=1) for k in range(count)])


def write_signed(path: Path, frames: np.ndarray, disclosure: Disclosure = AS_USUAL, **made) -> Path:
    """Write a signed video of frames, with the tags of ``ORIGIN``."""
    signer = Signer(disclosure)
    what = {"seconds": len(frames) / 25, "complete": True} | made

    def sign(source: Path, signed: Path) -> None:
        signer.sign(source, signed, ORIGIN, Made(**what))

    with VideoWriter(path, frames.shape[1:3], metadata=ORIGIN.tags(), finish=sign) as writer:
        writer.write(frames)
    return path
