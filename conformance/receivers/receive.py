"""A receiver as a tenant would write it in Python: standardwebhooks verifies, the CloudEvents SDK reads.

Prints its port, then one line of JSON for each message: path, headers, status, `verified` (for each of the path's
keys, in their order) and `event`, a list of them of a batch. `PUT /path {keys, failures}` says what messages there are verified with, and how
many are answered with 500 first.
"""

import base64
import hashlib
import hmac
import json
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

expected = {}
printing = threading.Lock()


def signatures(headers, version):
    entries = (entry.split(",") for entry in headers["webhook-signature"].split(" "))
    return [base64.b64decode(signature) for of, signature in entries if of == version]


def is_text(body):
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def signed_by(key, signature, signed):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def holds(key, headers, body):
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    secret = base64.b64decode(key.partition("_")[2])
    if key.startswith("whpk_"):
        return any(signed_by(secret, signature, signed) for signature in signatures(headers, "v1a"))
    if not is_text(body):
        # The library makes text of a body before it verifies it, which this one is not.
        own = hmac.new(secret, signed, hashlib.sha256).digest()
        return any(hmac.compare_digest(own, signature) for signature in signatures(headers, "v1"))
    try:
        Webhook(key).verify(body, headers, json_parse=False)
    except WebhookVerificationError as error:
        if str(error) == "No matching signature found":
            return False
        raise
    return True


def plain(data):
    return {"base64": base64.b64encode(data).decode()} if isinstance(data, bytes) else data


def event_of(headers, body):
    if headers["content-type"].startswith("application/cloudevents-batch"):
        # The SDK reads one event at a time.
        one = {**headers, "content-type": "application/cloudevents+json"}
        return [event_of(one, json.dumps(event).encode()) for event in json.loads(body)]
    structured = headers["content-type"].startswith("application/cloudevents")
    if not structured and "ce-specversion" not in headers:
        return json.loads(body)
    event = from_http_event(HTTPMessage(headers=headers, body=body))
    attributes = dict(event.get_attributes())
    attributes["time"] = attributes["time"].isoformat()
    return {**attributes, "data": plain(event.get_data())}


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        expected[self.path] = json.loads(self.body())
        self.answer(204)

    def do_POST(self):
        body = self.body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            path = expected[self.path]
            path["failures"] = path.get("failures", 0) - 1
            status = 500 if path["failures"] >= 0 else 204
            verified = [holds(key, headers, body) for key in path["keys"]]
            line = {"headers": headers, "status": status, "verified": verified, "event": event_of(headers, body)}
        except Exception:
            status, line = 400, {"fault": traceback.format_exc()}
        with printing:
            print(json.dumps({"path": self.path, **line}), flush=True)
        self.answer(status)

    def body(self):
        return self.rfile.read(int(self.headers["content-length"]))

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Says nothing: standard error is for faults."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
