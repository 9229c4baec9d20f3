# An ASGI application without a framework.


class App:
    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        message = await receive()
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        where = f"{scope['method']} {scope['root_path']} {scope['query_string'].decode()}\n"
        await send({"type": "http.response.body", "body": where.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": message["body"]})


app = App()
