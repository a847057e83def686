"""All APIs."""

from typing import Final

from harness.api import chat, completions, messages, responses
from harness.api.base import WireApi
from harness.core.records import Api

WIRE_APIS: Final[dict[Api, WireApi]] = {
    Api.MESSAGES: messages.API,
    Api.CHAT: chat.API,
    Api.COMPLETIONS: completions.API,
    Api.RESPONSES: responses.API,
}


def wire(name: str) -> WireApi:
    """The API of this name, a value of `core.records.Api`."""
    return WIRE_APIS[Api(name)]
