"""Downloading, with the real library, from a hub on this machine."""

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
    """Keeps the library from other machines, from its caches, and from waiting between its attempts."""
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


def bring(root: Path, variant: str = "sp512", **options) -> Path:
    return download(variant, **{"root": root, "repo": REPO, "console": Lines(), **options})


def refusal(root: Path, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        bring(root, *args, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_brings_a_dataset_with_its_manifest(hub, root, capfd):
    console = Lines()
    folder = bring(root, console=console)
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
    assert console.lines[0] == "1/2 fineweb_val_000000.bin, 0.0 MB"
    assert any("MB/s" in line and "min left" in line for line in console.lines)
    assert capfd.readouterr() == ("", "")  # The library has no bars and warnings of its own to add.


@pytest.mark.parametrize(("wanted", "number"), [(0, 0), (2, 2), (3, 3), (80, 3), (None, 3)])
def test_brings_as_many_training_shards_as_asked_for(hub, root, wanted, number):
    folder = bring(root, train_shards=wanted)
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


def test_brings_the_byte_variant_beside_another(hub, root):
    first = bring(root, train_shards=1)
    folder = bring(root, BYTE260)
    assert find_tokenizer(folder, read_manifest(folder)).kind == "byte"
    assert find_tokenizer(first, read_manifest(first)).kind == "sentencepiece"


def test_manifest_may_be_at_the_top(hub, root):
    hub.files = exports(root="")
    folder = bring(root, remote_root="")
    assert len(find_shards(folder, "train")) == 3
    assert "remote_root must be a folder inside" in refusal(root, remote_root="../x")


def test_goes_on_within_a_file_after_a_lost_connection(hub, root):
    hub.cuts[path_of(TRAIN.format(1))] = [30_000, 5_000]
    folder = bring(root)
    assert (folder / TRAIN.format(1)).read_bytes() == SHARDS[TRAIN.format(1)]
    assert [get.range is None for get in hub.gets if get.path.endswith(TRAIN.format(1))] == [
        True,
        False,
        False,
    ]


def test_a_lost_connection_keeps_what_is_whole(hub, root):
    hub.cuts[path_of(TRAIN.format(1))] = [0] * 20
    message = refusal(root)
    assert message.startswith(f"{REPO}: {path_of(TRAIN.format(1))} could not be fetched (")
    assert message.endswith("running again goes on from there")
    assert not (root / "datasets" / SP512).exists()
    before = hub.fetched
    hub.cuts.clear()
    bring(root)
    again = hub.fetched - before
    assert {name: again[name] for name in SHARDS} == dict.fromkeys(SHARDS, 0) | {
        TRAIN.format(1): 1,
        TRAIN.format(2): 1,
    }
    assert again["manifest.json"] == 1
    assert sorted(path.name for path in (root / "datasets").iterdir()) == [SP512]


@pytest.mark.parametrize(
    ("asked", "refused", "message"),
    [
        ({"repo": "golfers/nothing"}, {}, "golfers/nothing: is no dataset repository, or a private one"),
        ({"repo": "no/such/name"}, {}, "no/such/name: must be the owner and name of a dataset"),
        ({"revision": "v9"}, {}, f"{REPO}: has no revision v9"),
        ({"remote_root": "elsewhere"}, {}, f"{REPO}: has no file elsewhere/manifest.json at revision"),
        ({}, {"/api/": (403, "GatedRepo")}, f"{REPO}: is gated"),
        ({}, {"/api/": (401, "")}, f"{REPO}: revision main may not be read with this login"),
        ({}, {"/paths-info/": (500, "")}, f"{REPO}: its list of files could not be fetched (HfHubHTTPError"),
        ({}, {".model": (503, "")}, "tokenizers/fineweb_512_bpe.model could not be fetched (HfHubHTTPError"),
        ({}, {".model": (403, "")}, "tokenizers/fineweb_512_bpe.model may not be read with this login"),
    ],
)
def test_says_in_a_line_what_the_hub_refuses(hub, root, asked, refused, message):
    hub.refused = refused
    assert message in refusal(root, **asked)


def test_says_in_a_line_that_there_is_no_hub(root, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "could not be fetched (ConnectError" in refusal(root)


def test_misses_a_shard_before_it_fetches_any(hub, root):
    del hub.files[path_of(TRAIN.format(1))]
    assert f"has no file {path_of(TRAIN.format(1))}" in refusal(root)
    assert not any(name.endswith(".bin") for name in hub.fetched)
    assert find_shards(bring(root, train_shards=1), "train")


def test_unknown_variants_list_what_there_is(hub, root):
    assert f"it has '{SP512}', '{BYTE260}'" in refusal(root, "sp8192")
    edit_manifest(hub, lambda manifest: manifest["datasets"].append({"name": "other_sp512"}))
    assert "'sp512' must be one of its datasets or how only one ends" in refusal(root)


@pytest.mark.parametrize("kind", ["cut short at the source", "changed on the way"])
def test_a_shard_that_is_not_whole_is_fetched_anew(hub, root, kind):
    path = path_of(TRAIN.format(1))
    good = hub.files[path]
    if kind == "changed on the way":
        hub.served[path] = good[:-1] + bytes([good[-1] ^ 1])
    else:
        hub.files[path] = good[:-10]
    message = refusal(root)
    assert message.startswith(f"{REPO}: {path} is not whole: ")
    assert message.endswith("running again fetches it anew")
    assert not (root / "datasets" / SP512).exists()
    hub.served.clear()
    hub.files[path] = good
    assert (bring(root) / TRAIN.format(1)).read_bytes() == good


def test_extending_fetches_only_what_is_new(hub, root):
    bring(root, train_shards=1)
    hub.gets.clear()
    console = Lines()
    folder = bring(root, train_shards=2, console=console)
    assert [name for name in hub.fetched if name in SHARDS] == [TRAIN.format(1)]
    assert "1/2 fineweb_train_000000.bin, 0.0 MB, is here" in console.live_lines
    assert len(read_manifest(folder).splits["train"].shards) == 2
    hub.gets.clear()
    bring(root, train_shards=0, console=console)
    assert "keeping all 2 train shards that are here" in console.lines
    assert len(find_shards(folder, "train")) == 2
    assert not set(hub.fetched) & set(SHARDS)


def test_a_damaged_shard_is_replaced(hub, root):
    folder = bring(root)
    damaged = folder / TRAIN.format(2)
    damaged.write_bytes(SHARDS[damaged.name][:-2] + b"\0\0")
    hub.gets.clear()
    bring(root)
    assert damaged.read_bytes() == SHARDS[damaged.name]
    assert [name for name in hub.fetched if name in SHARDS] == [damaged.name]


def test_a_later_commit_is_noticed(hub, root):
    folder = bring(root)
    path = path_of(VAL.format(1))
    hub.files[path] = hub.files[path_of(VAL.format(0))]
    new = stats(SHARDS | {VAL.format(1): hub.files[path]})
    edit_manifest(hub, lambda manifest: manifest["datasets"][0].update(stats=new))
    bring(root)
    assert (folder / VAL.format(1)).read_bytes() == hub.files[path]
    assert read_manifest(folder).sources[0]["revision"] == hub.commit


def test_an_interrupt_leaves_the_old_dataset(hub, root):
    old = tree(bring(root, train_shards=1))

    class Interrupting(Lines):
        def say(self, line: str) -> None:
            if TRAIN.format(2) in line:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(root, console=Interrupting())
    assert tree(root / "datasets" / SP512) == old
    hub.gets.clear()
    assert len(find_shards(bring(root), "train")) == 3
    assert [name for name in hub.fetched if name in SHARDS] == [TRAIN.format(2)]


def test_a_killed_process_leaves_the_old_dataset(hub, root, tmp_path):
    old = tree(bring(root, train_shards=1))
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
    hub.go_on.set()
    hub.gets.clear()
    assert len(find_shards(bring(root), "train")) == 3
    assert [name for name in hub.fetched if name in SHARDS] == [TRAIN.format(2)]
    assert not stage.exists()


def test_a_second_download_waits_for_the_first(hub, root):
    hub.stalls.add(path_of(TRAIN.format(0)))
    waits = threading.Event()

    class Waiting(Lines):
        def say(self, line: str) -> None:
            if "waiting for another" in line:
                waits.set()

    threads = [threading.Thread(target=bring, args=(root,), kwargs={"console": Waiting()}) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert hub.stalled.wait(60) and waits.wait(60)
    finally:
        hub.go_on.set()
        for thread in threads:
            thread.join()
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
        (hostile("tokenizer_name", ["sp"]), "is not in the manifest"),
        (hostile("tokenizer_name", "other"), "is not in the manifest"),
        (hostile("files_train", -1), "files_train must be a whole number from 0 to 100000, got -1"),
        (hostile("files_val", 0), "files_val must be a whole number from 1"),
        (hostile("files_val", 10**9), "files_val must be a whole number from 1"),
        (hostile("files_val", "2"), "files_val must be a whole number"),
        (hostile("tokens_val", True), "tokens_val must be a whole number"),
        (hostile("docs_val", None), "docs_val must be a whole number"),
        (hostile("stats", []), "files_train must be a whole number"),
        (hostile("vocab_size", 10**6), "vocab_size must be a whole number from 1 to 65536"),
        (lambda manifest: manifest.pop("datasets"), "is no manifest of the challenge"),
        (lambda manifest: manifest.update(tokenizers={}), "is no manifest of the challenge"),
        (
            lambda manifest: [manifest["tokenizers"][0].pop(f"{k}_path") for k in ("model", "vocab")],
            "has no file",
        ),
    ],
)
def test_refuses_a_manifest_that_cannot_be(hub, root, tmp_path, edit, message):
    edit_manifest(hub, edit)
    assert message in refusal(root)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[" * 100_000, b"3"])
def test_refuses_a_manifest_that_is_none(hub, root, content):
    hub.files["datasets/manifest.json"] = content
    assert f"{REPO}: datasets/manifest.json: is no" in refusal(root)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (hostile("tokens_val", 5), "must hold 5 tokens by the manifest, got"),
        (hostile("tokens_train", 5), "must hold 5 tokens by the manifest, got"),
        (
            hostile("vocab_size", 1024),
            "vocab_size must be the 512 of datasets/tokenizers/fineweb_512_bpe.model",
        ),
        (hostile("tokenizer_name", "byte"), "vocab_size must be the 260"),
    ],
)
def test_refuses_what_does_not_fit_the_manifest(hub, root, edit, message):
    edit_manifest(hub, edit)
    assert message in refusal(root)
    assert not (root / "datasets" / SP512).exists()


def test_refuses_what_is_no_tokenizer(hub, root):
    hub.files["datasets/tokenizers/fineweb_512_bpe.model"] = b"nonsense"
    assert "fineweb_512_bpe.model is not whole: is no SentencePiece model" in refusal(root)
    assert not (root / "tokenizers").exists()


def test_never_replaces_what_is_not_its_own(hub, root):
    folder = root / "datasets" / SP512
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    assert f"{folder}: exists and was not downloaded by plgolf" in refusal(root)
    (folder / "notes.txt").unlink()
    folder.rmdir()
    other = root / "tokenizers" / "fineweb_512_bpe.vocab"
    other.parent.mkdir()
    other.write_text("another dataset's")
    assert f"{other}: is not {REPO}'s file of that name" in refusal(root)
    assert other.read_text() == "another dataset's"
    other.unlink()
    bring(root)
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


def test_says_in_a_line_that_the_disk_is_full(hub, root, monkeypatch):
    old = tree(bring(root, train_shards=1))
    with largest_file(20_000):
        assert "cannot be written: File too large" in refusal(root)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100_000))
    assert "needs 0.3 MB, and 0.1 MB are free" in refusal(root)
    assert tree(root / "datasets" / SP512) == old


def test_says_in_a_line_that_the_place_cannot_be_written(hub, tmp_path):
    (tmp_path / "data").write_text("a file")
    assert "cannot be written: File exists" in refusal(tmp_path / "data")


def test_says_in_a_line_which_package_is_missing(hub, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'plgolf[hub]'" in refusal(root)


def test_golden_shards_are_what_these_tests_take_them_for():
    assert sum(open_shard(GOLDEN / "tied" / name).num_tokens for name in SHARDS) == sum(
        stats(SHARDS)[f"tokens_{split}"] for split in ("train", "val")
    )
