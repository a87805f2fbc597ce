"""Adam by torch's fused kernel, without what ``torch.optim`` brings along.

Making a ``torch.optim`` optimiser imports the compiler: 70 MB in every worker and two seconds of its first trial. A
step of it goes through hooks and a profiler's record, which cost a small model as much as the arithmetic.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as functional_adam

BETAS, EPS = (0.5, 0.999), 1e-8


class Adam:
    """Adam (Kingma and Ba, 2015) with the betas (.5, .999) of the authors' code.

    Attributes:
        parameters: what it changes.
        lr: learning rate.
        state: of each parameter that was ever stepped, by its place: ``step``, ``exp_avg``, ``exp_avg_sq``.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        self.parameters, self.lr = list(parameters), lr
        self.state: dict[int, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """One step on the gradients that are there; a parameter without one stays as it is."""
        places = [place for place, parameter in enumerate(self.parameters) if parameter.grad is not None]
        states = [self.state.get(place) or self._begin(place) for place in places]
        functional_adam(
            [self.parameters[place] for place in places],
            [gradient for place in places if (gradient := self.parameters[place].grad) is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.lr,
            weight_decay=0.0,
            eps=EPS,
            maximize=False,
        )

    def zero_grad(self) -> None:
        """Free all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def _begin(self, place: int) -> dict[str, Tensor]:
        like = self.parameters[place].detach()
        self.state[place] = {
            "step": torch.zeros((), dtype=torch.float32, device=like.device),
            "exp_avg": torch.zeros_like(like),
            "exp_avg_sq": torch.zeros_like(like),
        }
        return self.state[place]
