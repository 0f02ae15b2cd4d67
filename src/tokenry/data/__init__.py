"""Which texts to learn from: who wrote them, a human or a machine."""

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
from tokenry.data.paper_pipeline import PorterStemmer, paper_split, preprocess_paper
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
    "PorterStemmer",
    "TextScores",
    "ZeroShotDetector",
    "attack",
    "auroc",
    "brier",
    "detection_report",
    "ece",
    "fpr_at_tpr",
    "mce",
    "normalize_text",
    "paper_split",
    "preprocess_paper",
    "raid_threshold",
    "threshold_at_fpr",
    "tpr_at_fpr",
    "zero_shot_scores",
]
