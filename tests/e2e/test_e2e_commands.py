"""What a user sees on the command line, on the way from events to recommendations."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from commands import run

from .conftest import USERS


def test_train_and_export_tell_what_they_did(trained):
    assert f"events of {USERS} users" in trained.train_output
    assert "validation NDCG@10" in trained.train_output
    assert trained.bundle.fingerprint in trained.train_output
    assert "checked against torch" in trained.export_output
    assert "encoder" in trained.export_output


def test_evaluate_reports_the_held_out_events(trained, command, tmp_path):
    output = command("evaluate", trained.bundle_folder, "--json", tmp_path / "metrics.json")
    assert "NDCG@10" in output
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["users"] == report["baskets"] == USERS
    assert 0 < report["ndcg_at_10"] <= report["hit_rate_at_10"] <= 1


def test_recommend_prints_events_alpha_and_titles(trained, server, command):
    output = command("recommend", "15", "--bundle", trained.bundle_folder, "--server", server.grpc_url, "--top-n", "7")
    assert "Newest events of user 15" in output
    assert "alpha" in output
    titles = set(trained.bundle.catalog.title)
    recommended = output.split("Recommended")[1]
    assert sum(title in recommended for title in titles if len(title) > 12) >= 5


def test_recommend_takes_free_text(trained, server, command):
    output = command(
        *("recommend", "15", "--bundle", trained.bundle_folder, "--server", server.grpc_url),
        *("--text", "space opera with robots", "--alpha", "0"),
    )
    assert "text just typed: space opera with robots" in output
    assert "alpha 0.00" in output


def test_serve_waits_for_a_running_server_when_one_is_named(trained, server, command):
    output = command(
        *("serve", "--server", server.grpc_url, "--bundle", trained.bundle_folder, "--show-user", "15"),
    )
    assert "is ready" in output
    assert "Recommended" in output


def test_serve_starts_recommends_and_stops_on_ctrl_c(trained):
    code = "from ebbtide.cli.main import main; main()"
    arguments = ["serve", str(trained.repository), "--bundle", str(trained.bundle_folder), "--show-user", "15"]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Serving" in line and not any("Serving" in earlier for earlier in lines[:-1]):
                process.send_signal(signal.SIGINT)
        output = "".join(lines)
        assert process.wait(timeout=300) == 0, output
    assert "Recommended" in output
    assert "stopping" in output
    # Users' states are beside the repository unless the command names another store.
    store = trained.repository.with_name(f"{trained.repository.name}.state")
    assert f"embedded:{store}" in output.replace("\n", "")
    assert store.is_dir()


def test_errors_are_one_clear_line_when_the_user_is_wrong(trained, tmp_path):
    code = "from ebbtide.cli.main import main; main()"
    train = ["train", "--events", str(tmp_path / "none.csv"), "--out", str(tmp_path / "b")]
    alone = subprocess.run([sys.executable, "-c", code, *train], capture_output=True, text=True, check=False)
    for done in (alone, run(*train)):
        assert (done.returncode, done.stderr.count("Traceback")) == (1, 0)
        assert "no such file" in done.stderr
    done = run("recommend", "nobody", "--bundle", trained.bundle_folder, "--server", "localhost:1")
    assert done.returncode == 1
    assert "'nobody'" in done.stderr
    done = run("recommend", "15", "--bundle", trained.bundle_folder, "--server", "localhost:1")
    assert done.returncode == 1
    assert "localhost:1" in done.stderr
    done = run("train", "--events", "x.csv", "--out", tmp_path / "b", "--alpha", "fixed:2")
    assert done.returncode == 2
    assert "fixed:A" in done.stderr


@pytest.mark.parametrize(("name", "missing", "extra"), [("train", "torch", "train"), ("recommend", "polars", "train")])
def test_command_says_what_to_install_when_an_extra_is_missing(trained, name, missing, extra):
    arguments = {
        "train": ["train", "--events", "x.csv", "--out", "y"],
        "recommend": ["recommend", "15", "--bundle", str(trained.bundle_folder)],
    }[name]
    code = f"import sys; sys.modules[{missing!r}] = None; from ebbtide.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f'pip install "ebbtide[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_says_so_when_the_port_is_taken(trained):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", trained.repository, "--grpc-port", port)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches_every_command():
    for name in ("prepare", "train", "evaluate", "export", "refresh", "serve", "recommend"):
        done = run(name, "--help")
        assert done.returncode == 0
        assert "Example" in done.stdout


@pytest.mark.parametrize(("given", "spin_count"), [({}, "10000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)])
def test_waiting_threads_spin_for_a_bounded_time_unless_the_user_says_otherwise(given, spin_count):
    code = (
        "import os, sys; sys.argv = ['ebbtide', '--help']\n"
        "from ebbtide.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print('spin', os.environ.get('GOMP_SPINCOUNT'))"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env | given, check=True)
    assert done.stdout.splitlines()[-1] == f"spin {spin_count}"
