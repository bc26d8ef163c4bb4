"""Checks whether a server can be reached, and explains in plain words what went wrong with a network.

Nothing is downloaded here; `zoo.pretrained.download` does that. Importing this module is quick, because requests is
imported only when the network is used.
"""

from __future__ import annotations

import datetime
import http
import queue
import re
import threading
import time
from collections.abc import Mapping

CONNECT_SECONDS = 5
IMPATIENT_SECONDS = 1
LONGEST_RETRY = 1e9
# Answers after which the same request can succeed a little later.
TEMPORARY = frozenset((408, 425, 429, 500, 502, 503, 504))


def unreachable(url: str) -> str:
    """Try for at most CONNECT_SECONDS to reach a server. Return why it cannot be reached, or "" if it can.

    Two attempts to connect run at the same time. The server counts as reachable if one attempt succeeds. The attempts
    run in threads, because a socket's timeout does not cover the lookup of the server's name.

    A server may have several IP addresses. Each attempt tries these addresses one after the other:

    - The first attempt waits at most IMPATIENT_SECONDS for each address. If an IPv6 address does not respond, this
      attempt still has time to try an IPv4 address.
    - The second attempt waits up to CONNECT_SECONDS for each address. It is meant for slow connections.
    """
    import requests

    outcomes: queue.SimpleQueue[str] = queue.SimpleQueue()

    def attempt(connect_seconds: float) -> None:
        try:
            requests.head(url, timeout=(connect_seconds, CONNECT_SECONDS), allow_redirects=True)
            outcomes.put("")
        except Exception as error:
            outcomes.put(explain(error))

    reason = ""
    end = time.monotonic() + CONNECT_SECONDS
    waits = (IMPATIENT_SECONDS, CONNECT_SECONDS)
    for seconds in waits:
        threading.Thread(target=attempt, args=[seconds], daemon=True).start()
    for _ in waits:
        try:
            reason = outcomes.get(timeout=max(0, end - time.monotonic()))
        except queue.Empty:
            return f"no answer within {CONNECT_SECONDS} s"
        if not reason:
            break
    return reason


def explain(error: Exception) -> str:
    """Say in one line, without a full stop, what an exception of requests means, and what helps where that is known."""
    import requests

    reason = _brief(error)
    if isinstance(error, requests.exceptions.SSLError):
        reason = re.sub(r"^.*certificate verify failed: |\s*\(_ssl\.c:\d+\)", "", reason)
        today = datetime.date.today().isoformat()
        return (
            f"the server's certificate is not accepted ({reason}). Check the date of this computer, which is {today}. "
            "If a proxy of this network inspects connections, let REQUESTS_CA_BUNDLE name the file of its certificate"
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return (
            f"the proxy does not work ({reason}). The environment variables HTTPS_PROXY and HTTP_PROXY name the proxy; "
            "correct or unset them, or list the server in NO_PROXY"
        )
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return "the server redirects in a circle"
    return reason


def status_text(status: int) -> str:
    """Say in one line what an HTTP status that is not a success means: "the server answers 404 (Not Found)"."""
    try:
        name = f" ({http.HTTPStatus(status).phrase})"
    except ValueError:
        name = ""
    hints = {
        401: "; the address asks for a login",
        403: "; the server, or a filter of this network, refuses to send it",
        404: "; the publisher may have moved or removed the file",
        407: "; the proxy asks for a login: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
        410: "; the publisher has removed the file",
        429: "; it receives too many requests",
    }
    return f"the server answers {status}{name}{hints.get(status, '')}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to wait in its header Retry-After, or None if it does not say."""
    import email.utils

    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text), LONGEST_RETRY)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


def _brief(error: Exception) -> str:
    """Return the innermost cause of a connection error as text, without the object addresses that urllib3 adds."""
    cause: BaseException = error
    while cause.args and isinstance(cause.args[0], BaseException):
        cause = cause.args[0]
    reason = getattr(cause, "reason", None)
    text = str(reason or cause)
    text = text.partition("): ")[2] or text if "Connection(" in text else text.rpartition(">: ")[2]
    # A proxy's error is quoted inside other errors, whose quotes and brackets end it.
    text = re.sub(r"[\"']\)+$", "", text.strip())
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".")
