"""Learning curves: what is smoothed and how, what stands in the picture, where it is put, what `zoo plot` refuses."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil

import pytest
from history_rows import write_history
from PIL import Image

from zoo import runs
from zoo.errors import RunError, WriteError
from zoo.report import curves

RAMP = (0.1, 0.3, 0.5, 0.6, 0.7)


def make(name="run", phases=(("head", 2), ("top", 3)), best=4, **columns):
    """Curves whose accuracies rise and whose losses fall; columns may be given instead."""
    count = sum(epochs for _, epochs in phases)
    rise = [(i + 1) / (count + 1) for i in range(count)]
    fall = [2 - x for x in rise]
    values = {"accuracy": rise, "val_accuracy": [x / 2 for x in rise], "loss": fall, "val_loss": [x + 1 for x in fall]}
    values = {key: tuple(columns.get(key, value)) for key, value in values.items()}
    return curves.Curves(name, tuple(range(1, count + 1)), tuple(phases), values, best)


def drawn(panel, label):
    """(x, y) of every point of the one line of that label."""
    (line,) = [line for line in panel.lines if line.get_label() == label]
    return [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def looks(panel, label):
    (line,) = [line for line in panel.lines if line.get_label() == label]
    return line


def borders(panel):
    return [float(line.get_xdata()[0]) for line in panel.lines if line.get_linestyle() == ":"]


def boxes(figure):
    """Where the names of phases, the title and the panels stand, in pixels."""
    figure.draw_without_rendering()
    texts = [text.get_window_extent() for text in figure.axes[0].texts]
    title = [text.get_window_extent() for text in figure.texts]
    return texts, title, [panel.get_window_extent() for panel in figure.axes]


def record(**known):
    """A record as far as curves read it."""
    texts = dict.fromkeys(("id", "status", "created", "name"), "")
    lists = {name: [] for name in ("command", "classes", "plugins")}
    mappings = {
        name: {} for name in ("options", "architecture", "weights", "augmentation", "image", "data", "versions")
    }
    return runs.RunRecord(**{**texts, **lists, **mappings, **known})


def write_run(folder, history=5, *, architecture="net", augment="none", status="trained", **changes):
    """A run folder as far as `zoo plot` reads it."""
    run = runs.Run(folder)
    rows = [
        {"phase": "head" if i < 2 else "top", "epoch": i + 1, "learning_rate": 0.1, "seconds": 1.0}
        | {"loss": 2 - RAMP[i], "accuracy": RAMP[i], "val_loss": 3 - RAMP[i], "val_accuracy": RAMP[i] / 2}
        for i in range(history)
    ]
    phases = [{"name": "head", "epochs_run": min(2, history)}, {"name": "top", "epochs_run": max(0, history - 2)}]
    known = {"id": run.id, "status": status, "architecture": {"name": architecture}, "options": {"augment": augment}}
    written = record(**known, best_epoch=history, phases=[phase for phase in phases if phase["epochs_run"]])
    run.write_json("run.json", written.to_json() | changes)
    if history:
        write_history(run.folder, rows)
    return run


@pytest.fixture
def figures(monkeypatch):
    """The figures that a command draws."""
    made, original = [], curves.figure

    def spy(*arguments):
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(curves, "figure", spy)
    return made


# --- smoothing -------------------------------------------------------------------------------------------------------


def test_smoothing_by_hand():
    """Weights 0.64, 0.8 and 1, over their sum; the course's would be 1, 1.2 and 1.76."""
    assert curves.smooth([1, 2, 4], 0.8) == pytest.approx([1, (0.8 + 2) / 1.8, (0.64 + 1.6 + 4) / 2.44])
    assert curves.smooth([3, 1, 2], 0) == [3, 1, 2]
    assert curves.smooth([0.3] * 200, 0.99) == pytest.approx([0.3] * 200, rel=1e-12)
    assert curves.smooth([], 0.8) == []


