"""Post-hoc deferral: a small network learns from the quantiles of the token log-probabilities whether the large model would help.

    features    quantile_alpha(l_1 … l_n) for 101 levels alpha, Chow-sum, Chow-average, and embeddings where they are given
    helps       P(q_large > q_small), by cross-entropy            small-wrong    P(q_small = 0), by cross-entropy
    regress     q_large − q_small, by squared error
    score       −prediction

Features are standardised. Training stops where the AUC-DF on a part of the examples that is not trained on has been largest.
The paper leaves width and regularisation open; those here are ours. It has five layers, and its embeddings are the final layer of the
small model and the first of the large one, averaged over tokens (`prompt_embeddings`; of an encoder-decoder, the final layer of the decoder
where the answer begins, and the first layer of the encoder).

Source: Language Model Cascades: Token-level uncertainty and beyond (arXiv 2404.10136), section 4.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import expit
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import causal_lm, is_encoder_decoder
from tokenry.decoding.cascades import ALPHAS, array, auc_df, chow_score, quantile_features
from tokenry.decoding.deferral_rules import DEFERRAL_RULES, DeferralRule, Examples

Objective = Literal["helps", "small-wrong", "regress"]
Matrix = tuple[tuple[float, ...], ...]

FEWEST = 16
_FLOOR = -100.0
"""Log-probabilities below it, −inf among them, are one to the network."""


@dataclass(frozen=True)
class PostHocScorer:
    """A trained network: a ReLU between its layers.

    Attributes:
        alphas: levels of the quantiles among its features.
        mean: mean of each feature where it was trained.
        scale: standard deviation of each.
        weights: inputs × outputs of each layer.
        probability: whether the last layer predicts a log-odds.
    """

    alphas: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[Matrix, ...]
    biases: Matrix
    probability: bool
    kind: Literal["post-hoc"] = "post-hoc"

    def score(self, logprobs: Any, mask: Any, embeddings: Any = None) -> Float[Tensor, "batch"]:
        """Score answers, higher = keep.

        Raises:
            UserError: embeddings of another width than those it was trained with, or none.
        """
        features = rule_features(logprobs, mask, self.alphas, embeddings)
        if features.shape[1] != len(self.mean):
            own = len(self.alphas) + 2
            raise UserError(
                f"the rule was trained with embeddings of width {len(self.mean) - own}, got {features.shape[1] - own}."
            )
        score = -predict((features - self.mean) / self.scale, self.weights, self.biases, self.probability)
        score[array(mask).sum(1) == 0] = -np.inf
        return torch.from_numpy(score)


@DEFERRAL_RULES.register("post-hoc")
@dataclass(frozen=True)
class PostHocDeferral(DeferralRule):
    """A deferral rule that is learned.

    Attributes:
        objective: `helps`, `small-wrong` or `regress`; qualities other than 0 and 1 need `regress`, or `helps` for their order alone.
        alphas: levels of the quantiles.
        hidden: width of each hidden layer.
        weight_decay: strength of the L2 penalty.
        learning_rate: of Adam.
        epochs: maximum number of passes over the examples.
        patience: passes without a larger AUC-DF on the validation part after which training stops.
        validation: share of the examples that the stopping is decided on.
        seed: random seed of the split, the weights and the order of the examples.
    """

    objective: Objective = "helps"
    alphas: tuple[float, ...] = ALPHAS
    hidden: tuple[int, ...] = (32, 32, 32, 32)
    weight_decay: float = 1e-3
    learning_rate: float = 1e-3
    epochs: int = 300
    patience: int = 40
    validation: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        for alpha in self.alphas:
            require_fraction(alpha, "alpha")
        require_at_least(1, epochs=self.epochs, patience=self.patience)
        require_at_least(0, weight_decay=self.weight_decay, seed=self.seed)
        if not 0 < self.validation < 1:
            raise UserError(
                f"validation must be between 0 and 1, got {self.validation}: some examples train the rule, others stop it."
            )

    def fit(self, examples: Examples) -> PostHocScorer:
        """Train the network.

        Raises:
            UserError: too few examples, or examples of one kind only, from which nothing can be learned.
        """
        from sklearn.neural_network import (  # a second, which every --help would pay
            MLPClassifier,
            MLPRegressor,
        )

        require_at_least(FEWEST, examples=len(examples))
        features = rule_features(examples.logprobs, examples.mask, self.alphas, examples.embeddings)
        targets = self._targets(examples)
        order = np.random.default_rng(self.seed).permutation(len(examples))
        held = order[: max(1, int(self.validation * len(order)))]
        trained = order[len(held) :]
        mean, scale = features[trained].mean(0), features[trained].std(0)
        scale[scale < 1e-9] = 1.0
        mean, scale = _rounded(mean), _rounded(scale)
        inputs = (features - mean) / scale
        options: dict[str, Any] = {
            "hidden_layer_sizes": self.hidden,
            "alpha": self.weight_decay,
            "learning_rate_init": self.learning_rate,
            "batch_size": min(64, len(trained)),
            "random_state": self.seed,
        }
        classifies = self.objective != "regress"
        network = MLPClassifier(**options) if classifies else MLPRegressor(**options)
        classes = {"classes": [0, 1]} if classifies else {}
        best, since, layers = -np.inf, 0, None
        for _ in range(self.epochs):
            network.partial_fit(inputs[trained], targets[trained], **classes)
            predicted = predict(inputs[held], network.coefs_, network.intercepts_, classifies)
            reached = auc_df(-predicted, examples.q_small[held], examples.q_large[held]).auc
            since += 1
            if reached > best:
                best, since, layers = reached, 0, copy.deepcopy((network.coefs_, network.intercepts_))
            if since == self.patience:
                break
        assert layers is not None
        return PostHocScorer(
            alphas=self.alphas,
            mean=tuple(mean.tolist()),
            scale=tuple(scale.tolist()),
            weights=tuple(tuple(map(tuple, _rounded(matrix).tolist())) for matrix in layers[0]),
            biases=tuple(tuple(_rounded(bias).tolist()) for bias in layers[1]),
            probability=classifies,
        )

    def _targets(self, examples: Examples) -> ndarray:
        if self.objective == "regress":
            return examples.q_large - examples.q_small
        if self.objective == "small-wrong":
            targets, event = examples.q_small == 0, "the small model is wrong"
        else:
            targets, event = examples.q_large > examples.q_small, "the large model is better"
        if targets.all() or not targets.any():
            raise UserError(
                f"{event} in {int(targets.sum())} of {len(targets)} examples: a rule can only be learned from examples of both kinds."
            )
        return targets.astype(int)


def rule_features(
    logprobs: Any, mask: Any, alphas: Sequence[float | int] = ALPHAS, embeddings: Any = None
) -> Float[ndarray, "batch features"]:
    """Quantiles, Chow-sum and Chow-average of answers, and their embeddings."""
    real = array(mask)
    floored = np.where(real > 0, np.maximum(array(logprobs), _FLOOR), 0.0)
    columns = [array(quantile_features(floored, real, alphas, empty="defer"))]
    columns += [array(chow_score(floored, real, rule, empty="defer"))[:, None] for rule in ("sum", "average")]
    features = np.concatenate(columns, axis=1)
    features[~(real > 0).any(1)] = _FLOOR
    return features if embeddings is None else np.concatenate([features, array(embeddings)], axis=1)


def predict(
    inputs: Float[ndarray, "batch features"], weights: Sequence[Any], biases: Sequence[Any], probability: bool
) -> Float[ndarray, "batch"]:
    """The network's prediction from standardised features."""
    rows = inputs
    for number, (matrix, bias) in enumerate(zip(weights, biases, strict=True)):
        rows = (np.maximum(rows, 0) if number else rows) @ np.asarray(matrix) + np.asarray(bias)
    found: ndarray = expit(rows[:, 0]) if probability else rows[:, 0]
    return found


