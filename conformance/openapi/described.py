"""The API as it is against its own OpenAPI document, by Schemathesis: every operation with data in and at the edges of
what is described. No answer may be a fault of the server, or one that the document does not describe.

Starts the binary that TIDINGS_BINARY names, with something of everything in it. TIDINGS_SCHEMATHESIS runs the tool."""

import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

BINARY = os.environ["TIDINGS_BINARY"]
SCHEMATHESIS = os.environ["TIDINGS_SCHEMATHESIS"]
TENANT, WORKSPACE, USER, CHANNEL = "acme", "sales", "ann", "general"
MODULE, EXTENSION, TYPE = "crm", "mirror", "crm.contact.created"
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
]
# Operations whose answer does not end.
ENDLESS = "^/v1/events/stream$"
PATIENCE = 30


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes what is sent to `/taken` and nothing else."""

    def do_POST(self):  # noqa: N802, the base class asks for it
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200 if self.path.startswith("/taken") else 500)
        self.end_headers()

    def log_message(self, *_):
        pass


class Gateway:
    """A gateway of its own, and who may do what there."""

    def __init__(self, folder):
        self.data = Path(folder) / "data"
        config = Path(folder) / "tidings.toml"
        config.write_text(
            "egress.allow_targets = ['127.0.0.1']\n"
            "delivery.retry_schedule = []\n"
            "log.level = 'warn'\n"
        )
        arguments = ["--data", self.data, "--config", config, "--listen", "127.0.0.1:0", "--no-demo"]
        self.process = subprocess.Popen(
            [BINARY, "serve", *arguments], stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )
        for line in self.process.stdout:
            if found := re.search(r"http:\S+", line):
                self.url = found.group()
                break
        self.admin = self.token("--tenant", TENANT, "--user", USER, "--role", "ADMIN")
        self.module = self.token("--tenant", TENANT, "--module", MODULE)
        self.operator = self.token("--user", "root", "--role", "OPERATOR")

    def token(self, *who):
        command = [BINARY, "token", "--data", self.data, *who]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def call(self, method, path, token, body=None, content_type="application/json"):
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"Bearer {token}")
        if body is not None:
            request.data = body if isinstance(body, bytes) else json.dumps(body).encode()
            request.add_header("Content-Type", content_type)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            sys.exit(f"{method} {path}: {error.code} {error.read().decode()}")
        return json.loads(said) if said else None

    def until(self, path, token, ready):
        end = time.monotonic() + PATIENCE
        while not ready(found := self.call("GET", path, token)):
            if time.monotonic() > end:
                sys.exit(f"GET {path} still answers {found}")
            time.sleep(0.05)
        return found


def something_of_everything(gateway, receiver):
    """Makes one of each thing that a path can name; answers what each is called by."""
    call, admin, operator = gateway.call, gateway.admin, gateway.operator
    call("PUT", f"/v1/modules/{MODULE}/manifest", operator, {
        "id": MODULE, "version": "1.0.0", "events": {"publishes": [TYPE]},
    })
    call("PUT", f"/v1/tenants/{TENANT}", operator, {"plan": "ENTERPRISE"})
    workspace = f"/v1/tenants/{TENANT}/workspaces/{WORKSPACE}"
    call("PUT", workspace, admin)
    call("PUT", f"{workspace}/members/{USER}", admin, {"role": "ADMIN"})
    extension = f"/api/workspaces/{WORKSPACE}/extensions/{EXTENSION}"
    call("PUT", extension, admin, {
        "kind": "EXTERNAL_SERVICE", "serviceBaseUrl": f"{receiver}/taken", "installed": True, "enabled": True,
    })
    call("PUT", f"{extension}/subscriptions/{TYPE}", admin)
    catalog = Path(__file__).parents[2] / "examples/catalogs/marketplace.asyncapi.yaml"
    call("PUT", "/v1/catalogs/market?enforce=false", operator, catalog.read_bytes(), "application/yaml")
    key = call("POST", "/v1/api-keys", admin, {"name": "a key", "scopes": ["events:read"]})
    subscription = call("POST", "/v1/subscriptions", admin, {
        "name": "all", "filter": {"types": ["**"]}, "target": {"kind": "webhook", "url": f"{receiver}/refused"},
    })
    event = call("POST", "/v1/events/publish", gateway.module, {"type": TYPE, "data": {"n": 1}})
    bare = {"specversion": "1.0", "source": "/crm", "type": TYPE}
    for more in [{"id": "1"}, {"id": "2", "datacontenttype": "image/png", "data_base64": "iVBORw0KGgo="}]:
        call("POST", "/v1/cloudevents", gateway.module, bare | more, "application/cloudevents+json")
    letters = gateway.until("/v1/dead-letters", admin, lambda page: page["items"])
    replay = call("POST", f"/v1/subscriptions/{subscription['id']}/replay", admin, {"from": "beginning"})
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    for version, name in [("1.0.0", "n"), ("1.1.0", "m")]:
        schema["properties"][name] = {"type": "integer"}
        call("POST", "/v1/events/custom/registrations", admin, {
            "namespace": TENANT, "name": "order.placed", "version": version, "status": "published",
            "payloadSchema": schema,
        })
    call("POST", "/v1/events/custom/emit", admin, {"name": f"{TENANT}.order.placed", "payload": {"n": 1}})
    return {
        "tenantId": TENANT, "workspaceId": WORKSPACE, "userId": USER, "channel": CHANNEL, "extensionId": EXTENSION,
        "eventKey": TYPE, "moduleId": MODULE, "keyId": key["id"], "subscriptionId": subscription["id"],
        "eventId": event["eventId"], "deadLetterId": letters["items"][0]["id"], "replayId": replay["id"],
        "namespace": TENANT, "name": "order.placed", "version": "1.0.0", "slug": "invalid-request",
    }


def settings(names):
    """What the tool is told: real names in paths, but where what they name would be gone."""
    def table(names):
        pairs = (f'"path.{name}" = {json.dumps(value)}' for name, value in names.items())
        return "{ " + ", ".join(pairs) + " }"

    nobody = {name: str(uuid.UUID(int=0)) for name in ["keyId", "subscriptionId", "deadLetterId"]}
    nobody |= {name: "nobody" for name in ["workspaceId", "extensionId", "moduleId", "name", "userId"]}
    return f"""
