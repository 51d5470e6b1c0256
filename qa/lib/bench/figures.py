"""From raw measurements to figures: medians, ratios, targets. Knows nothing of how they were taken."""

import dataclasses
import itertools
import statistics

# What one measurement has, with the figure's unit in its name. None where a side has no such thing (OSDs without Ceph).
METRICS = ("iops", "mb_per_s", "p50_us", "p99_us", "cpu_us", "fio_cpu_us", "osd_cpu_us", "iops_per_core", "steal_percent", "other_percent")
# What is compared between two sides: the word of the output -> the metric.
COMPARED = {"ratio": "iops", "cpu": "cpu_us"}


@dataclasses.dataclass(frozen=True)
class Goal:
    """A target: the ratio of two sides of a row (by IOPS: `ratio`, by CPU for an operation: `cpu`) is at least, or at most, so much."""

    row: str
    what: str
    pair: str
    most: bool
    bound: float

    def met(self, value):
        """Whether a ratio meets it."""
        return value <= self.bound if self.most else value >= self.bound

    def __str__(self):
        return f"{self.what} {self.row} {self.pair} {'<=' if self.most else '>='} {self.bound}"


GOALS = (
    Goal("null-4k-randread-qd32", "cpu", "lusd/tgt", True, 0.5),
    Goal("null-4k-randread-qd32", "ratio", "lusd/tgt", False, 1.0),
    Goal("ram-256k-read-qd8", "ratio", "lusd/tgt", False, 1.5),
    Goal("rbd-4k-randread-qd32", "ratio", "lusd/tgt", False, 1.5),
    Goal("rbd-4k-randread-qd32", "ratio", "lusd/librbd", False, 0.7),
    Goal("rbd-256k-read-qd8", "ratio", "lusd/librbd", False, 0.8),
)


def order(sides, number):
    """The order in which round `number` (from 0) measures the sides: each round begins with another one."""
    first = number % len(sides)
    return [*sides[first:], *sides[:first]]


def summary(rounds):
    """Of the measurements of one side, by metric: least, median and greatest; None for a metric that it has not."""
    result = {}
    for metric in METRICS:
        values = [measured[metric] for measured in rounds]
        result[metric] = None if None in values else {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return result


def ratios(by_side):
    """For each pair of sides, in their order: the median of the rounds' ratios, and these. `by_side`: name -> measurements, one a round, all alike in number."""
    counts = {len(rounds) for rounds in by_side.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError("a ratio needs every round of every side")
    result = {}
    for new, base in itertools.combinations(by_side, 2):
        both = list(zip(by_side[new], by_side[base], strict=True))
        pair = result[f"{new}/{base}"] = {}
        for word, metric in COMPARED.items():
            rounds = [mine[metric] / theirs[metric] for mine, theirs in both]
            pair[word] = {"median": statistics.median(rounds), "rounds": rounds}
    return result


def judge(rows):
    """Every goal with what was measured: `{"goal", "value", "met"}`; value and met are None where a side or the row was not measured."""
    result = []
    for goal in GOALS:
        pair = rows.get(goal.row, {}).get("pairs", {}).get(goal.pair)
        value = pair[goal.what]["median"] if pair else None
        result.append({"goal": str(goal), "value": value, "met": None if value is None else goal.met(value)})
    return result
