"""Asks a Hub again where that can help, and says what to do where it cannot."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

from factory.core.errors import InputError, PublishError

T = TypeVar("T")

TRIES = 5
FIRST_WAIT = 1.0
"""Seconds; doubled with every try."""
LONGEST_WAIT = 600.0
"""Seconds that a server may ask to be left alone; beyond, the upload stops and is resumed later."""
AGAIN = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
"""Statuses that may pass: 409 and 412 on a commit mean that another one came in between."""


@dataclass(slots=True)
class Caller:
    """Calls a Hub, waiting and trying again.

    Attributes:
        where: the repository, for errors.
        token: never shown: an answer that repeats it is blanked.
        say: called with one line before each wait.
        has_touched: whether something was changed there already.
    """

    where: str
    token: str
    say: Callable[[str], None]
    has_touched: bool = False

    def call(self, what: str, ask: Callable[[], T]) -> T:
        """Returns what `ask` returns; it is called again after failures that may pass.

        `ask` must do no harm when what it asked for was done although the answer was lost.

        Raises:
            InputError: token, rights, gate or name are wrong.
            PublishError: the Hub kept failing; what was sent stays.
        """
        for number in range(1, TRIES + 1):
            try:
                return ask()
            except (OSError, RuntimeError, ValueError, httpx2.TransportError) as error:
                cause = _find_cause(error)
                wait = _find_wait(cause, number)
                if wait is None:
                    raise self._explain(what, cause) from error
                if number == TRIES or wait > LONGEST_WAIT:
                    raise PublishError(
                        f"{self.where}: {what}: {self._describe(cause)}: tried {number} times; "
                        f"{_advise_later(wait)}run the same command again to go on"
                    ) from error
                self.say(f"{what}: {self._describe(cause)}; trying again in {wait:.0f} s")
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _explain(self, what: str, error: BaseException) -> Exception:
        """Returns what a person can do about an error that will not pass."""
        message = f"{self.where}: {what}: {self._describe(error)}"
        if isinstance(error, OfflineModeIsEnabled):
            return InputError(f"{self.where}: offline mode is on: unset HF_HUB_OFFLINE")
        if isinstance(error, HFValidationError):
            return InputError(f"{message}: give --repo OWNER/NAME")
        advice = ADVICE.get(_read_status(error) or 0)
        if advice is not None:
            kind = PublishError if self.has_touched else InputError
            return kind(f"{message}: {advice}")
        return PublishError(f"{message}: mend the cause, then run the same command again")

    def _describe(self, error: BaseException) -> str:
        """Returns an error in one line, without the token and without links that carry keys."""
        status = _read_status(error)
        text = getattr(error, "server_message", None) or str(error) or type(error).__name__
        text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1?...", " ".join(text.split()))
        if self.token:
            text = text.replace(self.token, "***")
        return f"HTTP {status}: {text}" if status is not None else text


ADVICE = {
    401: "the token is not accepted: set HF_TOKEN to a valid token with write access "
    "(https://huggingface.co/settings/tokens), or run `hf auth login`",
    402: "the account's plan does not cover this: see its billing page, or publish "
    "elsewhere (--to)",
    403: "the token may not do this: it needs the permission to write to repositories of this "
    "owner (https://huggingface.co/settings/tokens); in an organization you must be a member who "
    "may write, and the terms of a gated repository must be accepted on its page",
    404: "there is no such repository or branch, or the token may not see it: check --repo and "
    "--revision",
}
"""Status -> what to do."""


def _find_cause(error: BaseException) -> BaseException:
    """Returns the answer or broken connection behind an error that wraps it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, HfHubHTTPError | httpx2.TransportError):
            return seen
        seen = seen.__cause__
    return error


def _read_status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _find_wait(error: BaseException, number: int) -> float | None:
    """Returns the seconds to wait before the next try, or None where trying again is of no use."""
    wait = FIRST_WAIT * 2.0 ** (number - 1)
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code not in AGAIN:
            return None
        return max(wait, _read_asked_wait(error))
    # A proxy's error page in place of JSON is a server that will be back.
    return wait if isinstance(error, httpx2.TransportError | json.JSONDecodeError) else None


def _read_asked_wait(error: HfHubHTTPError) -> float:
    """Returns the seconds that the server asked to wait, 0 where it did not."""
    headers = error.response.headers
    limit = parse_ratelimit_headers(headers)
    if error.response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds) + 1.0
    asked = headers.get("Retry-After", "").strip()
    return float(asked) if asked.isdigit() else 0.0


def _advise_later(wait: float) -> str:
    return f"wait {wait:.0f} seconds, as it asks, then " if wait > LONGEST_WAIT else ""
