"""An endpoint that verifies each webhook as Svix's PyPI package does. It prints its port, then what it took, and ends
with its standard input."""

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from svix.webhooks import Webhook, WebhookVerificationError

webhook = Webhook(sys.argv[1])


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            webhook.verify(body, dict(self.headers))
            print(self.headers["webhook-id"], json.loads(body)["type"], flush=True)
            self.send_response(204)
        except WebhookVerificationError:
            self.send_response(401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def end_with_standard_input():
    sys.stdin.read()
    os._exit(0)


server = HTTPServer(("127.0.0.1", 0), Endpoint)
print(server.server_port, flush=True)
threading.Thread(target=end_with_standard_input, daemon=True).start()
server.serve_forever()
