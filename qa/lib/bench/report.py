"""What a run says: lines while it runs, the table, results.json, the ratio lines."""

import json
import statistics

import qa

from bench import figures

SCHEMA = 1
NOISE_PERCENT_MAX = 30  # of one core; the monitors, the manager, this program and fio's start are in it
_COLUMNS = (
    ("IOPS median [min..max]", 32),
    ("MB/s", 8),
    ("p50 us", 9),
    ("p99 us", 9),
    ("CPU us", 8),
    ("fio us", 8),
    ("OSD us", 8),
    ("IOPS/core", 10),
    ("steal %", 8),
    ("other %", 8),
)


class Progress:
    """One line for each measurement, with what remains. Times are in seconds."""

    def __init__(self, total):
        self.total = total
        self.done = 0
        self.spent = 0.0

    def add(self, row, number, rounds, side, measured, took):
        """One measurement is done; `took` is all of its time."""
        self.done += 1
        self.spent += took
        left = round(self.spent / self.done * (self.total - self.done))
        qa.say(
            f"{self.done:>3}/{self.total} {row.name:<24} round {number + 1}/{rounds} {side:<7} {measured['iops']:>9,.0f} IOPS "
            f"{measured['cpu_us']:>7.2f} us CPU  {left // 60}:{left % 60:02} left"
        )


def table(rows):
    """The figures of all rows and sides, as text; `rows` as in results.json."""
    lines = [f"{'':<9}" + "".join(f"{title:>{width}}" for title, width in _COLUMNS) + "  threads"]
    for name, row in rows.items():
        lines += [f"{name}  ({len(row['order'][0])} sides, {len(row['order'])} rounds)"]
        for side, data in row["sides"].items():
            threads = data["rounds"][-1]["threads"]
            shards = f", {threads['lus-shard']} shards" if "lus-shard" in threads else ""
            lines += [f"  {side:<7}" + "".join(f"{cell:>{width}}" for cell, (_, width) in zip(_cells(data["summary"]), _COLUMNS)) + f"  {sum(threads.values())}{shards}"]
    return "\n".join(lines)


def _cells(summary):
    def median(metric, digits=0):
        return "-" if summary[metric] is None else f"{summary[metric]['median']:,.{digits}f}"

    iops = summary["iops"]
    return [
        f"{iops['median']:,.0f} [{iops['min']:,.0f}..{iops['max']:,.0f}]",
        median("mb_per_s"),
        median("p50_us"),
        median("p99_us"),
        median("cpu_us", 2),
        median("fio_cpu_us", 2),
        median("osd_cpu_us", 1),
        median("iops_per_core"),
        median("steal_percent", 1),
        median("other_percent", 1),
    ]


def noise_line(rows):
    """How much of the machine others had while this was measured; a warning where that was too much. In percent of one core."""
    rounds = [measured for row in rows.values() for data in row["sides"].values() for measured in data["rounds"]]
    noise = statistics.median(measured["steal_percent"] + measured["other_percent"] for measured in rounds)
    verdict = "too much: the IOPS of this run say little, its CPU figures more" if noise > NOISE_PERCENT_MAX else "a quiet machine"
    return f"noise: others and the hypervisor had {noise:.0f} % of one core in the median ({verdict})"


def ratio_lines(rows):
    """`ratio ROW A/B 1.31` and `cpu ROW A/B 0.42` for every row and pair of sides; also for scripts."""
    found = [(word, row, pair, ratio["median"]) for row, data in rows.items() for pair, both in data["pairs"].items() for word, ratio in both.items()]
    return "\n".join(f"{word} {row} {pair} {median:.2f}" for word, row, pair, median in sorted(found, key=lambda item: item[0] == "cpu"))


def goal_lines(judged):
    """Each target of the project with met, missed, or that it was not measured."""
    words = {True: "met", False: "missed", None: "not measured"}
    return "\n".join(f"target {item['goal']}: {'' if item['value'] is None else format(item['value'], '.2f') + ' '}{words[item['met']]}" for item in judged)


def row_result(sides, order):
    """One row for results.json. `sides`: name -> measurements, one a round; `order`: the sides' order in each round."""
    return {
        "order": order,
        "sides": {name: {"rounds": rounds, "summary": figures.summary(rounds)} for name, rounds in sides.items()},
        "pairs": figures.ratios(sides),
    }


def write(path, about, rows, complete):
    """Writes results.json; `complete` is false until the last row is in it."""
    text = json.dumps({"schema": SCHEMA, "complete": complete, **about, "rows": rows, "targets": figures.judge(rows)}, indent=1)
    fresh = path.with_suffix(".new")
    fresh.write_text(text + "\n")
    fresh.rename(path)