def test_smoothing_starts_anew_with_each_phase():
    run = make(accuracy=(1, 2, 10, 20, 40))
    assert run.line("accuracy", 0.8) == [
        (1, 1),
        (2, pytest.approx(2.8 / 1.8)),
        (3, pytest.approx(10)),
        (4, pytest.approx(28 / 1.8)),
        (5, pytest.approx(62.4 / 2.44)),
    ]


def test_what_is_not_finite_is_left_out_and_weighs_nothing():
    run = make(phases=[("all", 5)], val_loss=(math.nan, 1, math.inf, 2, -math.inf))
    assert run.points("val_loss") == [(2, 1), (4, 2)]
    assert run.line("val_loss", 0.8) == [(2, 1), (4, pytest.approx(2.8 / 1.8))]
    nothing = curves.figure([make(val_loss=[math.nan] * 5)])
    shown = {line.get_label() for line in nothing.axes[1].lines if line.get_label().startswith("run")}
    assert shown == {"run training dots", "run training line"}
    _, _, panels = boxes(nothing)
    assert all(panel.height > 200 and panel.x0 < 100 for panel in panels)


# --- one run ---------------------------------------------------------------------------------------------------------


def test_one_run():
    run = make()
    figure = curves.figure([run], 0.8)
    assert [panel.get_ylabel() for panel in figure.axes] == ["accuracy", "loss"]
    for panel, metric in zip(figure.axes, ("accuracy", "loss"), strict=True):
        for column, label in ((metric, "training"), (f"val_{metric}", "validation")):
            assert drawn(panel, f"run {label} dots") == list(zip(run.epochs, run.values[column], strict=True))
            assert drawn(panel, f"run {label} line") == run.line(column, 0.8) != run.points(column)
            assert looks(panel, f"run {label} dots").get_linestyle() == "None"
        assert drawn(panel, "run kept") == [(4, run.values[f"val_{metric}"][3])]
        assert borders(panel) == [2.5]
        training, validation = (looks(panel, f"run {label} line") for label in ("training", "validation"))
        assert training.get_color() != validation.get_color()
        assert (training.get_linestyle(), validation.get_linestyle()) == ("--", "-")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation", "kept: epoch 4"]
    assert [(t.get_text(), t.get_position()[0], t.get_rotation()) for t in figure.axes[0].texts] == [
        ("head", 1.5, 0),
        ("top", 4, 0),
    ]


@pytest.mark.parametrize("phases", [[("a", 1)], [("a", 2)], [("head", 2), ("top", 98)], [("a", 100)], [("a", 1000)]])
def test_epochs_are_whole_numbers_and_nothing_hides_the_data(phases):
    figure = curves.figure([make("x" * 40, phases, best=1)])
    texts, title, panels = boxes(figure)
    left, right = figure.axes[1].get_xlim()
    ticks = [tick for tick in figure.axes[1].get_xticks() if left <= tick <= right]
    assert ticks and all(tick == int(tick) >= 1 for tick in ticks) and len(ticks) <= 25
    legend = figure.legends[0].get_window_extent()
    for box in (*texts, *title, legend):
        assert not any(box.overlaps(panel) for panel in panels)
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
    assert all(panel.height > 200 for panel in panels)


@pytest.mark.parametrize(
    ("phases", "rotation", "all_named"),
    [
        ([(f"p{i}", 1) for i in range(14)], 0, True),
        ([(f"unfreeze_block_{i}", 1) for i in range(14)], 90, True),
        ([(f"a_long_name_that_a_plugin_gave_{i}", 1 + i % 3) for i in range(90)], 90, False),
    ],
)
def test_names_of_many_phases_do_not_overlap(phases, rotation, all_named):
    figure = curves.figure([make(phases=phases, best=1)])
    texts, title, _ = boxes(figure)
    assert {text.get_rotation() for text in figure.axes[0].texts} == {rotation}
    assert (len(texts) == len(phases)) is all_named and len(texts) >= 14
    assert not any(a.overlaps(b) for a, b in itertools.combinations([*texts, *title], 2))
    # A border is marked even where there is no room for its name.
    assert len(borders(figure.axes[0])) == len(borders(figure.axes[1])) == len(phases) - 1
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert max(map(len, shown)) <= 25 and len(set(shown)) == len(shown)


