"""Downloads with the real library from a hub on this machine."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from corpus.hub_server import REPO, HubServer, sha256
from corpus.texts import Lines
from golden_data import GOLDEN, TOKENIZER, VOCAB_SIZE

from plgolf.corpus.download import download
from plgolf.corpus.verify import verify
from plgolf.data.manifest import find_tokenizer, read_manifest
from plgolf.data.shards import find_shards, open_shard, shard_header
from plgolf.data.tokenizer import ByteTokenizer
from plgolf.errors import UserError

constants = pytest.importorskip("huggingface_hub.constants")

SHARDS = {path.name: path.read_bytes() for path in sorted((GOLDEN / "tied").glob("fineweb_*.bin"))}
TRAIN, VAL = "fineweb_train_{:06d}.bin", "fineweb_val_{:06d}.bin"
SP512, BYTE260 = "fineweb10B_sp512", "fineweb10B_byte260"


@pytest.fixture(autouse=True)
def library(monkeypatch, tmp_path):
    """Keeps the library away from other machines and its caches, and from waiting between attempts."""
    from huggingface_hub.utils import close_session

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield
    close_session()


def stats(shards: dict[str, bytes]) -> dict[str, int]:
    counts = {}
    for split, documents in (("train", 30), ("val", 7)):
        files = [content for name, content in shards.items() if f"_{split}_" in name]
        counts |= {f"files_{split}": len(files), f"docs_{split}": documents}
        counts[f"tokens_{split}"] = sum((len(content) - 1024) // 2 for content in files)
    return counts


def exports(root: str = "datasets/") -> dict[str, bytes]:
    """A repository as the challenge's exporter makes it, by path."""
    byte_shards = {
        name: shard_header(3) + bytes([1, 0, 101, 0, 102, 0]) for name in (TRAIN.format(0), VAL.format(0))
    }
    tokenizers = {
        "fineweb_512_bpe.model": TOKENIZER.read_bytes(),
        "fineweb_512_bpe.vocab": b"<pad>\t0\n",
        "fineweb_pure_byte_260.json": ByteTokenizer().to_bytes(),
    }
    manifest = {
        "version": "10B",
        "datasets": [
            {"name": SP512, "tokenizer_name": "sp", "vocab_size": VOCAB_SIZE, "stats": stats(SHARDS)},
            {"name": BYTE260, "tokenizer_name": "byte", "vocab_size": 260, "stats": stats(byte_shards)},
        ],
        "tokenizers": [
            {
                "name": "sp",
                "kind": "sentencepiece_bpe",
                "model_path": "tokenizers/fineweb_512_bpe.model",
                "vocab_path": "tokenizers/fineweb_512_bpe.vocab",
            },
            {"name": "byte", "kind": "byte", "path": "tokenizers/fineweb_pure_byte_260.json"},
        ],
    }
    return {
        f"{root}manifest.json": json.dumps(manifest).encode(),
        **{f"{root}tokenizers/{name}": content for name, content in tokenizers.items()},
        **{f"{root}datasets/{SP512}/{name}": content for name, content in SHARDS.items()},
        **{f"{root}datasets/{BYTE260}/{name}": content for name, content in byte_shards.items()},
    }


def path_of(name: str) -> str:
    return f"datasets/datasets/{SP512}/{name}"


def edit_manifest(hub: HubServer, edit) -> None:
    manifest = json.loads(hub.files["datasets/manifest.json"])
    edit(manifest)
    hub.files["datasets/manifest.json"] = json.dumps(manifest).encode()


@pytest.fixture
def hub(monkeypatch):
    with HubServer(exports()) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "data"


def fetch(root: Path, variant: str = "sp512", **options) -> Path:
    return download(variant, **{"root": root, "repo": REPO, "console": Lines(), **options})


