"""The test component for Python's SDK, with one path for each interface."""

from componentize_py_types import Err
from spin_sdk import http, key_value, postgres, variables
from spin_sdk.http import Request, Response


class HttpHandler(http.Handler):
    async def handle_request(self, request: Request) -> Response:
        try:
            body = await route(request)
        except Err as error:
            return Response(502, {}, repr(error.value).encode())
        if body is None:
            return Response(404, {}, b"")
        return Response(200, {}, body)


async def route(request):
    path, _, query = request.uri.partition("?")
    match path.rsplit("/", 1)[-1]:
        case "hello":
            return b"hello"
        case "echo":
            return request.body
        case "header":
            return request.headers.get("spin-path-info", "none").encode()
        case "print":
            print("printed by the component")
            return b"printed"
        case "trap":
            raise RuntimeError("trap")
        case "variable":
            return (await variables.get("greeting")).encode()
        case "variable-unknown":
            return (await variables.get("unknown")).encode()
        case "count":
            store = await key_value.open_default()
            count = int(await store.get("count") or 0) + 1
            await store.set("count", str(count).encode())
            return str(count).encode()
        case "store-denied":
            await key_value.open("private")
            return b"opened"
        case "fetch":
            response = await http.send(Request("GET", query, {}, None))
            return response.body
        case "postgres":
            await postgres.Connection.open("host=127.0.0.1")
            return b"opened"
