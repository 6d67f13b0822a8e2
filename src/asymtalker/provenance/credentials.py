"""Signed content credentials (C2PA) in a video, written by c2pa-python and read from any file."""

import base64
import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import c2pa
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.media.read import check_file
from asymtalker.provenance.certificate import LOCAL_NAME, SigningIdentity, signing_identity
from asymtalker.provenance.disclosure import Disclosure
from asymtalker.provenance.origin import TITLE, Provenance, of_dict

GENERATION = "asymtalker.generation"
"""Label of the assertion that holds the provenance."""
CONSENT = "asymtalker.consent"
WATERMARK = "asymtalker.spread.1"
"""The watermark's algorithm, as the soft binding names it."""
BY_AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SETTINGS = {
    "builder": {
        "thumbnail": {"enabled": False},  # nobody's face where it was not asked for
        "created_assertion_labels": ["c2pa.actions", "c2pa.soft-binding", GENERATION, CONSENT],
    },
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},  # what is looked at is nobody else's business
    # hashed piece by piece: as a whole it would be held in memory as a whole
    "core": {"backing_store_memory_threshold_in_mb": 16, "merkle_tree_chunk_size_in_kb": 1024},
}
HARMLESS = {"signingCredential.untrusted"}
"""Failures that say nothing about whether a file was altered."""
ALTERED = (".mismatch", ".missing", ".malformed", ".multiple", ".inaccessible")
"""Ends of C2PA's codes of a file or credentials that are no longer what was signed."""
HEAD = 1 << 20
"""Bytes of a damaged file that are searched for credentials."""
_said: set[str] = set()
"""Remarks on certificates that this process has made, each once, however many videos it signs."""
State = Literal["none", "intact", "altered", "invalid"]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a file's content credentials say."""

    state: State
    """"none": it has none; "intact": they are valid and the file is as it was signed; "altered": it is not; "invalid":
    they are not valid, as of an expired certificate."""
    problems: list[str] = field(default_factory=list)
    """What is wrong, in C2PA's words."""
    signer: str | None = None
    """Whom the certificate names; what that is worth, ``trusted`` says."""
    trusted: bool = False
    """Whether the certificate was issued by somebody on the list that was given."""
    self_made: bool = False
    """Whether it is one of those that AsymTalker makes, which anybody can have made."""
    generator: str | None = None
    title: str | None = None
    by_ai: bool = False
    """Whether they say that it was made by AI, wholly or in part."""
    actions: list[str] = field(default_factory=list)
    ingredients: list[str] = field(default_factory=list)
    origin: Provenance | None = None
    """Of a video of AsymTalker."""
    complete: bool | None = None
    """Of such a video, whether it is as long as its sound, or was stopped early."""
    seconds: float | None = None


class Signer:
    """Signs videos.

    Args:
        disclosure: whose certificate is taken.
        say: called with a sentence when there is something to know.

    Raises:
        UserError: if the certificate can't be used, which is found out here, by signing a picture of one pixel.
    """

    def __init__(self, disclosure: Disclosure, say: Callable[[str], None] = print):
        self._identity = signing_identity(disclosure.certificate, disclosure.key)
        if self._identity.remark and self._identity.remark not in _said:
            _said.add(self._identity.remark)
            say(self._identity.remark)
        if disclosure.certificate is not None:
            _try_out(self._identity, disclosure.certificate)

    def sign(self, source: Path, signed: Path, origin: Provenance, made: "Made") -> None:
        """Write a signed copy of an MP4 file.

        Args:
            source: the file.
            signed: where the copy is to be; it must not exist.
            origin: what the video was made of.
            made: what became of it.

        Raises:
            OSError: if the copy can't be written or signed.
        """
        manifest = _manifest(origin, made)
        builder = c2pa.Builder(json.dumps(manifest), _context())
        for ingredient, path in zip(_ingredients(origin), (made.portrait, made.audio), strict=True):
            _add_ingredient(builder, ingredient, path)
        file = _File(signed, "x+")
        try:
            with source.open("rb") as read, io.BufferedRandom(file) as write:
                builder.sign(_signer(self._identity), "video/mp4", read, write)
        except c2pa.C2paError as error:
            raise file.error or OSError(None, f"it could not be signed: {error}") from error


class _File(io.FileIO):
    """A file that remembers what went wrong with writing it, as C2PA's library does not say that."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of a video.

    Attributes:
        seconds: its length.
        complete: whether it is as long as its sound.
        portrait, audio: paths of what it was made of, whose own content credentials, if there are any, go along.
    """

    seconds: float
    complete: bool
    portrait: Path | None = None
    audio: Path | None = None

    @classmethod
    def of(cls, portrait: object, audio: object, seconds: float, complete: bool) -> "Made":
        """Of what is a path or is held in memory."""
        paths = [Path(each) if isinstance(each, str | Path) else None for each in (portrait, audio)]
        return cls(seconds=seconds, complete=complete, portrait=paths[0], audio=paths[1])


def _manifest(origin: Provenance, made: Made) -> dict[str, Any]:
    name, version = origin.generator.rsplit(" ", 1)
    created = {
        "action": "c2pa.created",
        "digitalSourceType": BY_AI,
        "softwareAgent": {"name": name, "version": version},
        "description": f"The face and its speech are synthetic: made by the model {origin.model}.",
        "parameters": {"ingredientIds": [ingredient["label"] for ingredient in _ingredients(origin)]},
    }
    actions = [created]
    assertions: list[dict[str, Any]] = [
        {"label": GENERATION, "data": asdict(origin) | {"seconds": made.seconds, "complete": made.complete}},
        {"label": CONSENT, "data": {"statement": origin.consent}},
    ]
    if origin.watermarked:
        actions.append({"action": "c2pa.watermarked.bound"})
        mark = base64.b64encode(origin.number.to_bytes(6, "big")).decode()
        soft = {"alg": WATERMARK, "blocks": [{"scope": {}, "value": mark}]}
        assertions.append({"label": "c2pa.soft-binding", "data": soft})
    return {
        "claim_generator_info": [{"name": name, "version": version}],
        "title": TITLE,
        "format": "video/mp4",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}, *assertions],
    }


