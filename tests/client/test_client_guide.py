"""The code of the how-to runs, block after block, against real servers; the reference names what exists."""

import re
from pathlib import Path

import pytest
import trustme

from ebbtide.client import StateStatus
from ebbtide.serve import ServerConfig
from servers import serving

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "client.md").read_text(encoding="utf-8")
ONLINE = (DOCS / "online-interest.md").read_text(encoding="utf-8")
LIVING = (DOCS / "living-catalog.md").read_text(encoding="utf-8")
SLATES = (DOCS / "slates.md").read_text(encoding="utf-8")
REFERENCE = (DOCS / "client-reference.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def secured(small_repository, tmp_path_factory):
    """The folder with the files that the guide names, and a Triton that goes with them."""
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    server, client = authority.issue_cert("triton.example"), authority.issue_cert("client@ebbtide.example")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, certificate in (("server", server), ("client", client)):
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
    (folder / "token").write_text("of-today\n")
    options = (
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={folder / 'server.pem'}",
        f"--grpc-server-key={folder / 'server.key'}",
        f"--grpc-root-cert={folder / 'ca.pem'}",
        "--grpc-restricted-protocol=inference:key=open",
    )
    with serving(ServerConfig(small_repository, extra_args=options)) as running:
        yield folder, running.grpc_url


def run_blocks(page, addresses, at_least):
    """Runs the code of a page, block after block, with other addresses for the written ones; what it defines."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == page.count("```python") >= at_least
    names = {}
    for block in blocks:
        for written, address in addresses.items():
            block = block.replace(written, address)
        assert ":8001" not in block
        exec(compile(block, "documentation", "exec"), names)  # noqa: S102
    return names


def test_every_block_about_known_users_runs_when_typed_in_order(triton, capsys):
    names = run_blocks(ONLINE, {"localhost:8001": triton.grpc_url}, at_least=6)
    printed = capsys.readouterr().out
    assert "1 0 0 0\n[None, None, None]\nTrue 2\n47 " in printed
    assert "True" in printed
    assert names["state"].median_half_life_days > 0
    assert printed.strip().endswith("\n1\n0.0")
    # What the page shows of every status is what there is.
    assert set(re.findall(r"^\| `(STATE_STATUS_\w+)`", ONLINE, re.MULTILINE)) == set(StateStatus.keys())


def test_every_block_about_slates_runs_when_typed_in_order(triton, capsys):
    names = run_blocks(SLATES, {"localhost:8001": triton.grpc_url}, at_least=1)
    assert len(names["answer"].items) == 20
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[:20]] == [item.item_id for item in names["answer"].items]
    assert names["answer"].slate_candidates == 20


def test_every_block_about_new_items_runs_when_typed_in_order(triton_of_items, capsys):
    run_blocks(LIVING, {"localhost:8001": triton_of_items.grpc_url}, at_least=2)
    assert "1 0 0\n" in capsys.readouterr().out


def test_every_block_of_the_guide_runs_when_typed_in_order(triton, secured, monkeypatch, capsys):
    folder, secured_url = secured
    monkeypatch.chdir(folder)
    addresses = {
        "triton.example:8001": secured_url,
        "localhost:8001": triton.grpc_url,
        "dns:///triton:8001": f"dns:///{triton.grpc_url}",
        "10.0.0.1:8001": triton.grpc_url,
        "10.0.0.2:8001": triton.grpc_url,
    }
    names = run_blocks(GUIDE, addresses, at_least=12)
    assert names["old"] == names["new"]
    assert names["vectors"].shape == (1, 16)
    printed = capsys.readouterr().out
    assert "history[0].weight -1.0" in printed
    assert "alpha: got 3.0" in printed
    assert "True 1 1\n1 0\n" in printed
    assert "score +" in printed
    assert [item.item_id for item in names["comedies"].items]
    assert list(names["ranking"].unknown_item_ids) == ["not-yet-known"]


def test_reference_names_every_error_and_keyword_and_nothing_that_does_not_exist():
    import ebbtide.client as facade

    errors = {name for name in facade.__all__ if name.endswith("Error")}
    assert errors <= set(re.findall(r"`(\w+Error)`", REFERENCE))
    named = set(re.findall(r"\b(\w+(?:Config|Error|Client|Metadata|Token))\b", GUIDE + REFERENCE))
    foreign = {"ValueError", "InferenceServerClient", "InferenceGRPCClient"}
    assert {name for name in named if name[0].isupper()} - foreign <= set(facade.__all__)
    keywords = set(re.findall(r"`(\w+)=`", REFERENCE.partition("## Request keywords")[2].partition("\n## ")[0]))
    assert keywords == set(facade.UserKeywords.__annotations__)


def test_links_between_the_pages_lead_to_headings_that_exist():
    for page, other in ((GUIDE, REFERENCE), (REFERENCE, GUIDE), (GUIDE, GUIDE)):
        name = "" if other is page else "client-reference.md" if other is REFERENCE else "client.md"
        anchors = {
            re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^## (.*)$", other, re.M)
        }
        assert set(re.findall(rf"\]\({name}#([\w-]+)\)", page)) <= anchors
