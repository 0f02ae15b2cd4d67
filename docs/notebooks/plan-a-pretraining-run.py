# %% [markdown]
# # Plan a pretraining run
#
# Five cheap runs, a law with two terms, and an answer to two questions: how good will a run be that costs three hundred times as much, and
# how large should the model be? The runs are those of a published study; put your own in their place.

# %%
import numpy as np
from matplotlib.figure import Figure

from tokenry.pretraining import fit_loss_law, plan_training
from tokenry.pretraining.scaling import published_fit_runs, published_runs

runs = published_runs("redpajama")
cheap = runs.where(published_fit_runs(runs))
for size, multiplier, loss in zip(cheap.N, cheap.M, cheap.loss):
    print(
        f"{size / 1e6:8.0f} M parameters, {multiplier:5.0f} tokens per parameter: {loss:.3f} nats per token"
    )

# %% [markdown]
# ## Fit, and predict with an interval
#
# The interval knows that five runs are few. The run that is predicted was trained for 32 times as many tokens per parameter as is usual.

# %%
law = fit_loss_law(cheap.N, cheap.M, loss=cheap.loss)
low, high = law.interval(N=1.44e9, M=640, confidence=0.9)
print(f"predicted {law.predict(N=1.44e9, M=640):.3f}, 90 % interval {low:.3f} to {high:.3f} nats per token")
print(*law.warnings, sep="\n")

# %% [markdown]
# ## The fan of the extrapolation

# %%
flops = np.geomspace(1e18, 1e22, 30)
figure = Figure(figsize=(6, 3.4), layout="constrained")
axes = figure.subplots()
for multiplier in (20, 640):
    sizes = np.sqrt(flops / (6 * multiplier))
    axes.plot(flops, law.predict(N=sizes, M=multiplier), label=f"M = {multiplier}")
axes.scatter(6 * cheap.N**2 * cheap.M, cheap.loss, color="black", zorder=3, label="the five runs")
axes.set(xscale="log", xlabel="training FLOPs", ylabel="loss (nats per token)")
axes.legend()
figure

# %% [markdown]
# ## What to train
#
# A model that will be used a lot should be smaller and trained for longer: every token that it reads or writes costs 2 FLOPs per parameter.

# %%
for served in (0, 1e11, 1e12):
    best = plan_training(law, budget=1e21, served_tokens=served).best
    print(
        f"{served:8.0e} tokens served: {best.N / 1e9:5.2f} B parameters, {best.D / 1e9:6.1f} B tokens, loss {best.loss:.3f}"
    )

# %% [markdown]
# On the command line: `tokenry scaling plan runs.csv --budget 1e21`. What the intervals hold and what they do not:
# [scaling laws](../methods/scaling.md).
