"""Which texts to learn from: who wrote them, a human or a machine, and which of a corpus teach most."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.data.ai_text import CalibratedDetector, Calibration, Decision, Detector, TextScores
    from tokenry.data.attacks import ATTACKS, attack, normalize_text
    from tokenry.data.classifier import BertDetector
    from tokenry.data.decisions import (
        Calibrator,
        auroc,
        brier,
        ece,
        fpr_at_tpr,
        mce,
        raid_threshold,
        threshold_at_fpr,
        tpr_at_fpr,
    )
    from tokenry.data.detection_report import DetectionReport, detection_report
    from tokenry.data.document_losses import DocumentLosses, document_bpc
    from tokenry.data.fasttext_model import FastTextModel
    from tokenry.data.paper_pipeline import PorterStemmer, paper_split, preprocess_paper
    from tokenry.data.predictive_strength import predictive_strength, select_extremes
    from tokenry.data.scorers import FastTextScorer, LinearScorer, TextScorer, load_scorer
    from tokenry.data.selection import (
        Document,
        Selection,
        filter_documents,
        filter_shard,
        sample_documents,
        threshold_of,
    )
    from tokenry.data.selection_settings import FastTextConfig, LinearConfig, LossConfig, SampleConfig
    from tokenry.data.thresholds import length_weighted_threshold
    from tokenry.data.zero_shot import ZeroShotDetector, zero_shot_scores

__all__ = [
    "ATTACKS",
    "BertDetector",
    "CalibratedDetector",
    "Calibration",
    "Calibrator",
    "Decision",
    "DetectionReport",
    "Detector",
    "Document",
    "DocumentLosses",
    "FastTextConfig",
    "FastTextModel",
    "FastTextScorer",
    "LinearConfig",
    "LinearScorer",
    "LossConfig",
    "PorterStemmer",
    "SampleConfig",
    "Selection",
    "TextScorer",
    "TextScores",
    "ZeroShotDetector",
    "attack",
    "auroc",
    "brier",
    "detection_report",
    "document_bpc",
    "ece",
    "filter_documents",
    "filter_shard",
    "fpr_at_tpr",
    "length_weighted_threshold",
    "load_scorer",
    "mce",
    "normalize_text",
    "paper_split",
    "predictive_strength",
    "preprocess_paper",
    "raid_threshold",
    "sample_documents",
    "select_extremes",
    "threshold_at_fpr",
    "threshold_of",
    "tpr_at_fpr",
    "zero_shot_scores",
]

export_lazily(__name__)
