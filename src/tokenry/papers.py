"""The catalogue: the forty papers, their modules, whether they can be reproduced today, and the outcome of the stored run.

A paper is available when its recipe exists (`tokenry.recipes`); no flag is kept by hand. `module` names the package, or the packages
separated by a comma, that hold its methods, now or later. The outcome of the stored run of a recipe is in `reproduced.json`, which
`docs/hooks/generated.py` writes from docs/results.
"""

import json
import pkgutil
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tokenry.core.errors import UserError

Scale = Literal["laptop", "paper"]
"""Scale of a recipe: minutes on two CPU cores, or the paper's models and data."""

# fmt: off
_ENTRIES = (
    (1, "sstoken", "ssToken: Self-modulated and Semantic-aware Token Selection for LLM Fine-tuning", "2510.18250", "tokenry.finetuning"),
    (2, "premiums", "Explaining and Mitigating Crosslingual Tokenizer Inequities", "2510.21909", "tokenry.tokenization"),
    (3, "scaling", "Language models scale reliably with over-training and on downstream tasks", "2403.08540", "tokenry.pretraining"),
    (4, "diffrate", "DiffRate: Differentiable Compression Rate for Efficient Vision Transformers", "2305.17997", "tokenry.compression.vision"),
    (5, "r2r", "R2R: Efficiently Navigating Divergent Reasoning Paths with Small-Large Model Token Routing", "2505.21600", "tokenry.decoding"),
    (6, "otr", "One-Token Rollout: Guiding Supervised Fine-Tuning of LLMs with Policy Gradient", "2509.26313", "tokenry.finetuning"),
    (7, "clinical-efficiency", "ModernBERT is More Efficient than Conventional BERT for Chest CT Findings Classification in Japanese Radiology Reports", "2503.05060", "tokenry.evaluation"),
    (8, "dpa-logic", "Understanding the Logic of Direct Preference Alignment through Logic", "2412.17696", "tokenry.alignment"),
    (9, "number-tokens", "Tokenization counts: the impact of tokenization on arithmetic in frontier LLMs", "2402.14903", "tokenry.tokenization, tokenry.evaluation"),
    (10, "byte-probabilities", "Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks and Model Ensembles", "2410.09303", "tokenry.decoding"),
    (11, "markov-theory", "Toward a Theory of Tokenization in LLMs", "2404.08335", "tokenry.theory"),
    (12, "zero-tprune", "Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained Transformers", "2305.17328", "tokenry.compression.vision"),
    (13, "budget-longformer", "BudgetLongformer: Can we Cheaply Pretrain a SotA Legal Language Model From Scratch?", "2211.17135", "tokenry.pretraining"),
    (14, "zoo-prune", "Training-Free Token Pruning via Zeroth-Order Gradient Estimation in Vision-Language Models", "2509.24837", "tokenry.compression.vision"),
    (15, "tokenadapt", "Achieving Tokenizer Flexibility in Language Models through Heuristic Adaptation and Supertoken Learning", "2505.09738", "tokenry.tokenization"),
    (16, "flatness", "Same Pre-training Loss, Better Downstream: Implicit Bias Matters for Language Models", "2210.14199", "tokenry.pretraining"),
    (17, "sift", "SIFT: Grounding LLM Reasoning in Contexts via Stickers", "2502.14922", "tokenry.decoding"),
    (18, "word-pooled", "Learn Your Tokens: Word-Pooled Tokenization for Language Modeling", "2310.11628", "tokenry.architectures"),
    (19, "frugalprompt", "FrugalPrompt: Reducing Contextual Overhead in Large Language Models via Token Attribution", "2510.16439", "tokenry.compression.text, tokenry.attribution"),
    (20, "one-visual-token", "Inference Optimal VLMs Need Only One Visual Token but Larger Models", "2411.03312", "tokenry.compression.vision"),
    (21, "tempo", "Exploiting Tree Structure for Credit Assignment in RL Training of LLMs", "2509.18314", "tokenry.alignment"),
    (22, "entanglement", "A Common Pitfall of Margin-based Language Model Alignment: Gradient Entanglement", "2410.13828", "tokenry.alignment"),
    (23, "electra", "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", "2003.10555", "tokenry.pretraining"),
    (24, "ai-text-detection", "AI-Generated Text Detection and Classification Based on BERT Deep Learning Algorithm", "2405.16422", "tokenry.data"),
    (25, "multi-token", "Your LLM Knows the Future: Uncovering Its Multi-Token Prediction Potential", "2507.11851", "tokenry.decoding"),
    (26, "inverse-permutation", "The Impossibility of Inverse Permutation Learning in Transformer Models", "2509.24125", "tokenry.theory"),
    (27, "code-merge", "On the Effect of Token Merging on Pre-trained Models for Code", "2507.14423", "tokenry.compression.text"),
    (28, "equal-info", "Training LLMs over Neurally Compressed Text", "2404.03626", "tokenry.tokenization"),
    (29, "reagent", "ReAGent: Towards A Model-agnostic Feature Attribution Method for Generative Language Models", "2402.00794", "tokenry.attribution"),
    (30, "flow-omni", "Continuous Speech Tokens Makes LLMs Robust Multi-Modality Learners", "2412.04917", "tokenry.generation"),
    (31, "rewarm", "Continual Pre-Training of Large Language Models: How to (re)warm your model?", "2308.04014", "tokenry.pretraining"),
    (32, "pitome", "Accelerating Transformers with Spectrum-Preserving Token Merging", "2405.16148", "tokenry.compression.vision"),
    (33, "preselect", "Predictive Data Selection: The Data That Predicts Is the Data That Teaches", "2503.00808", "tokenry.data"),
    (34, "xar", "Beyond Next-Token: Next-X Prediction for Autoregressive Visual Generation", "2502.20388", "tokenry.generation"),
    (35, "hapo", "From Uniform to Heterogeneous: Tailoring Policy Optimization to Every Token's Nature", "2509.16591", "tokenry.alignment"),
    (36, "charbench", "CharBench: Evaluating the Role of Tokenization in Character-Level Tasks", "2508.02591", "tokenry.evaluation"),
    (37, "long-text-hacks", "Simple Hack for Transformers against Heavy Long-Text Classification on a Time- and Memory-Limited GPU Service", "2403.12563", "tokenry.compression.text"),
    (38, "zett", "Zero-Shot Tokenizer Transfer", "2405.07883", "tokenry.tokenization"),
    (39, "cascades", "Language Model Cascades: Token-level uncertainty and beyond", "2404.10136", "tokenry.decoding"),
    (40, "image-tokenizer-posttraining", "Image Tokenizer Needs Post-Training", "2509.12474", "tokenry.generation"),
)
# fmt: on


