"""New events make an item popular: refreshed, exported and deployed, it is recommended, and nothing was trained."""

import shutil
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest

from deadlines import PATIENT
from ebbtide.client import InterestClient, StateStatus, event
from ebbtide.export import versions
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.refresh import prior_scores

NEW_USERS = 400
NEW_ITEM = "not in the catalog yet"


@pytest.fixture
def item(trained):
    """One that popularity puts last."""
    return trained.bundle.catalog.item_id[int(np.argmin(prior_scores(trained.bundle)))]


@pytest.fixture
def grown(trained, item, tmp_path):
    """The log of the training, and users who all had one item in the hours after it, and another that is new."""
    log = pl.read_csv(trained.bundle.config.data.events, infer_schema=False)
    newest = log["timestamp"].cast(pl.Int64).max()
    user = pl.int_range(NEW_USERS, eager=True)
    new = pl.DataFrame(
        {
            "userId": [f"new {number}" for number in user],
            "movieId": [item] * (NEW_USERS - 9) + [NEW_ITEM] * 9,
            "timestamp": (newest + 60 * (1 + user)).cast(pl.String),
        }
    )
    pl.concat([log, new], how="diagonal").write_csv(tmp_path / "grown.csv")
    return tmp_path / "grown.csv"


def test_popular_item_is_recommended_when_the_refreshed_bundle_is_deployed(trained, grown, item, command, tmp_path):
    bundle, repository = tmp_path / "bundle", tmp_path / "repository"
    shutil.copytree(trained.bundle_folder, bundle)
    shutil.copytree(trained.repository, repository)
    log = pl.read_csv(grown, infer_schema=False)
    now = datetime.fromtimestamp(int(log["timestamp"].cast(pl.Int64).max()), timezone.utc) + timedelta(minutes=1)
    liked = trained.bundle.catalog.item_id[0]
    users = [{}, {"history": [event(item_id=liked, time=now - timedelta(days=3))]}]
    state = f"embedded:{tmp_path / 'states'}"
    config = ServerConfig(repository, model_control="explicit", load_models=("*",), state=state)
    with TritonServer(config) as server, InterestClient(server.grpc_url, config=PATIENT) as client:

        def answers():
            return [client.recommend(**user, now=now, top_n=20) for user in users]

        def score(user):
            return client.rank(candidates=[item], **user, now=now).items[0].score

        client.observe("known", [event(item_id=liked, time=now - timedelta(days=3))])
        before, scores = answers(), [score(user) for user in users]
        assert all(item not in [one.item_id for one in answer.items] for answer in before)

        output = " ".join(command("refresh", bundle, "--events", grown, "--repository", repository).split())
        assert trained.bundle.catalog.title[trained.bundle.catalog.item_id.index(item)][:20] in output
        assert "9 events of 1 item that the bundle does not have" in output
        assert "its encoder reused" in output
        assert versions.available_versions(repository) == (1, 2)
        assert [answer.model_version for answer in answers()] == ["1", "1"]

        output = command("deploy", repository, "--server", server.grpc_url, "--state", state)
        assert "both versions have the same ones, so that there is nothing to backfill" in " ".join(output.split())
        after = answers()
        assert [answer.model_version for answer in after] == ["2", "2"]
        known = client.recommend(user_id="known", now=now, top_n=20)
        assert (known.model_version, known.state_status) == ("2", StateStatus.STATE_STATUS_USED)
        assert [one.item_id for one in known.items] == [one.item_id for one in after[1].items]
        # Who has done nothing yet gets what is popular.
        assert item in [one.item_id for one in after[0].items]
        assert all(score(user) > old for user, old in zip(users, scores, strict=True))
        assert client.embed(["space opera with robots"]).shape == (1, 32)

    read = InterestBundle.load(bundle)
    for name, value in trained.bundle.model.state_dict().items():
        assert value.equal(read.model.state_dict()[name])
    again = " ".join(command("refresh", bundle, "--events", grown, "--repository", repository).split())
    assert "version 2 of the repository gives the same answers; nothing to export" in again
    assert versions.available_versions(repository) == (1, 2)