def test_a_bad_epoch_does_not_press_the_others_flat():
    assert curves.figure([make()]).axes[1].get_yscale() == "linear"
    bad = curves.figure([make(val_loss=(2, 1, 4000, 1, 1))]).axes[1]
    assert bad.get_yscale() == "log" and bad.get_ylabel() == "loss (log scale)"
    assert curves.figure([make(loss=(2, 0, 4000, 1, 1))]).axes[1].get_yscale() == "linear"


def test_nearly_equal_values_are_written_in_full():
    """An offset (+2.3025) would stand among the names of phases."""
    flat = [2.3025 + i * 1e-7 for i in range(5)]
    figure = curves.figure([make(accuracy=flat, val_accuracy=flat, loss=flat, val_loss=flat)])
    figure.draw_without_rendering()
    assert {panel.yaxis.get_offset_text().get_text() for panel in figure.axes} == {""}


def test_names_are_no_mathematics(tmp_path):
    """To matplotlib a dollar sign begins a formula."""
    phases = (("$a_", 1), (r"$\b", 1))
    curves.draw([make(r"$\x$", phases, 1)], tmp_path / "one.png")
    curves.draw([make(r"$\x$", phases, 1), make("$_", phases, 1)], tmp_path / "two.png")
    assert len(list(tmp_path.iterdir())) == 2


# --- several runs ----------------------------------------------------------------------------------------------------


def test_several_runs_lie_over_one_another():
    several = [make("one", [("a", 3)], 2), make("two", [("a", 2), ("b", 4)], 6), make("three", [("a", 1)], 1)]
    figure = curves.figure(several)
    for panel, metric in zip(figure.axes, ("accuracy", "loss"), strict=True):
        colours = set()
        for run in several:
            training, validation = (looks(panel, f"{run.name} {label} line") for label in ("training", "validation"))
            assert training.get_color() == validation.get_color()
            assert (training.get_linestyle(), validation.get_linestyle()) == ("--", "-")
            assert training.get_alpha() < validation.get_alpha() and training.get_linewidth() < 1.8
            colours.add(validation.get_color())
            assert drawn(panel, f"{run.name} validation line") == run.line(f"val_{metric}", 0.8)
            assert [x for x, _ in drawn(panel, f"{run.name} kept")] == [run.best_epoch]
        assert len(colours) == 3
        assert borders(panel) == [] and list(panel.texts) == []
        # A line of one point cannot be seen; of the others, training's dots are left out.
        assert [x for x in panel.lines if "training dots" in x.get_label()] == [looks(panel, "three training dots")]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["one", "two", "three", "training", "validation", "epoch that was kept"]
    assert figure.axes[1].get_xlim() == (0.5, 6.5)


def test_many_runs_differ_in_colour_or_marks_and_leave_the_panels_their_room():
    several = [make(f"20260101T120000Z-mobilenetv2_035-{i:06}", [("a", 9)], 1) for i in range(28)]
    figure = curves.figure(several)
    lines = [looks(figure.axes[0], f"{run.name} validation line") for run in several]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 28
    _, _, panels = boxes(figure)
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.width and not any(legend.overlaps(panel) for panel in panels)
    assert all(panel.height > 200 for panel in panels)


def test_the_shortest_names_that_tell_runs_apart(tmp_path):
    def names(*given):
        found = [
            (runs.Run(tmp_path / run), record(architecture={"name": net}, options={"augment": policy}))
            for run, net, policy in given
        ]
        return curves.names(found)

    assert names(("1-a", "a", "none")) == ["1-a"]
    assert names(("1-a", "a", "none"), ("2-b", "b", "none")) == ["a", "b"]
    assert names(("1", "a", "none"), ("2", "a", "light")) == ["a, no augmentation", "a, light augmentation"]
    assert names(("1", "a", "light"), ("2", "a", "light")) == ["1", "2"]
    assert names(("1", "a", "light"), ("2", "a", f"light:shift=0.{'1' * 90}")) == ["1", "2"]
    assert names(("1", "a", "none"), ("copy/1", "a", "none")) == ["1 (1)", "1 (2)"]