@dataclass(frozen=True)
class Paper:
    """One entry of the catalogue.

    Attributes:
        number: 1 to 40.
        slug: its name on the command line.
        title: full title.
        module: the packages that hold its methods, separated by commas; empty until they exist.
        available: whether it has a recipe.
        verdict: verdict on the headline claim in the stored run; None if no run is stored.
        shown: number of claims shown in that run.
        of: number of claims made in it.
    """

    number: int
    slug: str
    title: str
    arxiv: str
    module: str
    available: bool
    verdict: str | None = None
    shown: int | None = None
    of: int | None = None

    @property
    def outcome(self) -> str:
        """Outcome of the stored run in words; empty if there is none."""
        return outcome(self.verdict, self.shown, self.of)


def outcome(verdict: str | None, shown: int | None, of: int | None) -> str:
    """The verdict of a reproduction's headline and the number of its claims that are shown; empty where there is no verdict."""
    return "" if verdict is None else f"headline {verdict}; {shown} of {of} claim{'s' * (of != 1)}"


def catalogue() -> tuple[Paper, ...]:
    """Return the forty papers in the order of their numbers; imports no method and no recipe."""
    return tuple(
        Paper(number, slug, title, arxiv, _existing(modules), has_recipe(slug), **_reproduced().get(slug, {}))
        for number, slug, title, arxiv, modules in _ENTRIES
    )


def _existing(modules: str) -> str:
    """The packages among `modules` that exist."""
    root = Path(__file__).parents[1]
    return ", ".join(name for name in modules.split(", ") if root.joinpath(*name.split(".")).is_dir())


def paper(slug: str) -> Paper:
    """Find one paper by its slug.

    Raises:
        UserError: no paper has this slug; the message names the nearest one.
    """
    by_slug = {entry.slug: entry for entry in catalogue()}
    if slug not in by_slug:
        nearest = get_close_matches(slug, by_slug, n=1)
        guess = f"did you mean {nearest[0]}?" if nearest else "`tokenry papers` lists them."
        raise UserError(f"no paper has the slug {slug!r}: {guess}")
    return by_slug[slug]


def has_recipe(slug: str) -> bool:
    """Whether the paper with this slug has a recipe; imports nothing."""
    spec = find_spec("tokenry.recipes")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return recipe_module(slug) in {found.name for found in pkgutil.iter_modules(folders) if not found.ispkg}


def recipe_module(slug: str) -> str:
    """The name of the module in `tokenry.recipes`."""
    return slug.replace("-", "_")


@cache
def _reproduced() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "reproduced.json").read_text())
    return found
