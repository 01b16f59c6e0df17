"""Calls to the Hub that outlast a busy server or a broken connection; their errors say in plain words what to do."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from .errors import PublishError, one_line
from .progress import say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_T = TypeVar("_T")
_LONGEST_WAIT = 300.0  # seconds


def hub_errors() -> tuple[type[Exception], ...]:
    """Everything that the Hub's client raises if the Hub, the network or a name is at fault."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined] # its documented way to the client's own errors

    # What answers in the Hub's place, such as the login page of a network, answers in HTML.
    return (httpx.HTTPError, HFValidationError, OSError, json.JSONDecodeError)


def why_not_asked() -> str:
    """Why the Hub was not asked, in words for a message about something that neither it nor the cache could give."""
    from huggingface_hub.constants import is_offline_mode

    return "HF_HUB_OFFLINE is set" if is_offline_mode() else "the Hub cannot be reached"


def hub_token() -> str | None:
    """The user's token of the Hub, from the environment or from `hf auth login`; None where there is none."""
    from huggingface_hub import get_token

    return get_token()


@dataclass(frozen=True)
class HubClient:
    """Calls to the Hub that are tried again where that can help, and whose errors say in one line what to do.

    Attributes:
        waits: seconds between one try and the next; there is one try more than there are waits.
    """

    waits: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)

    @property
    def api(self) -> HfApi:
        """The Hub's own client, with the address and the token of the environment."""
        from huggingface_hub import HfApi

        return HfApi()

    def call(self, action: Callable[[], _T], repo: str, again_on: Container[int] = ()) -> _T:
        """Return what `action` returns; try again if the Hub is busy (429, 5xx) or the connection breaks.

        Where the Hub says how long to wait (`Retry-After`), that is waited for, up to five minutes.

        Args:
            action: calls the Hub's API. It may be called several times, whatever an earlier call has already done.
            repo: the repository that errors name.
            again_on: other statuses after which it is tried again, since a new try begins with what is there by then.

        Raises:
            PublishError: the Hub refuses, or stays out of reach.
        """
        from huggingface_hub.errors import HfHubHTTPError

        for wait in (*self.waits, None):
            try:
                return action()
            except Exception as raised:
                error = _fault(raised)
                if not isinstance(error, hub_errors()):
                    raise
                status = error.response.status_code if isinstance(error, HfHubHTTPError) else _status_in_words(error)
                busy = status is not None and (_is_busy(status) or status in again_on)
                temporary = busy or (status is None and _is_connection_error(error))
                if wait is None or not temporary:
                    raise PublishError(self._explain(error, status, repo)) from error
                seconds = max(wait, _asked_to_wait(error))
                reason = status or type(error).__name__
                what = f"{repo} was changed meanwhile" if status in again_on else "the Hub is busy or out of reach"
                say(f"{what} ({reason}): trying again in {seconds:g} s")
                time.sleep(seconds)
        raise AssertionError("the last try returns or raises")

    def require_token(self) -> None:
        """Check that somebody is logged in, so that this is known before the long work and not after it.

        Raises:
            PublishError: nobody is logged in.
        """
        from huggingface_hub import get_token

        if get_token() is None:
            raise PublishError("there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN")

    def with_namespace(self, repo: str) -> str:
        """Return `repo`, with the name of the user who is logged in before it if it names no namespace.

        Raises:
            PublishError: the Hub does not accept the token, or stays out of reach.
        """
        return repo if "/" in repo else f"{self.call(lambda: self.api.whoami()['name'], repo)}/{repo}"

    def _explain(self, error: Exception, status: int | None, repo: str) -> str:
        if status is not None and _is_busy(status):
            return f"the Hub answers {status} after {len(self.waits) + 1} tries: try again later, it goes on from there"
        if _is_offline(error):
            return f"HF_HUB_OFFLINE is set, so the Hub is not asked about {repo}: unset it and try again"
        changed = f"{repo} was changed by someone else during the push ({status}): nothing was written; push again"
        explanations = {
            401: f"the Hub does not accept the token for {repo} (401): log in with `hf auth login`, or set HF_TOKEN",
            403: f"the token may not do this in {repo} (403): pushing needs a token with write access there",
            404: f"{repo} is not there, or not for this token (404): check its name, the revision and the token's "
            "rights",
            409: changed,
            412: changed,
            413: f"the Hub takes no files of this size for {repo} (413): nothing was written; publish less",
            422: f"the Hub does not accept what was sent for {repo} (422): {one_line(error)}; nothing was written",
        }
        if status in explanations and not (status == 404 and "/xet-" in str(error)):  # the repository is there
            return explanations[status]
        if isinstance(error, json.JSONDecodeError):
            return (
                f"what answers for {repo} is not the Hub ({one_line(error)}): a proxy, or the login page of a network?"
            )
        without = "; if this Hub has no Xet storage, set HF_HUB_DISABLE_XET=1" if "/xet-" in str(error) else ""
        return f"the Hub cannot be used for {repo}: {one_line(error)}{without}"


def seconds_of(retry_after: str | None) -> float:
    """The seconds that a header `Retry-After` names, as a number or as a date; 0 where it names none.

    >>> seconds_of("20"), seconds_of(None), seconds_of("soon"), seconds_of("Wed, 21 Oct 2015 07:28:00 GMT")
    (20.0, 0.0, 0.0, 0.0)
    """
    if retry_after is None:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _fault(raised: Exception) -> Exception:
    """What went wrong: the Hub's client wraps it where it is one file of several, or a download that did not begin."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = raised.__cause__
    wrapped = isinstance(raised, RuntimeError | LocalEntryNotFoundError)
    return cause if wrapped and isinstance(cause, Exception) else raised


def _asked_to_wait(error: Exception) -> float:
    """Seconds that the Hub asks to wait, at most `_LONGEST_WAIT`; 0 where it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    return min(seconds_of(headers.get("Retry-After")), _LONGEST_WAIT)


def _status_in_words(error: Exception) -> int | None:
    """The status that an error of the Hub's file storage (hf_xet) names in its text alone; None for other errors."""
    status = re.search(r"HTTP status \w+ error \((\d{3})\b", str(error)) if isinstance(error, OSError) else None
    return int(status[1]) if status else None


def _is_busy(status: int) -> bool:
    return status == 429 or status >= 500


def _is_connection_error(error: Exception) -> bool:
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    broken = isinstance(error, httpx.TransportError | ConnectionError | TimeoutError | json.JSONDecodeError)
    return broken and not _is_offline(error)  # a ConnectionError too, but waiting does not change what the user has set


def _is_offline(error: Exception) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled)
