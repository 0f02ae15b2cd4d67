"""A language in which contexts of one hidden class predict alike, and small networks that are trained on it by plain SGD, many at once.

    p(token | context) = softmax(logits of the context's class)         never told which class that is
    network            = gelu(E[context] W1 + b1) W2 + b2               the features are what is behind the gelu

The loss of the population is exact, and features are good where a few labelled contexts tell the classes of all others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, gelu
from torch.optim import SGD

from tokenry.pretraining.flatness.enlarge import enlarged
from tokenry.recipes.kit import constant, fit


@dataclass(frozen=True)
class ClassLanguages:
    """One language for each run.

    Attributes:
        conditionals: p(token | context).
        classes: hidden class of each context, the same in all runs.
    """

    conditionals: Float[Tensor, "runs contexts vocabulary"]
    classes: Int[Tensor, "contexts"]

    @classmethod
    def drawn(cls, runs: int, contexts: int, classes: int, vocabulary: int, seed: int) -> "ClassLanguages":
        """Draw the logits of each class from a normal distribution."""
        generator = Generator().manual_seed(seed)
        logits = torch.randn(runs, classes, vocabulary, generator=generator, dtype=torch.float64)
        of_context = torch.arange(contexts) % classes
        return cls(logits[:, of_context].softmax(-1), of_context)

    @property
    def entropy(self) -> Float[Tensor, "runs"]:
        """The least loss possible, in nats."""
        return torch.special.entr(self.conditionals).sum(-1).mean(-1)


class ContextLogits(NamedTuple):
    """What a network says: logits, and the loss where labels or conditionals were given."""

    logits: Tensor
    loss: Tensor | None


class ContextNetwork(nn.Module):
    """One network; `enlarge` makes a wider one of the same function."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight.detach().clone()))

    def features(self, input_ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        """What the output reads."""
        hidden = self.get_parameter("embedding")[input_ids] @ self.get_parameter("weight")
        return gelu(hidden + self.get_parameter("bias"))

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, conditionals: Tensor | None = None
    ) -> ContextLogits:
        """Logits of the contexts, and their mean loss under labels or under the true conditionals."""
        logits = self.features(input_ids) @ self.get_parameter("output") + self.get_parameter("output_bias")
        loss = None
        if conditionals is not None:
            loss = -(conditionals * logits.log_softmax(-1)).sum(-1).mean()
        elif labels is not None:
            loss = cross_entropy(logits.flatten(0, -2), labels.flatten())
        return ContextLogits(logits, loss)

    def enlarge(self, times: int) -> "ContextNetwork":
        """The same function in the space of a network that is `times` as wide."""
        roles = {"embedding": "embedding", "weight": "matrix", "bias": "vector", "output_bias": "fixed"}
        wide = {
            name: enlarged(weight, roles[name], times)
            for name, weight in self.named_parameters()
            if name in roles
        }
        wide["output"] = enlarged(self.get_parameter("output").T, "output", times).T
        return ContextNetwork(wide)


class ContextRuns(nn.Module):
    """The networks of all runs, in one set of parameters: runs never meet.

    Args:
        languages: one for each run.
        embedding: width of the embeddings.
    """

    def __init__(self, languages: ClassLanguages, embedding: int, width: int, seed: int) -> None:
        super().__init__()
        runs, contexts, vocabulary = languages.conditionals.shape
        generator = Generator().manual_seed(seed)

        def drawn(*shape: int, fan: int = 1) -> nn.Parameter:
            values = torch.randn(runs, *shape, generator=generator, dtype=torch.float64)
            return nn.Parameter(values * fan**-0.5)

        self.languages = languages
        self.weights = nn.ParameterDict(
            {
                "embedding": drawn(contexts, embedding),
                "weight": drawn(embedding, width, fan=embedding),
                "bias": nn.Parameter(torch.zeros(runs, width, dtype=torch.float64)),
                "output": drawn(width, vocabulary, fan=width),
                "output_bias": nn.Parameter(torch.zeros(runs, vocabulary, dtype=torch.float64)),
            }
        )

    def logits(self, contexts: Int[Tensor, "runs batch"]) -> Float[Tensor, "runs batch vocabulary"]:
        """Of each run about its own contexts."""
        held = self.weights
        chosen = contexts[..., None].expand(-1, -1, held["embedding"].shape[-1])
        rows = held["embedding"].gather(1, chosen)
        hidden = gelu(torch.baddbmm(held["bias"][:, None], rows, held["weight"]))
        return torch.baddbmm(held["output_bias"][:, None], hidden, held["output"])

    def networks(self) -> list[ContextNetwork]:
        """A copy of the network of each run."""
        return [
            ContextNetwork({name: weight[run] for name, weight in self.weights.items()})
            for run in range(len(self.languages.conditionals))
        ]

    def train_on_samples(
        self, steps: int, learning_rate: float, batch: int, seed: int, progress: Callable[[float], None]
    ) -> None:
        """SGD on labels that are drawn from the true conditionals."""
        conditionals = self.languages.conditionals
        runs, number, _ = conditionals.shape
        generator = Generator().manual_seed(seed)

        def samples() -> Iterator[tuple[Tensor, Tensor]]:
            run = torch.arange(runs)[:, None]
            while True:
                contexts = torch.randint(number, (runs, batch), generator=generator)
                rows = conditionals[run, contexts].flatten(0, 1)
                yield contexts, torch.multinomial(rows, 1, generator=generator).view(runs, batch)

        def loss(drawn: tuple[Tensor, Tensor]) -> Tensor:
            logits = self.logits(drawn[0]).flatten(0, 1)
            return cross_entropy(logits, drawn[1].flatten(), reduction="sum") / batch

        descent = partial(SGD, lr=learning_rate)
        fit(self, samples(), loss, steps, learning_rate, constant, optimiser=descent, progress=progress)

    def train_without_noise(
        self, steps: int, learning_rate: float, progress: Callable[[float], None]
    ) -> None:
        """Gradient descent on the population loss."""
        conditionals = self.languages.conditionals
        runs, number, _ = conditionals.shape
        every = torch.arange(number).expand(runs, -1)

        def whole() -> Iterator[Tensor]:
            while True:
                yield every

        def loss(contexts: Tensor) -> Tensor:
            return -(conditionals * self.logits(contexts).log_softmax(-1)).sum(-1).mean(-1).sum()

        descent = partial(SGD, lr=learning_rate)
        fit(self, whole(), loss, steps, learning_rate, constant, optimiser=descent, progress=progress)
