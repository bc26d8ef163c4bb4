"""Measures how far the answers of an exported file can be trusted: calibration, label sets, outliers.

    python benchmarks/trust.py EXPORT TEST [OTHER ...]

EXPORT is an exported file or its folder. TEST has a folder of test pictures for each class, which the network must not
have seen, or it is the run folder of the network. Each OTHER is a folder of pictures of something else. Blurred, noisy,
dark and empty pictures are made from the test pictures. --letters draws letters in the look of the embedded digits.

It prints the accuracy, the expected calibration error (15 bins of equal width), the coverage of the label sets, and the
precision and coverage of answers that are not unknown. For each kind of other pictures, it prints the area under the
ROC curve of the outlier score, and the fraction of them that is missed if 95 % of the test pictures are kept, once by
the threshold in the file and once by one that is chosen on the test pictures.
"""

from __future__ import annotations

import argparse
import json
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from zoo import runs
from zoo.evaluate import calibration
from zoo.reporter import Reporter
from zoo.workflow.own_pictures import reload_dataset
from zoo_runtime import PictureError, Prediction, Predictor, decode, list_pictures

DAMAGED = 500
LIKE_DIGITS = "BDIOSZbgijloqsyz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export")
    parser.add_argument("test", type=Path)
    parser.add_argument("others", nargs="*", type=Path)
    parser.add_argument(
        "--exclude", default="", help="comma-separated words; OTHER pictures with one in their name do not count"
    )
    parser.add_argument("--letters", action="store_true", help="draw letters, for a network that reads digits")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    predictor = Predictor(options.export)
    pictures, truth = tested(options.test, predictor.info.classes)
    results, labels = predictions(predictor, pictures, truth)
    figures = {"test_pictures": len(results), **answers(predictor, results, labels)}
    if results[0].outlier_score is not None:
        own = np.array([result.outlier_score for result in results])
        figures["kept"] = float(np.mean([not result.outlier for result in results]))
        groups = {folder.name: others(folder, options.exclude) for folder in options.others}
        groups |= damaged(predictor, pictures)
        groups |= letters() if options.letters else {}
        figures["outliers"] = {name: apart(predictor, own, group) for name, group in groups.items()}
    print(json.dumps(figures, indent=2) if options.json else text(figures))


def tested(folder: Path, classes: Sequence[str]) -> tuple[list, list[str]]:
    """Return the test pictures, and the class of each."""
    if not (folder / runs.RECORD).is_file():
        paths = [path for path in list_pictures(folder) if Path(path).parent.name in classes]
        return paths, [Path(path).parent.name for path in paths]
    run, record = runs.load(folder)
    dataset = reload_dataset(run, record, None, Reporter())
    pictures = [dataset.source.pictures[i] for i in dataset.split.test]
    return [picture.content for picture in pictures], [dataset.source.class_of(picture) for picture in pictures]


def predictions(predictor: Predictor, pictures: list, labels: list[str]) -> tuple[list[Prediction], list[str]]:
    """Predict pictures, and return the predictions and the true classes of those that can be read."""
    pairs = zip(predictor.predict_each(pictures), labels, strict=True)
    read = [(result, label) for result, label in pairs if not isinstance(result, PictureError)]
    return [result for result, _ in read], [label for _, label in read]


def answers(predictor: Predictor, results: list[Prediction], labels: list[str]) -> dict:
    likely = np.array([list(result.probabilities.values()) for result in results])
    targets = np.array([[name == label for name in predictor.info.classes] for label in labels], float)
    sure, right = calibration.decided(likely, targets, predictor.info.task)
    given = np.array([not result.unknown for result in results])
    pairs = list(zip(results, labels, strict=True))
    known = predictor.info.trust.get("sets", {})
    sets = {key: float(np.mean([label in result.sets[key] for result, label in pairs])) for key in known}
    sizes = {key: float(np.mean([len(result.sets[key]) for result in results])) for key in known}
    return {
        "accuracy": float(right.mean()),
        "expected_calibration_error": calibration.calibration_error(sure, right),
        "sets": sets,
        "classes_in_a_set": sizes,
        "answered": float(given.mean()),
        "precision": float(right[given].mean()) if given.any() else None,
    }


def others(folder: Path, exclude: str) -> list[str]:
    words = [word for word in exclude.split(",") if word]
    return [path for path in list_pictures(folder) if not any(word in path for word in words)]


