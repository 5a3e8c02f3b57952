"""The recurrence that walks along users' events: the two decayed sums just before each of them, and its gradient.

Autograd would keep several tensors for each step of the walk and go back through each of them by itself; here the walk
and the way back are a few operations a step, and whatever does not depend on the step before is done for all at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def walk(added: Tensor, decay: Tensor, step_decay: Tensor, opens: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Sums of B histories and sessions just before each of W events, from the event ``context`` on.

    With h and c the sums after the event before, the new event first lets both decay, and if it opens a session, moves
    what is left of c into h; that is what comes out. Then ``step_decay`` meets both, and the event joins c.

    Args:
        added: ``[W, B, k]``, what each event adds.
        decay: ``[W, B, k]``, over the pause before each event.
        step_decay: ``[k]``, at every event.
        opens: ``[W, B, 1]``, 1 where an event opens a session and 0 elsewhere; takes no gradient.
        context: Events before the first that is asked for.

    Returns:
        Of the histories and of the sessions, ``[W - context, B, k]`` each.
    """
    history, current = _Walk.apply(added, decay, step_decay, opens, context)  # type: ignore[no-untyped-call]
    return history, current


class _Walk(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own, which carries no types
        added: Tensor,
        decay: Tensor,
        step_decay: Tensor,
        opens: Tensor,
        context: int,
    ) -> tuple[Tensor, Tensor]:
        both = decay * step_decay
        # After the event before, then with the closed session moved.
        history, current = torch.empty_like(added), torch.empty_like(added)
        h = c = torch.zeros_like(added[0])
        for index, (new, left, opened) in enumerate(zip(added, both, opens, strict=True)):
            closed = c * opened
            torch.add(h, closed, out=history[index])
            torch.sub(c, closed, out=current[index])
            h = history[index] * left
            c = torch.addcmul(new, current[index], left)
        ctx.save_for_backward(decay, step_decay, both, opens, history, current)
        ctx.context = context
        return history[context:] * decay[context:], current[context:] * decay[context:]

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch's own, which carries no types
        history_gradient: Tensor,
        current_gradient: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        decay, step_decay, both, opens, history, current = ctx.saved_tensors
        context = ctx.context
        direct_h, direct_c = history_gradient * decay[context:], current_gradient * decay[context:]
        # Of what each event leaves behind.
        after_h, after_c = torch.empty_like(history), torch.empty_like(current)
        after_h[-1], after_c[-1] = 0.0, 0.0
        for index in range(len(history) - 1, 0, -1):
            left, direct = both[index], index - context
            if direct >= 0:
                g = torch.addcmul(direct_h[direct], after_h[index], left, out=after_h[index - 1])
                s = torch.addcmul(direct_c[direct], after_c[index], left)
            else:
                g = torch.mul(after_h[index], left, out=after_h[index - 1])
                s = after_c[index] * left
            torch.addcmul(s, g - s, opens[index], out=after_c[index - 1])
        both_gradient = after_h * history
        both_gradient.addcmul_(after_c, current)
        step_gradient = (both_gradient * decay).sum(dim=(0, 1))
        decay_gradient = both_gradient.mul_(step_decay)
        decay_gradient[context:].addcmul_(history_gradient, history[context:])
        decay_gradient[context:].addcmul_(current_gradient, current[context:])
        return after_c, decay_gradient, step_gradient, None, None
