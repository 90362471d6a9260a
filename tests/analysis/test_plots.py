from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from analysis import plots, run
from analysis.capacity import analyse
from analysis.latency import latencies
from analysis.slo import parse_slo


@pytest.fixture(scope="module")
def sweep_a(sweep_run):
    recorded = run.read(sweep_run("sweep_A"))
    return recorded, analyse(recorded, parse_slo("ttft_p95=2s,e2e_p95=8s"))


def example_timeline() -> Figure:
    times = np.arange(0, 900, 5.0)
    load = pd.DataFrame({"time_s": times, "offered_rps": 5.0, "served_rps": 4.0})
    seen = pd.DataFrame({"time_s": times, "waiting": times / 100, "kv_usage": 0.5})
    replicas = pd.DataFrame({"time_s": [0, 300, 600], "desired": [1, 2, 2], "ready": [1, 1, np.nan]})
    return plots.timeline(
        load=load, signals=seen, replicas=replicas, target={"waiting": 5}, breaches=[(300, 400)]
    )


def example_pareto() -> Figure:
    table = pd.DataFrame(
        {
            "name": ["a", "b", "c"],
            "kind": ["queue", "queue", "KV"],
            "cost": [1, 2, 3],
            "attainment": [0.9, 0.99, 0.98],
        }
    )
    return plots.pareto(table, chosen="b", asked=0.95, annotate=["a", "c"])


def test_names_of_points_with_equal_costs_cover_neither_each_other_nor_a_marker() -> None:
    rows = [
        ("recommended", 3.5, 0.958),
        ("current", 3.5, 0.952),
        ("tutorial", 3.5, 0.945),
        ("fleet", 3.6, 0.951),
    ]
    table = pd.DataFrame(rows, columns=["name", "cost", "attainment"]).assign(kind="several seeds")
    tried = pd.DataFrame({"name": "", "cost": [3.5, 4.5], "attainment": [0.8, 0.99], "kind": "running"})
    names = [name for name, *_ in rows]
    figure = plots.pareto(pd.concat([table, tried]), chosen="recommended", asked=0.95, annotate=names)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    words = [Text.get_window_extent(text) for text in axis.texts]
    markers = axis.transData.transform(np.column_stack([table["cost"], 100 * table["attainment"]]))
    for k, extent in enumerate(words):
        assert not extent.count_overlaps(words[:k])
        assert not any(extent.contains(x, y) for x, y in markers)
        assert axis.bbox.x0 <= extent.x0
        assert extent.x1 <= axis.bbox.x1


def test_a_series_that_the_first_panel_lacks_is_in_the_legend() -> None:
    both = {"offered\n(requests/s)": {"a": ([1, 2], [1, 2])}, "waiting": {"b": ([1, 2], [3, 4])}}
    legend = plots.panels(both, "time (s)", "Two runs").axes[0].get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"a", "b"}


def example_replay() -> Figure:
    table = pd.DataFrame(
        {"quantity": "TTFT p95 (s)", "rate_rps": [1, 2], "measured": [1, 2], "predicted": [1, 3]}
    )
    return plots.replay_error(pd.concat([table, table.assign(quantity="throughput (requests/s)")]))


def example_replicas_only() -> Figure:
    replicas = pd.DataFrame({"time_s": [0, 300], "desired": [1, 2], "ready": [1, 1]})
    return plots.timeline(replicas=replicas, show=("waiting", "running", "kv_usage"))


def example_panels() -> Figure:
    series = {"first": ([1, 2], [0.1, 9], [0.05, -np.inf], [0.2, np.inf]), "second": ([1, 2], [1, 2])}
    labels = ("TTFT p50 (s)", "waiting (requests)")
    return plots.panels(dict.fromkeys(labels, series), "offered rate (requests/s)", "Two runs", labels[:1])


EXAMPLES = {
    "timeline": example_timeline,
    "pareto": example_pareto,
    "replay": example_replay,
    "replicas only": example_replicas_only,
    "panels": example_panels,
    "phases": lambda: plots.phases(
        [("first", {"decision": 15, "weights": 700}), ("second", {"decision": np.nan})]
    ),
    "bars": lambda: plots.bars(
        pd.DataFrame({"ours": [1.0], "default": [np.nan]}, index=["day"]), "hours", "Cost"
    ),
    "curves": lambda: plots.curves({"a": ([1, 2], [1, 2], [0, 1], [2, 3])}, "month", "cost (USD)", "A year"),
}


@pytest.mark.parametrize("make", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_figures_name_their_axes_and_stay_inside_the_picture(make, tmp_path: Path) -> None:
    check(make(), tmp_path)


def test_the_figures_of_a_run(sweep_a, tmp_path: Path) -> None:
    recorded, found = sweep_a
    check(plots.capacity_curve(found), tmp_path)
    check(plots.signal_against_load(found.points, found), tmp_path)
    check(plots.latency_over_time(latencies(recorded.requests), found.slo.bounds_s()), tmp_path)


def check(figure: Figure, folder: Path) -> None:
    image = imread(plots.save(figure, folder / "figure.png"))
    assert image.shape[1] == pytest.approx(1200, abs=2)
    visible = [axis for axis in figure.axes if axis.get_visible()]
    assert any(axis.get_xlabel() for axis in visible)
    assert all(axis.get_ylabel() or len(axis.get_yticklabels()) for axis in visible)
    renderer = figure.canvas.get_renderer()
    panels = [axis.get_window_extent(renderer) for axis in visible]
    for axis, panel in zip(visible, panels, strict=True):
        if legend := axis.get_legend():
            box = legend.get_window_extent(renderer)
            assert box.x1 <= figure.bbox.x1 + 1, "the legend runs out of the picture"
            assert not any(
                box.y0 < p.y1 - 2 and box.y1 > p.y0 + 2 and p is not panel
                for p in panels
                if p.x0 < box.x1 and p.x1 > box.x0
            )
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (edge[:, :3] > 0.98).all(), "something is cut at the edge"


def test_line_colours_differ_in_grey_or_by_style() -> None:
    def grey(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    for a in plots.SERIES:
        for b in plots.SERIES:
            if a is not b:
                assert a["linestyle"] != b["linestyle"]
                assert a["marker"] != b["marker"]
    assert len({round(grey(s["color"]), 2) for s in plots.SERIES}) == len(plots.SERIES)


def test_the_same_data_give_the_same_svg(tmp_path: Path) -> None:
    first, second = (plots.save(example_pareto(), tmp_path / f"{k}.svg").read_bytes() for k in (1, 2))
    assert first == second


def test_long_names_of_kinds_leave_the_panel_its_room(recwarn) -> None:
    """Three columns of such a legend are wider than the figure: the panel shrank to nothing, with a warning on the terminal."""
    kinds = ["gateway_queue+gateway_saturation", "gateway_queue+gateway_in_flight", "gateway_in_flight", "KV"]
    rows = [(f"{kind} {k}", kind, 10.0 + k, 0.9 + k / 100) for kind in kinds for k in range(3)]
    figure = plots.pareto(pd.DataFrame(rows, columns=["name", "kind", "cost", "attainment"]), asked=0.95)
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.5
    assert not recwarn.list
