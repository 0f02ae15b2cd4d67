"""Zero-shot tokenizer transfer: a hypernetwork that predicts the embeddings of any vocabulary (ZeTT)."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.core.train.adamw import AdamWSettings
    from tokenry.tokenization.transfer.zett.byte_conversion import ConvertedTokenizer, to_byte_level
    from tokenry.tokenization.transfer.zett.hypernetwork import (
        EmbeddingHyperNetwork,
        HyperNetworkConfig,
        PredictedEmbeddings,
    )
    from tokenry.tokenization.transfer.zett.losses import (
        clm_loss,
        identity_loss,
        lexical_loss,
        masked_lm_loss,
        nats_per_byte,
        single_piece,
    )
    from tokenry.tokenization.transfer.zett.n_shot import NShotTrainer
    from tokenry.tokenization.transfer.zett.schedule import two_stage_schedule
    from tokenry.tokenization.transfer.zett.settings import (
        DrawingConfig,
        HyperNetworkTrainingConfig,
        NShotConfig,
    )
    from tokenry.tokenization.transfer.zett.surface_forms import surface_forms
    from tokenry.tokenization.transfer.zett.task_vector import apply_task_vector
    from tokenry.tokenization.transfer.zett.token_report import TokenReport
    from tokenry.tokenization.transfer.zett.training import HyperNetworkTrainer, hypernetwork_for
    from tokenry.tokenization.transfer.zett.transfer import (
        PredictedVocabulary,
        predict_vocabulary,
        save_transfer,
        transfer_tokenizer,
    )
    from tokenry.tokenization.transfer.zett.unigram_sampler import UnigramSampler, unigram_pieces

__all__ = [
    "AdamWSettings",
    "ConvertedTokenizer",
    "DrawingConfig",
    "EmbeddingHyperNetwork",
    "HyperNetworkConfig",
    "HyperNetworkTrainer",
    "HyperNetworkTrainingConfig",
    "NShotConfig",
    "NShotTrainer",
    "PredictedEmbeddings",
    "PredictedVocabulary",
    "TokenReport",
    "UnigramSampler",
    "apply_task_vector",
    "clm_loss",
    "hypernetwork_for",
    "identity_loss",
    "lexical_loss",
    "masked_lm_loss",
    "nats_per_byte",
    "predict_vocabulary",
    "save_transfer",
    "single_piece",
    "surface_forms",
    "to_byte_level",
    "transfer_tokenizer",
    "two_stage_schedule",
    "unigram_pieces",
]

export_lazily(__name__)
