"""How far predicted ratings are from the given ones, for a bundle that was trained to predict them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.train.evaluation.accuracy import Floats, user_means
from ebbtide.train.evaluation.intervals import Estimate, estimate
from ebbtide.train.evaluation.scores import score_baskets
from ebbtide.train.evaluation.testset import TestSet
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import Popularity
from ebbtide.train.windows import LogTensors


@dataclass(frozen=True)
class Ratings:
    """Errors of the predicted ratings of all test events, averaged over users."""

    rmse: Estimate
    """Root of the mean over users of each one's mean squared error."""
    mae: Estimate
    """Mean absolute error."""
    rmse_of_mean: float
    """RMSE of always predicting the mean rating of training: what a model must beat."""
    mae_of_mean: float


@torch.inference_mode()
def predicted_ratings(
    model: InterestModel, test: TestSet, popularity: Popularity | None, rating_mean: float
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The predicted rating of every test event, from the user's events strictly before.

    Args:
        model: Trained to predict ratings.
        test: Split log.
        popularity: The prior over time; None for a model without prior.
        rating_mean: What is added to a score to make it a rating.

    Returns:
        Log indices of the events, and their predicted ratings, each ``[baskets]``.
    """
    tensors = LogTensors.of(test.log, model.config.session_gap_ms)
    stop_of = dict(zip(test.baskets.head.tolist(), test.baskets.stop.tolist(), strict=True))
    events: list[npt.NDArray[np.int64]] = []
    ratings: list[Floats] = []
    for scored in score_baskets(model, test.log, tensors, test.baskets.head, popularity):
        scores = scored.scores().numpy()
        for row, head in enumerate(scored.head.tolist()):
            event = head + np.flatnonzero(test.is_test[head : stop_of[head]])
            events.append(event)
            ratings.append(scores[row, test.log.item[event]].astype(np.float64) + rating_mean)
    return np.concatenate(events), np.concatenate(ratings)


def rating_errors(
    test: TestSet, events: npt.NDArray[np.int64], predicted: Floats, rating_mean: float, seed: int
) -> Ratings:
    """Measures predicted ratings.

    Args:
        test: Split log; its weights are the ratings.
        events: ``[baskets]``, log indices.
        predicted: ``[baskets]``.
        rating_mean: Of the training events.
        seed: Of the intervals.
    """
    given = test.log.weight[events].astype(np.float64)
    owner = np.searchsorted(test.log.start, events, side="right") - 1
    squared = estimate(user_means(owner, np.square(predicted - given)), seed)
    by_mean = given - rating_mean
    return Ratings(
        rmse=Estimate(*(math.sqrt(value) for value in (squared.mean, squared.low, squared.high))),
        mae=estimate(user_means(owner, np.abs(predicted - given)), seed),
        rmse_of_mean=math.sqrt(float(user_means(owner, np.square(by_mean)).mean())),
        mae_of_mean=float(user_means(owner, np.abs(by_mean)).mean()),
    )
