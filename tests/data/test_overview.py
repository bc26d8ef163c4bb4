"""What `zoo data show` and a dry run print about files that a list names and that do not exist."""

from __future__ import annotations

import json


def lines(count: int, missing: int) -> str:
    names = [f"pictures/{i:02d}.png" for i in range(count)] + [f"pictures/x{i}.png" for i in range(missing)]
    return "\n".join(["path,label", *(f"{name},{'ab'[i % 2]}" for i, name in enumerate(names))])


def test_files_that_do_not_exist_are_counted_apart(zoo, write_list):
    path = write_list(lines(24, 5))
    ran = zoo("data", "show", path)
    assert ran.code == 0 and "24 pictures of 2 classes" in ran.out and "'a' 12, 'b' 12" in ran.out, ran.err
    assert "Missing: 5 of 29 files do not exist, such as 'pictures/x0.png', 'pictures/x1.png'" in ran.out
    assert "Split: about 20 to train on, 4 to test" in ran.out
    found = json.loads(zoo("data", "show", path, "--json").out)
    assert found["pictures"] == 24 and found["missing"] == [f"pictures/x{i}.png" for i in range(5)]
    assert found["classes"] == {"a": {"pictures": 12}, "b": {"pictures": 12}}


def test_one_file_that_does_not_exist(zoo, write_list):
    assert (
        "Missing: 1 of 25 files does not exist: 'pictures/x0.png'" in zoo("data", "show", write_list(lines(24, 1))).out
    )


def test_a_dry_run_fails_if_too_many_do_not_exist(zoo, write_list):
    ran = zoo("finetune", "mobilenetv2", "--data", write_list(lines(24, 12)), "--dry-run")
    assert ran.code == 1 and "12 of 36 pictures cannot be read, more than 20%" in ran.err
    assert "pictures/x0.png: it does not exist" in ran.err
