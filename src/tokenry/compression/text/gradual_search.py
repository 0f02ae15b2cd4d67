"""A search of hyper-parameters in small steps that may be stopped at any time: no trial is made twice, and a killed search goes on.

    for each hyper-parameter in `order`: step up its grid while the score rises, if it never rose, down             a pass
    until a pass changes nothing, `max_passes` are made, or a new trial would exceed `max_trials`

A step needs a strictly better score. At the end of its grid, a hyper-parameter with an `extend` factor gets a new value (the highest
times the factor, the lowest divided by it), `max_extend` times in all. Finished trials stand in a ledger, a line of JSON each.
`optuna_search` is the control: Optuna's TPE on the same grids, from the same start, with a journal of its own (extra `search`).

    gradual_search(train_and_score, {"lr": [1e-5, 2e-5, 3e-5], "batch": [8, 16]}, ["lr", "batch"], {"lr": 1e-5, "batch": 8})

Source: Simple Hack for Transformers against Heavy Long-Text Classification (arXiv 2403.12563); the form of the search is ours.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import atomic_write, require_output_file
from tokenry.core.io.reading import read_text

Trained = Callable[[dict[str, Any]], Any]
"""Trains with a configuration, and gives its score as a number; higher is better."""
Ended = Literal["settled", "passes", "trials"]
Grids = dict[str, list[Any]]

_KIND = "gradual search"
_ASKED_AGAIN = 50


@dataclass(frozen=True)
class SearchTrial:
    """A configuration and its score."""

    config: Mapping[str, Any]
    score: float


@dataclass(frozen=True)
class SearchResult:
    """A search that has ended.

    Attributes:
        best: the configuration with the highest score; of several, the first.
        trials: all configurations, in the order in which they were asked for.
        grids: the grids, with the values that were added.
        made: number of trials that were made now; the others were known from the ledger.
        ended: `settled` if a pass changed nothing, or what was used up.
    """

    best: Mapping[str, Any]
    best_score: float
    trials: tuple[SearchTrial, ...]
    grids: Mapping[str, Sequence[Any]]
    made: int
    ended: Ended


def gradual_search(
    evaluate: Trained,
    grids: Mapping[str, Sequence[Any]],
    order: Sequence[str],
    start: Mapping[str, Any],
    *,
    max_passes: int = 3,
    max_trials: int | None = None,
    extend: Mapping[str, float | int] | None = None,
    max_extend: int = 2,
    ledger: str | os.PathLike | None = "search.jsonl",
    task: Any = None,
) -> SearchResult:
    """Improve a configuration, one hyper-parameter after another.

    Args:
        evaluate: trains with a configuration, and gives its score; higher is better.
        grids: values of each hyper-parameter.
        order: the hyper-parameters that are moved, the most important first; the others stay.
        start: the first configuration, on the grids.
        max_passes: maximum number of passes over the hyper-parameters.
        max_trials: maximum number of trials, those known from the ledger included.
        extend: factor by which the grid of a hyper-parameter grows at its ends.
        max_extend: number of values that each of these grids may get.
        ledger: file of finished trials, which is resumed; None for none.
        task: whatever else the scores depend on (data, model, hacks), as JSON knows it; a ledger of another task is refused.
    """
    require_at_least(1, max_passes=max_passes, max_trials=max_trials)
    require_at_least(0, max_extend=max_extend)
    walked = _checked_grids(grids, start)
    if set(order) - set(walked) or len(set(order)) < len(order):
        raise UserError(
            f"order must name hyper-parameters of the grids ({', '.join(walked)}), each once, got {', '.join(order)}."
        )
    factors = dict(extend or {})
    for name, factor in factors.items():
        _require_extensible(name, factor, walked)
    book = TrialLedger(ledger, list(walked), task)
    walk = _Walk(_Trials(evaluate, book, max_trials), walked, factors, max_extend)
    return walk.trials.result(walked, walk.run(order, start, max_passes))


def optuna_search(
    evaluate: Trained,
    grids: Mapping[str, Sequence[Any]],
    start: Mapping[str, Any],
    *,
    trials: int,
    seed: int = 0,
    journal: str | os.PathLike | None = "search.optuna.log",
    task: Any = None,
) -> SearchResult:
    """Let Optuna's TPE make as many different trials on the same grids, the first at `start`.

    Args:
        evaluate: trains with a configuration, and gives its score; higher is better.
        grids: values of each hyper-parameter.
        start: the first configuration, on the grids.
        trials: number of different trials; a configuration that comes again is none.
        journal: file of Optuna's journal, which is resumed; None for none.
        task: as in `gradual_search`.

    Raises:
        UserError: Optuna is not installed, or the journal is of another search.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UserError("the package optuna is not installed: pip install 'tokenry[search]'.") from error
    require_at_least(1, trials=trials)
    fixed = _checked_grids(grids, start)
    _require_file(journal)
    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=None
        if journal is None
        else optuna.storages.JournalStorage(JournalFileBackend(os.fspath(journal))),
        study_name="tokenry",
        load_if_exists=True,
        direction="maximize",
    )
    optuna.logging.set_verbosity(told)
    belongs = json.loads(_key({"grids": fixed, "task": task}))
    if study.user_attrs.get("search", belongs) != belongs:
        raise UserError(
            f"{journal} is the journal of another search, with other grids or of another task: name another journal."
        )
    study.set_user_attr("search", belongs)
    made = _Trials(evaluate, TrialLedger(None, list(fixed), task), trials)
    for old in study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        made.know({name: fixed[name][place] for name, place in old.params.items()}, old.value)
    if not made.asked:
        study.enqueue_trial({name: fixed[name].index(value) for name, value in start.items()})
    # A sampler with the seed of a fresh study would draw the same configurations again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    most = min(trials, math.prod(map(len, fixed.values())))
    for _ in range(_ASKED_AGAIN * most):
        if len(made.asked) >= most:
            break
        trial = study.ask()
        config = {name: grid[trial.suggest_int(name, 0, len(grid) - 1)] for name, grid in fixed.items()}
        study.tell(trial, made.score(config))
    return made.result(fixed, "trials")