def _ingredients(origin: Provenance) -> list[dict[str, str]]:
    hashes = {"portrait": origin.portrait_sha256, "audio": origin.audio_sha256}
    return [
        {"title": what, "label": what, "instance_id": f"sha256:{value}", "relationship": "inputTo"}
        for what, value in hashes.items()
    ]


def _add_ingredient(builder: c2pa.Builder, ingredient: dict[str, str], path: Path | None) -> None:
    """Name an ingredient, with its own credentials if it has any and they can be read."""
    if path is not None and path.suffix:
        kind = path.suffix.lower().lstrip(".")
        with contextlib.suppress(c2pa.C2paError, OSError), path.open("rb") as file:
            builder.add_ingredient(json.dumps(ingredient), kind, file)
            return
    builder.add_ingredient(json.dumps(ingredient), "image/png", _one_pixel())


def _one_pixel() -> io.BytesIO:
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "png")
    picture.seek(0)
    return picture


def _signer(identity: SigningIdentity) -> c2pa.Signer:
    return c2pa.Signer.from_info(c2pa.C2paSignerInfo(identity.algorithm.encode(), identity.chain, identity.key, None))


def _try_out(identity: SigningIdentity, certificate: Path) -> None:
    signed = io.BytesIO()
    created = {"action": "c2pa.created", "digitalSourceType": BY_AI}
    manifest = {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}]}
    try:
        c2pa.Builder(json.dumps(manifest), _context()).sign(_signer(identity), "image/png", _one_pixel(), signed)
        signed.seek(0)
        found = _told(c2pa.Reader("image/png", signed, context=_context()))
        reason = "" if found.state == "intact" else "; ".join(found.problems)
    except c2pa.C2paError as error:
        reason = str(error)
    if reason:
        raise UserError(
            f"The certificate {certificate} is not fit for C2PA ({reason}): docs/provenance.md says what it needs."
        )


@cache
def _context(anchors: str = "") -> c2pa.Context:
    return c2pa.Context.from_dict(SETTINGS | ({"trust": {"user_anchors": anchors}} if anchors else {}))


def read_credentials(path: Path, trusted: Path | None = None) -> Credentials:
    """The content credentials of a file of any kind; of a kind that has none, none.

    Args:
        path: the file.
        trusted: certificates (PEM) of those whose signatures are to be trusted.

    Raises:
        UserError: if the certificates can't be read.
    """
    try:
        anchors = check_file(trusted, "list of certificates").read_text() if trusted else ""
        context = _context(anchors)
    except (c2pa.C2paError, UnicodeDecodeError) as error:
        raise UserError(f"The list of certificates {trusted} is not PEM: give one that is.") from error
    try:
        reader = c2pa.Reader.try_create(path, context=context)
    except c2pa.C2paError as error:
        # of a file that is cut off in its middle, or of a kind that can hold none
        damaged = any(word in path.open("rb").read(HEAD) for word in (b"c2pa", b"jumb"))
        return Credentials(state="altered", problems=[str(error)]) if damaged else Credentials(state="none")
    return Credentials(state="none") if reader is None else _told(reader)


def _told(reader: c2pa.Reader) -> Credentials:
    with reader:
        manifest = reader.get_active_manifest() or {}
        results = (reader.get_validation_results() or {}).get("activeManifest") or {}
        valid, trusted = reader.get_validation_state() != "Invalid", reader.get_validation_state() == "Trusted"
    failures = [failure for failure in results.get("failure", []) if failure["code"] not in HARMLESS]
    codes = {failure["code"] for failure in failures}
    altered = any(code.endswith(ALTERED) for code in codes)
    state: State = "altered" if altered else "intact" if valid and not codes else "invalid"
    assertions = {each["label"].split("__")[0]: each.get("data") or {} for each in manifest.get("assertions", [])}
    signature = manifest.get("signature_info") or {}
    made: dict[str, Any] = assertions.get(GENERATION, {})
    actions = assertions.get("c2pa.actions.v2") or assertions.get("c2pa.actions") or {}
    actions = actions.get("actions", [])
    generators = manifest.get("claim_generator_info") or [{"name": manifest.get("claim_generator") or "unknown"}]
    origin = None
    with contextlib.suppress(TypeError):
        origin = of_dict(made)
    return Credentials(
        state=state,
        problems=[f"{failure['code']} ({failure.get('explanation', '')})" for failure in failures],
        signer=signature.get("issuer") or signature.get("common_name"),
        trusted=trusted,
        self_made=signature.get("issuer") == LOCAL_NAME,
        generator=" ".join(str(generators[0].get(part) or "") for part in ("name", "version")).strip(),
        title=manifest.get("title"),
        by_ai=any("algorithmicmedia" in str(action.get("digitalSourceType", "")).lower() for action in actions),
        actions=[str(action.get("action")) for action in actions],
        ingredients=[str(each.get("title")) for each in manifest.get("ingredients", [])],
        origin=origin,
        complete=made.get("complete"),
        seconds=made.get("seconds"),
    )
