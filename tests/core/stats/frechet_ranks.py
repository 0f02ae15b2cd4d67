"""Each of two processes sees every second vector, and knows the statistics of all."""

import numpy as np
import torch

from tokenry.core.stats import FrechetStats


def main():
    torch.distributed.init_process_group("gloo")
    rows = np.random.default_rng(0).normal(size=(41, 3))
    whole = FrechetStats().update(rows[torch.distributed.get_rank() :: 2]).across_ranks()
    assert whole.samples == 41
    np.testing.assert_allclose(whole.mean, rows.mean(0), rtol=1e-9)
    np.testing.assert_allclose(whole.covariance, np.cov(rows.T), rtol=1e-9)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
