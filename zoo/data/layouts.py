"""Refuses folders that can be understood in two ways, or that are meant for another task, and says how to decide it.

Each refusal states what was found, and gives the options that read the folder in one way or the other. Nothing here is
asked of a user who names the classes with --classes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zoo.data.names import listed, normalized, printable, quoted
from zoo.data.reading import format_names
from zoo.data.split_words import foreign_part, inner_rename_advice, is_whole_split, rename_advice
from zoo.data.splits import part_of
from zoo.data.tree import Tree
from zoo.errors import DataLayout

# How many folders may stand above a class folder that --classes names.
DEEPEST = 6
# How many names a suggested command has at most.
_NAMED = 60
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".npz")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_IMAGES = {"images", "image", "imgs", "img", "jpegimages", "rgb", "pictures", "photos"}
_LABELS = {"labels", "label", "annotations", "annotation", "annots", "annot", "xmls", "labelstxt", "bboxes", "json"}
_MASKS = {
    "masks",
    "mask",
    "segmentationclass",
    "segmentationobject",
    "segmentation",
    "groundtruth",
    "ground_truth",
    "gt",
}
# Folders that say when pictures were taken, and those of camera cards.
_DATE = (
    r"(19|20)\d\d([-_. ]?\d\d?){0,2}|\d{1,2}[-_.]\d{1,2}[-_.](19|20)?\d\d|photos from (19|20)\d\d"
    r"|(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-_ ]?\d*|\d{3}[a-z_]{5}|\d{3}_\d{4}"
)
_DATES = re.compile(_DATE)
# Folders that say when, where or by whom pictures were taken, and probably not what they show.
_GROUPS = re.compile(
    rf"{_DATE}|(year|date|day|week|month|session|site|camera|cam|location|loc|room|batch|fold|user|person|subject|patient"
    r"|annotator|video|round|run)[-_ ]?\w{0,3}"
)
# Names that cameras and programs give to every picture.
_CAMERAS = re.compile(
    r"(img|image|images|dsc|dscn|dscf|dcim|pic|picture|photo|foto|frame|pxl|mvi|gopr|p|i|screenshot|scan|whatsapp.*"
    r"|file|test|train|val|unnamed|download|_*)",
    re.IGNORECASE,
)


def counted(folders: Iterable[Path], tree: Tree, limit: int = 6) -> str:
    """Name folders with the number of pictures in each: "'cats' 20, 'dogs' 20"."""
    folders = list(folders)
    more = f" and {len(folders) - limit} more" if len(folders) > limit else ""
    return ", ".join(f"{quoted(normalized(each.name))} {len(tree.pictures(each))}" for each in folders[:limit]) + more


def counted_endings(others: Mapping[str, int]) -> str:
    """Describe files that are not pictures: "12 .txt, 3 .xml"."""
    return ", ".join(f"{count} {ending}" for ending, count in sorted(others.items(), key=lambda item: -item[1])[:5])


def _classes(folders: Iterable[Path]) -> list[str]:
    """Return the option --classes with the names of some folders, or with "*" if they are many."""
    names = [normalized(folder.name) for folder in folders]
    return ["--classes", format_names(names) if len(names) <= _NAMED else "*"]


def without(tree: Tree, folders: Iterable[Path]) -> list[str]:
    """Return the options that leave out some folders."""
    return [word for folder in folders for word in ("--exclude", _pattern(folder.relative_to(tree.root).as_posix()))]


def _pattern(path: str) -> str:
    """Return the pattern that matches one path inside the source."""
    return "/" + re.sub(r"([\\*?\[\]])|(\s$)", r"\\\g<0>", path)


def _list_remedies(tree: Tree, folders: Sequence[Path] = ()) -> list[tuple[str, list[str]]]:
    """Return the lists beside the pictures that may hold their labels, with the option that reads each.

    Args:
        tree: Lists the folder.
        folders: The parts of a split, in which lists may be too.
    """
    lists = [
        path
        for folder in (tree.root, *folders)
        for path in sorted(folder.iterdir())
        if (path.suffix.lower() in _TABLES or (path.suffix.lower() == ".txt" and part_of(path.stem)))
        and "submission" not in path.name.lower()
        and path.is_file()
    ]
    shown = {path: printable(path.relative_to(tree.root).as_posix()) for path in lists[:3]}
    return [(f"if {name} lists the classes", ["--data", str(path)]) for path, name in shown.items()]


def nothing(tree: Tree) -> DataLayout:
    """Return the error for a folder that has no folders with pictures in them."""
    root = tree.root
    loose, others = tree.listing(root).pictures, tree.others(root)
    remedies = _list_remedies(tree)
    if loose:
        return _loose(tree, loose, remedies)
    packed = [path.name for path in sorted(root.iterdir()) if path.suffix.lower() in _ARCHIVES]
    if packed:
        what = f"It has {listed(packed, 3)}. Unpack {'it' if len(packed) == 1 else 'them'}, and give the new folder."
    elif others or tree.own:
        own = f" and what zoo wrote ({', '.join(tree.own[:3])})" if tree.own else ""
        what = f"It has {counted_endings(others) or 'nothing else'}{own}, but no pictures."
    elif tree.listing(root).folders:
        what = f"Its folders {listed(folder.name for folder in tree.listing(root).folders)} are empty."
    else:
        what = "The folder is empty." if not tree.exclusion.left_out else ""
    if tree.exclusion.left_out:
        what = f"{what} --exclude leaves out {listed(tree.exclusion.left_out, 5)}.".strip()
    return DataLayout(
        f"{str(root)!r} has no pictures. {what} Make a folder for each class and put its pictures there.", remedies
    )


def _loose(tree: Tree, loose: Sequence[Path], remedies: Sequence[tuple[str, list[str]]]) -> DataLayout:
    """Return the error for a folder whose pictures are in no class folders. It shows labels that the names suggest."""
    number = f"{len(loose)} pictures" if len(loose) > 1 else "1 picture"
    text = f"{str(tree.root)!r} has {number} but no class folders. "
    text += _suggested_labels(loose, tree.root) or "Make a folder for each class and put its pictures there."
    return DataLayout(text + _annotation_hint(tree, tree.root), remedies)


def _suggested_labels(pictures: Sequence[Path], root: Path) -> str:
    """Say which classes the names of files suggest, and which list would read them. Empty if they suggest none."""
    labels = labels_in_names([printable(path.name) for path in pictures])
    if not labels:
        return ""
    counts = Counter(labels.values())
    shown = ", ".join(f"{quoted(name)} {count}" for name, count in sorted(counts.items())[:6])
    more = f" and {len(counts) - 6} more" if len(counts) > 6 else ""
    first = {label: name for name, label in reversed(labels.items())}
    place = pictures[0].parent.relative_to(root).as_posix()
    lines = "".join(
        f"\n    {name if place == '.' else f'{place}/{name}'},{label}" for label, name in sorted(first.items())[:3]
    )
    return (
        f"The names of the files suggest {len(counts)} classes: {shown}{more}. zoo does not guess: make a folder for "
        f"each class, or give a CSV file with a line for each picture with --data {str(root / 'labels.csv')!r}:\n"
        f"    path,label{lines}\n    ..."
    )


def labels_in_names(names: Sequence[str]) -> dict[str, str]:
    """Guess labels from the names of files, such as cat.12.jpg, Abyssinian_3.jpg or 012-dog.png.

    Returns:
        The names with their labels. Empty if the names do not suggest between 2 classes and half as many as pictures.
    """
    labels = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        label = re.sub(r"[\s._()-]*\d[\d\s._()-]*$", "", stem)
        if label == stem:
            label = re.sub(r"^\d+[\s._-]+", "", stem)
        label = label.strip(" ._-")
        if label and not label.isdigit() and not _CAMERAS.fullmatch(label):
            labels[name] = normalized(label)
    counts = Counter(labels.values())
    repeated = sum(count for count in counts.values() if count > 1)
    enough = 2 <= len(counts) <= max(2, len(names) // 2) and repeated >= 0.9 * len(names)
    return labels if enough else {}


def loose_parts(tree: Tree, parts: Sequence[Path]) -> DataLayout:
    """Return the error for folders that are named like parts of a split, but hold pictures and no class folders."""
    most = max(parts, key=lambda folder: len(tree.pictures(folder)))
    text = (
        f"{str(tree.root)!r} has {counted(parts, tree)}: the names are those of a split, but there are no class "
        f"folders in them. Make a folder for each class in each. "
    )
    remedies = _list_remedies(tree, [each for each in parts if part_of(each.name) == "train"])
    remedies.append(("if these are the classes", _classes(parts)))
    text += _suggested_labels(tree.listing(most).pictures, tree.root) if tree.listing(most).pictures else ""
    return DataLayout(text.rstrip() + _annotation_hint(tree, most), remedies)


def same_part(tree: Tree, part: str, same: Sequence[Path]) -> DataLayout:
    """Return the error for a split that has the same part twice."""
    return DataLayout(
        f"{str(tree.root)!r} has several folders for the {part} part: {counted(same, tree)}. Keep one of them.",
        [(f"to use {quoted(keep.name)}", without(tree, [f for f in same if f != keep])) for keep in same[:3]],
    )


def split_beside_others(tree: Tree, parts: Sequence[Path], others: Sequence[Path]) -> DataLayout:
    """Return the error for a split, with class folders in its parts, that has other folders beside it."""
    return DataLayout(
        f"{str(tree.root)!r} has {counted(parts, tree)} with folders in them, like a split, but also "
        f"{counted(others, tree)}.{rename_advice([*parts, *others])}",
        [
            (f"if it is a split, without {listed((f.name for f in others), 3)}", without(tree, others)),
            ("if all of them are classes", _classes([*parts, *others])),
        ],
    )


def split_among_classes(tree: Tree, parts: Sequence[Path], others: Sequence[Path]) -> DataLayout:
    """Return the error for a folder that is named like a part of a split and stands among class folders."""
    one = len(parts) == 1
    named = listed(folder.name for folder in parts)
    return DataLayout(
        f"{str(tree.root)!r} has {counted([*others, *parts], tree)}. The {'name' if one else 'names'} {named} "
        f"{'is that of a part' if one else 'are those of parts'} of a split, such as pictures for a test, and "
        f"probably not {'a class' if one else 'classes'}.{rename_advice([*parts, *others])}",
        [
            (f"to leave {named} out", without(tree, parts)),
            (f"if {named} {'is a class' if one else 'are classes'}", _classes(sorted([*parts, *others]))),
        ],
    )


def refuse_wrapper(tree: Tree, only: Path, *, training: bool) -> None:
    """Refuse a folder whose pictures all lie a level deeper, in the only folder that it has.

    Raises:
        DataLayout: The only folder has folders with pictures, and no pictures directly in it. Or there are lists beside
            it, which may hold the classes.
    """
    # Pictures of one class are enough to evaluate a network.
    single = [] if training else [(f"if {quoted(only.name)} is a class", _classes([only]))]
    inner = only
    while len(tree.live(inner)) == 1 and not tree.listing(inner).pictures:
        (inner,) = tree.live(inner)
    classes = tree.live(inner)
    if len(classes) < 2 or tree.listing(inner).pictures:
        remedies = _list_remedies(tree) + single
        if len(remedies) > len(single) and not tree.listing(tree.root).pictures:
            raise DataLayout(
                f"{str(tree.root)!r} has pictures only in the folder {quoted(only.name)}, which would be the only "
                "class.",
                remedies,
            )
        return
    text = "The classes are probably the folders in"
    if all(_GROUPS.fullmatch(each.name.lower()) for each in classes):
        text = "It has these folders, whose names do not look like classes, in"
    raise DataLayout(
        f"{str(tree.root)!r} has pictures only in the folder {quoted(only.name)}, which would be the only class. "
        f"{text} {str(inner)!r}: {counted(classes, tree)}.",
        [("to read that folder", ["--data", str(inner)]), *single],
    )


def refuse_split_inside(tree: Tree, classes: Sequence[Path], parts: Mapping[Path, Mapping[Path, str]]) -> None:
    """Refuse class folders of which some have parts of a split inside, which would all be trained on.

    Raises:
        DataLayout: A class has a train part and another one, or every class has a test or validation part.
    """
    split = [each for each in classes if "train" in parts[each].values() and len(set(parts[each].values())) > 1]
    tested = [each for each in classes if set(parts[each].values()) & {"test", "val"}]
    if not split and (len(tested) < len(classes) or len(classes) < 2):
        return
    example = (split or tested)[0]
    inner = list(parts[example])
    names = sorted({folder.name for each in classes for folder, part in parts[each].items() if part != "train"})
    rest = [each for each in classes if each not in split]
    why = (
        f"{listed((each.name for each in rest), 3)} {'has' if len(rest) == 1 else 'have'} none"
        if split and rest
        else "not all pictures are in the parts"
    )
    raise DataLayout(
        f"{str(tree.root)!r}: the class {quoted(normalized(example.name))} has {counted(inner, tree)} inside, like the "
        f"parts of a split, but {why}. Give every class the same parts, train/ and test/, or none.",
        [
            (f"to leave {listed(names, 3)} out", [word for name in names for word in ("--exclude", name)]),
            ("to use all pictures of each class", _classes(classes)),
        ],
    )


def refuse_same_folders(tree: Tree, classes: Sequence[Path]) -> None:
    """Refuse class folders that all have the same folders in them: either the outer or the inner ones are the classes.

    Raises:
        DataLayout: The folders are the same in all classes, or the outer names are dates or places and the inner ones
            are repeated. No picture lies outside them.
    """
    inner = [{normalized(folder.name) for folder in tree.live(each)} for each in classes]
    if len(classes) < 2 or not all(inner) or any(tree.listing(each).pictures for each in classes):
        return
    union = sorted(set().union(*inner))
    lowered = {name.lower() for name in union}
    masks = sorted(name for name in union if name.lower() in _MASKS)
    if masks and lowered & _IMAGES:
        raise DataLayout(
            f"{str(tree.root)!r}: each of {counted(classes, tree)} has {listed(union)}. Masks are not pictures of the "
            "class.",
            [(f"to leave {listed(masks)} out", [word for name in masks for word in ("--exclude", name)])],
        )
    if len(union) < 2:
        return
    repeated = [name for name in union if sum(name in names for names in inner) > 1]
    grouped = all(_GROUPS.fullmatch(each.name.lower()) for each in classes)
    same = all(names == inner[0] for names in inner)
    groups_inside = all(_GROUPS.fullmatch(name.lower()) for name in union)
    is_split = is_whole_split(classes) and bool(repeated)
    if not same and not is_split and not (repeated and grouped and not groups_inside):
        return
    counts = Counter(
        normalized(folder.name) for each in classes for folder in tree.live(each) for _ in tree.pictures(folder)
    )
    shown = ", ".join(f"{quoted(name)} {counts[name]}" for name in union[:6]) + (
        f" and {len(union) - 6} more" if len(union) > 6 else ""
    )
    remedies = [(f"if {listed((each.name for each in classes), 3)} are the classes", _classes(classes))]
    if len(union) <= _NAMED:
        remedies.append((f"if {listed(union, 3)} are the classes", ["--classes", format_names(union)]))
    probable = ""
    if grouped != groups_inside:
        names = union if grouped else [normalized(each.name) for each in classes]
        probable = f" The classes are probably {listed(names, 4)}."
    advice = rename_advice(classes) or inner_rename_advice({each: tree.live(each) for each in classes})
    if not advice and len(classes) <= 3 and not probable:
        advice = " If the outer folders are the parts of a split, rename them to train, val and test."
    probable += advice
    where = "" if classes[0].parent == tree.root else f" in {tree.shown(classes[0].parent)}"
    share = "all" if same else "several"
    raise DataLayout(
        f"{str(tree.root)!r} would have {len(classes)} classes{where}: {counted(classes, tree)}. But {share} of them "
        f"have the same folders inside, with {shown} pictures. Either the outer or the inner folders are the "
        f"classes.{probable}",
        remedies[::-1] if grouped else remedies,
    )


def remark_on_inner_folders(tree: Tree, classes: Sequence[Path]) -> tuple[str, ...]:
    """Return a warning if all pictures lie a level deeper, in folders that may be the classes; else nothing."""
    inner = [[normalized(folder.name) for folder in tree.live(each)] for each in classes]
    names = [name for found in inner for name in found]
    if any(len(found) < 2 for found in inner) or any(tree.listing(each).pictures for each in classes):
        return ()
    if len(set(names)) < len(names) or all(_GROUPS.fullmatch(name.lower()) for name in names):
        return ()
    advice = f"--classes {format_names(names[:3])},..." if len(names) > 12 else f"--classes {format_names(names)}"
    return (
        f"all pictures lie a level deeper, in the folders {listed(names, 4)}. If these are the classes, name them with "
        f"{advice}.",
    )


def remark_on_groups(classes: Sequence[Path]) -> tuple[str, ...]:
    """Return a warning if the names of all classes say when or by what pictures were taken; else nothing."""
    if len(classes) < 2 or not all(_DATES.fullmatch(each.name.lower()) for each in classes):
        return ()
    return (
        f"the classes are called {listed((each.name for each in classes), 4)}. Check that these names say what the "
        "pictures show, and not when or with which camera they were taken.",
    )


def remark_on_foreign_parts(classes: Sequence[Path]) -> tuple[str, ...]:
    """Return a warning if a class is named like a part of a split in another language; else nothing."""
    parts = {normalized(each.name): part for each in classes if (part := foreign_part(each.name))}
    if not parts or len(parts) == len(classes) == 1:
        return ()
    named = ", ".join(f"{quoted(name)} ({part})" for name, part in parts.items())
    name, part = next(iter(parts.items()))
    return (
        f"{'a class is' if len(parts) == 1 else 'some classes are'} named like a part of a split: {named}. If "
        f"{quoted(name)} is not a class, leave it out with --exclude, or rename it to {part}.",
    )


def unlabeled_part(tree: Tree, part: str, folder: Path, inner: Path, known: Iterable[str]) -> DataLayout:
    """Return the error for a part whose pictures lie in one folder that is not a class of the train part."""
    return DataLayout(
        f"{str(tree.root)!r}: the {part} part has only the folder {quoted(normalized(inner.name))} with "
        f"{len(tree.pictures(inner))} pictures, which is not a class of the train part ({listed(known, 5)}). "
        "It looks like pictures without labels.",
        [(f"to leave {quoted(folder.name)} out", without(tree, [folder]))],
    )


def refuse_links(tree: Tree, classes: Sequence[Path]) -> None:
    """Refuse class folders that are the same folder, because one is a link to the other.

    Raises:
        DataLayout: There are such folders. Their pictures would be in two classes, or in two parts of a split.
    """
    places: dict[str, Path] = {}
    for folder in classes:
        first = places.setdefault(os.path.realpath(folder), folder)
        if first is folder:
            continue
        links = [_link_to(tree, folder), _link_to(tree, first)]
        link, other = (links[0] or folder, first) if links[0] or not links[1] else (links[1] or first, folder)
        if not link.samefile(other):
            # A folder above the class folder is the link.
            other = Path(os.path.realpath(link))
        inside = other.is_relative_to(tree.root)
        shown = [quoted(tree.shown(link).rstrip("/")), quoted(tree.shown(other).rstrip("/") if inside else str(other))]
        raise DataLayout(
            f"{str(tree.root)!r}: {shown[0]} is a link to {shown[1]}, so that the same pictures would be there twice. "
            "Remove the link, or copy the folder if different pictures are meant.",
            [("to leave the link out", without(tree, [link]))],
        )


def _link_to(tree: Tree, folder: Path) -> Path | None:
    """Return the link on the way from the source to a folder, or None if there is none."""
    inside = [each for each in (folder, *folder.parents) if each != tree.root and each.is_relative_to(tree.root)]
    return next((each for each in reversed(inside) if each.is_symlink()), None)


def refuse_single_pictures(tree: Tree, classes: Sequence[Path]) -> None:
    """Refuse folders that hold one picture each: they are probably named like the pictures, and no classes.

    Raises:
        DataLayout: There are five folders or more, and nine of ten have one picture.
    """
    single = [each for each in classes if len(tree.pictures(each)) == 1]
    if len(classes) < 5 or len(single) < 0.9 * len(classes):
        return
    raise DataLayout(
        f"{str(tree.root)!r} would have {len(classes)} classes, of which {len(single)} have a single picture: "
        f"{counted(single, tree)}. It looks as if each picture has a folder of its own. Make a folder for each class, "
        "with several pictures in each."
    )


def refuse_detection(tree: Tree, folder: Path) -> None:
    """Refuse data sets that are meant for object detection or segmentation: pictures in one folder, boxes in another.

    Raises:
        DataLayout: The folder has a folder of images and one of labels, annotations or masks.
    """
    found = {each.name.lower(): each for each in tree.listing(folder).folders}
    images = [each for name, each in found.items() if name in _IMAGES and each in tree.live(folder)]
    marks = [each for name, each in found.items() if name in _LABELS | _MASKS]
    others = [each for each in tree.live(folder) if each not in (*images, *marks)]
    if not images or not marks or others:
        return
    what = "segmentation" if all(each.name.lower() in _MASKS for each in marks) else "object detection"
    inner = [each for each in tree.live(images[0]) if each.name.lower() not in ("train", "val", "test", "valid")]
    remedies = []
    if len(inner) > 1:
        remedies.append((f"if the folders in {images[0].name}/ are classes", ["--data", str(images[0])]))
    if folder == tree.root and all(each in tree.live(folder) for each in marks):
        remedies.append(("if all of them are classes", _classes([*images, *marks])))
    raise DataLayout(
        f"{str(folder)!r} has {quoted(images[0].name)} and {listed(each.name for each in marks)}, like a data set for "
        f"{what}. zoo learns one label for a whole picture: it needs a folder for each class, or a CSV file with the "
        "columns path,label.",
        remedies,
    )


def _annotation_hint(tree: Tree, folder: Path) -> str:
    """Say that a folder has annotations for object detection beside its pictures; empty if it has none."""
    others = tree.listing(folder).others
    names = [path.name for place in {tree.root, folder} for path in place.iterdir() if path.is_file()]
    known = [name for name in names if re.search(r"\.coco\.json$|^data\.ya?ml$|^instances_.*\.json$", name)]
    known += [each.name for each in tree.listing(tree.root).folders if each.name.lower() in _LABELS]
    beside = [
        end for end in (".xml", ".txt", ".json") if others[end] >= max(2, len(tree.listing(folder).pictures) // 2)
    ]
    if not known and not beside:
        return ""
    what = quoted(known[0]) if known else f"{others[beside[0]]} {beside[0]} files"
    return f" {what} beside the pictures may describe boxes for object detection; zoo does not read these."
