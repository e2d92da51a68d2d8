"""Which of a fleet's addresses answer from this machine."""

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from clusters.api_client import trusting_anybody

TIMEOUT_S = 3.0
_AT_A_TIME = 16


def answering(urls: Sequence[str]) -> set[str]:
    """Those of the URLs at which a Penstock says that it lives. Asks all of them side by side, without a key."""
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        return {url for url, answers in zip(urls, threads.map(_answers, urls), strict=True) if answers}


def _answers(url: str) -> bool:
    # What an environment's proxy says is not what the address says.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting_anybody())
    )
    try:
        with opener.open(f"{url}/live", timeout=TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        # Whoever refuses to say has answered.
        return True
    except urllib.error.URLError as error:
        # Without a certificate of its own nobody is let in: the server is there, and says so.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, http.client.HTTPException):
        return False
