"""OpenAI's Responses API on loopback, as far as the demonstration asks for it.

It calls the first tool it is offered, once, but `fetch_page` again and again, and reports usage
that has nothing to do with any count of characters.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GIVEN, CACHED, MADE = 1000, 400, 50
"""Tokens of every answer: in, of these from the cache, out."""
PIECES = 400


def text(words):
    part = {"type": "output_text", "text": words, "annotations": []}
    return {"id": "m", "type": "message", "role": "assistant", "status": "completed",
            "content": [part]}  # fmt: skip


def call(tool, number):
    properties = tool["parameters"]["properties"]
    given = {name: 1 if kind.get("type") == "integer" else "x" for name, kind in properties.items()}
    return {"id": "f", "type": "function_call", "status": "completed", "name": tool["name"],
            "call_id": f"call-{number}", "arguments": json.dumps(given)}  # fmt: skip


def response(output):
    return {
        "id": "r", "object": "response", "created_at": 0, "model": "gpt-4.1-mini",
        "status": "completed", "output": output, "parallel_tool_calls": False,
        "tool_choice": "auto", "tools": [],
        "usage": {
            "input_tokens": GIVEN, "output_tokens": MADE, "total_tokens": GIVEN + MADE,
            "input_tokens_details": {"cached_tokens": CACHED},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }  # fmt: skip


def answer(asked):
    """What the model says next."""
    tools, items = asked.get("tools") or [], asked["input"]
    done = 0 if isinstance(items, str) else sum(item.get("type") == "function_call_output"
                                                for item in items)  # fmt: skip
    endless = any(tool["name"] == "fetch_page" for tool in tools)
    if tools and (endless or done == 0):
        return call(tools[0], done)
    return text("It is done.")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked.get("stream"):
            self._stream()
            return
        body = json.dumps(response([answer(asked)])).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for number in range(PIECES):
                self._event({
                    "type": "response.output_text.delta", "item_id": "m", "output_index": 0,
                    "content_index": 0, "delta": "word", "logprobs": [], "sequence_number": number,
                })  # fmt: skip
            done = response([text("word" * PIECES)])
            self._event({"type": "response.completed", "response": done, "sequence_number": 999})
        except OSError:
            pass  # the reader has gone, as the demonstration wants it
        self.close_connection = True

    def _event(self, event):
        self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    def log_message(self, *_):
        pass


@contextmanager
def provider():
    """The address of a server, for as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
