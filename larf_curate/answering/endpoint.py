"""One question to an OpenAI-compatible endpoint, with limits on what is sent, what is read, and how long it takes."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from ..cache import register
from ..errors import ModelError, one_line
from ..hub import hub_errors, hub_token, seconds_of
from ..inert import visible
from .patience import BusyError, is_busy

_REASON = 200  # characters


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers. It is never sent the user's Hub token, only the key that it is given.

    Attributes:
        base_url: up to `/v1`, or of the chat completions themselves.
        key: sent as a bearer token; None sends none.
        seconds: until an answer has to be there, whole.
        max_bytes: the most bytes of an answer, as it is sent.

    Raises:
        ModelError: the address is not one of HTTP, the key is the user's Hub token, or it would travel unencrypted to
            another machine.
    """

    base_url: str
    key: str | None = field(default=None, repr=False)
    seconds: float = 60.0
    max_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        try:
            address = urlsplit(self.base_url)
            host, _ = address.hostname, address.port
        except ValueError as error:
            raise ModelError(f"the judge's address is not a URL: {one_line(error)}") from None
        if address.scheme not in ("http", "https") or not host:
            raise ModelError("the judge's address must begin with https:// or http:// and name a host")
        if address.username or address.password or address.query or address.fragment:
            raise ModelError("the judge's address must hold no user, password or query: give the key apart")
        if self.key is None:
            return
        if not self.key or not self.key.isascii() or not self.key.isprintable() or " " in self.key:
            raise ModelError("the judge's key must be printable ASCII without blanks")
        if self.key == hub_token():
            raise ModelError("the judge's key is the Hub's token, which goes to no judge: give a key of its own")
        if address.scheme == "http" and not self.is_loopback:
            raise ModelError(f"the judge's key would travel unencrypted to {host}: use https://, or no key")

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def url(self) -> str:
        """Where chats are sent."""
        base = self.base_url.rstrip("/")
        if base.endswith("/chat/completions"):
            return base
        return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"

    def ask(self, model: str, content: str, max_tokens: int) -> str:
        """The answer of a model there to one message; empty if it says nothing.

        Raises:
            BusyError: it says that it cannot answer just now.
            ModelError: it cannot be reached, refuses, takes too long, or answers something else or too much.
        """
        chat = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        # In a thread of its own: the caller's may run an event loop already, as in a notebook.
        with ThreadPoolExecutor(1, "larf-endpoint") as pool:
            return self._without_key(_text_of(pool.submit(asyncio.run, self._post(chat)).result()))

    async def _post(self, chat: dict[str, Any]) -> bytes:
        """The bytes of an answer. asyncio, since only a cancelled request ends where an endpoint sends byte by byte."""
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined] # its documented way to the client

        headers = {"Accept-Encoding": "identity"}  # what is counted is what is read
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        failures: tuple[type[Exception], ...] = (*hub_errors(), httpx.InvalidURL)
        answer = bytearray()
        try:
            async with (
                asyncio.timeout(self.seconds),
                # No redirects, which would take the key elsewhere; and no proxy between this machine and itself.
                httpx.AsyncClient(
                    timeout=self.seconds, trust_env=not self.is_loopback, verify=_trusted(not self.is_loopback)
                ) as client,
                client.stream("POST", self.url, json=chat, headers=headers) as response,
            ):
                if is_busy(response.status_code):
                    raise BusyError(response.status_code, seconds_of(response.headers.get("Retry-After")))
                async for part in response.aiter_raw():
                    answer += part
                    if len(answer) > self.max_bytes:
                        raise ModelError(f"its answer is longer than {self.max_bytes:,} bytes")
                if response.status_code != 200:
                    said = self._reason_in(bytes(answer))
                    raise ModelError(f"it answers with HTTP status {response.status_code}{said}")
        except TimeoutError as error:
            raise ModelError(f"no whole answer within {self.seconds:g} seconds") from error
        except failures as error:
            raise ModelError(one_line(error)) from error
        return bytes(answer)

    def _reason_in(self, answer: bytes) -> str:
        """What an endpoint says of an error, where it does so as OpenAI does, after a colon; empty if not."""
        try:
            message = json.loads(answer)["error"]["message"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""
        if not isinstance(message, str) or not message.strip():
            return ""
        return ": " + visible(self._without_key(message), _REASON)

    def _without_key(self, said: str) -> str:
        """What an endpoint says may repeat what it was sent, and be shown or written: never the key."""
        return said if self.key is None else said.replace(self.key, "(the key)")


@cache
def _trusted(trust_env: bool) -> Any:
    """The certificates that a client trusts: read once, since that takes longer than many a question."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined] # as above

    return httpx.create_ssl_context(trust_env=trust_env)


register(_trusted.cache_clear)


def _text_of(answer: bytes) -> str:
    """What the assistant says in a chat completion.

    Raises:
        ModelError: it is none.
    """
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelError("its answer is not a chat completion") from error
    if not isinstance(content, str | None):
        raise ModelError("its answer is not a chat completion: the content is not text")
    return content or ""
