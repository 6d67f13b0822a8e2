import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from asymtalker.errors import UserError
from asymtalker.provenance import certificate as certificates
from asymtalker.provenance.certificate import local_file, make_identity, signing_identity
from asymtalker.provenance.credentials import Signer
from asymtalker.provenance.disclosure import Disclosure
from signing import PEM, PKCS8, issue


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, in which nothing is yet."""
    monkeypatch.setenv("ASYMTALKER_CACHE", str(tmp_path / "cache"))
    certificates._for_this_run.cache_clear()
    return tmp_path / "cache"


def test_a_certificate_is_made_once_for_its_user_alone(cache):
    before = os.umask(0)
    try:
        first = signing_identity()
    finally:
        os.umask(before)
    assert first == signing_identity()
    assert local_file().is_relative_to(cache)
    assert stat.S_IMODE(local_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(local_file().parent.stat().st_mode) == 0o700
    assert [path.name for path in local_file().parent.iterdir()] == ["identity.pem"]
    leaf, root = x509.load_pem_x509_certificates(first.chain)
    leaf.verify_directly_issued_by(root)
    assert leaf.not_valid_after_utc > datetime.now(UTC) + timedelta(days=3000)
    assert leaf.subject != root.subject
    assert os.environ.get("USER", "root") not in str(leaf.subject).split()


def test_many_at_once_agree_on_one(cache):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: signing_identity(), range(8)))
    assert len({identity.chain for identity in made}) == 1


@pytest.mark.parametrize("held", [b"", b"rubbish", make_identity()[:700]])
def test_a_damaged_one_is_made_anew_and_that_is_said(cache, held):
    local_file().parent.mkdir(parents=True)
    local_file().write_bytes(held)
    said = []
    Signer(Disclosure(), said.append)
    assert len(said) == 1
    assert "damaged or has expired: a new one was made" in said[0]
    Signer(Disclosure(), said.append)
    assert len(said) == 1


def test_an_expired_one_is_made_anew(cache, monkeypatch):
    monkeypatch.setattr(certificates, "YEARS", -1)
    local_file().parent.mkdir(parents=True)
    monkeypatch.setattr(certificates, "timedelta", lambda days: timedelta(days=days if days > 0 else days / 400 + 1))
    local_file().write_bytes(make_identity())
    monkeypatch.undo()
    monkeypatch.setenv("ASYMTALKER_CACHE", str(cache))
    old = local_file().read_bytes()
    assert "a new one was made" in signing_identity().remark
    assert local_file().read_bytes() != old


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_where_nothing_can_be_kept_one_is_made_for_the_run(tmp_path, cache, kind):
    if kind == "file":
        cache.write_text("in the way of the folder")
    else:
        local_file().mkdir(parents=True)
    said = []
    first, second = (Signer(Disclosure(), said.append) for _ in range(2))
    assert first._identity == second._identity
    assert "this run's videos are signed by one of their own" in said[0]
    assert first._identity.chain.count(b"BEGIN CERTIFICATE") == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_read_only_home_is_no_obstacle(tmp_path, cache):
    tmp_path.chmod(0o500)
    said = []
    Signer(Disclosure(), said.append)
    tmp_path.chmod(0o700)
    assert "Permission denied" in said[0]


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: ec.generate_private_key(ec.SECP256R1()), "es256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "es384"),
        (lambda: ed25519.Ed25519PrivateKey.generate(), "ed25519"),
        (lambda: rsa.generate_private_key(65537, 2048), "ps256"),
    ],
)
def test_keys_of_many_kinds_sign(tmp_path, make, algorithm):
    own = issue(tmp_path, key=make())
    assert signing_identity(*own).algorithm == algorithm
    Signer(Disclosure(certificate=own[0], key=own[1]))  # which signs and reads what it signed


def refuse(says: str, certificate, key) -> None:
    with pytest.raises(UserError, match=says) as refused:
        Signer(Disclosure(certificate=certificate, key=key))
    assert "\n" not in str(refused.value)


def test_what_cannot_sign_is_refused_in_one_sentence(tmp_path):
    chain, key = issue(tmp_path)
    refuse("go together", chain, None)
    refuse("go together", None, key)
    refuse("does not exist", tmp_path / "no.pem", key)
    refuse("is empty", empty(tmp_path / "empty.pem"), key)
    refuse("is not PEM", key, key)
    refuse("key .* is not PEM", chain, chain)
    other = tmp_path / "other"
    other.mkdir()
    refuse("not that of the first certificate", chain, issue(other)[1])
    own = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(own.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"secret")))
    refuse("has a password", chain, locked)
    issue(tmp_path, days=-2)
    refuse("expired on", chain, key)


def empty(path):
    path.touch()
    return path


def test_certificates_of_another_kind_are_refused(tmp_path):
    refuse("not fit for C2PA", *issue(tmp_path, usage=ExtendedKeyUsageOID.SERVER_AUTH))
    refuse("of a kind that C2PA does not sign with", *issue(tmp_path, key=ec.generate_private_key(ec.SECP256K1())))
    refuse("of a kind that C2PA does not sign with", *issue(tmp_path, key=dsa.generate_private_key(2048)))
    issue(tmp_path)
    root = tmp_path / "root.pem"
    identity = signing_identity(tmp_path / "chain.pem", tmp_path / "key.pem")
    assert replace(identity, remark="") == identity
    refuse("not that of the first", root, tmp_path / "key.pem")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_that_may_not_be_read_is_told(tmp_path):
    chain, key = issue(tmp_path)
    key.chmod(0)
    refuse("cannot be read", chain, key)
