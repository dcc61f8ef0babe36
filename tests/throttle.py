"""A proxy on loopback that answers some requests with 503, as a store that is asked too much."""

import http.client
import http.server
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

BODY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@contextmanager
def serve(endpoint: str, share: float, seed: float) -> Iterator[str]:
    """Yields the URL of a proxy before an endpoint that refuses a share of what it is asked."""
    chance, target = random.Random(seed), urlsplit(endpoint)

    class Throttle(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if chance.random() < share:
                self.reply(503, {"Content-Type": "application/xml"}, BODY)
                return
            there = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            there.request(self.command, self.path, body, dict(self.headers))
            found = there.getresponse()
            data = found.read()
            self.reply(found.status, dict(found.getheaders()), data)
            there.close()

        def reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            left_out = {"transfer-encoding", "connection", "content-length"}
            for name, value in headers.items():
                if name.lower() not in left_out:
                    self.send_header(name, value)
            length = next((v for n, v in headers.items() if n.lower() == "content-length"), None)
            is_head = self.command == "HEAD" and status < 400 and length is not None
            self.send_header("Content-Length", str(length) if is_head else str(len(data)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Throttle) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
