"""A study whose tasks differ in one setting, with that setting as an axis.

At each value the seeds count that the study asks for: where other studies have more of them at one value, a difference
would be found there sooner than at the others.
"""

from collections.abc import Callable, Iterable

import pandas as pd

from ...study.presets import Study
from ...training.record import RunRecord
from .. import stats, survival
from ..words import NOT_RUN, text_table
from .compared import COMPARED, HOW_SOON, compared, how_soon, tested, too_few
from .runs import on_shared_seeds, study_runs


def solved_along(study: Study, records: Iterable[RunRecord], setting: str) -> pd.DataFrame:
    """Solved runs of each side at each value of a setting.

    Args:
        study: one whose tasks differ in that setting.
        records: run records.
        setting: a number, by its name in `RunConfig`.

    Returns:
        One row a value and side, also without runs: the setting, side, runs, solved; value, low and high (share of
        solved runs with Wilson's interval, NaN without runs).
    """
    rows = []
    for at, sides in _by_value(study, records, setting).items():
        for side, runs in sides.items():
            solved = int(runs["solved"].sum()) if len(runs) else 0
            share = stats.solved_share(solved, len(runs)) if len(runs) else stats.Interval(*3 * [float("nan")])
            rows.append({setting: at, "side": side, "runs": len(runs), "solved": solved, **share._asdict()})
    return pd.DataFrame(rows)


