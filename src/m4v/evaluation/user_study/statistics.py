"""Mean ranks, win rates, strengths and agreement of a ranking study, with bootstrap intervals (B.2, B.3)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed

Ranks = Float[np.ndarray, "raters questions methods"]
_ITERATIONS = 200
_PRIOR_GAMES = 0.5
"""Half a tie between every pair, so that strengths stay finite where one method never loses."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What raters said by one criterion.

    Attributes:
        mean_rank: Per method, 1 the best.
        win_rate: Row over column: share of rankings that put the row first, a tie counting half; NaN on the diagonal.
        strength: Bradley-Terry log-strengths, mean 0.
        intervals: 95 % bootstrap intervals over raters and prompts of the same names, as (low, high).
        agreement: Mean over questions of Kendall's W, from 0 (none) to 1; NaN with fewer than two raters.
    """

    mean_rank: Float[np.ndarray, "m"]
    win_rate: Float[np.ndarray, "m m"]
    strength: Float[np.ndarray, "m"]
    intervals: dict[str, tuple[np.ndarray, np.ndarray]]
    agreement: float

    def to_plain(self, methods: tuple[str, ...]) -> dict[str, Any]:
        """JSON types by method."""

        def pair(name: str, *index: int) -> list[float | None]:
            return [_plain(bound[index]) for bound in self.intervals[name]]

        return {
            "methods": {
                method: {
                    "mean_rank": _plain(self.mean_rank[i]),
                    "mean_rank_interval": pair("mean_rank", i),
                    "strength": _plain(self.strength[i]),
                    "strength_interval": pair("strength", i),
                    "wins_over": {
                        other: {"rate": _plain(self.win_rate[i, j]), "interval": pair("win_rate", i, j)}
                        for j, other in enumerate(methods)
                        if j != i
                    },
                }
                for i, method in enumerate(methods)
            },
            "agreement": _plain(self.agreement),
        }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def analyse(ranks: Ranks, *, num_samples: int = 1000, seed: int = 0) -> Criterion:
    """Summarise rankings; what was not answered or not shown is NaN and counts nowhere.

    Args:
        ranks: 1 the best; ties have equal ranks.
        num_samples: Bootstrap samples, each of raters and of questions drawn anew.

    Raises:
        UserError: if there is no ranking.
    """
    if ranks.size == 0 or np.isnan(ranks).all():
        raise UserError("There is no answer to analyse; give at least one answer file with one answer.")
    wins, games = _wins(ranks)
    rng = np.random.Generator(np.random.Philox(key=fold_seed(seed, "bootstrap")))
    samples: dict[str, list[np.ndarray]] = {"mean_rank": [], "win_rate": [], "strength": []}
    raters, questions = ranks.shape[:2]
    for _ in range(num_samples):
        drawn = ranks[rng.integers(raters, size=raters)][:, rng.integers(questions, size=questions)]
        drawn_wins, drawn_games = _wins(drawn)
        samples["mean_rank"].append(mean_ranks(drawn))
        samples["win_rate"].append(_rates(drawn_wins, drawn_games))
        samples["strength"].append(strengths(drawn_wins, drawn_games))
    return Criterion(
        mean_rank=mean_ranks(ranks),
        win_rate=_rates(wins, games),
        strength=strengths(wins, games),
        intervals={name: _interval(np.stack(values)) for name, values in samples.items()},
        agreement=agreement(ranks),
    )


def _interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.full(samples.shape[1:], np.nan), np.full(samples.shape[1:], np.nan)
    known = ~np.isnan(samples).any(0)
    low[known], high[known] = np.percentile(samples[:, known], (2.5, 97.5), axis=0)
    return low, high


def mean_ranks(ranks: Ranks) -> Float[np.ndarray, "m"]:
    """Mean rank of every method over all its rankings; NaN for one that was never shown."""
    shown = ~np.isnan(ranks)
    with np.errstate(invalid="ignore"):
        return np.where(shown, ranks, 0).sum((0, 1)) / shown.sum((0, 1))


def _wins(ranks: Ranks) -> tuple[Float[np.ndarray, "m m"], Float[np.ndarray, "m m"]]:
    flat = ranks.reshape(-1, ranks.shape[-1])
    first, second = flat[:, :, None], flat[:, None, :]
    both = ~(np.isnan(first) | np.isnan(second))
    wins = ((first < second) + 0.5 * (first == second)) * both
    return wins.sum(0), both.sum(0).astype(float)


def _rates(wins: np.ndarray, games: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = wins / games
    np.fill_diagonal(rates, np.nan)
    return rates


def strengths(wins: Float[np.ndarray, "m m"], games: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m"]:
    """Bradley-Terry log-strengths by minorisation-maximisation (Hunter, 2004), ties as half wins, mean 0."""
    off_diagonal = ~np.eye(len(wins), dtype=bool)
    wins = (wins + _PRIOR_GAMES / 2) * off_diagonal
    games = (games + _PRIOR_GAMES) * off_diagonal
    strength = np.ones(len(wins))
    for _ in range(_ITERATIONS):
        strength = wins.sum(1) / (games / (strength[:, None] + strength[None, :])).sum(1)
        strength /= np.exp(np.log(strength).mean())
    return np.log(strength)


def agreement(ranks: Ranks) -> float:
    """Kendall's W with correction for ties, mean over questions that two raters or more ranked whole."""
    values = []
    for question in range(ranks.shape[1]):
        rows = ranks[:, question][~np.isnan(ranks[:, question]).any(1)]
        raters, methods = rows.shape
        if raters < 2:
            continue
        # Ties share the mean of the places they take.
        places = np.stack([_average_places(row) for row in rows])
        ties = sum(float((count**3 - count).sum()) for count in (np.unique(row, return_counts=True)[1] for row in rows))
        spread = ((places.sum(0) - raters * (methods + 1) / 2) ** 2).sum()
        largest = raters**2 * (methods**3 - methods) - raters * ties
        if largest > 0:
            values.append(12 * spread / largest)
    return float(np.mean(values)) if values else float("nan")


def _average_places(row: np.ndarray) -> np.ndarray:
    below = (row[None, :] < row[:, None]).sum(1)
    same = (row[None, :] == row[:, None]).sum(1)
    return below + (same + 1) / 2
