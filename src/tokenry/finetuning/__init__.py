"""Fine-tune a language model on the tokens that matter."""

from tokenry.core.chat.conversations import Encoding, encode_rows, encode_with_notes
from tokenry.core.tensors.attention import prompt_attention_mass
from tokenry.core.tensors.choices import minmax_within
from tokenry.core.tensors.ema import moving_average
from tokenry.core.tensors.losses import token_nll
from tokenry.core.tensors.signals import AttentionProbe, Signals
from tokenry.finetuning.all_tokens import AllTokens
from tokenry.finetuning.cross_fitted import CrossFitted
from tokenry.finetuning.dataset_weights import DatasetWeights
from tokenry.finetuning.dft import DynamicFineTuning, dft_loss
from tokenry.finetuning.diagnose import Diagnosis, diagnose, judge
from tokenry.finetuning.folds import Folds
from tokenry.finetuning.history import (
    AdapterOff,
    BaseModel,
    Checkpoint,
    CrossFit,
    HistorySource,
    MovingAverage,
    PreviousEpoch,
)
from tokenry.finetuning.one_token_rollout import OneTokenRollout, otr_loss
from tokenry.finetuning.prompt_response import PromptResponseWeights
from tokenry.finetuning.random_tokens import RandomTokens, random_token_labels
from tokenry.finetuning.rho1 import Rho1, excess_loss, rho1_mask
from tokenry.finetuning.self_evolving import self_evolving_cleaning
from tokenry.finetuning.small_loss import SmallLoss
from tokenry.finetuning.sstoken import SSToken, retrospective_excess_loss, select_tokens, sstoken_score
from tokenry.finetuning.token_cleaning import TokenCleaning, token_cleaning_labels
from tokenry.finetuning.trainer import TokenWeighingTrainer
from tokenry.finetuning.weighed_loss import (
    WeighedTokens,
    history_losses,
    sstoken_loss,
    step_weight,
    token_losses,
    weighed_loss,
)
from tokenry.finetuning.weighing import GivenWeights, TokenWeighing

__all__ = [
    "AdapterOff",
    "AllTokens",
    "AttentionProbe",
    "BaseModel",
    "Checkpoint",
    "CrossFit",
    "CrossFitted",
    "DatasetWeights",
    "Diagnosis",
    "DynamicFineTuning",
    "Encoding",
    "Folds",
    "GivenWeights",
    "HistorySource",
    "MovingAverage",
    "OneTokenRollout",
    "PreviousEpoch",
    "PromptResponseWeights",
    "RandomTokens",
    "Rho1",
    "SSToken",
    "Signals",
    "SmallLoss",
    "TokenCleaning",
    "TokenWeighing",
    "TokenWeighingTrainer",
    "WeighedTokens",
    "dft_loss",
    "diagnose",
    "encode_rows",
    "encode_with_notes",
    "excess_loss",
    "history_losses",
    "judge",
    "minmax_within",
    "moving_average",
    "otr_loss",
    "prompt_attention_mass",
    "random_token_labels",
    "retrospective_excess_loss",
    "rho1_mask",
    "select_tokens",
    "self_evolving_cleaning",
    "sstoken_loss",
    "sstoken_score",
    "step_weight",
    "token_cleaning_labels",
    "token_losses",
    "token_nll",
    "weighed_loss",
]
