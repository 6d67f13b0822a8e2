"""STUN and TURN servers, by which WebRTC gets through NAT and firewalls."""

import base64
import hmac
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any

from asymtalker.errors import UserError

SECRET_VARIABLE = "ASYMTALKER_TURN_SECRET"
LOGIN_VARIABLE = "ASYMTALKER_TURN_LOGIN"
VALID = 3600
"""Seconds for which a name made of a secret may begin a call; a call that has begun goes on."""
ADDRESS = re.compile(r"(?:stun:|turn:|turns:)[\w.-]+(?::(?P<port>\d{1,5}))?(?P<transport>\?transport=(?:udp|tcp))?")


@dataclass(frozen=True)
class Relays:
    """Servers that both sides of a call are told of; none by default, and then nobody is asked.

    Attributes:
        urls: ``stun:HOST[:PORT]``, ``turn:HOST[:PORT][?transport=tcp]`` or ``turns:HOST[:PORT]``.
        secret: what a TURN server knows too (coturn's ``static-auth-secret``): names and passwords are made of it
            for each call. It goes before ``login``.
        login: name and password, where it knows those instead.

    Raises:
        UserError: if an address is none, or a TURN server would let nobody in.
    """

    urls: tuple[str, ...] = ()
    secret: str | None = field(default=None, repr=False)
    login: tuple[str, str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for url in self.urls:
            found = ADDRESS.fullmatch(url)
            if not found or not 0 < int(found["port"] or 1) < 1 << 16 or (found["transport"] and url[:5] != "turn:"):
                raise UserError(f"{url} is none of stun:HOST:PORT, turn:HOST:PORT and turns:HOST:PORT.")
        if any(url.startswith("turn") for url in self.urls) and not (self.secret or self.login):
            raise UserError(
                f"A TURN server lets in nobody it does not know: set {SECRET_VARIABLE} to the secret that it has"
                f" (coturn's static-auth-secret), or {LOGIN_VARIABLE}=NAME:PASSWORD."
            )

    @classmethod
    def chosen(cls, urls: tuple[str, ...]) -> "Relays":
        """Those of the settings, with what the environment says of them.

        Raises:
            UserError: as the class does, or if a login is none.
        """
        secret, login = os.environ.get(SECRET_VARIABLE) or None, os.environ.get(LOGIN_VARIABLE) or None
        name, _, password = (login or "").partition(":")
        if login and not (name and password):
            raise UserError(f"{LOGIN_VARIABLE} is NAME:PASSWORD.")
        return cls(urls, secret, (name, password) if login else None)

    def ice_servers(self) -> list[dict[str, Any]]:
        """As a browser's ``RTCConfiguration.iceServers``, with a name and password for one call."""
        stun = [url for url in self.urls if url.startswith("stun")]
        turn = [url for url in self.urls if url.startswith("turn")]
        servers: list[dict[str, Any]] = [{"urls": stun}] if stun else []
        if turn:
            name, password = self._login()
            servers.append({"urls": turn, "username": name, "credential": password})
        return servers

    def _login(self) -> tuple[str, str]:
        if self.secret is None:
            assert self.login is not None, "a TURN server's is asked for"
            return self.login
        name = str(int(time.time()) + VALID)
        digest = hmac.new(self.secret.encode(), name.encode(), "sha1").digest()
        return name, base64.b64encode(digest).decode()
