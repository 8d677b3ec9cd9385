"""A component in Python that handles WebSockets by typed frames (SIP-016), and plain requests."""

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.inbound_websocket_send import send_frame
from wit_world.imports.types import Fields, OutgoingBody, OutgoingResponse, ResponseOutparam
from wit_world.imports.websocket_types import (
    CloseCode_Policy,
    CloseFrame,
    Frame_Binary,
    Frame_Close,
    Frame_Text,
)


def respond(response_out, status, text):
    response = OutgoingResponse(Fields())
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    if text:
        with body.write() as stream:
            stream.blocking_write_and_flush(text.encode())
    OutgoingBody.finish(body, None)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        respond(response_out, 200, "a plain request")


class InboundWebsocketReceive(exports.InboundWebsocketReceive):
    def handle_new(self, token, request, response_out):
        if request.path_with_query().endswith("?refuse"):
            respond(response_out, 403, "refused")
        else:
            respond(response_out, 101, "")
            send_frame(token, Frame_Text("welcome"))

    def handle_frames(self, token, frames):
        for received in frames:
            match received.frame:
                case Frame_Text("trap"):
                    raise RuntimeError("trap")
                case Frame_Text("close"):
                    send_frame(token, Frame_Close(CloseFrame(CloseCode_Policy(), "enough")))
                case Frame_Text(text):
                    send_frame(token, Frame_Text(f"{received.sequence_number} {text}"))
                case Frame_Binary(data):
                    send_frame(token, Frame_Binary(data))
                case Frame_Close(_):
                    print("closed")
