"""JSON, Parquet, Arrow and Feather: lists of paths, and tables that contain the pictures."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from zoo.data.pixels import digests_of, load_pixels
from zoo.data.reading import ReadingOptions
from zoo.data.sources import open_source
from zoo.errors import DataError, DataLayout
from zoo_runtime import ImageSpec

PATHS = [f"pictures/{i:02d}.png" for i in range(24)]


def counts(source) -> dict[str, int]:
    return dict(Counter(source.class_of(p) for p in source.pictures))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.jsonl",
            "\n".join(json.dumps({"path": path, "label": "ab"[i % 2]}) for i, path in enumerate(PATHS)) + "\n\n",
        ),
        ("a.ndjson", "\n".join(json.dumps({"label": "ab"[i % 2], "path": path}) for i, path in enumerate(PATHS))),
        ("a.json", json.dumps([{"path": path, "label": "ab"[i % 2]} for i, path in enumerate(PATHS)])),
        ("a.json", json.dumps({path: "ab"[i % 2] for i, path in enumerate(PATHS)})),
        ("a.json", json.dumps({"a": PATHS[::2], "b": PATHS[1::2]})),
    ],
)
def test_json(write_list, name, text):
    source = open_source(write_list(text, name=name))
    assert counts(source) == {"a": 12, "b": 12} and source.remarks == ()
    assert sorted(p.name for p in source.pictures) == PATHS and all(p.content.is_file() for p in source.pictures)


def test_json_with_several_labels(write_list):
    rows = [json.dumps({"file_name": path, "labels": ["a", "b"][: i % 3]}) for i, path in enumerate(PATHS)]
    source = open_source(write_list("\n".join(rows), name="metadata.jsonl"))
    assert counts(source) == {"": 8, "a": 8, "a;b": 8} and source.multilabel


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"path": "x", "label": 1}\n{"path": \n', "line 2: this is not valid JSON"),
        ("a.jsonl", "[1, 2]\n", r"line 1: each line must be an object.*Received: '\[1, 2\]'"),
        ("a.json", '{"images": [{"id": 1}], "annotations": []}', "COCO"),
        ("a.json", "[", "not valid JSON"),
        ("a.json", "[1]", "must hold a list of objects"),
        ("a.jsonl", '{"label": 1}\n{"path": "x", "label": 1}\n', "line 1: the column 'path' must not be empty"),
    ],
)
def test_json_that_zoo_refuses(write_list, name, text, message):
    with pytest.raises(DataLayout, match=message):
        open_source(write_list(text, name=name))


def test_without_pyarrow_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataLayout, match="pip install pyarrow"):
        open_source(str(tmp_path / "a.parquet"))


# --- through pyarrow -------------------------------------------------------------------------------------------------


@pytest.fixture
def pyarrow():
    """pyarrow is an optional dependency; the extra `test` installs it."""
    return pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install -e '.[test]'")


@pytest.fixture
def save(pyarrow, tmp_path):
    """Writes columns to a file by its ending; a name that starts with "stream" is written as `datasets` does."""
    from pyarrow import feather, parquet

    def write(name: str, columns: dict, names: list[str] | None = None) -> str:
        table = pyarrow.table(columns)
        if names:
            features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        path = tmp_path / name
        if path.suffix == ".parquet":
            parquet.write_table(table, path, row_group_size=7)
        elif name.startswith("stream"):
            with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table, max_chunksize=5)
        else:
            feather.write_feather(table, str(path), chunksize=5)
        return str(path)

    return write


FORMATS = ["a.parquet", "a.feather", "stream.arrow"]


@pytest.mark.parametrize("name", FORMATS)
def test_tables_of_paths(write_list, save, pyarrow, name):
    write_list("")
    labels = pyarrow.array([["cat", "dog"][i % 2] for i in range(24)]).dictionary_encode()
    source = open_source(save(name, {"path": PATHS, "label": labels, "age": [1.5] * 24}))
    assert counts(source) == {"cat": 12, "dog": 12} and source.remarks == ()
    assert [p.content.name for p in source.pictures] == [Path(path).name for path in PATHS]
    source = open_source(save(name, {"path": PATHS, "label": [float(i % 2) for i in range(24)]}))
    assert counts(source) == {"0": 12, "1": 12}


@pytest.mark.parametrize("name", FORMATS)
def test_tables_that_contain_the_pictures(write_list, save, tmp_path, name):
    """Their bytes, digests and pixels are those of the files."""
    write_list("")
    contents = [(tmp_path / path).read_bytes() for path in PATHS]
    images = [{"bytes": content, "path": f"x/{i}.png"} for i, content in enumerate(contents)]
    columns = {"image": images, "label": [i % 3 for i in range(24)]}
    source = open_source(save(name, columns, names=["cat", "dog", "cow"]))
    assert counts(source) == {"cat": 8, "dog": 8, "cow": 8}
    assert source.pictures[7].name == "x/7.png"
    assert digests_of(source.pictures) == [hashlib.sha256(content).hexdigest() for content in contents]
    assert source.pictures[23].content.read() == source.pictures[23].open().read() == contents[23]
    spec = ImageSpec(size=(8, 8))
    pixels = load_pixels(source.pictures, spec, tmp_path / "cache")
    files = open_source(write_list("path,label\n" + "".join(f"{p},{i % 2}\n" for i, p in enumerate(PATHS))))
    assert not pixels.bad and (pixels.array == load_pixels(files.pictures, spec, tmp_path / "other").array).all()


def test_a_column_of_bytes(write_list, save, tmp_path):
    write_list("")
    contents = [(tmp_path / path).read_bytes() for path in PATHS]
    contents[5] = None
    source = open_source(save("a.parquet", {"photo": contents, "label": ["a", "b"] * 12}))
    assert source.pictures[3].name == "a.parquet[4]" and source.pictures[3].content.read() == contents[3]
    digests = digests_of(source.pictures)
    assert [i for i, digest in enumerate(digests) if not digest] == [5]


def test_an_image_column_of_paths_alone(write_list, save, pyarrow):
    write_list("")
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array([{"bytes": None, "path": path} for path in PATHS], kind)
    source = open_source(save("a.parquet", {"image": images, "label": ["a", "b"] * 12}))
    assert all(p.content.is_file() for p in source.pictures)


def test_pictures_without_a_label(write_list, save):
    write_list("")
    with pytest.raises(DataLayout, match=r"row 1, column 'label': the class -1 has no name.*-1 stands for"):
        open_source(save("a.parquet", {"path": PATHS, "label": [-1] * 24}, names=["cat", "dog"]))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("content", [b"", b"PAR1xxxx", b"hello"])
def test_damaged_tables(pyarrow, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataLayout, match="cannot be read as"):
        open_source(str(tmp_path / name))


def test_a_cache_that_cannot_be_written(write_list, save, tmp_path, monkeypatch):
    write_list("")
    contents = [(tmp_path / path).read_bytes() for path in PATHS]
    source = open_source(save("a.parquet", {"image": contents, "label": ["a", "b"] * 12}))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="Set ZOO_CACHE"):
        digests_of(source.pictures)


def test_training_and_evaluation_on_a_table_that_contains_the_pictures(zoo, photos, save, tmp_path):
    """The run records --columns, and evaluates its own pictures with them."""
    files = sorted(photos.rglob("*.jpg"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    kinds, others = [file.parent.name for file in files], ["x", "y"] * (len(files) // 2)
    path = save("shapes.parquet", {"photo": images, "kind": kinds, "label": others})
    folders = ["--runs", tmp_path / "runs", "--exported", tmp_path / "exported"]
    words = ["--data", path, "--columns", "label=kind"]
    ran = zoo("finetune", "mnist_convnet", "--size", 28, "--epochs", 3, "--allow-chance", *words, *folders)
    assert ran.code == 0, ran.err
    (run,) = (tmp_path / "runs").iterdir()
    assert list(run.glob("sample.jpg"))
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert record["classes"] == ["bars", "discs", "noise"]
    assert record["options"]["reading"]["columns"] == ["label=kind"]
    ran = zoo("evaluate", run, "--part", "all", "--json", *folders)
    assert ran.code == 0 and json.loads(ran.out)["pictures"] == len(files), ran.err


def test_reading_options_name_columns_of_tables(write_list, save):
    write_list("")
    path = save("a.parquet", {"where": PATHS, "kind": ["a", "b"] * 12, "other": ["x", "y", "z"] * 8})
    reading = ReadingOptions(columns=("path=where", "label=other"))
    assert open_source(path, reading=reading).classes == ("x", "y", "z")


def test_a_column_of_a_class_that_holds_lists_is_refused(write_list):
    text = json.dumps([{"path": path, "cat": [1], "dog": 0} for path in PATHS])
    with pytest.raises(DataLayout, match="entry 1, column 'cat': a column of a class must hold 0 or 1"):
        open_source(write_list(text, name="a.json"), reading=ReadingOptions(columns=("path=path", "label=cat+dog")))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "a.npz", "a.txt"])
def test_a_git_lfs_pointer_is_named(write_list, name):
    with pytest.raises(DataLayout, match=r"is a Git LFS pointer .* git lfs pull"):
        open_source(write_list("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", name=name))