def refusal(root: Path, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        fetch(root, *args, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_fetches_a_dataset_with_its_manifest(hub, root):
    console = Lines()
    folder = fetch(root, console=console)
    assert folder == root / "datasets" / SP512
    content = tree(root)
    manifest_json = content.pop(f"datasets/{SP512}/manifest.json")
    assert content == {
        "tokenizers/fineweb_512_bpe.model": TOKENIZER.read_bytes(),
        "tokenizers/fineweb_512_bpe.vocab": b"<pad>\t0\n",
        **{f"datasets/{SP512}/{name}": shard for name, shard in SHARDS.items()},
    }
    assert b'"name": "fineweb"' in manifest_json
    manifest = read_manifest(folder)
    assert find_tokenizer(folder, read_manifest(folder)).vocab_size == VOCAB_SIZE
    assert manifest.sources == [{"repo": REPO, "revision": hub.commit, "path": f"datasets/datasets/{SP512}"}]
    for split, number, documents in (("train", 3, 30), ("val", 2, 7)):
        found, entry = find_shards(folder, split), manifest.splits[split]
        assert len(entry.shards) == number and entry.documents == documents
        assert entry.tokens == sum(shard.num_tokens for shard in found)
        assert [(s.file, s.sha256) for s in entry.shards] == [
            (shard.path.name, sha256(SHARDS[shard.path.name])) for shard in found
        ]
    assert console.lines[0].startswith("val: fetching 2 of 2 shards, ")
    assert console.lines[-1] == (
        f"{folder}: {manifest.splits['train'].tokens:,} train and "
        f"{manifest.splits['val'].tokens:,} val tokens, all checked"
    )


@pytest.mark.parametrize(("wanted", "number"), [(0, 0), (2, 2), (3, 3), (80, 3), (None, 3)])
def test_fetches_the_requested_number_of_training_shards(hub, root, wanted, number):
    folder = fetch(root, train_shards=wanted)
    train = read_manifest(folder).splits["train"]
    assert [entry.file for entry in train.shards] == [TRAIN.format(i) for i in range(number)]
    failed = [check.name for check in verify(folder, console=Lines()) if check.passed is False]
    # The golden shards are cut from the middle of a stream: neither split has whole documents.
    assert set(failed) <= {"documents", "re-encoding"}
    assert sorted(path.name for path in folder.glob("*_train_*")) == [TRAIN.format(i) for i in range(number)]
    assert train.documents == (30 if number == 3 else None)
    assert len(find_shards(folder, "val")) == 2


@pytest.mark.parametrize("wanted", [4, 81, -1])
def test_refuses_other_numbers_of_training_shards(hub, root, wanted):
    message = f"train_shards must be from 0 to the 3 of {SP512}, got {wanted}"
    assert refusal(root, train_shards=wanted) == message


def test_fetches_the_byte_variant_beside_another_dataset(hub, root):
    first = fetch(root, train_shards=1)
    folder = fetch(root, BYTE260)
    assert find_tokenizer(folder, read_manifest(folder)).kind == "byte"
    assert find_tokenizer(first, read_manifest(first)).kind == "sentencepiece"


def test_manifest_may_be_at_the_top(hub, root):
    hub.files = exports(root="")
    folder = fetch(root, remote_root="")
    assert len(find_shards(folder, "train")) == 3
    assert "remote_root must be a folder inside" in refusal(root, remote_root="../x")


def test_continues_inside_a_file_after_a_lost_connection(hub, root):
    hub.cuts[path_of(TRAIN.format(1))] = [30_000, 5_000]
    folder = fetch(root)
    assert (folder / TRAIN.format(1)).read_bytes() == SHARDS[TRAIN.format(1)]
    assert [get.range is None for get in hub.gets if get.path.endswith(TRAIN.format(1))] == [
        True,
        False,
        False,
    ]


def test_a_lost_connection_keeps_complete_files(hub, root):
    hub.cuts[path_of(TRAIN.format(1))] = [0] * 20
    message = refusal(root)
    assert message.startswith(f"{REPO}: {path_of(TRAIN.format(1))} could not be fetched (")
    assert message.endswith("run the command again to continue; complete files are kept")
    assert not (root / "datasets" / SP512).exists()
    before = hub.fetched
    hub.cuts.clear()
    fetch(root)
    again = hub.fetched - before
    assert [name for name in again if name in SHARDS] == [TRAIN.format(1)]
    assert again["manifest.json"] == 1
    assert sorted(path.name for path in (root / "datasets").iterdir()) == [SP512]


@pytest.mark.parametrize(
    ("asked", "refused", "message"),
    [
        ({"repo": "golfers/nothing"}, {}, "golfers/nothing: does not exist or is private"),
        ({"repo": "no/such/name"}, {}, "no/such/name: must be the owner and name of a dataset"),
        ({"revision": "v9"}, {}, f"{REPO}: has no revision v9"),
        ({"remote_root": "elsewhere"}, {}, f"{REPO}: has no file elsewhere/manifest.json at revision"),
        ({}, {"/api/": (403, "GatedRepo")}, f"{REPO}: is gated"),
        ({}, {"/api/": (401, "")}, f"{REPO}: this login may not read revision main"),
        ({}, {"/tree/": (500, "")}, f"{REPO}: its list of files could not be fetched (HfHubHTTPError"),
        ({}, {".model": (503, "")}, "tokenizers/fineweb_512_bpe.model could not be fetched (HfHubHTTPError"),
        ({}, {".model": (403, "")}, "this login may not read datasets/tokenizers/fineweb_512_bpe.model"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(hub, root, asked, refused, message):
    hub.refused = refused
    assert message in refusal(root, **asked)


def test_an_unreachable_hub_is_one_line(root, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "could not be fetched (ConnectError" in refusal(root)


def test_a_missing_shard_is_noticed_before_any_is_fetched(hub, root):
    del hub.files[path_of(TRAIN.format(1))]
    assert f"has no file {path_of(TRAIN.format(1))}" in refusal(root)
    assert not any(name.endswith(".bin") for name in hub.fetched)
    assert find_shards(fetch(root, train_shards=1), "train")


def test_unknown_variants_list_the_known_ones(hub, root):
    assert f"must be one of '{SP512}', '{BYTE260}', or the end" in refusal(root, "sp8192")
    edit_manifest(hub, lambda manifest: manifest["datasets"].append({"name": "other_sp512"}))
    assert "or the end of only one name, got 'sp512'" in refusal(root)


@pytest.mark.parametrize("kind", ["truncated at the source", "changed in transit"])
def test_a_damaged_shard_is_refused_and_fetched_by_the_next_run(hub, root, kind):
    path = path_of(TRAIN.format(1))
    good = hub.files[path]
    if kind == "changed in transit":
        hub.served[path] = good[:-1] + bytes([good[-1] ^ 1])
    else:
        hub.files[path] = good[:-10]
    message = refusal(root)
    assert message.startswith(f"{REPO}: {path} is damaged: ")
    assert message.endswith("run it again to fetch this file")
    assert not (root / "datasets" / SP512).exists()
    hub.served.clear()
    hub.files[path] = good
    assert (fetch(root) / TRAIN.format(1)).read_bytes() == good


def test_extending_fetches_only_what_is_new(hub, root):
    fetch(root, train_shards=1)
    hub.gets.clear()
    console = Lines()
    folder = fetch(root, train_shards=2, console=console)
    assert [name for name in hub.fetched if name in SHARDS] == [TRAIN.format(1)]
    assert any(line.startswith("train: fetching 1 of 2 shards, ") for line in console.lines)
    assert len(read_manifest(folder).splits["train"].shards) == 2
    hub.gets.clear()
    fetch(root, train_shards=0, console=console)
    assert "keeping all 2 train shards that exist" in console.lines
    assert len(find_shards(folder, "train")) == 2
    assert not set(hub.fetched) & set(SHARDS)


def test_a_damaged_shard_is_replaced(hub, root):
    folder = fetch(root)
    damaged = folder / TRAIN.format(2)
    damaged.write_bytes(SHARDS[damaged.name][:-2] + b"\0\0")
    hub.gets.clear()
    fetch(root)
    assert damaged.read_bytes() == SHARDS[damaged.name]
    assert [name for name in hub.fetched if name in SHARDS] == [damaged.name]


def test_a_later_commit_is_noticed(hub, root):
    folder = fetch(root)
    path = path_of(VAL.format(1))
    hub.files[path] = hub.files[path_of(VAL.format(0))]
    new = stats(SHARDS | {VAL.format(1): hub.files[path]})
    edit_manifest(hub, lambda manifest: manifest["datasets"][0].update(stats=new))
    fetch(root)
    assert (folder / VAL.format(1)).read_bytes() == hub.files[path]
    assert read_manifest(folder).sources[0]["revision"] == hub.commit


def test_an_interrupt_leaves_the_old_dataset(hub, root):
    old = tree(fetch(root, train_shards=1))

    class Interrupting(Lines):
        def live(self, line: str) -> None:
            if line == "train: checking shard 2 of 3":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(root, console=Interrupting())
    assert tree(root / "datasets" / SP512) == old
    hub.gets.clear()
    assert len(find_shards(fetch(root), "train")) == 3
    assert not set(hub.fetched) & set(SHARDS)


def test_a_killed_process_leaves_the_old_dataset(hub, root, tmp_path):
    old = tree(fetch(root, train_shards=1))
    hub.stalls.add(path_of(TRAIN.format(2)))
    # In a process of its own the library finds the hub as it does for everyone.
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "plgolf", "data", "download", "sp512", "--root", str(root), "--repo", REPO],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    try:
        assert hub.stalled.wait(60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert tree(root / "datasets" / SP512) == old
    stage = root / "datasets" / f".{SP512}.download"
    assert list(stage.rglob("*.incomplete"))
    hub.stalls.clear()
    hub.resume.set()
    hub.gets.clear()
    assert len(find_shards(fetch(root), "train")) == 3
    # The shard before it may have been on its way at the same time.
    fetched = {name for name in hub.fetched if name in SHARDS}
    assert TRAIN.format(2) in fetched <= {TRAIN.format(1), TRAIN.format(2)}
    assert not stage.exists()


def test_a_second_download_into_the_same_folder_is_refused(hub, root):
    hub.stalls.add(path_of(TRAIN.format(0)))
    first = threading.Thread(target=fetch, args=(root,))
    first.start()
    try:
        assert hub.stalled.wait(60)
        assert refusal(root) == f"{root}: another download writes here: wait for its end and try again"
    finally:
        hub.resume.set()
        first.join()
    assert len(find_shards(root / "datasets" / SP512, "train")) == 3
    assert {hub.fetched[name] for name in SHARDS} == {1}


def hostile(key, value, *, of="datasets"):
    def edit(manifest) -> None:
        entry = manifest[of][0]
        (entry["stats"] if key.partition("_")[0] in {"files", "tokens", "docs"} else entry)[key] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (hostile("name", "../../evil_sp512"), "name must be a plain file name"),
        (hostile("name", "/evil_sp512"), "name must be a plain file name"),
        (hostile("name", ".hidden_sp512"), "name must be a plain file name"),
        (hostile("name", "a/b_sp512"), "name must be a plain file name"),
        (hostile("name", "line\n_sp512"), "name must be a plain file name"),
        (hostile("name", 3), "must have a name"),
        (hostile("model_path", "../../../evil.model", of="tokenizers"), "tokenizer must lie below"),
        (hostile("model_path", "/etc/evil.model", of="tokenizers"), "tokenizer must lie below"),
        (hostile("vocab_path", "tokenizers\\..\\evil", of="tokenizers"), "tokenizer must lie below"),
        (hostile("vocab_path", ["x"], of="tokenizers"), "tokenizer must lie below"),
        (hostile("tokenizer_name", ["sp"]), "must be a tokenizer of the manifest"),
        (hostile("tokenizer_name", "other"), "must be a tokenizer of the manifest"),
        (hostile("files_train", -1), "files_train must be a whole number from 0 to 100000, got -1"),
        (hostile("files_val", 0), "files_val must be a whole number from 1"),
        (hostile("files_val", 10**9), "files_val must be a whole number from 1"),
        (hostile("files_val", "2"), "files_val must be a whole number"),
        (hostile("tokens_val", True), "tokens_val must be a whole number"),
        (hostile("docs_val", None), "docs_val must be a whole number"),
        (hostile("stats", []), "files_train must be a whole number"),
        (hostile("vocab_size", 10**6), "vocab_size must be a whole number from 1 to 65536"),
        (lambda manifest: manifest.pop("datasets"), "must be a manifest of the challenge"),
        (lambda manifest: manifest.update(tokenizers={}), "must be a manifest of the challenge"),
        (
            lambda manifest: [manifest["tokenizers"][0].pop(f"{k}_path") for k in ("model", "vocab")],
            "must have a file in the manifest",
        ),
    ],
)
def test_refuses_invalid_values_in_a_manifest(hub, root, tmp_path, edit, message):
    edit_manifest(hub, edit)
    assert message in refusal(root)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[" * 100_000, b"3"])
def test_refuses_other_contents_than_a_manifest(hub, root, content):
    hub.files["datasets/manifest.json"] = content
    assert f"{REPO}: datasets/manifest.json: must be" in refusal(root)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (hostile("tokens_val", 5), "must have the manifest's 5 tokens, got"),
        (hostile("tokens_train", 5), "must have the manifest's 5 tokens, got"),
        (
            hostile("vocab_size", 1024),
            "vocab_size must be the 512 of datasets/tokenizers/fineweb_512_bpe.model",
        ),
        (hostile("tokenizer_name", "byte"), "vocab_size must be the 260"),
    ],
)
def test_refuses_files_that_contradict_the_manifest(hub, root, edit, message):
    edit_manifest(hub, edit)
    assert message in refusal(root)
    assert not (root / "datasets" / SP512).exists()


def test_refuses_a_malformed_tokenizer(hub, root):
    hub.files["datasets/tokenizers/fineweb_512_bpe.model"] = b"nonsense"
    assert "fineweb_512_bpe.model is damaged: must be a SentencePiece model" in refusal(root)
    assert not (root / "tokenizers").exists()


def test_never_replaces_foreign_files(hub, root):
    folder = root / "datasets" / SP512
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    assert f"{folder}: exists and was not downloaded by plgolf" in refusal(root)
    (folder / "notes.txt").unlink()
    folder.rmdir()
    other = root / "tokenizers" / "fineweb_512_bpe.vocab"
    other.parent.mkdir()
    other.write_text("another dataset's")
    assert f"{other}: differs from {REPO}'s file of that name" in refusal(root)
    assert other.read_text() == "another dataset's"
    other.unlink()
    fetch(root)
    hub.files = exports(root="")
    assert f"{folder}: exists and is not datasets/{SP512} of {REPO}" in refusal(root, remote_root="")


@contextlib.contextmanager
def largest_file(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line(hub, root, monkeypatch):
    old = tree(fetch(root, train_shards=1))
    with largest_file(20_000):
        assert "cannot be written: File too large" in refusal(root)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100_000))
    assert "needs 0.3 MB, and 0.1 MB are free" in refusal(root)
    assert tree(root / "datasets" / SP512) == old


def test_an_unwritable_folder_is_one_line(hub, tmp_path):
    (tmp_path / "data").write_text("a file")
    assert "cannot be written: File exists" in refusal(tmp_path / "data")


def test_a_missing_package_is_named(hub, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = "downloading needs the huggingface_hub package: pip install huggingface_hub"
    assert refusal(root) == message


def test_the_statistics_of_these_tests_are_the_golden_shards_own():
    assert sum(open_shard(GOLDEN / "tied" / name).num_tokens for name in SHARDS) == sum(
        stats(SHARDS)[f"tokens_{split}"] for split in ("train", "val")
    )


def test_byte_side_cars_come_along_under_a_name_that_is_not_read_as_tokens(hub, root):
    """The names of a published dataset match ``fineweb_val_*.bin``, which the reference program reads."""
    val = {name: content for name, content in SHARDS.items() if "_val_" in name}
    side_cars = {name.replace("_val_", "_val_bytes_"): content for name, content in val.items()}
    hub.files.update({path_of(name): content for name, content in side_cars.items()})
    folder = fetch(root)
    assert {path.name for path in folder.glob("fineweb_val_*.bin")} == set(val)
    written = {path.name: path.read_bytes() for path in folder.glob("*.bytes")}
    assert written == {name.replace(".bin", ".bytes"): content for name, content in val.items()}
    listed = read_manifest(folder).splits["val"].side_cars
    assert [entry.file for entry in listed] == sorted(written)
    fetch(root)  # Compares by hash, and fetches nothing again.
    assert {path.name: path.read_bytes() for path in folder.glob("*.bytes")} == written
    hub.files.pop(path_of(min(side_cars)))
    assert "has no file" in refusal(root)
    hub.files[path_of(min(side_cars))] = shard_header(1) + bytes(2)
    assert "byte side-cars must have a count for each token" in refusal(root)
