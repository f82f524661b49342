"""What a request of Oneport says, and what a response may say. Values are dictionaries, as JSON has them."""

from typing import Any, Literal, TypedDict


class Connection(TypedDict):
    """A connection; `state` is what the last response has set, None at first."""

    id: str
    node: str
    name: str
    state: Any


class UrlRoute(TypedDict):
    name: str | None
    kwargs: dict[str, str]


class _Scope(TypedDict):
    type: Literal["websocket"]
    path: str
    raw_query: str
    http_version: str
    scheme: Literal["ws", "wss"]
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    headers: list[tuple[str, str]]
    subprotocols: list[str]
    url_route: UrlRoute
    user: Any
    session: Any
    root_path: str


class Scope(_Scope, total=False):
    """The handshake, as in ASGI. Only the header fields that the option `headers` names are there."""

    raw_path: str
    extensions: dict[str, Any]


class ConnectEvent(TypedDict):
    """The handshake waits for the response. Alone, `seq` 1."""

    seq: int
    type: Literal["websocket.connect"]


class _Receive(TypedDict):
    seq: int
    type: Literal["websocket.receive"]


class ReceiveEvent(_Receive, total=False):
    """The client has sent a message: `text`, or base64 `bytes`."""

    text: str
    bytes: str


class GroupEvent(TypedDict):
    """An event of a group that was joined with `"deliver": "backend"`."""

    seq: int
    type: Literal["group.event"]
    group: str
    event: dict[str, Any]


class GroupRefusedEvent(TypedDict):
    """The connection could not join these groups of the response before, because of a limit."""

    seq: int
    type: Literal["group.refused"]
    groups: list[str]
    limit: Literal["groups_per_socket", "groups_per_ip"]
    max: int


class DisconnectEvent(TypedDict):
    """The connection has ended. Alone, the last."""

    seq: int
    type: Literal["websocket.disconnect"]
    code: int
    reason: str
    cause: str


class NodeStartedEvent(TypedDict):
    """The server has started: connections of that name and another node are gone. Without connection and scope."""

    seq: int
    type: Literal["oneport.node_started"]
    node: str
    name: str


Event = ConnectEvent | ReceiveEvent | GroupEvent | GroupRefusedEvent | DisconnectEvent | NodeStartedEvent


class _Request(TypedDict):
    v: Literal[1]
    events: list[Event]


class Request(_Request, total=False):
    """The body of one request."""

    connection: Connection
    scope: Scope


class _Accept(TypedDict):
    type: Literal["websocket.accept"]


class AcceptEffect(_Accept, total=False):
    subprotocol: str | None
    headers: list[list[str]]


class _Deny(TypedDict):
    type: Literal["websocket.http.response"]


class DenyEffect(_Deny, total=False):
    """Only in the response to `websocket.connect`."""

    status: int
    headers: list[list[str]]
    body: str


class _Send(TypedDict):
    type: Literal["websocket.send"]


class SendEffect(_Send, total=False):
    """`text`, or base64 `bytes`."""

    text: str
    bytes: str


class _Close(TypedDict):
    type: Literal["websocket.close"]


class CloseEffect(_Close, total=False):
    code: int
    reason: str


class _GroupAdd(TypedDict):
    type: Literal["group.add"]
    group: str


class GroupAddEffect(_GroupAdd, total=False):
    deliver: Literal["client", "backend"]


class GroupDiscardEffect(TypedDict):
    type: Literal["group.discard"]
    group: str


class _GroupSend(TypedDict):
    type: Literal["group.send"]
    group: str
    event: dict[str, Any]


class GroupSendEffect(_GroupSend, total=False):
    exclude_self: bool


Effect = AcceptEffect | DenyEffect | SendEffect | CloseEffect | GroupAddEffect | GroupDiscardEffect | GroupSendEffect


class Response(TypedDict, total=False):
    """The body of a response. `ack` is the last event that was handled: without it all of them are."""

    ack: int
    state: Any
    events: list[Effect]
