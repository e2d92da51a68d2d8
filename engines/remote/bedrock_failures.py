"""What Bedrock says of its failures, as statuses of HTTP that mean what they say."""

import json
import re
from collections.abc import Mapping

from engines.errors import PenstockError
from engines.remote.failures import Asked, ErrorBody, retry_after_s, status_error
from engines.remote.json_fields import as_dict, as_str

# By the exception's name in small letters: in a stream it begins with one. Some of Bedrock's own statuses blame the
# request for what the model, or our account, is short of; and in a stream there are none.
_STATUS = {
    "accessdeniedexception": 403,
    "expiredtokenexception": 401,
    "incompletesignature": 401,
    "internalserverexception": 500,
    "invalidsignatureexception": 401,
    "missingauthenticationtokenexception": 401,
    "modelerrorexception": 502,
    "modelnotreadyexception": 503,
    "modelstreamerrorexception": 502,
    "modeltimeoutexception": 408,
    "resourcenotfoundexception": 404,
    "servicequotaexceededexception": 429,
    "serviceunavailableexception": 503,
    "throttlingexception": 429,
    "unrecognizedclientexception": 401,
    "validationexception": 400,
}
# A model that does not exist, or is not sold in this way, is called an invalid request.
_NO_MODEL = re.compile(
    r"model identifier is invalid|invocation of model id .{0,300}(?:not|n't) supported|"
    r"(?:inference profile|model) .{0,300}(?:doesn't exist|does not exist|not found)",
    re.IGNORECASE,
)


def bedrock_error(status: int, type: str, payload: bytes) -> tuple[int, ErrorBody]:
    """The status by which an error is to be taken, and what is said with it.

    Args:
        status: The status that it has, for a name that says nothing.
        type: The exception's name; empty: it is in the payload, where anywhere.
        payload: Its JSON.
    """
    try:
        fields = as_dict(json.loads(payload))
    except (ValueError, RecursionError):
        fields = {}
    # `Name:http://...` in the header, `namespace#Name` in the body.
    name = (type or as_str(fields.get("__type"))).split(":")[0].rpartition("#")[2]
    message = as_str(fields.get("message")) or as_str(fields.get("Message"))
    status = _STATUS.get(name.lower(), status)
    if status == 400 and _NO_MODEL.search(message):
        status = 404
    return status, ErrorBody(message=message, words=(name,) if name else ())


def bedrock_refusal(status: int, body: bytes, headers: Mapping[str, str], asked: Asked) -> PenstockError:
    """The error that an answer of that status, 300 or more, is."""
    error = status_error(*bedrock_error(status, headers.get("x-amzn-errortype", ""), body), asked)
    error.retry_after_s = retry_after_s(headers)
    return error
