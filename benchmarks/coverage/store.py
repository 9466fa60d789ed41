"""Finished runs, one JSON line each, keyed by a hash of everything that defines the run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Record = dict[str, Any]


def key_of(config: Config) -> str:
    """Equal for equal configurations, whatever the order of their keys."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Store:
    """A file that only grows. A killed run leaves at most a line without its end, which is dropped.

    One writer at a time: two processes on one file would both run what neither has finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        if path.exists():
            self._read()

    def find(self, config: Config) -> Record | None:
        return self.records.get(key_of(config))

    def add(self, config: Config, result: dict[str, Any]) -> Record:
        key = key_of(config)
        record = {"key": key, "config": config, "result": result}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.records[key] = record
        return record

    def _read(self) -> None:
        text = self.path.read_text()
        whole, newline, broken = text.rpartition("\n")
        if broken:  # otherwise the next line would be glued to it
            self.path.write_text(whole + newline)
        for line in whole.splitlines():
            record = json.loads(line)
            self.records[record["key"]] = record