def letters() -> dict[str, list[np.ndarray]]:
    """Return letters as the digits of scikit-learn are: bright on black, 8 x 8 pixels of 17 levels, moved and turned.

    Those that look like a digit in some handwriting stand apart.
    """
    from PIL import Image, ImageDraw, ImageFont

    random, groups = np.random.default_rng(0), {"letters": [], "letters like digits": []}
    for letter in string.ascii_letters:
        for _ in range(10):
            image = Image.new("L", (96, 96))
            draw, font = ImageDraw.Draw(image), ImageFont.load_default(random.uniform(75, 95))
            draw.text((48, 48), letter, 255, font, anchor="mm", stroke_width=int(random.integers(0, 4)))
            image = image.rotate(random.uniform(-12, 12), Image.Resampling.BICUBIC)
            box = np.array(image.getbbox()) + random.uniform(-4, 4, 4)
            # The digits fill the height, and are in the middle.
            middle, half = (box[0] + box[2]) / 2, (box[3] - box[1]) / 2
            outline = np.clip([middle - half, box[1], middle + half, box[3]], 0, 96)
            image = image.resize((8, 8), Image.Resampling.BOX, tuple(outline))
            levels = np.round(np.asarray(image, np.float64) / 255 * 16) / 16 * 255
            name = "letters like digits" if letter in LIKE_DIGITS else "letters"
            groups[name].append(levels.round().astype(np.uint8))
    return groups


def damaged(predictor: Predictor, paths: list[str]) -> dict[str, list[np.ndarray]]:
    """Return blurred, noisy, dark and empty pictures, as arrays of the size that the network takes."""
    from PIL import Image, ImageFilter

    chosen = paths[:: max(1, len(paths) // DAMAGED)][:DAMAGED]
    pixels = [decode(path, predictor.info.image) for path in chosen]
    random, size = np.random.default_rng(0), predictor.info.image.size
    shape = pixels[0].shape

    def blurred(array: np.ndarray) -> np.ndarray:
        image = Image.fromarray(array.squeeze()).filter(ImageFilter.GaussianBlur(max(1, size[1] / 28)))
        return np.asarray(image).reshape(shape)

    return {
        "blurred": [blurred(array) for array in pixels],
        "noisy": [np.clip(array + random.normal(0, 90, shape), 0, 255).astype(np.uint8) for array in pixels],
        "dark": [(array * 0.03).astype(np.uint8) for array in pixels],
        "noise alone": [random.integers(0, 256, shape).astype(np.uint8) for _ in range(200)],
        "one color": [np.full(shape, level, np.uint8) for level in range(0, 256, 4)],
    }


def apart(predictor: Predictor, own: np.ndarray, group: list) -> dict[str, float]:
    results = [each for each in predictor.predict_each(group) if not isinstance(each, PictureError)]
    scores = np.array([result.outlier_score for result in results])
    truth = np.repeat([0, 1], [len(own), len(scores)])
    return {
        "pictures": len(scores),
        "auroc": float(roc_auc_score(truth, np.concatenate([own, scores]))),
        "missed_at_95": float((scores <= np.quantile(own, 0.95)).mean()),
        "missed_by_the_file": float(np.mean([not result.outlier for result in results])),
    }


def text(figures: dict) -> str:
    lines = [
        f"{figures['test_pictures']} test pictures, accuracy {figures['accuracy']:.4f}, "
        f"expected calibration error {figures['expected_calibration_error']:.4f}"
    ]
    for coverage, share in figures["sets"].items():
        lines.append(
            f"label sets at {coverage}: {share:.4f} covered, {figures['classes_in_a_set'][coverage]:.2f} classes"
        )
    if figures["answered"] < 1:
        lines.append(f"answered {figures['answered']:.4f}, of which right {figures['precision']:.4f}")
    if "kept" in figures:
        lines.append(f"{figures['kept']:.4f} of the test pictures are not outliers")
        lines.append(f"{'others':<20} {'pictures':>8} {'AUROC':>7} {'missed at 95 %':>15} {'by the file':>12}")
        for name, row in figures["outliers"].items():
            lines.append(
                f"{name:<20} {row['pictures']:>8} {row['auroc']:>7.4f} {row['missed_at_95']:>15.4f} "
                f"{row['missed_by_the_file']:>12.4f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