parameters = {table(names)}

[[operations]]
include-method = "DELETE"
parameters = {table(nobody)}

[[operations]]
include-path-regex = "^/v1/catalogs/"
parameters = {table({"name": "market"})}

[[operations]]
include-path-regex = "/diff$"
parameters = {{ "query.from" = "1.0.0", "query.to" = "1.1.0" }}
"""


def described(gateway, folder, name, token, *more):
    config = Path(folder) / "schemathesis.toml"
    command = [SCHEMATHESIS, "--config-file", config, "run", f"{gateway.url}/openapi.json", "--no-color"]
    command += ["--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS), "--request-timeout", "20"]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "5", "--generation-deterministic"]
    command += ["--exclude-path-regex", ENDLESS, "--continue-on-failure", "--suppress-health-check", "all"]
    command += ["--warnings", "off", *more]
    run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        print(run.stdout)
    print(f"{'ok' if run.returncode == 0 else 'not ok'} - {name}", flush=True)
    return run.returncode == 0


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(folder)
        try:
            names = something_of_everything(gateway, f"http://127.0.0.1:{server.server_port}")
            (Path(folder) / "schemathesis.toml").write_text(settings(names))
            of_operators = "^/v1/(tenants|modules|catalogs|api-keys)"
            passed = [
                described(gateway, folder, "what an ADMIN of a tenant may do", gateway.admin),
                described(gateway, folder, "what an OPERATOR may do", gateway.operator, "--include-path-regex", of_operators),
            ]
        finally:
            gateway.process.terminate()
            ended = gateway.process.wait(PATIENCE)
    passed.append(ended == 0)
    print(f"{'ok' if ended == 0 else 'not ok'} - the gateway stops well after all that")
    print(f"# tests {len(passed)}\n# pass {sum(passed)}\n# fail {len(passed) - sum(passed)}")
    sys.exit(not all(passed))


main()
