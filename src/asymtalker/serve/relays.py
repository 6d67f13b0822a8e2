"""STUN and TURN servers, by which WebRTC gets through NAT and firewalls."""

import base64
import hmac
import os
import time
from dataclasses import dataclass
from typing import Any

from aiortc.rtcicetransport import parse_stun_turn_uri

from asymtalker.errors import UserError

SECRET_VARIABLE = "ASYMTALKER_TURN_SECRET"
LOGIN_VARIABLE = "ASYMTALKER_TURN_LOGIN"
VALID = 3600
"""Seconds for which a name made of a secret may begin a call; a call that has begun goes on."""


@dataclass(frozen=True)
class Relays:
    """Servers that both sides of a call are told of; none by default, and then nobody is asked.

    Attributes:
        urls: ``stun:HOST[:PORT]``, ``turn:HOST[:PORT][?transport=tcp]`` or ``turns:``.
        secret: what a TURN server knows too (coturn's ``static-auth-secret``): names and passwords are made of it
            for each call.
        login: name and password, where it knows those instead.
    """

    urls: tuple[str, ...] = ()
    secret: str | None = None
    login: tuple[str, str] | None = None

    @classmethod
    def chosen(cls, urls: tuple[str, ...]) -> "Relays":
        """Those of the settings, with what the environment says of them.

        Raises:
            UserError: if an address is none, or a TURN server would let nobody in.
        """
        for url in urls:
            try:
                parse_stun_turn_uri(url)
            except ValueError as error:
                raise UserError(
                    f"--ice-servers: {url} is none of stun:HOST:PORT, turn:HOST:PORT and turns:HOST:PORT."
                ) from error
        secret, login = os.environ.get(SECRET_VARIABLE) or None, os.environ.get(LOGIN_VARIABLE) or None
        name, _, password = (login or "").partition(":")
        if login and not (name and password):
            raise UserError(f"{LOGIN_VARIABLE} is NAME:PASSWORD.")
        if any(url.startswith("turn") for url in urls) and not (secret or login):
            raise UserError(
                f"A TURN server lets nobody in unknown: set {SECRET_VARIABLE} to the secret that it has"
                f" (coturn's static-auth-secret), or {LOGIN_VARIABLE}=NAME:PASSWORD."
            )
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
        name = str(round(time.time()) + VALID)
        digest = hmac.new(self.secret.encode(), name.encode(), "sha1").digest()
        return name, base64.b64encode(digest).decode()
