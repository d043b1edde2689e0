import os
import subprocess
import sys
import threading
import time

import pytest

from plgolf.files import staged_folder, write_atomically


def contents(path):
    return {p.name: p.read_text() for p in path.iterdir()}


def fail_halfway(root):
    with staged_folder(root, replace=True) as folder:
        (folder / "a").write_text("half")
        (folder / "none").read_text()


def test_a_folder_takes_the_place_of_another(tmp_path):
    root = tmp_path / "set"
    for text in ("one", "two"):
        with staged_folder(root, replace=True) as folder:
            assert not list(folder.iterdir())
            (folder / "a").write_text(text)
            assert not root.exists() if text == "one" else contents(root) == {"a": "one"}
        assert contents(root) == {"a": text}
    with pytest.raises(FileNotFoundError):
        fail_halfway(root)
    with pytest.raises(FileExistsError), staged_folder(root, replace=False):
        pass
    assert contents(root) == {"a": "two"} and [p.name for p in tmp_path.iterdir()] == ["set"]


def test_an_empty_folder_may_be_there(tmp_path):
    (tmp_path / "set").mkdir()
    with staged_folder(tmp_path / "set", replace=False) as folder:
        (folder / "a").write_text("x")
    assert contents(tmp_path / "set") == {"a": "x"}


def test_a_kill_between_two_renames_is_repaired(tmp_path):
    """The only moment at which nothing has the folder's name."""
    aside = tmp_path / ".set.replaced"
    aside.mkdir()
    (aside / "a").write_text("old")
    with pytest.raises(FileExistsError), staged_folder(tmp_path / "set", replace=False):
        pass
    assert contents(tmp_path / "set") == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


KILLED = """
import os, sys, time
from pathlib import Path
from plgolf.files import staged_folder
root = Path(sys.argv[1])
while True:
    with staged_folder(root, replace=True) as folder:
        token = str(time.time_ns())
        for name in "abcd":
            (folder / name).write_text(token)
"""


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_folder(tmp_path):
    root = tmp_path / "set"
    for delay in (0.25, 0.3, 0.37, 0.41, 0.5):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(root)])
        time.sleep(delay)
        process.kill()
        process.wait()
        if root.exists():
            found = contents(root)
            assert sorted(found) == list("abcd") and len(set(found.values())) == 1
    with pytest.raises(FileExistsError), staged_folder(root, replace=False):
        pass  # Repairs a kill between the two renames.
    assert root.exists()
    with staged_folder(root, replace=True) as folder:
        (folder / "a").write_text("last")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


HOLDING = """
import sys
from pathlib import Path
from plgolf.files import staged_folder
with staged_folder(Path(sys.argv[1]), replace=False) as folder:
    (folder / "a").write_text("first")
    print("started", flush=True)
    sys.stdin.readline()
"""


def test_another_process_is_waited_for(tmp_path):
    root, pipe = tmp_path / "set", subprocess.PIPE
    command = [sys.executable, "-c", HOLDING, str(root)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "started\n"
        threading.Timer(0.3, process.stdin.close).start()
        begun = time.monotonic()
        with pytest.raises(FileExistsError), staged_folder(root, replace=False):
            pass
        assert time.monotonic() - begun >= 0.3
    assert contents(root) == {"a": "first"}


def test_write_atomically_leaves_the_old_file_when_the_disk_is_full(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "a"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_atomically(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]
