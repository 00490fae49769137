"""The few calls of Airflow's REST API that a person at the UI would make by clicking."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import requests

from tidegate.core.errors import RetryLater
from tidegate_local.stack.doors import Doors

CALL_SECONDS: Final = 30.0
#: From a healthy DAG processor to a DAG that has been read.
DAG_SECONDS: Final = 300.0
DAG: Final = "tidegate_batch_inference"
OVER: Final = frozenset({"success", "failed"})


class Airflow:
    """Airflow's API as the stack's administrator."""

    def __init__(self, doors: Doors) -> None:
        self.address = doors.airflow_url
        self._user = doors.airflow_user
        self._password = doors.airflow_password
        self._session = requests.Session()
        self._session.trust_env = False

    def trigger(self, params: Mapping[str, Any], dag: str = DAG) -> str:
        """Start a run of the DAG; its id."""
        self._await(dag)
        body = {"logical_date": None, "conf": dict(params)}
        return str(self._call("POST", f"/dags/{dag}/dagRuns", body)["dag_run_id"])

    def state(self, dag_run: str, dag: str = DAG) -> str:
        return str(self._call("GET", f"/dags/{dag}/dagRuns/{dag_run}")["state"])

    def tasks(self, dag_run: str, dag: str = DAG) -> list[dict[str, Any]]:
        return list(self._call("GET", f"/dags/{dag}/dagRuns/{dag_run}/taskInstances")["task_instances"])

    def clear(self, dag_run: str, tasks: list[str], dag: str = DAG) -> None:
        """Clear tasks with what follows them, as the UI's button does."""
        body = {
            "dry_run": False,
            "dag_run_id": dag_run,
            "task_ids": tasks,
            "include_downstream": True,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self._call("POST", f"/dags/{dag}/clearTaskInstances", body)

    def mark(self, dag_run: str, task: str, state: str, map_index: int, dag: str = DAG) -> None:
        """Mark one task success or failed, as the UI's button does."""
        self._call("PATCH", f"/dags/{dag}/dagRuns/{dag_run}/taskInstances/{task}/{map_index}", {"new_state": state})

    def log(self, dag_run: str, task: str, try_number: int, map_index: int = -1, dag: str = DAG) -> str:
        path = f"/dags/{dag}/dagRuns/{dag_run}/taskInstances/{task}/logs/{try_number}?map_index={map_index}"
        content = self._call("GET", path)["content"]
        return "\n".join(str(line.get("event", line)) if isinstance(line, dict) else str(line) for line in content)

    def url(self, dag_run: str, dag: str = DAG) -> str:
        return f"{self.address}/dags/{dag}/runs/{dag_run}"

    def _await(self, dag: str) -> None:
        """Return once Airflow knows the DAG: a processor that is healthy may still be reading it."""
        deadline = time.monotonic() + DAG_SECONDS
        while True:
            try:
                self._call("GET", f"/dags/{dag}")
            except RetryLater:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)
            else:
                return

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        for is_last in (False, True):
            if "Authorization" not in self._session.headers:
                self._sign_in()
            answer = self._send(method, f"/api/v2{path}", body)
            if answer.status_code == 401 and not is_last:
                # The token lives a day; a stack may live longer.
                del self._session.headers["Authorization"]
                continue
            if not answer.ok:
                raise RetryLater(f"Airflow answers {answer.status_code} to {method} {path}: {answer.text[:300]}")
            return answer.json()
        raise AssertionError("unreachable: the second pass returns or raises")

    def _sign_in(self) -> None:
        answer = self._send("POST", "/auth/token", {"username": self._user, "password": self._password})
        if not answer.ok:
            raise RetryLater(f"Airflow refuses the stack's own password ({answer.status_code}); start it anew")
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _send(self, method: str, path: str, body: Any) -> requests.Response:
        try:
            return self._session.request(method, f"{self.address}{path}", json=body, timeout=CALL_SECONDS)
        except requests.RequestException as error:
            raise RetryLater(f"Airflow does not answer at {self.address} ({type(error).__name__})") from None
