"""A client of the API.

::

    from asymtalker.serve.client import Client

    with Client("http://127.0.0.1:7860") as client:
        job = client.create("me.jpg", "speech.wav", consent=True)
        client.save(job, "me.mp4")
"""

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from asymtalker.errors import UserError
from asymtalker.media.atomic import atomic_path

POLL = 0.5  # seconds
ENDED = ("done", "failed", "cancelled")


class _Http(httpx.Client):
    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """See :class:`httpx.Client`; raises UserError where nobody answers."""
        try:
            return super().send(request, **options)
        except httpx.TransportError as error:
            raise UserError(f"{request.url.copy_with(path='/')} can't be reached: {error}.") from error


class Client:
    """Talks to a server; a context manager.

    Args:
        address: where it listens, such as ``"http://127.0.0.1:7860"``.
        token: what it wants to be told, if anything.
        name: who takes turns, where several are behind one address.
        timeout: seconds in which it has to answer.
    """

    def __init__(self, address: str, token: str | None = None, *, name: str = "", timeout: float = 120.0):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"X-Client": name} if name else {}
        self._http = _Http(base_url=address, headers=headers, timeout=timeout)

    def create(
        self,
        portrait: str | Path,
        sound: str | Path | None = None,
        *,
        consent: bool,
        text: str | None = None,
        **more: Any,
    ) -> str:
        """Queue a video.

        Args:
            portrait: path of a picture with a face.
            sound: path of a recording.
            consent: that those seen and heard agree, and viewers will be told; see ``terms``.
            text: what is to be said, where there is no ``sound``.
            more: ``voice``, ``seed``, ``motion``, ``gaze``, ``blinks``, ``size``, ``face``, ``framing``, ``box``.

        Returns:
            The id of its job.

        Raises:
            UserError: if a file can't be read, the server can't be reached, or it refuses, with its reason.
        """
        return self._checked(self._http.post("/v1/jobs", **_form(portrait, sound, text, consent, more)))["id"]

    def stream(
        self,
        portrait: str | Path,
        sound: str | Path | None = None,
        *,
        consent: bool,
        text: str | None = None,
        **more: Any,
    ) -> Iterator[bytes]:
        """The video as fragmented MP4 while it is made; see :meth:`create`."""
        with self._http.stream("POST", "/v1/stream", **_form(portrait, sound, text, consent, more)) as answer:
            if answer.is_error:
                answer.read()
                self._checked(answer)
            yield from answer.iter_bytes()

    def status(self, job: str) -> dict[str, Any]:
        """A job's record: ``state``, ``frames_done``, ``eta_seconds`` and more."""
        return self._checked(self._http.get(f"/v1/jobs/{job}"))

    def wait(self, job: str) -> dict[str, Any]:
        """A job's record once it is done.

        Raises:
            UserError: if it fails or is cancelled.
        """
        while (status := self.status(job))["state"] not in ENDED:
            time.sleep(POLL)
        if status["state"] != "done":
            raise UserError(status["error"] or "The job was cancelled.")
        return status

    def save(self, job: str, output: str | Path) -> Path:
        """Wait for a job and write its video to a file.

        Raises:
            UserError: if it fails or is cancelled, or the file can't be written.
        """
        self.wait(job)
        with atomic_path(Path(output)) as partial, self._http.stream("GET", f"/v1/jobs/{job}/video") as answer:
            if answer.is_error:
                answer.read()
                self._checked(answer)
            with partial.open("wb") as file:
                for block in answer.iter_bytes():
                    file.write(block)
        return Path(output)

    def cancel(self, job: str) -> None:
        """Stop a job; its record stays. Raises UserError where it has ended already."""
        self._checked(self._http.post(f"/v1/jobs/{job}/cancel"))

    def delete(self, job: str) -> None:
        """Have the server forget a job and its files."""
        self._checked(self._http.delete(f"/v1/jobs/{job}"))

    def terms(self) -> dict[str, Any]:
        """What the server takes, for how long it keeps it, what consent says, which voices there are."""
        return self._checked(self._http.get("/v1/terms"))

    @staticmethod
    def _checked(answer: httpx.Response) -> Any:
        if not answer.is_error:
            return answer.json() if answer.content else None
        try:
            reason = answer.json()["detail"]
        except (ValueError, KeyError, TypeError):
            reason = f"The server answered {answer.status_code}."
        raise UserError(reason)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _form(
    portrait: str | Path,
    sound: str | Path | None,
    text: str | None,
    consent: bool,
    more: dict[str, Any],
) -> dict[str, Any]:
    """What httpx posts. Names of files stay here."""
    paths = {"portrait": portrait} | ({} if sound is None else {"sound": sound})
    try:
        sent = {name: (name, Path(path).read_bytes()) for name, path in paths.items()}
    except OSError as error:
        raise UserError(f"{error.filename} can't be read: {error.strerror}.") from error
    fields = {"consent": consent, "text": text, **more}
    data = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in fields.items()
        if value is not None
    }
    return {"data": data, "files": sent}
