"""What a method is made of is public: every function and class of it is exported by its family."""

import importlib

import pytest
import torch

from tokenry.finetuning import Rho1, Signals, rho1_mask

# By family, method by method.
NAMES = {
    "finetuning": """
        SSToken TokenWeighingTrainer Signals AttentionProbe retrospective_excess_loss minmax_within prompt_attention_mass
        sstoken_score select_tokens weighed_loss sstoken_loss step_weight token_losses history_losses token_nll moving_average
        Rho1 rho1_mask excess_loss TokenCleaning token_cleaning_labels self_evolving_cleaning RandomTokens random_token_labels
    """,
    "tokenization": """
        corpus_token_count token_premiums byte_premium dispersion ctc_curve fit_vocab_curve PowerLaw optimal_vocab_sizes
        train_superbpe train_boundless_bpe BoundlessBPE load_udhr premium_factors factor_report
        number_pre_tokenizer group_digits format_number retokenize_numbers
        transplant_tokenizer local_weights global_weights omp compose sample_chunks train_supertoken_bpe text_loss
        ByteVocabulary to_byte_level surface_forms UnigramSampler unigram_pieces HyperNetworkConfig EmbeddingHyperNetwork
        HyperNetworkTrainer transfer_tokenizer lexical_loss identity_loss two_stage_schedule apply_task_vector
    """,
    "tokenization.transplant": "compose Composition OldTokens Wanted Mixture local_weights global_weights omp focus_mixture",
    "tokenization.zett": "unigram_pieces lexical_loss identity_loss clm_loss masked_lm_loss two_stage_schedule",
    "compression.vision": """
        RateProxy SearchedRates Schedule DiffRate diffrate_merge masked_softmax vit_flops search_rates uniform_schedule
        scheduled_flops scale_merged LayerCost SearchStep SearchInterrupted
        weighted_page_rank head_variance aggregate_heads partition_by_importance best_similarity similarity_prune
        importance_prune zero_tprune_layer ZeroTPrune ZeroTPruneConfig token_trace search_config
        zeroth_order_sensitivity mlp_sensitivity projector_interaction low_rank_projector sensitivity_diverse_select
        farthest_point_select minmax_weight token_budget frame_budget with_newlines coverage_radius prune_visual_tokens
        fit_vlm_scaling grid_search ScalingFit Optimum inference_flops compute_optimal optimal_tokens_closed_form QueCC
        TokenPackerCompressor attach_compressor
        bipartite_soft_matching kth_bipartite_matching pitome_matching pitome_text_matching energy_score MergePlan parse_r
        ratio_schedule margin_schedule removed_tokens apply_token_reduction TokenReduction ToMe PiToMe
    """,
    "decoding": "ByteLM ByteStream ByteEnsemble naive_next_byte healed_next_byte BytePairEncoder tempered nucleus surprisal",
    "evaluation": """
        sample_addition addition_prompt AdditionFormat ParsedAnswer analyze_errors evaluate_addition
        load_word_list build_charbench charbench_prompt evaluate_charbench tokenization_features charbench_report
    """,
    "evaluation.arithmetic": "parse_answer accuracy_table judge_answer format_addition",
    "evaluation.charbench": "parse_answer correlations partial_correlation error_overlap counting_bias",
}


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, names in NAMES.items() for name in names.split()]
)
def test_a_part_of_a_method_is_exported_by_its_family(family, name):
    module = importlib.import_module(f"tokenry.{family}")
    assert name in module.__all__
    assert callable(getattr(module, name))


def test_rho1_chooses_within_samples_as_its_weighing_does():
    draw = torch.Generator().manual_seed(0)
    nll, reference = (torch.rand(2, 9, generator=draw) for _ in range(2))
    labels = torch.ones(2, 9, dtype=torch.long)
    segments = torch.tensor([[0] * 5 + [1] * 4, [2] * 9])
    signals = Signals(labels, segments, {"nll": nll, "reference_nll": reference})
    kept = rho1_mask(nll, reference, signals.learnable, 0.5, segments)
    assert torch.equal(kept, Rho1(share=0.5, scope="sample").choose(signals))