def _rounded(values: ndarray) -> ndarray:
    """The nearest float32, so that a rule file holds exactly what is computed with."""
    return values.astype(np.float32).astype(float)


class _Reached(Exception):  # noqa: N818 - no error: it ends a forward pass early
    pass


@torch.no_grad()
def prompt_embeddings(
    small: nn.Module,
    large: nn.Module | None,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"],
) -> Float[Tensor, "batch width"]:
    """The final layer of the small model and the first layer of the large one, each averaged over the tokens of a row.

    The large model is run through one layer only. Without it, the small model's part alone. The decoder of an encoder-decoder has read its
    start token alone. Rows may be padded on the left, those of encoders with a table of positions (BART) on the right.
    """
    real = attention_mask[..., None].float()
    with evaluation_mode(small):
        states = [_last_layer(causal_lm(small), input_ids, attention_mask)]
    if large is not None:
        states.append(_first_layer(causal_lm(large), input_ids, attention_mask))
    return torch.cat(
        [
            (state.to(real) * real).sum(1) / real.sum(1) if state.dim() == 3 else state.to(real)
            for state in states
        ],
        dim=-1,
    )


def _inputs(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if not is_encoder_decoder(model):
        inputs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)  # padding moves no token
    return inputs


def _last_layer(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Hidden states of the tokens after the last layer, or the decoder's at the start of the answer."""
    inputs = _inputs(model, input_ids, attention_mask)
    if not is_encoder_decoder(model):
        states: Tensor = model.base_model(**inputs).last_hidden_state
        return states
    start = model.generation_config.decoder_start_token_id
    if start is None:
        raise UserError(
            f"{type(model).__name__} has no start token of its answers: set generation_config.decoder_start_token_id."
        )
    read = model.get_encoder()(**inputs).last_hidden_state
    begun: Tensor = model.get_decoder()(
        input_ids=torch.full_like(input_ids[:, :1], start),
        encoder_hidden_states=read,
        encoder_attention_mask=attention_mask,
    ).last_hidden_state
    return begun[:, 0]


def _first_layer(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Hidden states after the first layer, of the encoder where there is one; the forward pass ends there."""
    reader = model.get_encoder() if is_encoder_decoder(model) else model.base_model
    reached = []

    def end(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        reached.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    handle = _layers(model, reader)[0].register_forward_hook(end)
    try:
        with evaluation_mode(model):
            reader(**_inputs(model, input_ids, attention_mask))
    except _Reached:
        pass
    finally:
        handle.remove()
    return reached[0]


def _layers(model: PreTrainedModel, reader: nn.Module) -> nn.ModuleList:
    """The list of layers: the module list with one member per layer of the configuration."""
    count = model.config.get_text_config().num_hidden_layers
    found = next(
        (part for part in reader.modules() if isinstance(part, nn.ModuleList) and len(part) == count),
        None,
    )
    if found is None:
        raise UserError(
            f"the layers of {type(model).__name__} were not found, so it has no first-layer embedding."
        )
    return found
