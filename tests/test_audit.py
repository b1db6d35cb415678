"""The audit of dependencies, against an advisory service on the loopback interface that knows what a test tells it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
AUDIT = [sys.executable, str(ROOT / ".ci" / "audit.py")]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
CLOSED = "http://127.0.0.1:9/v1/query"


class Advisories(BaseHTTPRequestHandler):
    """Answers OSV's `POST /v1/query`; `known` holds the versions that have a vulnerability, by package."""

    known: dict[str, str]
    asked: dict[str, set[str]]
    status = 200

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version = asked["package"]["name"], asked["version"]
        self.asked.setdefault(name, set()).add(version)
        advisory = {
            "id": "PYSEC-0000-1",
            "details": "It runs what it is given.",
            "aliases": [],
            "modified": "2026-01-01T00:00:00Z",
            "published": "2026-01-01T00:00:00Z",
            "affected": [{"package": {"name": name, "ecosystem": "PyPI"}, "versions": [version]}],
        }
        answer = json.dumps({"vulns": [advisory]} if self.known.get(name) == version else {}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def audit(known, *options, status=200):
    handler = type("Handler", (Advisories,), {"known": known, "asked": {}, "status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1/query"
        result = subprocess.run([*AUDIT, "--osv-url", url, *options], capture_output=True, text=True)
        server.shutdown()
    if "No matching distribution" in result.stderr or "CalledProcessError" in result.stderr:
        reason = f"pip-audit can't be installed:\n{result.stderr[-500:]}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return result, handler.asked


def test_every_pinned_package_is_looked_up_and_none_is_known():
    result, asked = audit({})
    assert result.returncode == 0, result.stderr
    assert "No known vulnerabilities found" in result.stderr and "NOT AUDITED" not in result.stdout
    names = {name.lower().replace("_", "-").replace(".", "-") for name in PINNED}
    assert names <= set(asked)
    assert asked["gradio"] and asked["lmms-eval"], "the requirements of the Space and of lmms-eval are looked up, too"


def test_a_known_vulnerability_fails():
    result, _ = audit({"jinja2": PINNED["Jinja2"]})
    assert result.returncode == 1
    assert re.search(rf"jinja2 +{re.escape(PINNED['Jinja2'])} +PYSEC-0000-1", result.stdout)


@pytest.mark.parametrize("options", [[], ["--required"]])
def test_what_can_not_be_asked_is_said_loudly(options):
    result = subprocess.run([*AUDIT, "--osv-url", CLOSED, *options], capture_output=True, text=True)
    assert result.returncode == len(options)
    assert f"NOT AUDITED: {CLOSED} can't be reached" in result.stdout and "Connection refused" in result.stdout


def test_a_service_that_is_down_is_not_reached_and_one_that_refuses_fails():
    result, _ = audit({}, status=503)
    assert result.returncode == 0 and "can't be reached (503 Service Unavailable)" in result.stdout
    result, _ = audit({}, status=404)
    assert result.returncode == 1 and "answers 404 Not Found" in result.stderr and "Traceback" not in result.stderr


def test_an_audit_that_was_killed_fails(monkeypatch):
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    codes = [-9, 0, 0]
    monkeypatch.setattr(module, "unreachable", lambda service: None)
    monkeypatch.setattr(module, "tool", lambda: "python")
    monkeypatch.setattr(module.subprocess, "run", lambda command: types.SimpleNamespace(returncode=codes.pop()))
    assert module.main(module.make_parser().parse_args([])) == 1 and not codes
