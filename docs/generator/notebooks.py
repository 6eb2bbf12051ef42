"""Notebooks as Markdown pages, with the outputs of their cells.

The notebooks are stored without outputs.  Their code cells run in one namespace, as in Jupyter,
without its packages: `python docs/generator/notebooks.py NOTEBOOK` prints the outputs as JSON.
"""

import ast
import base64
import hashlib
import html
import io
import json
import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def read_cells(path: Path) -> list[Cell]:
    """The cells of a notebook, each with its `source` as one text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def run_cells(cells: list[Cell]) -> list[dict[str, str]]:
    """Run the code cells in one namespace; return the output of each as `text`, `html` and `png`.

    An error of a cell is raised.
    """
    import matplotlib

    matplotlib.use("agg")
    names: dict[str, object] = {"__name__": "__main__"}
    return [run_cell(cell["source"], names) for cell in cells if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, object]) -> dict[str, str]:
    """Run one cell; the value of a last line that is an expression is part of the output."""
    from matplotlib import pyplot

    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr) and not source.rstrip().endswith(";"):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        elif isinstance(last, ast.Expr):
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    output = {"text": printed.getvalue()}
    if render_html := getattr(value, "_repr_html_", None):
        output["html"] = render_html()
    elif value is not None:
        output["text"] += repr(value)
    if pyplot.get_fignums():
        picture = io.BytesIO()
        pyplot.gcf().savefig(picture, format="png", dpi=110, bbox_inches="tight")
        output["png"] = base64.b64encode(picture.getvalue()).decode()
        pyplot.close("all")
    return {kind: content for kind, content in output.items() if content}


def make_page(path: Path, cache: Path | None) -> str:
    """The Markdown of a notebook with its outputs, which are kept in the folder `cache`.

    Without a cache the notebook is not run, and has no outputs.
    """
    cells = read_cells(path)
    outputs = iter(read_or_run(path, cache) if cache else [])
    parts = []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
            continue
        parts.append(f"```python\n{cell['source']}\n```")
        parts.extend(format_output(next(outputs, {}), cell["metadata"].get("alt", "")))
    return "\n\n".join(parts) + "\n"


def format_output(output: dict[str, str], alternative: str) -> list[str]:
    parts = []
    if text := output.get("text", "").rstrip():
        parts.append(f"```text\n{text}\n```")
    if table := output.get("html"):
        parts.append(f"<div class='notebook-output'>{' '.join(table.split())}</div>")
    if png := output.get("png"):
        source = f"data:image/png;base64,{png}"
        parts.append(
            f'<img class="notebook-figure" alt="{html.escape(alternative)}" src="{source}">'
        )
    return parts


def read_or_run(path: Path, cache: Path) -> list[dict[str, str]]:
    """The outputs of a notebook's cells; an unchanged notebook runs once."""
    kept = cache / f"{hashlib.sha256(path.read_bytes()).hexdigest()}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, Path(__file__).resolve(), path.resolve()],
                cwd=folder,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env=os.environ | {"PYTHONWARNINGS": "ignore"},
            )
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout, encoding="utf-8")
    outputs: list[dict[str, str]] = json.loads(kept.read_text(encoding="utf-8"))
    return outputs


if __name__ == "__main__":
    print(json.dumps(run_cells(read_cells(Path(sys.argv[1])))))