# --- run folders -----------------------------------------------------------------------------------------------------


def test_phases_of_one_name_are_told_apart_by_the_record(tmp_path):
    run = write_run(tmp_path / "run")
    twice = record(phases=[{"name": "x", "epochs_run": 1}, {"name": "x", "epochs_run": 4}], best_epoch=3)
    assert curves.of_run(run, twice, "").phases == (("x", 1), ("x", 4))
    read = curves.of_run(run, record(), "name")
    assert read.phases == (("head", 2), ("top", 3)) and read.best_epoch is None
    assert read.epochs == (1, 2, 3, 4, 5) and read.values["accuracy"] == RAMP and read.name == "name"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", ""])
def test_a_history_with_holes(tmp_path, value):
    run = write_run(tmp_path / "run")
    path = run.folder / "history.csv"
    path.write_text(path.read_text().replace("0.5,", f"{value},", 1))
    points = curves.of_run(run, record(), "").points("accuracy")
    assert points == [(1, 0.1), (2, 0.3), (4, 0.6), (5, 0.7)]


@pytest.mark.parametrize("content", ["phase,epoch\nx,one\n", "epoch\n1\n", "phase,epoch,loss\nx,1,low\n", "\xff\n\xff"])
def test_a_damaged_history(tmp_path, content):
    run = write_run(tmp_path / "run")
    (run.folder / "history.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match=r"history\.csv' is damaged"):
        curves.of_run(run, record(), "")


def test_the_picture_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "curves.png"
    curves.draw([make()], path)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (1080, 780))
    before = path.read_bytes()

    class Full:
        def savefig(self, path, **options):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(curves, "figure", lambda *arguments: Full())
    with pytest.raises(WriteError, match=r"curves\.png' cannot be written: No space left"):
        curves.draw([make()], path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_finished_run_has_its_curves_and_its_report_shows_them(finished):
    run, _, _ = finished
    with Image.open(run / "curves.png") as image:
        assert image.size == (1080, 780)
        # White paper, and the two colours on it.
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**20)}
        assert {(255, 255, 255), (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours
    page = (run / "report.html").read_text()
    # The page has charts of its own, with a ring around the epoch that was kept.
    assert (
        page.count('<svg class="chart" data-chart="accuracy"')
        == page.count('<svg class="chart" data-chart="loss"')
        == 1
    )
    assert page.count('<circle class="ring"') == 2 and "curves.png" not in page
    assert f'<span data-figure="best_epoch">{json.loads((run / "run.json").read_text())["best_epoch"]}</span>' in page


def test_plot_draws_a_run_again_with_its_best_epoch_marked(finished, zoo, tmp_path, figures):
    run, _, _ = finished
    copy = tmp_path / "runs" / run.name
    shutil.copytree(run, copy)
    (copy / "curves.png").unlink()
    ran = zoo("plot", run.name, "--runs", tmp_path / "runs", "--smooth", 0)
    assert (ran.code, ran.err) == (0, "") and ran.out == f"Curves     {copy / 'curves.png'}\n"
    with Image.open(copy / "curves.png") as image:
        assert image.size == (1080, 780)
    with (run / "history.csv").open() as stream:
        history = [
            {key: float(row[key]) for key in ("epoch", "val_loss", "val_accuracy")} for row in csv.DictReader(stream)
        ]
    best = min(history, key=lambda row: row["val_loss"])
    (figure,) = figures
    assert drawn(figure.axes[0], f"{run.name} kept") == [(best["epoch"], best["val_accuracy"])]
    assert drawn(figure.axes[1], f"{run.name} kept") == [(best["epoch"], best["val_loss"])]
    line = [y for _, y in drawn(figure.axes[1], f"{run.name} validation line")]
    assert line == [row["val_loss"] for row in history] and len(line) == 25


def test_plot_several(zoo, tmp_path, monkeypatch, figures):
    for name, augment in (("1-net", "none"), ("2-net", "light")):
        write_run(tmp_path / "runs" / name, augment=augment)
    monkeypatch.chdir(tmp_path)
    ran = zoo("plot", "1-net", "runs/2-net", tmp_path / "runs" / "1-net")
    assert (ran.code, ran.out) == (0, "Curves     curves.png\n")
    assert (tmp_path / "curves.png").is_file() and not list((tmp_path / "runs").rglob("*.png"))
    names = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert names[:3] == ["net, no augmentation", "net, light augmentation", "training"]
    ran = zoo("plot", "1-net", "2-net", "--output", "deep/new.PNG", "--smooth", 0.5)
    assert (ran.code, ran.out) == (0, "Curves     deep/new.PNG\n") and (tmp_path / "deep" / "new.PNG").is_file()
    assert drawn(figures[1].axes[0], "net, light augmentation training line")[1] == (
        2,
        pytest.approx((0.05 + 0.3) / 1.5),
    )


def test_plot_several_never_replaces_a_runs_own_picture_unasked(zoo, tmp_path, monkeypatch):
    folders = [write_run(tmp_path / name).folder for name in ("one", "two")]
    monkeypatch.chdir(folders[0])
    ran = zoo("plot", ".", folders[1])
    assert ran.code == 2 and "--output" in ran.err and not (folders[0] / "curves.png").exists()


@pytest.mark.parametrize("status", ["running", "interrupted", "failed: MemoryError: "])
def test_plot_a_run_that_has_no_history(zoo, tmp_path, status):
    write_run(tmp_path / "good")
    write_run(tmp_path / "bad", history=0, status=status)
    ran = zoo("plot", "good", "bad", "--runs", tmp_path, "--output", tmp_path / "new.png")
    assert ran.code == 2 and "the run 'bad' has no epochs to draw" in ran.err and repr(status) in ran.err
    assert not (tmp_path / "new.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nett"], 2, "there is no run 'nett'. Did you mean net?"),
        (["x" * 5000], 2, "Runs in "),
        (["net", "--output", "net.jpg"], 2, "--output must end in .png. Received: 'net.jpg'"),
        (["net", "--smooth", "1"], 2, "0<=x<=0.99"),
        (["net", "--smooth", "-0.1"], 2, "0<=x<=0.99"),
        (["net", "--smooth", "nan"], 2, "Received: nan"),
        ([], 2, "Missing argument"),
        (["old"], 1, "does not say which schema"),
        (["net", "--output", "file/new.png"], 1, "new.png' cannot be written"),
        ([f"many{i}" for i in range(29)], 2, "at most 28 runs"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_plot_refuses(zoo, tmp_path, monkeypatch, arguments, code, said):
    write_run(tmp_path / "runs" / "net")
    write_run(tmp_path / "runs" / "old", schema=0)
    for name in arguments:
        if name.startswith("many"):
            write_run(tmp_path / "runs" / name)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    ran = zoo("plot", *arguments)
    assert ran.code == code and said in ran.err and "Traceback" not in ran.err
    assert not list(tmp_path.rglob("*.png"))


def test_a_picture_that_cannot_be_drawn_costs_a_warning_only(zoo, photos, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no fonts")

    with monkeypatch.context() as patch:
        patch.setattr(curves, "figure", broken)
        ran = zoo(
            *("finetune", "mnist_convnet", "--data", photos, "--size", 32, "--epochs", 1, "--batch-size", 16),
            *("--no-export", "--allow-chance", "--runs", tmp_path / "runs"),
        )
    assert ran.code == 0, ran.err
    (run,) = (tmp_path / "runs").iterdir()
    assert "curves.png was not drawn: RuntimeError: no fonts" in ran.err and f"`zoo plot {run}`" in ran.err
    assert json.loads((run / "run.json").read_text())["status"] == "trained" and (run / "model.keras").is_file()
    assert not (run / "curves.png").exists()
    assert zoo("plot", run).code == 0 and (run / "curves.png").is_file()
