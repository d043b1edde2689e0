"""The YAML of docs/loggers.md, and what each logger's own reader finds in what a run has left."""

import csv
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

PAGE = Path(__file__).parent.parent / "docs" / "loggers.md"
Series = dict[str, list[tuple[int, float]]]


def from_page(*headings: str) -> dict[str, Any]:
    """The settings under some headings of the page, lists of loggers and callbacks joined."""
    merged: dict[str, Any] = {}
    sections = dict(re.findall(r"^#{2,3} (.+?)\n(.*?)(?=^#|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    for heading in headings:
        block = re.search(r"```yaml\n(.*?)```", sections[heading], re.DOTALL)
        assert block, heading
        for key, value in yaml.safe_load(block[1]).items():
            there = merged.setdefault(key, {})
            for name, setting in value.items():
                there[name] = there.get(name, []) + setting if isinstance(setting, list) else setting
    return merged


def csv_series(run: Path) -> Series:
    (path,) = (run / "logs").glob("*/metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        name: [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        for name in rows[0]
        if name != "step"
    }


def tensorboard(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (run / "tensorboard").iterdir()
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def wandb_records(run: Path) -> list[Any]:
    """Every record of an offline run: a LevelDB log of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    data, records, message, position = path.read_bytes(), [], b"", 7
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if left < 7 or kind == 0:
            position += left
            continue
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # The whole of a record, or its last part.
            records.append(Record.FromString(message))
            message = b""
    return records


def wandb_history(run: Path) -> list[dict[str, Any]]:
    """Rows by name; a table or a picture is a dict that says where its file is."""
    rows = []
    for record in wandb_records(run):
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                name, *inner = item.nested_key
                value = json.loads(item.value_json)
                if inner:
                    row.setdefault(name, {})[inner[0]] = value
                else:
                    row[name] = value
            rows.append(row)
    return rows


def wandb_config(run: Path) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for record in wandb_records(run):
        if record.WhichOneof("record_type") == "config":
            config.update({update.key: json.loads(update.value_json) for update in record.config.update})
    return config


def of_tensorboard(run: Path) -> Series:
    events = tensorboard(run)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def of_wandb(run: Path) -> Series:
    found: Series = {}
    for row in wandb_history(run):
        for name, value in row.items():
            if isinstance(value, int | float) and not name.startswith(("_", "trainer/")):
                found.setdefault(name, []).append((row["trainer/global_step"], value))
    return found


_READ_MLFLOW = """
import json, sys
from mlflow.tracking import MlflowClient

client = MlflowClient(sys.argv[1])
(experiment,) = (e for e in client.search_experiments() if e.name == "golf")
(run,) = client.search_runs([experiment.experiment_id])
name = run.info.run_id
history = {m: [(p.step, p.value) for p in client.get_metric_history(name, m)] for m in run.data.metrics}

def files(folder):
    for entry in client.list_artifacts(name, folder):
        yield from files(entry.path) if entry.is_dir else [entry.path]

artifacts = {path: client.download_artifacts(name, path) for path in files("")}
found = {"run_id": name, "status": run.info.status, "params": run.data.params}
print(json.dumps({**found, "metrics": history, "files": artifacts}))
"""


def mlflow(uri: str, cwd: Path, **env: str) -> dict[str, Any]:
    """What MLflow's client finds, in a process of its own: it leaves connections open."""
    command = [sys.executable, "-c", _READ_MLFLOW, uri]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
