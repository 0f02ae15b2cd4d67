"""Rows for new tokens as sparse combinations of shared tokens: orthogonal matching pursuit, and interpolation of neighbours.

    omp             k times: take the atom with the largest |⟨atom, residual⟩|; the residual is what all taken atoms cannot explain
    interpolation   weights ∝ 1 / distance (euclidean) or cosine of the k nearest atoms

The combination is found in a space where new tokens have vectors (a donor model's matrix, an auxiliary space) and applied to the
rows that the shared tokens have in the model.

Source: the `omp` and `common_interpolation` of mergekit-tokensurgeon; OMP after Pati, Rezaiifar and Krishnaprasad (1993).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.tokenization.transfer.transplant.embedding_heuristics import NO_SHARED

METRICS = ("euclidean", "cosine")

_LEAST_DISTANCE = 1e-6
_LEAST_TOTAL = 1e-6


def omp(
    targets: Float[Tensor, "targets dim"],
    atoms: Float[Tensor, "atoms dim"],
    k: int,
    without: Int[Tensor, "targets"] | None = None,
) -> tuple[Int[Tensor, "targets k"], Float[Tensor, "targets k"]]:
    """Approximate each target by k atoms, which are not normalised: those of larger norm are preferred.

    Args:
        targets: vectors to be approximated; the computation uses their dtype.
        atoms: vectors to choose from.
        k: number of atoms per target; all of them where there are fewer.
        without: index of an atom that each target may not use; -1 for none.

    Returns:
        Indices of atoms in the order in which they were chosen, and their coefficients (least squares over all chosen atoms; 0 for an
        atom that the others explain entirely).
    """
    _require_atoms(atoms, k)
    forbidden = without is not None and bool((without >= 0).any())
    k = min(k, len(atoms) - forbidden)
    taken = torch.zeros(len(targets), len(atoms), dtype=torch.bool, device=targets.device)
    if without is not None:
        rows = (without >= 0).nonzero()[:, 0]
        taken[rows, without[rows]] = True
    indices = torch.zeros(len(targets), k, dtype=torch.long, device=targets.device)
    basis = targets.new_zeros(len(targets), k, targets.shape[1])
    triangle, along_basis = targets.new_zeros(len(targets), k, k), targets.new_zeros(len(targets), k)
    residual = targets
    for step in range(k):
        chosen = (residual @ atoms.T).abs_().masked_fill_(taken, -1.0).argmax(dim=-1)
        taken.scatter_(1, chosen[:, None], True)
        atom = atoms[chosen]
        direction, along = _orthogonal(atom, basis[:, :step])
        norm = direction.norm(dim=-1)
        # The rest of an atom inside the span of the others is rounding error: it adds no direction.
        new = norm > torch.finfo(atom.dtype).eps * 16 * atom.norm(dim=-1)
        basis[:, step] = torch.where(new[:, None], direction / norm[:, None], 0.0)
        triangle[:, :step, step] = along
        triangle[:, step, step] = torch.where(new, norm, 1.0)
        indices[:, step] = chosen
        along_basis[:, step] = (basis[:, step] * residual).sum(dim=-1)
        residual = residual - along_basis[:, step, None] * basis[:, step]
    solved = torch.linalg.solve_triangular(triangle, along_basis[:, :, None], upper=True)
    return indices, solved[:, :, 0]


def interpolation(
    targets: Float[Tensor, "targets dim"],
    atoms: Float[Tensor, "atoms dim"],
    k: int,
    metric: str = "cosine",
    without: Int[Tensor, "targets"] | None = None,
) -> tuple[Int[Tensor, "targets k"], Float[Tensor, "targets k"]]:
    """Weigh the k nearest atoms of each target by their proximity.

    Args:
        targets: vectors to be approximated.
        atoms: vectors to choose from.
        k: number of neighbours; all atoms where there are fewer.
        metric: `euclidean` (weights ∝ 1 / distance) or `cosine` (weights ∝ cosine).
        without: index of an atom that each target may not use; -1 for none.

    Returns:
        Indices from near to far, and weights that sum to one.
    """
    _require_atoms(atoms, k)
    require_one_of(metric, METRICS, "metric")
    if metric == "euclidean":
        distance = torch.cdist(targets, atoms, compute_mode="donot_use_mm_for_euclid_dist")
    else:
        distance = 1 - nn.functional.normalize(targets, dim=-1) @ nn.functional.normalize(atoms, dim=-1).T
    forbidden = without is not None and bool((without >= 0).any())
    if without is not None:
        rows = (without >= 0).nonzero()[:, 0]
        distance[rows, without[rows]] = torch.inf
    near, indices = distance.topk(min(k, len(atoms) - forbidden), dim=-1, largest=False)
    weights = 1 / near.clamp(min=_LEAST_DISTANCE) if metric == "euclidean" else 1 - near
    return indices, weights / weights.sum(dim=-1, keepdim=True).clamp(min=_LEAST_TOTAL)


def _orthogonal(
    atom: Float[Tensor, "targets dim"], basis: Float[Tensor, "targets step dim"]
) -> tuple[Float[Tensor, "targets dim"], Float[Tensor, "targets step"]]:
    """Subtract the projection of the atoms onto the basis. Twice: once loses half of the digits where the rest is small."""
    along = atom.new_zeros(basis.shape[:2])
    for _ in range(2):
        again = torch.einsum("tsd,td->ts", basis, atom)
        atom = atom - torch.einsum("ts,tsd->td", again, basis)
        along = along + again
    return atom, along


def _require_atoms(atoms: Tensor, k: int) -> None:
    if not len(atoms):
        raise UserError(NO_SHARED)
    require_at_least(1, k=k)
