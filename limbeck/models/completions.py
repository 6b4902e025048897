"""Requests to a server of OpenAI's ``/v1/completions``, sent again where that helps; no message shows the key."""

from __future__ import annotations

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from limbeck.errors import InputError

__all__ = ["Completions"]

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT = 30.0


class Completions:
    """A model behind a URL.

    Args:
        url: of the API, ``http://localhost:8000/v1``.
        model: what the server calls it.
        tries: of a request, with a wait that doubles; for status 429 and 5xx, timeouts and broken answers.
        wait: seconds before the second try.
        timeout: seconds for an answer.
        key: the environment variable that holds the API key. It is read when a request is sent, and kept nowhere.

    Raises:
        InputError: for a URL that is none, or holds a password.
    """

    def __init__(self, url: str, model: str, *, tries: int, wait: float, timeout: float, key: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError("teacher", url, "is no URL; give that of the API, such as http://localhost:8000/v1")
        if "@" in parts.netloc:
            raise InputError("teacher", parts.hostname, f"must not hold a password in its URL; put it in ${key}")
        self.url, self.model = url.rstrip("/"), model
        self.tries, self.wait, self.timeout, self.key = tries, wait, timeout, key

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.model} at {self.url}"

    def post(self, body: dict[str, Any], *, refusable: bool = False) -> dict[str, Any]:
        """The first choice of the answer to a request.

        Args:
            body: the request, but for the model.
            refusable: give an empty choice when the server does not know a field.

        Raises:
            InputError: when the server refuses, or gives no answer that can be read.
        """
        said = ""
        for attempt in range(self.tries):
            pause = min(self.wait * 2**attempt, LONGEST_WAIT)
            try:
                answer = json.loads(self._send(json.dumps({"model": self.model, **body}).encode()))
            except urllib.error.HTTPError as error:
                said = f"status {error.code}, {self._message(error)}"
                if refusable and error.code in (400, 404, 405, 422):
                    return {}
                if error.code not in AGAIN:
                    raise InputError("teacher", self.name, f"refuses: {said}") from None
                asked = error.headers.get("Retry-After", "")
                pause = min(max(pause, float(asked) if asked.isdigit() else 0), LONGEST_WAIT)
            except (OSError, http.client.HTTPException, ValueError) as error:
                # no connection, a timeout, a connection that broke, JSON that ends early
                said = self._hidden(str(getattr(error, "reason", error)) or type(error).__name__)
            else:
                return self._choice(answer)
            if attempt + 1 < self.tries:
                time.sleep(pause * random.uniform(0.75, 1.25))
        fix = "start it, then go on: nothing is lost"
        raise InputError("teacher", self.name, f"gives no answer after {self.tries} tries ({said}); {fix}")

    def _choice(self, answer: Any) -> dict[str, Any]:
        match answer:
            case {"choices": [{**choice}, *_]}:
                return choice
            case _:
                raise InputError("teacher", self.name, "answers without choices; is it a /v1/completions server?")

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if secret := os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {secret}"
        request = urllib.request.Request(f"{self.url}/completions", body, headers)  # noqa: S310
        with _OPENER.open(request, timeout=self.timeout) as answer:
            return answer.read()

    def _message(self, error: urllib.error.HTTPError) -> str:
        try:
            raw = error.read(4096).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            raw = ""
        try:
            held = json.loads(raw)
            held = held.get("error", held)
            raw = str(held.get("message", held) if isinstance(held, dict) else held)
        except (ValueError, AttributeError):
            pass
        return self._hidden(raw or str(error.reason))

    def _hidden(self, text: str) -> str:
        """A server may repeat what it was sent."""
        secret = os.environ.get(self.key)
        text = " ".join((text.replace(secret, "[redacted]") if secret else text).split())
        return text if len(text) <= 200 else text[:197] + "..."


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(  # noqa: PLR0917
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)
