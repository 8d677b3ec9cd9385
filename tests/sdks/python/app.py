"""The test component for Python's SDK, with one path for each interface."""

from componentize_py_types import Err
from spin_sdk import http, key_value, postgres, sqlite, variables
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
        case "query":
            with await sqlite.Connection.open_default() as database:
                await rows(database, "CREATE TABLE IF NOT EXISTS seen (name TEXT)", [])
                name = sqlite.Value_Text("a guest")
                await rows(database, "INSERT INTO seen VALUES (?)", [name])
                [row] = await rows(database, "SELECT name, 7, NULL FROM seen LIMIT 1", [])
            return f'{len(row.values)} Some("{row.values[0].value}")'.encode()
        case "database-denied":
            await sqlite.Connection.open("private")
            return b"opened"
        case "keys":
            store = await key_value.open_default()
            return ",".join(await collect(*await store.get_keys())).encode()
        case "store-denied":
            await key_value.open("private")
            return b"opened"
        case "fetch":
            response = await http.send(Request("GET", query, {}, None))
            return response.body
        case "postgres":
            await postgres.Connection.open("host=127.0.0.1")
            return b"opened"


async def rows(database, statement, parameters):
    """Runs a statement and returns all rows."""
    _columns, stream, result = await database.execute(statement, parameters)
    return await collect(stream, result)


async def collect(stream, result):
    """Returns the items of a stream whose end has a result."""
    items = []
    with stream, result:
        while not stream.writer_dropped:
            items += await stream.read(max_count=16)
        outcome = await result.read()
        if isinstance(outcome, Err):
            raise outcome
    return items
