"""Grids of parameters, thinned out: every value of every axis in a few combinations instead of in all."""

import itertools
import random

import pytest


def some_of(times: int, **axes):
    """Parametrize over some combinations of the axes, each value of each axis in about `times` or more of them.

    Args:
        times: combinations that a value of the longest axis is in.
        axes: values by the name of the argument; always the same combinations for the same axes.
    """
    axes = {name: list(values) for name, values in axes.items()}
    rows, pick = times * max(map(len, axes.values())), random.Random(0)
    whole = list(itertools.product(*axes.values()))
    if len(whole) > rows:
        columns = []
        for values in axes.values():
            column = []
            while len(column) < rows:
                column += pick.sample(values, len(values))
            columns.append(column[:rows])
        whole = [row for i, row in enumerate(zip(*columns)) if row not in list(zip(*columns))[:i]]
    return pytest.mark.parametrize(tuple(axes), whole, ids=lambda value: str(value))
