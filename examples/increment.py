"""A webhook processor for PipeProc: it answers each log {"myNumber": n} with {"myIncrementedNumber": n + 1}.

python3 examples/increment.py [host:port]; also INCREMENT_LISTEN in the environment. With INCREMENT_SECRET=whsec_… (or
several, with spaces between) calls are to be signed with it.
"""

import base64
import hmac
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE = 5 * 60  # seconds: an old call that somebody kept is refused
keys = []


def read_secrets(text):
    for secret in text.split():
        try:
            if not secret.startswith("whsec_"):
                raise ValueError
            yield base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            sys.exit("increment: INCREMENT_SECRET is whsec_…, or several of them with spaces between")


class NotSigned(Exception):
    pass


def verify(headers, body):
    """Raises NotSigned unless the call is signed with one of the keys, as Standard Webhooks defines it."""
    timestamp = headers.get("webhook-timestamp", "")
    # What is not ASCII cannot be compared in constant time, and is no signature.
    given = headers.get("webhook-signature", "").encode("ascii", "replace").split()
    if not (timestamp.isascii() and timestamp.isdigit() and abs(time.time() - float(timestamp)) <= TOLERANCE):
        raise NotSigned("the webhook's timestamp is not about now")
    signed = f"{headers.get('webhook-id', '')}.{timestamp}.".encode("latin-1") + body
    for key in keys:
        want = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
        if any([hmac.compare_digest(text, want) for text in given]):
            return
    raise NotSigned("the webhook's signature is not that of a known secret")


def increment(delivery):
    """Answers an object (one log) or a list (one log for each element)."""
    results = []
    for log in delivery["logs"]:
        number = log["body"].get("myNumber") if isinstance(log["body"], dict) else None
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ValueError(f"log {log['id']} has no myNumber")
        results.append({"myIncrementedNumber": number + 1})
    return results[0] if len(results) == 1 else results


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    timeout = 120  # longer than PipeProc keeps idle ones, so that it is the one to close them
    wbufsize = -1  # an answer is one packet

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/increment":
            return self.reply(404, "text/plain", "not found\n")
        try:
            if keys:
                verify(self.headers, body)
            self.reply(200, "application/json", json.dumps(increment(json.loads(body))))
        except NotSigned as err:
            self.reply(401, "text/plain", f"{err}\n")  # PipeProc tries again: time to change the secret over
        except (ValueError, KeyError, TypeError) as err:
            # Another attempt is useless: PipeProc disables the proc, and nothing is skipped unseen.
            self.reply(422, "text/plain", f"{err}\n")

    def do_GET(self):
        if self.path != "/increment":
            return self.reply(404, "text/plain", "not found\n")
        self.reply(405, "text/plain", "method not allowed\n")

    def reply(self, status, kind, text):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def main():
    listen = (sys.argv[1:] or [os.environ.get("INCREMENT_LISTEN")])[0] or "127.0.0.1:9090"
    keys.extend(read_secrets(os.environ.get("INCREMENT_SECRET", "")))
    host, _, port = listen.rpartition(":")
    with Server((host.strip("[]"), int(port)), Handler) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            # From another thread: shutdown waits for the loop that the signal interrupts.
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        print("listening on http://%s:%d/increment" % server.server_address[:2], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
