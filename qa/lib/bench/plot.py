"""The ratios as bar charts (SVG, by pygal)."""

# What it is called in the chart, the metric's word, whether more is better.
_CHARTS = {"iops.svg": ("IOPS", "ratio", "more"), "cpu.svg": ("CPU of the target for an operation", "cpu", "less")}
_ROW_PX, _BAR_PX, _EDGE_PX = 14, 13, 130


def draw(folder, rows):
    """Writes one chart for IOPS and one for CPU: for each row a bar for each pair of sides. `rows` as in results.json; returns the paths."""
    import pygal  # here, so that what only counts needs no such package

    pairs = list(dict.fromkeys(pair for row in rows.values() for pair in row["pairs"]))
    if not pairs:
        return []
    names = list(reversed(rows))  # pygal draws from below
    paths = []
    for file, (title, word, better) in _CHARTS.items():
        chart = pygal.HorizontalBar(
            js=[],  # no script of another host
            title=f"{title}: median of the rounds' ratios ({better} is better)",
            height=_EDGE_PX + len(names) * (_ROW_PX + _BAR_PX * len(pairs)),
            width=1000,
            print_values=True,
            value_formatter=lambda value: "" if value is None else f"{value:.2f}",
            legend_at_bottom=True,
            truncate_label=-1,
            include_x_axis=True,
            style=pygal.style.CleanStyle,
        )
        chart.x_labels = names
        for pair in pairs:
            chart.add(pair, [rows[name]["pairs"].get(pair, {}).get(word, {}).get("median") for name in names])
        path = folder / file
        path.write_bytes(chart.render())
        paths.append(path)
    return paths
