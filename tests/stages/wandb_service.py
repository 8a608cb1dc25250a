"""A stand-in for W&B's service on this machine: it answers a dashboard's GraphQL calls, and keeps what it is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0" * 40  # the form of a key


class Service:
    """Views by id, and the calls in their order."""

    def __init__(self) -> None:
        self.views: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.address = ""

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(query.split("{")[0].split("(")[0].split()[-1])
        if "upsertView" in query:
            return {"upsertView": {"view": self.keep(given), "inserted": True}}
        if "allViews" in query:
            found = [view for view in self.views.values() if view["name"] == given["viewName"]]
            return {"project": {"allViews": {"edges": [{"node": view} for view in found]}}}
        if "ProjectInternalId" in query:
            return {"project": {"id": "p", "internalId": "1"}}
        if "GetProjects" in query:
            project = {"id": "p", "name": "threeshnet", "entityName": "me", "createdAt": "2026-01-01T00:00:00Z"}
            page = {"endCursor": None, "hasNextPage": False}
            node = project | {"isBenchmark": False, "user": None, "__typename": "Project"}
            return {"models": {"pageInfo": page, "edges": [{"node": node}]}}
        if "iewer" in query:
            none: dict[str, Any] = {"edges": []}
            known = {"id": "u", "name": "me", "username": "me", "email": "me@example.org", "entity": "me"}
            return {
                "viewer": known | {"flags": "{}", "admin": False, "deletedAt": None, "apiKeys": none, "teams": none}
            }
        raise AssertionError(f"the stand-in has no answer to {query}")

    def keep(self, given: dict[str, Any]) -> dict[str, Any]:
        number = given.get("id") or f"view{len(self.views)}"
        project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        fields = {name: given.get(name) for name in ("type", "name", "displayName", "description", "spec")}
        self.views[number] = fields | {"id": number, "project": project, "updatedAt": "2026-01-01T00:00:00Z"}
        return self.views[number]

    def specs(self, kind: str) -> list[dict[str, Any]]:
        """What was sent as `runs` (reports) or `project-view` (workspaces)."""
        return [json.loads(view["spec"]) for view in self.views.values() if view["type"] == kind]


@contextmanager
def running() -> Iterator[Service]:
    """The service at a free port of this machine."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/graphql":  # wandb's own telemetry
                self.reply(404, b"")
                return
            asked = json.loads(body)
            data = service.answer(asked["query"], asked.get("variables") or {})
            self.reply(200, json.dumps({"data": data}).encode())

        def reply(self, code: int, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    service.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
