"""A receiver over HTTPS that verifies and opens what a sender emits, and says what it found: one line per request."""

import http.server
import json
import ssl
import sys

import wire

order = json.load(sys.stdin)
secret = order["secret"].encode("utf-8")
keys = {name: bytes.fromhex(key) for name, key in order["keys"].items()}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            wire.verify(self.headers, body, secret)
            kind = self.headers["Content-Type"]
            if kind == "application/json":
                payload, header = wire.open_native(self.headers, body, keys), {}
            elif kind == "application/jose":
                payload, header = wire.open_jwe(body, keys, order["audience"])
            else:
                raise wire.Refused(f"the content type is {kind}")
        except wire.Refused as refused:
            self.answer(401, {"refused": str(refused)})
        else:
            self.answer(200, {"payload": payload.decode("utf-8"), "header": header})

    def answer(self, status, found):
        print(json.dumps(found), flush=True)
        body = b'{"status":"received"}' if status == 200 else b'{"error":"no","code":"refused"}'
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(order["certificate"], order["private_key"])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(json.dumps({"port": server.server_port}), flush=True)
for _ in range(order["requests"]):
    server.handle_request()
