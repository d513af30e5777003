"""A webhook processor for PipeProc: it answers each log {"myNumber": n} with {"myIncrementedNumber": n + 1}.

python3 examples/increment.py [host:port]; also INCREMENT_LISTEN in the environment.
"""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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
            self.reply(200, "application/json", json.dumps(increment(json.loads(body))))
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
    host, _, port = listen.rpartition(":")
    with Server((host.strip("[]"), int(port)), Handler) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            # From another thread: shutdown waits for the loop that the signal interrupts.
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        print("listening on http://%s:%d/increment" % server.server_address[:2], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