class TrialLedger:
    """Finished trials in a file: a line that says of which search, then a line for each trial.

    A line that was cut when its process was killed is dropped.
    """

    def __init__(self, path: str | os.PathLike | None, names: Sequence[str], task: Any = None) -> None:
        self.known: dict[str, float] = {}
        self._path = None if path is None else Path(path)
        head = json.loads(_key({"kind": _KIND, "hyper-parameters": sorted(names), "task": task}))
        _require_file(self._path)
        lines = self._lines()
        if not lines:
            self._write([head])
        elif lines[0] != head:
            raise UserError(
                f"{self._path} is the ledger of another search, with other hyper-parameters or of another task: name another ledger, or give "
                "what it was made with."
            )
        self.known = {_key(line["config"]): line["score"] for line in lines[1:]}

    def add(self, config: Mapping[str, Any], score: float) -> None:
        """Write a trial down, so that no kill can lose it."""
        self.known[_key(config)] = score
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_key({"config": config, "score": score}) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def _lines(self) -> list[Any]:
        path = self._path
        if path is None or not path.exists():
            return []
        whole, _, cut = read_text(path).rpartition("\n")
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if (lines or cut) and (not lines or lines[0].get("kind") != _KIND):
                raise ValueError("its first line names no search")
            for line in lines[1:]:
                _key(line["config"]), float(line["score"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is no ledger of trials ({error}): name another file.") from error
        if cut:
            self._write(lines)
        return lines

    def _write(self, lines: Sequence[Any]) -> None:
        if self._path is not None:
            with atomic_write(self._path) as partial:
                partial.write_text("".join(_key(line) + "\n" for line in lines), encoding="utf-8")


class _OutOfTrialsError(Exception):
    """A new trial would be one too many."""


class _Trials:
    """Scores of configurations, each evaluated once."""

    def __init__(self, evaluate: Trained, ledger: TrialLedger, most: int | None) -> None:
        self._evaluate, self._ledger, self._most = evaluate, ledger, most
        self.asked: dict[str, SearchTrial] = {}
        self._made = 0

    def know(self, config: Mapping[str, Any], score: float) -> None:
        """Take over a trial that was made before."""
        self.asked[_key(config)] = SearchTrial(config, score)

    def score(self, config: Mapping[str, Any]) -> float:
        """The score of a configuration."""
        key = _key(config)
        if key not in self.asked:
            if self._most is not None and len(self.asked) >= self._most:
                raise _OutOfTrialsError
            if key not in self._ledger.known:
                self._ledger.add(config, self._evaluated(config))
                self._made += 1
            self.know(config, self._ledger.known[key])
        return self.asked[key].score

    def _evaluated(self, config: Mapping[str, Any]) -> float:
        score = self._evaluate(dict(config))
        try:
            number = float(score)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"evaluate must give a finite number, got {score!r} for {_key(config)}: give training that fails a low score."
            )
        return number

    def result(self, grids: Grids, ended: Ended) -> SearchResult:
        """What was found."""
        best = max(self.asked.values(), key=lambda trial: trial.score)
        return SearchResult(
            best.config, best.score, tuple(self.asked.values()), grids, made=self._made, ended=ended
        )


class _Walk:
    """A configuration that moves along one grid at a time, and grids that may grow."""

    def __init__(
        self, trials: _Trials, grids: Grids, extend: Mapping[str, float | int], max_extend: int
    ) -> None:
        self.trials, self._grids, self._extend = trials, grids, extend
        self._room = dict.fromkeys(grids, max_extend)
        self._best: dict[str, Any] = {}

    def run(self, order: Sequence[str], start: Mapping[str, Any], max_passes: int) -> Ended:
        """Walk until nothing changes, or no pass or trial is left."""
        self._best = dict(start)
        try:
            self.trials.score(self._best)
            for _ in range(max_passes):
                moved = [self._moved(name) for name in order]
                if not any(moved):
                    return "settled"
        except _OutOfTrialsError:
            return "trials"
        return "passes"

    def _moved(self, name: str) -> bool:
        return self._climbed(name, +1) or self._climbed(name, -1)

    def _climbed(self, name: str, step: int) -> bool:
        """Step in one direction while the score rises; whether it ever did."""
        rose = False
        while (value := self._neighbour(name, step)) is not None:
            config = self._best | {name: value}
            if not self.trials.score(config) > self.trials.score(self._best):
                break
            self._best, rose = config, True
        return rose

    def _neighbour(self, name: str, step: int) -> Any | None:
        """The next value of a grid, added if it may grow; None at its end. A grid of whole numbers gets whole numbers alone."""
        grid = self._grids[name]
        place = grid.index(self._best[name]) + step
        if 0 <= place < len(grid):
            return grid[place]
        if name not in self._extend or not self._room[name]:
            return None
        value = grid[-1] * self._extend[name] if step > 0 else grid[0] / self._extend[name]
        if all(isinstance(other, int) for other in grid):
            if value != int(value):
                return None
            value = int(value)
        self._room[name] -= 1
        grid.insert(len(grid) if step > 0 else 0, value)
        return value


def _checked_grids(grids: Mapping[str, Sequence[Any]], start: Mapping[str, Any]) -> Grids:
    """Sorted grids that hold the start."""
    if not grids or not all(len(grid) for grid in grids.values()):
        raise UserError("each hyper-parameter needs a grid with at least one value.")
    if set(grids) != set(start):
        raise UserError(f"start must give {', '.join(grids)}, got {', '.join(start) or 'nothing'}.")
    try:
        found = {name: sorted(set(grid)) for name, grid in grids.items()}
    except TypeError as error:
        raise UserError(f"the values of a grid must be of one kind that can be sorted: {error}.") from error
    for name, value in start.items():
        if value not in found[name]:
            raise UserError(
                f"start must lie on the grids: {name} is {value!r}, and its grid is {', '.join(map(str, found[name]))}."
            )
    return found


def _require_extensible(name: str, factor: float | int, grids: Grids) -> None:
    if name not in grids:
        raise UserError(f"extend must name hyper-parameters of the grids ({', '.join(grids)}), got {name}.")
    if not factor > 1:
        raise UserError(f"the factor of {name} in extend must be above 1, got {factor}.")
    if not all(isinstance(value, int | float) and value > 0 for value in grids[name]):
        raise UserError(
            f"the grid of {name} must hold positive numbers to be extended by a factor, got {', '.join(map(str, grids[name]))}."
        )


def _require_file(path: str | os.PathLike | None) -> None:
    require_output_file(None if path is None else Path(path))


def _key(content: Any) -> str:
    """JSON of which equal contents have the same; numbers of numpy count as Python's."""
    return json.dumps(content, sort_keys=True, default=lambda value: value.item())
