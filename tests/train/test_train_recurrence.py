"""The walk along events: its sums and its gradients equal those of the formulas, event by event."""

import pytest
import torch

from ebbtide.train.recurrence import walk

EVENTS, USERS, WIDTH = 7, 3, 4


def inputs(opens=0.4):
    random = torch.Generator().manual_seed(1)

    def uniform(*shape):
        return torch.rand(shape, generator=random, dtype=torch.float64)

    added = uniform(EVENTS, USERS, WIDTH) - 0.5
    decay, step_decay = 0.2 + 0.8 * uniform(EVENTS, USERS, WIDTH), 0.2 + 0.8 * uniform(WIDTH)
    opened = (uniform(EVENTS, USERS, 1) < opens).double()
    return added.requires_grad_(), decay.requires_grad_(), step_decay.requires_grad_(), opened


def by_definition(added, decay, step_decay, opens, context):
    """Every earlier event's share in the sums before an event, product by product."""
    histories, currents = [], []
    for index in range(context, EVENTS):
        sums = torch.zeros(2, USERS, WIDTH, dtype=torch.float64)
        for event in range(index):
            share = added[event]
            for later in range(event + 1, index + 1):
                share = share * decay[later] * (step_decay if later > event + 1 else 1)
            ended = opens[event + 1 : index + 1].amax(dim=0)
            sums = sums + torch.stack([share * ended, share * (1 - ended)])
        histories.append(sums[0])
        currents.append(sums[1])
    return torch.stack(histories), torch.stack(currents)


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("opens", [0.0, 0.4, 1.0])
def test_sums_and_gradients_are_those_of_the_definition(context, opens):
    values = inputs(opens)
    found, expected = walk(*values, context), by_definition(*values, context)
    random = torch.Generator().manual_seed(2)
    weights = [torch.rand(part.shape, generator=random, dtype=torch.float64) for part in expected]
    gradients = []
    for sums in (found, expected):
        total = sum((part * weight).sum() for part, weight in zip(sums, weights, strict=True))
        gradients.append(torch.autograd.grad(total, values[:3]))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*gradients)


def test_gradients_pass_the_check_of_finite_differences():
    assert torch.autograd.gradcheck(lambda *values: walk(*values, 2), inputs())
