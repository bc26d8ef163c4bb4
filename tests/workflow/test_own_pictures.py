"""The pictures of a finished run, after they were moved, edited, removed, added or sorted anew."""

from __future__ import annotations

import json
import shutil

import pytest

from zoo import runs
from zoo.errors import RunError
from zoo.reporter import Reporter
from zoo.workflow.own_pictures import reload_dataset


class Listener(Reporter):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def own(finished, photos, tmp_path):
    """A copy of the finished run and of its pictures; return (run folder, pictures)."""
    run, data = tmp_path / "runs" / finished[0].name, tmp_path / "photos"
    shutil.copytree(finished[0], run)
    shutil.copytree(photos, data)
    record = json.loads((run / "run.json").read_text())
    record["options"]["data"] = str(data)
    (run / "run.json").write_text(json.dumps(record))
    return run, data


def reloaded(folder, data=None):
    run, record = runs.load(folder)
    listener = Listener()
    return reload_dataset(run, record, data, listener), listener.said


def part_of(run, part):
    """Return "class/file" of each picture of a part."""
    return ["/".join(row["picture"].split("/")[-2:]) for row in runs.Run(run).pictures() if row["part"] == part]


def test_moved_pictures_are_named_with_the_command(zoo, own):
    run, data = own
    data.rename(data.with_name("moved"))
    ran = zoo("evaluate", run, "--part", "test")
    assert ran.code == 1 and f"were at {str(data)!r}" in ran.err and "zoo reads one of these" not in ran.err
    assert f"`zoo evaluate {run} --part test --data FOLDER`" in ran.err
    ran = zoo("export", run, "--fp16", "--exported", run.parent / "exported")
    assert ran.code == 1 and f"`zoo export {run} --fp16 --exported {run.parent / 'exported'} --data FOLDER`" in ran.err
    assert zoo("evaluate", run, "--data", data.with_name("moved")).code == 0


def test_a_folder_that_has_grown_keeps_the_split_of_the_run(zoo, own, make_photos):
    run, data = own
    before = reloaded(run)[0]
    make_photos(data.with_name("new"), 2, seed=5)
    shutil.move(data.with_name("new") / "discs" / "discs000.jpg", data / "discs" / "fresh.jpg")
    shutil.move(data.with_name("new") / "discs", data / "an extra class")
    after, said = reloaded(run)
    (line,) = [text for text in said if "added" in text]
    assert line.startswith(
        "2 pictures were added since the run, and left out: an extra class/discs001.jpg, discs/fresh"
    )
    assert after.digest == before.digest and after.source.classes == before.source.classes
    assert after.pixels.key == before.pixels.key
    assert {part: list(getattr(after.split, part)) for part in ("train", "val", "test")} == {
        part: list(getattr(before.split, part)) for part in ("train", "val", "test")
    }
    # With and without --data, the same pictures are evaluated.
    own_way, named = zoo("evaluate", run, "--json"), zoo("evaluate", run, "--data", data, "--json")
    assert own_way.code == named.code == 0 and json.loads(own_way.out) == json.loads(named.out)
    assert json.loads(own_way.out)["pictures"] == 12
    for ran in (own_way, named):
        assert "Left out: 2 that are not pictures of the run" in ran.err and "'an extra class'" in ran.err


def test_pictures_that_are_gone_edited_or_in_another_class_are_named(zoo, own, make_photos):
    run, data = own
    first, second, third = part_of(run, "test")[:3]
    (data / first).unlink()
    shutil.copyfile(data / third, data / second)
    moved = part_of(run, "train")[0]
    other = next(name for name in ("bars", "discs") if not moved.startswith(name))
    (data / moved).rename(data / other / "sorted.jpg")
    label = moved.partition("/")[0]
    changes = (
        f"of its 72 pictures, 1 is missing ({first}), 1 was edited ({second}), "
        f"1 has another class now ({moved}: {other!r}, was {label!r})"
    )
    for data_option in ((), ("--data", data)):
        ran = zoo("evaluate", run, *data_option, "--json")
        assert ran.code == 0 and f"have changed since {run.name} was trained: {changes}." in ran.err
        # The copy of the third picture counts as that picture.
        assert json.loads(ran.out)["pictures"] == 11
    with pytest.raises(RunError) as caught:
        reloaded(run)
    assert changes in str(caught.value) and "train again: `zoo finetune mobilenetv2_035" in str(caught.value)
    record = json.loads((run / "run.json").read_text())
    for program in ("zoo.exe", "__main__.py"):
        (run / "run.json").write_text(json.dumps({**record, "command": [program, *record["command"][1:]]}))
        with pytest.raises(RunError, match="train again: `zoo finetune mobilenetv2_035"):
            reloaded(run)
    with pytest.raises(RunError, match="are not the ones that"):
        make_photos(data.with_name("others"), 3, seed=9)
        reloaded(run, str(data.with_name("others")))


def test_a_folder_without_classes_is_answered_with_predict(zoo, own):
    run, data = own
    ran = zoo("evaluate", run, "--data", data / "discs")
    assert ran.code == 1 and f"`zoo predict {run} {data / 'discs'}`" in ran.err


def test_a_class_that_differs_in_blanks_or_case_is_named_with_its_likeness(zoo, own):
    run, data = own
    (data / "discs").rename(data / " Discs")
    ran = zoo("evaluate", run, "--data", data, "--part", "all", "--runs", run.parent / "none")
    assert ran.code == 1, ran.out
    assert "does not know ' Discs'. It knows 'bars', 'discs', 'noise'." in ran.err
    assert "But for case and blanks, ' Discs' is 'discs': rename the class." in ran.err
