"""Output paths are checked before any work."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deadlines import GUARD_S
from ebbtide.cli.errors import CommandError
from ebbtide.cli.outputs import require_bundle_folder, require_different, require_file, require_folder
from ports import free_port


def occupied(folder: Path) -> Path:
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("x")
    return folder / "full"


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file" / "bundle"


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"


def a_broken_link(folder: Path) -> Path:
    (folder / "link").symlink_to("/proc/nothing/here")
    return folder / "link" / "bundle"


def a_link_to_itself(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def a_link_to_nothing(folder: Path) -> Path:
    (folder / "latest").symlink_to("run 5")
    return folder / "latest"


def in_a_folder_of_the_kernel(_folder: Path) -> Path:
    return Path("/proc/ebbtide/bundle")


def with_a_long_name(folder: Path) -> Path:
    return folder / ("b" * 300)


REFUSED = [
    occupied,
    below_a_file,
    a_file,
    a_broken_link,
    a_link_to_itself,
    a_link_to_nothing,
    in_a_folder_of_the_kernel,
    with_a_long_name,
]


@pytest.mark.parametrize("make", REFUSED)
def test_train_refuses_out_before_it_reads_or_trains(make, log, ebbtide, tmp_path):
    path = make(tmp_path)
    done = ebbtide("train", "--events", log, "--out", path, "--epochs", 1)
    shown = done.stderr.decode()
    assert done.returncode == 1
    assert shown.startswith(f"error: --out: {path}: ")
    assert shown.count("\n") == 1
    assert b"read" not in done.stdout


@pytest.mark.parametrize("option", ["--checkpoint", "--tensorboard"])
def test_train_refuses_other_folders_before_it_reads(option, log, ebbtide, tmp_path):
    path = below_a_file(tmp_path)
    done = ebbtide("train", "--events", log, "--out", tmp_path / "b", option, path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"error: {option}: {path}: cannot be written")


@pytest.mark.parametrize("option", ["--json", "--predictions", "--report"])
def test_evaluate_refuses_outputs_before_it_ranks(option, bundle, ebbtide, tmp_path):
    path = below_a_file(tmp_path).with_suffix(".parquet")
    done = ebbtide("evaluate", bundle, option, path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"error: {option}: {path}: cannot be written")


@pytest.mark.parametrize("option", ["--predictions", "--baskets"])
@pytest.mark.parametrize("name", ["lists.xlsx", "lists", "lists.csv.gz", "lists.tsv"])
def test_evaluate_refuses_formats_that_it_does_not_write_before_it_ranks(option, name, bundle, ebbtide, tmp_path):
    done = ebbtide("evaluate", bundle, option, tmp_path / name)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"error: {option}: {tmp_path / name}: got a file of type ")
    assert done.stderr.decode().endswith("expected a name that ends in .parquet or .csv\n")
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--online-learning-rate", "0.1"], "expected --online with --online-learning-rate"),
        (["--baskets", "b.csv", "--by", "item"], "expected --baskets without --by"),
        (["--baskets", "b.csv", "--json", "m.json"], "expected --baskets without --json"),
        (["--baskets", "b.csv", "--online"], "expected --baskets without --online"),
    ],
)
def test_evaluate_refuses_options_that_would_have_no_effect(arguments, expected, bundle, ebbtide):
    done = ebbtide("evaluate", bundle, *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert expected in " ".join(done.stderr.decode().replace("│", " ").split())


def test_evaluate_makes_the_folders_of_its_outputs(bundle, ebbtide, tmp_path):
    done = ebbtide(
        *("evaluate", bundle, "--json", tmp_path / "a" / "b.json"),
        *("--predictions", tmp_path / "c d" / "é.parquet", "--report", tmp_path / "e" / "f"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "b.json").is_file()
    assert (tmp_path / "c d" / "é.parquet").is_file()
    assert (tmp_path / "e" / "f" / "report.md").is_file()


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("list.txt", b"user,time,rank,item\n", "neither Parquet nor CSV"),
        ("list.parquet", b"", "empty file"),
        ("list.csv", b"", "empty file"),
        ("list.json", b"{}", "neither Parquet nor CSV"),
        ("none.parquet", None, "no such file"),
    ],
)
def test_evaluate_refuses_against_before_it_ranks(name, content, seen, bundle, ebbtide, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = ebbtide("evaluate", bundle, "--against", tmp_path / name)
    assert (done.returncode, done.stdout) == (1, b"")
    assert seen in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "BUNDLE", "--out", "FILE"),
        ("export", "BUNDLE", "--out", "FULL"),
        ("loadtest", "localhost:1", "--json", "FILE/x"),
        ("loadtest", "localhost:1", "--markdown", "FOLDER"),
        ("tune", "BUNDLE", "--out", "FILE/x"),
        ("verify", "BUNDLE", "--bundle", "BUNDLE", "--save-requests", "FILE/x"),
        ("serve", "BUNDLE", "--log-file", "FOLDER"),
        ("refresh", "BUNDLE", "--out", "FULL"),
    ],
)
def test_commands_refuse_outputs_in_one_line(arguments, bundle, ebbtide, tmp_path):
    paths = {"BUNDLE": bundle, "FILE": a_file(tmp_path), "FULL": occupied(tmp_path), "FOLDER": tmp_path}
    given = [
        str(paths.get(one.partition("/")[0], one)) + ("/x" if one.endswith("/x") else "") for one in map(str, arguments)
    ]
    done = ebbtide(*given)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert given[-1] in done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "BUNDLE", "--out", "BUNDLE/repository"),
        ("export", "BUNDLE", "--out", "LINK/repository"),
        ("train", "--events", "LOG", "--out", "BUNDLE/a/b"),
        ("train", "--events", "LOG", "--out", "NEW", "--checkpoint", "BUNDLE/checkpoint"),
        ("refresh", "BUNDLE", "--out", "BUNDLE/refreshed"),
        ("evaluate", "BUNDLE", "--report", "BUNDLE/report"),
        ("evaluate", "BUNDLE", "--json", "BUNDLE/metrics.json"),
        ("audit", "BUNDLE", "--report", "BUNDLE/audit"),
        ("prepare", "movielens", "LOG", "--out", "BUNDLE/data"),
        ("batch-recommend", "EXPORT", "--bundle", "BUNDLE", "--out", "EXPORT/lists"),
    ],
)
def test_outputs_in_a_bundle_or_a_repository_are_refused_before_the_work(arguments, bundle, log, ebbtide, tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "ebbtide-export.json").write_text("{}")
    (tmp_path / "link").symlink_to(bundle)
    paths = {
        "BUNDLE": bundle,
        "LOG": log,
        "NEW": tmp_path / "new",
        "EXPORT": tmp_path / "export",
        "LINK": tmp_path / "link",
    }
    before = sorted(path for folder in (bundle, tmp_path) for path in folder.iterdir())
    given = [paths.get(first, first) for first, *_ in (one.split("/", 1) for one in arguments)]
    given[-1] /= arguments[-1].partition("/")[2]
    done = ebbtide(*given)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"error: {given[-2]}: {given[-1]}: got a path inside the ")
    assert done.stderr.decode().endswith("which is replaced as a whole; expected one outside\n")
    assert done.stderr.count(b"\n") == 1
    assert sorted(path for folder in (bundle, tmp_path) for path in folder.iterdir()) == before


@pytest.mark.parametrize("option", ["--out", "--checkpoint", "--tensorboard"])
def test_outputs_in_a_folder_that_is_read_or_replaced_are_refused_before_the_work(option, log, ebbtide, tmp_path):
    (tmp_path / "parts").mkdir()
    given = {"--events": tmp_path / "parts", "--out": tmp_path / "b", option: tmp_path / "parts" / "x"}
    done = ebbtide("train", *(one for pair in given.items() for one in pair))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        f"error: {option}: {given[option]}: got a path inside {given['--events']}, the folder of --events; expected "
        "one outside\n"
    )
    if option != "--out":
        done = ebbtide("train", "--events", log, "--out", tmp_path / "b", option, tmp_path / "b" / "x")
        assert (done.returncode, done.stdout) == (1, b"")
        assert f"got a path inside {tmp_path / 'b'}, the folder of --out" in done.stderr.decode()


def test_lists_and_bundles_in_the_folder_of_the_log_are_refused_before_the_work(bundle, ebbtide, tmp_path):
    done = ebbtide("refresh", bundle, "--events", tmp_path, "--out", tmp_path / "refreshed")
    assert f"got a path inside {tmp_path}, the folder of --events" in done.stderr.decode()
    done = ebbtide("batch-recommend", tmp_path, "--events", tmp_path, "--out", tmp_path / "lists")
    assert f"got a path inside {tmp_path}, the folder of --events" in done.stderr.decode()


@pytest.mark.parametrize("path", [".", "./"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--events", "LOG", "--out"),
        ("train", "--events", "LOG", "--out", "NEW", "--checkpoint"),
        ("export", "BUNDLE", "--out"),
        ("refresh", "BUNDLE", "--out"),
        ("prepare", "movielens", "NEW", "--out"),
        ("batch-recommend", "NEW", "--bundle", "BUNDLE", "--out"),
        ("evaluate", "BUNDLE", "--report"),
        ("audit", "BUNDLE", "--report"),
        ("loadtest", "localhost:1", "--perf-analyzer-input"),
    ],
)
def test_the_current_folder_is_no_output_folder(path, arguments, bundle, log, ebbtide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    paths = {"BUNDLE": bundle, "LOG": log, "NEW": tmp_path / "new"}
    done = ebbtide(*(paths.get(one, one) for one in arguments), path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        f"error: {arguments[-1]}: got the current folder; expected the path of another folder\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--out", "new", "--events", ""),
        ("train", "--out", "new", "--events", "LOG", "--catalog", ""),
        ("refresh", "BUNDLE", "--events", ""),
        ("evaluate", "BUNDLE", "--events", ""),
        ("evaluate", "BUNDLE", "--catalog", ""),
        ("audit", "BUNDLE", "--events", ""),
        ("batch-recommend", ".", "--out", "new", "--events", ""),
        ("backfill", ".", "--events", ""),
        ("recommend", "u1", "--bundle", "BUNDLE", "--events", ""),
    ],
)
def test_an_empty_text_is_no_log(arguments, bundle, log, ebbtide, tmp_path, monkeypatch):
    """It would be the current folder, with all its Parquet files."""
    monkeypatch.chdir(tmp_path)
    paths = {"BUNDLE": bundle, "LOG": log}
    done = ebbtide(*(paths.get(one, one) for one in arguments))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        "error: got an empty path of a log, a catalog or vectors; expected a file, a folder or a URL\n"
    )


@pytest.mark.parametrize("path", ["..", "new/.."])
def test_a_folder_that_is_replaced_needs_a_name(path, bundle, log, ebbtide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    for command in (("train", "--events", log), ("export", bundle)):
        done = ebbtide(*command, "--out", path)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode().startswith(f"error: --out: {path}: got a folder without a name")


def test_a_bundle_or_an_empty_folder_is_replaced(bundle, tmp_path):
    require_bundle_folder("--out", bundle)
    require_bundle_folder("--out", tmp_path)
    require_bundle_folder("--out", tmp_path / "new" / "deep")
    require_bundle_folder("--out", None)
    assert not (tmp_path / "new" / "deep").exists()


def test_a_file_is_replaced_and_an_existing_one_keeps_its_content_until_then(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    require_file("--json", tmp_path / "a.json")
    require_file("--json", tmp_path / "new" / "b.json")
    assert (tmp_path / "a.json").read_text() == "{}"
    assert list((tmp_path / "new").iterdir()) == []


def test_two_outputs_need_two_paths(tmp_path):
    with pytest.raises(CommandError, match=r"--html: got .*, as for --json"):
        require_different({"--json": tmp_path / "x", "--html": tmp_path / "." / "x", "--markdown": None})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    for require in (require_file, require_folder):
        with pytest.raises(CommandError, match="cannot be written: Permission denied"):
            require("--out", tmp_path / "closed" / "x")


def test_train_replaces_an_earlier_bundle(bundle, log, ebbtide, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    done = ebbtide("train", "--events", log, "--out", tmp_path / "b", "--epochs", 1, "--dimensions", 8)
    assert done.returncode == 0, done.stderr
    assert '"dimensions": 8' in (tmp_path / "b" / "bundle.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("serve", "EMPTY"), "got a folder without models"),
        (("serve", "BUNDLE"), "got a folder without models"),
        (("serve", "MODELS", "--host", "nowhere.invalid"), "host 'nowhere.invalid' has no address"),
        (("serve", "MODELS", "--state", "memcached://x"), "`--state` names another store, and `--state none` does"),
        (("serve", "MODELS", "--state", "embedded:/proc/1/none"), "embedded:/proc/1/none"),
        (("refresh", "BUNDLE", "--repository", "EMPTY"), "got no ebbtide-export.json"),
        (("recommend", "u1", "--bundle", "BUNDLE", "--events", "/nowhere/log.csv"), "/nowhere/log.csv: no such file"),
        (("batch-recommend", "/", "--bundle", "/nowhere", "--out", "BUNDLE.x"), "bundle.json: got No such file or dir"),
        (("backfill", "/nowhere", "--bundle", "BUNDLE"), "expected a repository written by `ebbtide export`"),
        (("deploy", "EMPTY", "--server", "localhost:1"), "ebbtide-export.json: got No such file or directory; exp"),
        (("loadtest", "localhost:1", "--bundle", "/nowhere"), "expected a bundle"),
    ],
)
def test_wrong_inputs_are_one_line(arguments, expected, bundle, ebbtide, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text('backend: "python"\n')
    paths = {"BUNDLE": bundle, "EMPTY": tmp_path / "empty", "MODELS": tmp_path / "models"}
    done = ebbtide(*(paths.get(one, one) for one in arguments))
    assert done.returncode == 1
    assert expected in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("option", ["--grpc-port", "--http-port", "--metrics-port", "--studio-port"])
def test_port_in_use_is_told_at_once(option, bundle, ebbtide, tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text('backend: "python"\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ebbtide("serve", tmp_path, "--bundle", bundle, "--state", "none", option, port)
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"{option[2:].replace('-', '_')} {port} on 127.0.0.1 can't be bound" in done.stderr.decode()
    assert b"choose another port" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_two_servers_at_one_port_are_told_before_one_starts(bundle, ebbtide, tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text('backend: "python"\n')
    port = free_port()
    done = ebbtide("serve", tmp_path, "--bundle", bundle, "--http-port", port, "--studio-port", port)
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"studio_port {port} on 127.0.0.1 can't be bound" in done.stderr.decode()


def test_port_of_the_studio_is_looked_at_before_titles_are_read(ebbtide, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = ebbtide("studio", "localhost:1", "--bundle", tmp_path, "--port", taken.getsockname()[1])
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"can't be bound" in done.stderr


@pytest.mark.parametrize("name", ["GRPC_PORT", "HTTP_PORT", "METRICS_PORT", "STUDIO_PORT"])
def test_make_serve_finds_a_taken_port_before_it_sets_up_and_trains(name, tmp_path):
    """In a folder without .venv and artifacts: whatever came first would make them."""
    repository = Path(__file__).parents[2]
    (tmp_path / "scripts").mkdir()
    for file in ("Makefile", "pyproject.toml", "constraints.txt", "scripts/require_free_ports.py"):
        shutil.copy(repository / file, tmp_path / file)
    names = ("GRPC_PORT", "HTTP_PORT", "METRICS_PORT", "STUDIO_PORT")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {one: free_port() for one in names} | {name: taken.getsockname()[1]}
        given = [f"{one}={port}" for one, port in ports.items()]
        done = subprocess.run(
            ["make", "serve", f"PYTHON={sys.executable}", *given],
            cwd=tmp_path,
            # Not as a part of the `make test` that runs this, of which it would say that it is one.
            env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
            capture_output=True,
            text=True,
            timeout=GUARD_S,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {name}: port {ports[name]} of 127.0.0.1 can't be bound: Address already in use; " in done.stderr
    assert f"make serve {name}=PORT" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_a_bundle_without_holdout_is_refused_before_torch_is_loaded(command, bundle, ebbtide_process, tmp_path):
    content = json.loads((bundle / "bundle.json").read_text())
    content["data"]["holdout"] = "none"
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(content))
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')\n")
    done = ebbtide_process(command, tmp_path / "bundle", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert b"holdout: got 'none', so training used every event" in done.stderr
    assert b"torch was loaded" in ebbtide_process(command, bundle, PYTHONPATH=str(tmp_path)).stderr
