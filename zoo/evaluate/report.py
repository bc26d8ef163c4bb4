"""report.html of a run: one page, without anything fetched from elsewhere."""

from __future__ import annotations

from typing import Any

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ run.id }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } .warn { background: #fff3cd; padding: .5rem 1rem; white-space: pre-wrap }
.scroll { overflow-x: auto } caption { text-align: left; font-weight: 600 }
</style></head><body>
<h1>{{ run.architecture.name }} on {{ run.data.name }}</h1>
{% if metrics.test %}
<p>Test accuracy <b>{{ "%.4f"|format(metrics.test.accuracy) }}</b> on {{ metrics.test.pictures }} pictures, measured through
the exported file; validation accuracy {{ "%.4f"|format(metrics.validation.accuracy) }}.</p>
{% endif %}
{% for warning in run.warnings %}<p class="warn">{{ warning }}</p>{% endfor %}
<table><caption>Settings</caption>
{% for label, value in settings %}<tr><td>{{ label }}</td><td>{{ value }}</td></tr>{% endfor %}</table>
{% if metrics.test %}
<table><caption>Test pictures, class by class</caption>
<tr><th>class</th><th>precision</th><th>recall</th><th>F1</th><th>pictures</th></tr>
{% for name, row in metrics.test.per_class.items() %}<tr><td>{{ name }}</td><td>{{ "%.3f"|format(row.precision) }}</td>
<td>{{ "%.3f"|format(row.recall) }}</td><td>{{ "%.3f"|format(row.f1) }}</td><td>{{ row.pictures }}</td></tr>{% endfor %}</table>
<div class="scroll"><table><caption>Confusion matrix: rows are the truth, columns the prediction</caption>
<tr><th></th>{% for name in metrics.test.classes %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in metrics.test.confusion_matrix %}{% set truth = loop.index0 %}<tr><td>{{ metrics.test.classes[truth] }}</td>
{% for count in row %}{% set share = count / ([row|sum, 1]|max) %}
<td style="background: rgba({{ '40,140,70' if loop.index0 == truth else '200,60,40' }}, {{ '%.2f'|format(share * 0.8) }})">{{ count }}</td>
{% endfor %}</tr>{% endfor %}</table></div>
{% endif %}
<table><caption>Epochs</caption><tr>{% for column in history[0] %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in history %}<tr>{% for value in row.values() %}<td>{{ "%.5g"|format(value) if value is number else value }}</td>{% endfor %}</tr>{% endfor %}
</table></body></html>
"""


def render(run: dict[str, Any], metrics: dict[str, Any], history: list[dict[str, Any]]) -> str:
    """Render the page.

    Args:
        run: The content of run.json.
        metrics: The content of metrics.json; empty where nothing was measured.
        history: A row an epoch.

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
    return environment.from_string(TEMPLATE).render(run=run, metrics=metrics, history=history, settings=settings)
