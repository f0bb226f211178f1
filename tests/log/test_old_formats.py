"""Logs of every released format, opened for ever.

Each `tests/data/format-N/` holds the `log/` of a data directory as that version left it after a clean close, and
`expected.json` with what the version itself showed of it. These files are never changed and never made again.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checks import check_store

from stigmer.model import Committed, Save
from stigmer.store import Store

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("name", ["format-1"])
def test_old_log_opens_with_what_it_held(tmp_path: Path, name: str) -> None:
    """A log written by an older version gives the same resources, events and remembered request ids as it did then."""
    expected: dict[str, Any] = json.loads((DATA / name / "expected.json").read_text(encoding="utf-8"))
    shutil.copytree(DATA / name, tmp_path / "data")
    with Store.open(tmp_path / "data", create=False) as store:
        assert store.recovery == (f"folded revisions 1 to {len(expected['events'])} into the views",)
        assert store.store_id == expected["store_id"]
        assert len(store.segments()) == 2
        assert [event_facts(event) for event in store.tail(follow=False)] == expected["events"]
        resources = [resource for kind in sorted(store.count()) for resource in store.list(kind)]
        assert [resource_facts(resource) for resource in resources] == expected["resources"]
        for request_id, (first, last) in expected["request_ids"].items():
            assert store.commit([Save("note", "never", b"")], request_id=request_id) == Committed(first, last)
        check_store(store)

        assert store.save("note", "added", b"by this version") == len(expected["events"]) + 1
        check_store(store)


def event_facts(event: Any) -> dict[str, Any]:
    return {
        "revision": event.revision,
        "op": event.op.value,
        "kind": event.kind,
        "id": event.id,
        "value": base64.b64encode(event.value).decode(),
        "time_ns": event.time_ns,
    }


def resource_facts(resource: Any) -> dict[str, Any]:
    return {
        "kind": resource.kind,
        "id": resource.id,
        "value": base64.b64encode(resource.value).decode(),
        "revision": resource.revision,
        "created_revision": resource.created_revision,
        "created_at_ns": resource.created_at_ns,
        "updated_at_ns": resource.updated_at_ns,
    }
