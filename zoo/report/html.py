"""report.html of a run: one page that shows curves.png beside it and fetches nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def render(
    run: dict[str, Any], metrics: dict[str, Any], history: list[dict[str, Any]], *, curves: str | None = None
) -> str:
    """Render the page.

    Args:
        run: The content of run.json.
        metrics: The content of metrics.json; empty where nothing was measured.
        history: A row an epoch.
        curves: Name of the picture of the curves, beside the page; None where there is none.

    Returns:
        HTML; class and file names are escaped.
    """
    import jinja2

    options, weights = run["options"], run["weights"]
    settings = [
        ("run", run["id"]),
        ("weights", weights.get("id") or weights.get("file") or "random"),
        ("schedule", options["schedule"]),
        ("augmentation", options["augment"]),
        ("picture size", " x ".join(map(str, run["image"]["size"])) + f", {run['image']['resize']}"),
        ("pictures (train / val / test)", " / ".join(str(run["data"]["counts"][k]) for k in ("train", "val", "test"))),
        ("split", run["data"]["split"]),
        ("left out", len(run["data"]["left_out"])),
        ("seed", options["seed"]),
        ("training seconds", run["seconds"].get("train")),
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    metrics = {"test": metrics.get("test"), "validation": metrics.get("validation")}
    template = files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    content = {"run": run, "metrics": metrics, "history": history, "settings": settings, "curves": curves}
    return environment.from_string(template).render(content)
