"""Reads a folder: decides which of its folders are classes and which are parts of a split, and lists the pictures.

These layouts are read: a folder for each class; the parts of a split, each with a folder for each class; and a folder
for each class, each with the parts of a split. `zoo.data.layouts` refuses what can be understood in two ways, and says
how to decide it. `--classes` decides it here.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.data import layouts
from zoo.data.names import check_alike, listed, normalized, printable
from zoo.data.reading import Exclusion, Findings, LeftOut, ReadingOptions, check_present
from zoo.data.split_words import is_whole_split
from zoo.data.splits import is_certain, parts_among
from zoo.data.tables import Row, check_split_classes
from zoo.data.tree import Tree
from zoo.errors import DataLayout, EmptyClass

EACH = "a folder for each class"


@dataclass(frozen=True)
class ClassFolder:
    """Describes a folder whose pictures, at any depth, belong to one class.

    Args:
        path: The folder.
        name: The name of the class.
        split: The part that the pictures belong to: "train", "val" or "test". None if the source has no split.
    """

    path: Path
    name: str
    split: str | None = None


@dataclass(frozen=True)
class Layout:
    """Says which folders are classes.

    Args:
        text: Describes the layout in a few words.
        folders: The folders of the classes, in the order in which their pictures are listed.
        left_out: What is not used.
        remarks: Warnings.
    """

    text: str
    folders: tuple[ClassFolder, ...]
    left_out: tuple[LeftOut, ...] = ()
    remarks: tuple[str, ...] = ()


def read_folder(root: Path, reading: ReadingOptions, *, training: bool) -> tuple[list[Row], tuple[str, ...], Findings]:
    """List the pictures of a folder, with their classes.

    Args:
        root: The folder.
        reading: Which folders are classes, and which files are used.
        training: False accepts a folder with a single class, or without a train part.

    Returns:
        The pictures, warnings, and how the folder was understood.

    Raises:
        DataLayout: The folder has none of the layouts that zoo reads, or it can be understood in two ways.
        EmptyClass: A class folder is empty, or the validation or test part lacks a class.
        OSError: A folder cannot be read.
    """
    exclusion = Exclusion(reading.exclude)
    tree = Tree(root, exclusion)
    layout = _detect(tree, training) if reading.classes is None else _explicit(tree, reading.classes)
    layouts.refuse_links(tree, [each.path for each in layout.folders])
    rows = [
        Row(str(path), path, (each.name,), each.split) for each in layout.folders for path in tree.pictures(each.path)
    ]
    check_alike(str(root), Counter(row.labels[0] for row in rows), reading.classes or ())
    if any(row.split not in (None, "train") for row in rows) and (training or any(r.split == "train" for r in rows)):
        check_split_classes(str(root), rows)
    own = [LeftOut(path, "written by zoo") for path in sorted(tree.own)]
    excluded = [LeftOut(path, "--exclude") for path in exclusion.left_out]
    findings = Findings(layout.text, (*own, *excluded, *layout.left_out), dict(sorted(tree.passed_over().items())))
    return rows, (*layout.remarks, *exclusion.unused(root)), findings


def _detect(tree: Tree, training: bool) -> Layout:
    """Decide which folders are classes, from their names and their contents.

    Raises:
        DataLayout: There are no class folders, or the layout can be understood in two ways.
        EmptyClass: A class folder is empty.
    """
    root = tree.root
    tree.folders(root)
    live = tree.live(root)
    layouts.refuse_detection(tree, root)
    if not live:
        raise layouts.nothing(tree)
    parts = parts_among(live)
    if is_whole_split(live) and not any(map(tree.live, live)):
        raise layouts.loose_parts(tree, live)
    if len(parts) < len(live):
        return _with_others(tree, live, parts, training) if parts else _plain(tree, live, training)
    holding = [folder for folder in parts if tree.live(folder)]
    if holding:
        return _split(tree, {folder: parts[folder] for folder in holding}, training, _loose_parts(tree, parts, holding))
    if len(set(parts.values())) > 1 and "train" in parts.values():
        raise layouts.loose_parts(tree, list(parts))
    return _plain(tree, live, training)


def _loose_parts(tree: Tree, parts: Mapping[Path, str], holding: Sequence[Path]) -> list[LeftOut]:
    """Describe the parts that have pictures but no class folders, such as the unlabeled test pictures of a contest."""
    return [
        LeftOut(f"{folder.name}/", "it has no class folders", len(tree.pictures(folder)))
        for folder in parts
        if folder not in holding
    ]


def _with_others(tree: Tree, live: Sequence[Path], parts: Mapping[Path, str], training: bool) -> Layout:
    """Read folders of which some, but not all, are named like parts of a split.

    Classes may be called "train" and "plane".
    """
    others = [folder for folder in live if folder not in parts]
    holding = [folder for folder in parts if tree.live(folder)]
    several = "train" in parts.values() and len(set(parts.values())) > 1
    names = {normalized(folder.name) for folder in others}
    if holding and "train" not in parts.values() and len(others) > 1:
        inside = [{normalized(each.name) for each in tree.live(folder)} for folder in parts]
        if all(found and found <= names for found in inside):
            return _rest_trains(tree, others, parts)
    if several and holding:
        raise layouts.split_beside_others(tree, list(parts), others)
    doubtful = [
        folder
        for folder in parts
        if several
        or is_certain(folder, live)
        or (parts[folder] == "train" and len(tree.live(folder)) > 1 and not tree.listing(folder).pictures)
    ]
    if doubtful:
        raise layouts.split_among_classes(tree, doubtful, [folder for folder in live if folder not in doubtful])
    return _plain(tree, live, training)


def _rest_trains(tree: Tree, others: Sequence[Path], parts: Mapping[Path, str]) -> Layout:
    """Read class folders beside a part that has folders of the same classes: what is in no part trains."""
    folders, left_out = _class_folders(tree, tree.root, "train", others)
    for folder, part in parts.items():
        inner, more = _class_folders(tree, folder, part)
        folders, left_out = [*folders, *inner], (*left_out, *more)
    named = ", ".join(f"{folder.name}/ is the {part} part" for folder, part in parts.items())
    text = f"{EACH}; {named}, and the pictures outside are the train part"
    return Layout(text, tuple(folders), tuple(left_out), _unused_pictures(tree, tree.root))


def _split(tree: Tree, parts: Mapping[Path, str], training: bool, left_out: list[LeftOut]) -> Layout:
    """Read parts of a split that have a folder for each class.

    Raises:
        DataLayout: Two folders are the same part, the train part is missing, or the classes can be understood in two
            ways.
        EmptyClass: A class folder is empty.
    """
    for part in ("train", "val", "test"):
        same = [folder for folder, of in parts.items() if of == part]
        if len(same) > 1:
            raise layouts.same_part(tree, part, same)
    if training and "train" not in parts.values():
        raise DataLayout(
            f"{str(tree.root)!r} has {listed(f.name for f in parts)} but no train/ folder. Add a folder train/ with "
            "the training pictures."
        )
    folders: list[ClassFolder] = []
    remarks = _unused_pictures(tree, tree.root)
    # A train/ folder without val/ and test/ is not a split: its pictures are divided like those of a plain folder.
    is_split = set(parts.values()) != {"train"}
    for folder, part in parts.items():
        place = _unwrapped(tree, folder)
        layouts.refuse_detection(tree, place)
        layouts.refuse_same_folders(tree, tree.live(place))
        found, more = _class_folders(tree, place, part if is_split else None)
        folders, left_out = [*folders, *found], [*left_out, *more]
        remarks = (*remarks, *_unused_pictures(tree, place))
    _refuse_unlabeled(tree, parts, folders)
    named = ", ".join(f"{tree.shown(folder)} is the {part} part" for folder, part in parts.items())
    text = f"{named}; {EACH} in {'each' if len(parts) > 1 else 'it'}"
    if not is_split:
        text = f"{EACH} in {', '.join(map(tree.shown, parts))}"
        remarks = (*remarks, *layouts.remark_on_inner_folders(tree, [folder.path for folder in folders]))
    return Layout(text, tuple(folders), tuple(left_out), remarks)


def _refuse_unlabeled(tree: Tree, parts: Mapping[Path, str], folders: Sequence[ClassFolder]) -> None:
    """Refuse a part that has one folder which is not a class of the train part, as contests give out their tests.

    Raises:
        DataLayout: There is such a part.
    """
    known = {folder.name for folder in folders if folder.split == "train"}
    for place, part in parts.items():
        inside = [folder for folder in folders if folder.path.is_relative_to(place)]
        if part != "train" and len(known) > 1 and len(inside) == 1 and inside[0].name not in known:
            raise layouts.unlabeled_part(tree, part, place, inside[0].path, sorted(known))


def _unwrapped(tree: Tree, folder: Path) -> Path:
    """Return the only folder in a part, if it holds the class folders: seg_train/seg_train/forest. Else the part."""
    (*inner,) = tree.live(folder)
    if len(inner) == 1 and len(tree.live(inner[0])) > 1 and not tree.listing(folder).pictures:
        return inner[0]
    return folder


def _plain(tree: Tree, live: Sequence[Path], training: bool) -> Layout:
    """Read a folder for each class, which may have the parts of a split inside.

    Raises:
        DataLayout: The classes can be understood in two ways.
        EmptyClass: A class folder is empty.
    """
    root = tree.root
    if len(live) == 1:
        layouts.refuse_wrapper(tree, live[0], training=training)
    parts = {folder: parts_among(tree.live(folder)) for folder in live}
    inside = _split_inside(tree, live, parts)
    if inside:
        return inside
    layouts.refuse_split_inside(tree, live, parts)
    layouts.refuse_same_folders(tree, live)
    folders, left_out = _class_folders(tree, root, None)
    if training:
        layouts.refuse_single_pictures(tree, live)
    remarks = (*layouts.remark_on_groups(live), *layouts.remark_on_inner_folders(tree, live))
    remarks = (*layouts.remark_on_foreign_parts(live), *remarks)
    remarks = (*_unused_pictures(tree, root), *remarks)
    return Layout(EACH, tuple(folders), tuple(left_out), remarks)


def _split_inside(tree: Tree, classes: Sequence[Path], parts: Mapping[Path, Mapping[Path, str]]) -> Layout | None:
    """Read a split that is in each class: cats/train, cats/test, dogs/train, dogs/test.

    Args:
        tree: Lists the folder.
        classes: The class folders.
        parts: Maps each class folder to those of its folders that are named like parts.

    Returns:
        None unless every picture of every class is in such a folder, and every class has the same parts, train among
        them.
    """
    wanted = set(next(iter(parts.values())).values()) if parts else set()
    if "train" not in wanted or len(wanted) < 2:
        return None
    for folder in classes:
        found = parts[folder]
        if set(found) != set(tree.live(folder)) or set(found.values()) != wanted or len(found) != len(wanted):
            return None
        if tree.listing(folder).pictures:
            return None
    folders = [
        ClassFolder(inner, normalized(folder.name), part) for folder in classes for inner, part in parts[folder].items()
    ]
    named = ", ".join(f"{inner.name}/ is the {part} part" for inner, part in parts[classes[0]].items())
    left_out = _without_pictures(tree, tree.root)
    return Layout(f"{EACH}, with a split in it: {named}", tuple(folders), left_out, _unused_pictures(tree, tree.root))


def _class_folders(
    tree: Tree, root: Path, split: str | None, only: Sequence[Path] | None = None
) -> tuple[list[ClassFolder], tuple[LeftOut, ...]]:
    """List the class folders that are directly in a folder, and the folders beside them that have no pictures.

    Args:
        tree: Lists the folder.
        root: The folder that has the class folders.
        split: The part that all the pictures belong to, or None if the source has no split.
        only: The class folders. None means all folders that have pictures.

    Raises:
        EmptyClass: A folder has no files.
        DataLayout: A link in `root` is broken.
    """
    tree.folders(root)
    left_out = _without_pictures(tree, root)
    folders = tree.live(root) if only is None else only
    return [ClassFolder(folder, normalized(folder.name), split) for folder in folders], left_out


def _without_pictures(tree: Tree, root: Path) -> tuple[LeftOut, ...]:
    """Describe the folders directly in a folder that have files, but no pictures.

    Raises:
        EmptyClass: A folder has no files at all.
    """
    live = set(tree.live(root))
    found = [folder for folder in tree.folders(root) if folder not in live]
    empty = [folder for folder in found if not tree.others(folder) and not tree.excluded_in(folder)]
    if empty:
        one = len(empty) == 1
        it = "it" if one else "them"
        raise EmptyClass(
            f"the class {'folder' if one else 'folders'} {listed((str(folder) for folder in empty), 5)} "
            f"{'is' if one else 'are'} empty. Add pictures to {it}, or remove {it}, or leave {it} out: "
            f"{shlex.join(layouts.without(tree, empty[:5]))}."
        )
    return tuple(
        LeftOut(tree.shown(folder), f"it has no pictures, only {layouts.counted_endings(others)}", 0)
        for folder in found
        if (others := tree.others(folder))
    )


def _unused_pictures(tree: Tree, folder: Path) -> tuple[str, ...]:
    """Return a tuple with one warning if pictures are directly in a folder, or an empty tuple if there are none.

    Such pictures are not used, because only pictures in class folders have a class.
    """
    names = [printable(path.name) for path in tree.listing(folder).pictures]
    if not names:
        return ()
    if len(names) == 1:
        return (
            f"1 picture is not used, because it is directly in {str(folder)!r} and not in a class folder: "
            f"{names[0]!r}. To use it, move it into the folder of its class.",
        )
    return (
        f"{len(names)} pictures are not used, because they are directly in {str(folder)!r} and not in a class folder: "
        f"{listed(names, 3)}. To use them, move them into the folders of their classes.",
    )


def _explicit(tree: Tree, names: Sequence[str]) -> Layout:
    """Find the class folders by the names that the user gave.

    A class folder is the outermost folder on the way to a picture that has one of the names. "*" means every folder
    directly in the source.

    Raises:
        DataLayout: A class has no folder.
    """
    root = tree.root
    if "*" in names:
        names = [normalized(folder.name) for folder in tree.live(root)]
    found = _find(tree, root, frozenset(names))
    check_present(names, {folder.name for folder, _ in found} | _other_names(tree), str(root))
    outermost = [folder for folder, depth in found if depth == min(depth for _, depth in found)]
    folders = outermost if {folder.name for folder in outermost} == set(names) else [folder for folder, _ in found]
    missing = sorted(set(names) - {folder.name for folder in folders})
    if missing:
        raise EmptyClass(f"{str(root)!r} has no pictures of {listed(missing)}.")
    text = f"{EACH} that --classes names"
    if any(folder.split for folder in folders):
        # What is in no part is for training.
        folders = [replace(folder, split=folder.split or "train") for folder in folders]
        text += ", in the parts of a split"
    else:
        parts = {folder.path: parts_among(tree.live(folder.path)) for folder in folders}
        inside = _split_inside(tree, [folder.path for folder in folders], parts)
        if inside:
            folders, text = list(inside.folders), inside.text
    if {folder.split for folder in folders} == {"train"}:
        folders = [replace(folder, split=None) for folder in folders]
    folders.sort(key=lambda folder: folder.path)
    return Layout(text, tuple(folders), _not_named(tree, folders))


def _find(
    tree: Tree, root: Path, names: frozenset[str], depth: int = 0, split: str | None = None
) -> list[tuple[ClassFolder, int]]:
    """Find the folders that have given names, with the number of folders above them that are not parts of a split.

    The folders inside a folder that is found are not searched.
    """
    if depth > layouts.DEEPEST:
        return []
    found = []
    live = tree.live(root)
    parts = parts_among(live)
    for folder in live:
        name, part = normalized(folder.name), parts.get(folder)
        if name in names:
            found.append((ClassFolder(folder, name, split), depth))
        else:
            found += _find(tree, folder, names, depth + (part is None), part or split)
    return found


def _other_names(tree: Tree) -> set[str]:
    """Return the names of the folders of the first two levels, for messages about names that are absent."""
    outer = tree.live(tree.root)
    return {normalized(folder.name) for folder in [*outer, *(inner for folder in outer for inner in tree.live(folder))]}


def _not_named(tree: Tree, used: Sequence[ClassFolder]) -> tuple[LeftOut, ...]:
    """Describe the pictures that are in none of the class folders which --classes names, by the outermost folder.

    The folder that is named for a picture is the outermost one that has no class folder in it.
    """
    on_the_way = {parent for each in used for parent in each.path.parents}
    taken = {path for each in used for path in tree.pictures(each.path)}
    left = Counter(path.parent for path in tree.pictures(tree.root) if path not in taken)
    counts: Counter[str] = Counter()
    for parent, count in left.items():
        inside = [folder for folder in (*reversed(parent.parents), parent) if folder.is_relative_to(tree.root)]
        outermost = next((folder for folder in inside if folder not in on_the_way), None)
        counts[tree.shown(outermost) if outermost else f"pictures directly in {tree.shown(parent)}"] += count
    return tuple(LeftOut(place, "not named by --classes", count) for place, count in counts.items())