def escapes_along(study: Study, records: Iterable[RunRecord], setting: str) -> pd.DataFrame:
    """When each run of each side escaped, at each value of a setting.

    Args:
        study: one whose tasks differ in that setting.
        records: run records.
        setting: by its name in `RunConfig`.

    Returns:
        One row a run: the setting, side, seed, escape_step (NaN without an escape), steps.
    """
    columns = [setting, "side", "seed", "escape_step", "steps"]
    parts = [
        runs.assign(**{setting: at, "side": side})[columns]
        for at, sides in _by_value(study, records, setting).items()
        for side, runs in sides.items()
        if len(runs)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def beside(study: Study, records: Iterable[RunRecord], setting: str) -> pd.DataFrame:
    """Both sides of a study beside each other at each value of a setting, as text.

    Args:
        study: one of two sides whose tasks differ in that setting.
        records: run records.
        setting: by its name in `RunConfig`.

    Returns:
        A row a value: solved runs, a column a side, and the tests of `orthonar.report.tables.headline.comparison`; at
        most six columns.
    """
    rows = []
    for at, sides in _by_value(study, records, setting).items():
        row = {setting.replace("_", " "): f"{at:g}"}
        row |= {
            side: f"{runs['solved'].sum()} of {len(runs)}" if len(runs) else NOT_RUN for side, runs in sides.items()
        }
        first, second = sides.values()
        rows.append(row | (compared(first, second) if len(first) and len(second) else {}))
    columns = [setting.replace("_", " "), *study.sides, *(name for name in COMPARED if name not in ("solved", "pairs"))]
    return text_table(rows, columns, columns[:1])


def sooner(study: Study, records: Iterable[RunRecord], setting: str) -> pd.DataFrame:
    """How soon both sides of a study escape, beside each other at each value of a setting, as text.

    Args:
        study: one of two sides whose tasks differ in that setting.
        records: run records.
        setting: by its name in `RunConfig`.

    Returns:
        A row a value with `orthonar.report.tables.compared.HOW_SOON`, see
        `orthonar.report.tables.headline.escape_comparison`.
    """
    name, rows = setting.replace("_", " "), []
    for at, sides in _by_value(study, records, setting).items():
        first, second = sides.values()
        both = how_soon(first, second) if len(first) and len(second) else {"median": NOT_RUN}
        rows.append({name: f"{at:g}", **both})
    return text_table(rows, [name, *HOW_SOON], [name])


def against_the_first(study: Study, records: Iterable[RunRecord], setting: str) -> pd.DataFrame:
    """Each side at each value of a setting against itself at the first, as text.

    Args:
        study: one whose tasks differ in that setting.
        records: run records.
        setting: by its name in `RunConfig`.

    Returns:
        A row a side and further value with `orthonar.report.tables.compared.COMPARED`, see
        `orthonar.report.tables.headline.comparison`; of two numbers the first is always the first value's.
    """
    words, rows = setting.replace("_", " "), []
    start, *others = _by_value(study, records, setting).items()
    for side in study.sides:
        for at, sides in others:
            first, second = start[1][side], sides[side]
            both = compared(first, second) if len(first) and len(second) else {"solved": NOT_RUN}
            rows.append({"read": side, words: f"{at:g}", **both})
    return text_table(rows, ["read", words, *COMPARED], ["read", words])


def side_answer(study: Study, records: Iterable[RunRecord], setting: str, words: str) -> str:
    """At which values of a setting the second side solves more runs than the first, in a sentence.

    Judged are values at which each side has at least `orthonar.report.stats.LEAST_FOR_INTERVAL` runs; a difference is
    said to be there where the p-value of `orthonar.report.tables.compared.tested` is at most 0.05, by itself and by
    Holm's correction over the values.

    Args:
        study: one of two sides whose tasks differ in that setting.
        records: run records.
        setting: by its name in `RunConfig`.
        words: what the setting is called, in the singular.
    """
    return _where(study, records, setting, words, "solves more runs", _more_solved)


def sooner_answer(study: Study, records: Iterable[RunRecord], setting: str, words: str) -> str:
    """At which values of a setting the second side's runs escape sooner than the first's, in a sentence.

    As `side_answer`, by the log-rank test stratified by seed, `orthonar.report.survival.paired_logrank`.

    Args:
        study, records, setting, words: as of `side_answer`.
    """
    return _where(study, records, setting, words, "escapes sooner", _sooner)


def _more_solved(first: pd.DataFrame, second: pd.DataFrame) -> tuple[bool, bool, float, str]:
    test = tested(first, second)
    return test.more > 0, pd.concat([first, second])["solved"].nunique() > 1, test.p, test.name


def _sooner(first: pd.DataFrame, second: pd.DataFrame) -> tuple[bool, bool, float, str] | None:
    if len(stats.shared_seeds(first, second)[0]) < stats.LEAST_FOR_INTERVAL:
        return None
    ours, theirs = survival.sooner(first, second)
    return theirs > ours, ours + theirs > 0, survival.paired_logrank(first, second), "log-rank test stratified by seed"


def _where(
    study: Study,
    records: Iterable[RunRecord],
    setting: str,
    words: str,
    does: str,
    test: Callable[[pd.DataFrame, pd.DataFrame], tuple[bool, bool, float, str] | None],
) -> str:
    """At which values of a setting a claim of the second side against the first holds, in a sentence.

    Args:
        study, records, setting, words: as of `side_answer`.
        does: what the second side does.
        test: of the run tables of both: whether it does so at all, whether any runs differ in it, the p-value, the
            test's name; None where it has too few pairs.
    """
    judged, found_at, tests, same = [], [], [], []
    found = _by_value(study, records, setting)
    one, other = (side.title for side in study.sides.values())
    for at, (first, second) in ((at, sides.values()) for at, sides in found.items()):
        if min(len(first), len(second)) >= stats.LEAST_FOR_INTERVAL and (result := test(first, second)):
            it_does, differs, p, name = result
            judged.append(f"{at:g}")
            tests.append(name)
            found_at.append(p if it_does else 1.0)
            same += [] if differs else [f"{at:g}"]
    claim = f"{other} {does} than {one}"
    if len(judged) == 1 < len(found):
        return (
            f"Where along the {words} {claim} is not told yet: of {len(found)} values only "
            f"at {judged[0]} are {stats.LEAST_FOR_INTERVAL} runs of either there."
        )
    if not judged:
        return (
            f"Where {claim} is not told yet: at none of {len(found)} values of the {words} "
            f"are {stats.LEAST_FOR_INTERVAL} runs of either there."
        )
    of = f"Of {len(judged)} values of the {words} judged ({', '.join(judged)})"
    alone, together = ([at for at, p in zip(judged, ps) if stats.is_told(p)] for ps in (found_at, stats.holm(found_at)))
    where = f"only at {' and '.join(alone)}" if len(alone) < len(judged) else "at every one"
    corrected = f"; by Holm's correction over the values at {' and '.join(together) or 'none'}"
    by = f"{', '.join(dict.fromkeys(tests))}, each by itself"
    shown = f"{claim} {where} by more than chance explains ({by}{corrected})" if alone else ""
    alike = f"; at {', '.join(same)} nothing could be, since no pair differs" if same else ""
    return f"{of}, {shown or f'at none is it shown that {claim} ({by})'}{alike}."


def value_answers(study: Study, records: Iterable[RunRecord], setting: str, words: str) -> list[str]:
    """How many runs each side solves along a setting, and where that differs from the first value, a sentence a side.

    Tests are those of `orthonar.report.tables.compared.tested`, one a further value, none corrected. A side is told
    once it has runs at two values.

    Args:
        study: one whose tasks differ in that setting.
        records: run records.
        setting: by its name in `RunConfig`.
        words: what the setting is called, in the singular.
    """
    found, sentences = _by_value(study, records, setting), []
    for name, side in study.sides.items():
        mine = {at: sides[name] for at, sides in found.items() if len(sides[name])}
        if len(mine) < 2:
            continue
        shared = on_shared_seeds(list(mine.values()))
        if len(shared[0]) == min(map(len, mine.values())):  # what is counted is what is tested
            mine = dict(zip(mine, shared))
        (start, first), *others = mine.items()
        counts = ", ".join(f"{runs['solved'].sum()} of {len(runs)} at {at:g}" for at, runs in mine.items())
        tests = {at: tested(first, runs) for at, runs in others if not too_few(first, runs)}
        verdicts = []
        for which, sign in (("more", 1), ("fewer, by more", -1)):
            at = [f"{at:g}" for at, test in tests.items() if test.more == sign and stats.is_told(test.p)]
            verdicts += [f"{which} than chance explains at {', '.join(at)}"] if at else []
        used = ", ".join(dict.fromkeys(test.name for test in tests.values()))
        shown = f"{' and '.join(verdicts) or 'no difference is shown'} ({used})" if tests else "too few to tell"
        sentences.append(f"Along the {words} {side.title} solves {counts}; against {start:g} {shown}.")
    return sentences


def _by_value(study: Study, records: Iterable[RunRecord], setting: str) -> dict[float, dict[str, pd.DataFrame]]:
    """The run table of each side, at each value of a setting."""
    table = study_runs(study, records)
    found: dict[float, dict[str, pd.DataFrame]] = {}
    for task, side in study.cells():
        at = float(getattr(study.run(task, side, study.rates[0], 0), setting))
        runs = table[(table["side"] == side) & (table[setting] == at)] if len(table) else table
        found.setdefault(at, {})[side] = runs
    return found
