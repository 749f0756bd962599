"""A report as one HTML page that needs nothing else: no script, no network."""

import importlib.resources
import math
from html import escape

from compare.report.charts import error_profile, gradient_norms, heatmap
from compare.result import Cause, CheckResult, Leaf, Report

__all__ = ["to_html"]

_VERDICTS = {
    "passed": "Passed: both compute the same function",
    "failed": "Failed: the port differs",
    "inconclusive": "Inconclusive: nothing wrong was seen, but not enough was shown",
    "error": "Error: the check could not be carried out",
}
_OPEN = ("failed", "error", "inconclusive")
_LEAVES_SHOWN = 200


def to_html(report: Report) -> str:
    """The whole page: verdict, causes, place, checks, charts, settings. All names in it are escaped."""
    style = importlib.resources.files("compare.report").joinpath("page.css").read_text(encoding="utf-8")
    sections = [_head(report), *map(_cause, report.causes), _checks(report), _profile(report), _worst(report)]
    sections += [_norms(report), _counts(report), _settings(report)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(report.name)}: {report.status}</title><style>{style}</style></head>\n"
        f"<body>{chr(10).join(section for section in sections if section)}</body></html>\n"
    )


def _head(report: Report) -> str:
    lines = [f"<header><h1>{escape(report.name)}</h1>"]
    lines.append(f'<p class="verdict {report.status}">{_VERDICTS[report.status]}</p>')
    if report.passed:
        lines += [f"<p>Not judged: {escape(check.name)}, {escape(check.detail)}.</p>" for check in report.unjudged]
    if (place := report.first_divergence) is not None:
        module = f"<code>{escape(place.module)}</code>" if place.module else "the model itself"
        flax = f" (Flax: <code>{escape(place.flax_path)}</code>)" if place.flax_path else ""
        step = "" if place.step is None else f"step {place.step}, {escape((place.quantity or '').replace('_', ' '))}, "
        lines.append(
            f"<p>First difference, {place.direction}: {step}{place.where} {module}{flax}. It differs by "
            f'<span class="number">{place.error:.3g}</span>; rounding explains '
            f'<span class="number">{place.allowed:.3g}</span>.</p>'
        )
    if report.status == "failed" and not report.causes:
        lines.append("<p>No known mistake reproduces the difference.</p>")
    return "".join(lines) + "</header>"


def _cause(cause: Cause) -> str:
    return (
        f'<div class="card failed"><h3>{escape(cause.summary)}</h3><p><b>Fix:</b> {escape(cause.fix)}</p>'
        f'<p class="quiet"><code>{escape(cause.name)}</code>: {escape(cause.evidence)}</p></div>'
    )


def _checks(report: Report) -> str:
    return "<h2>Checks</h2>" + "".join(map(_check, report.checks))


def _check(check: CheckResult) -> str:
    is_open = " open" if check.status in _OPEN else ""
    heading = f'<b class="{check.status}">{check.status}</b> {escape(check.name)}: {escape(check.detail)}'
    return f"<details{is_open}><summary>{heading}</summary>{_leaves(check.leaves)}</details>"


def _leaves(leaves: tuple[Leaf, ...]) -> str:
    if not leaves:
        return '<p class="quiet">No arrays were compared.</p>'
    ordered = sorted(leaves, key=lambda leaf: leaf.agrees)
    rows = "".join(map(_leaf, ordered[:_LEAVES_SHOWN]))
    more = len(leaves) - _LEAVES_SHOWN
    rest = f'<p class="quiet">and {more} more that differ less</p>' if more > 0 else ""
    numbers = "".join(f'<th class="number">{name}</th>' for name in ("differs by", "rounding explains", "relative"))
    head = f"<th>array</th>{numbers}<th>at</th>"
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>{rest}'


def _leaf(leaf: Leaf) -> str:
    numbers = "".join(f'<td class="number">{_number(n)}</td>' for n in (leaf.error, leaf.allowed, leaf.relative))
    place = leaf.detail or ("" if leaf.index is None else str(list(leaf.index)))
    shade = "" if leaf.agrees else ' class="failed"'
    return f"<tr><td{shade}><code>{escape(leaf.path or 'output')}</code></td>{numbers}<td>{escape(place)}</td></tr>"


def _number(value: float) -> str:
    return f"{value:.2e}" if math.isfinite(value) else "not finite"


def _profile(report: Report) -> str:
    if not report.layers:
        return ""
    told = (
        '<p class="quiet">Largest difference at each place in the order of execution, on a log axis. The bar is what '
        "rounding explains; a mark beyond its end is a difference.</p>"
    )
    forward = f"<h2>Values, layer by layer</h2>{told}{error_profile(report.layers, 'forward')}"
    return forward + f"<h2>Gradients, layer by layer</h2>{error_profile(report.layers, 'backward')}"


def _worst(report: Report) -> str:
    picture = report.worst_array
    if picture is None:
        return ""
    shape = " x ".join(map(str, picture.shape)) or "a single number"
    at = "" if picture.index is None else f" at {list(picture.index)}"
    return (
        f"<h2>The array that differs most: <code>{escape(picture.path or 'output')}</code></h2>"
        f'<p class="quiet">{escape(picture.case)}; shape {shape}. Largest difference{at}: torch has '
        f"{picture.expected:.9g}, Flax {picture.found:.9g}. Cells without colour agree to rounding.</p>"
        f"{heatmap(picture)}"
    )


def _norms(report: Report) -> str:
    if not report.gradient_norms:
        return ""
    told = '<p class="quiet">Norm of each parameter\'s gradient: torch the dot, Flax the square.</p>'
    return f"<h2>Gradient norms</h2>{told}{gradient_norms(report.gradient_norms)}"


def _counts(report: Report) -> str:
    counts = report.numbers.get("parameters") or {}
    known = {leg: count for leg, count in counts.items() if isinstance(count, int)}
    cells = "".join(f'<tr><td>{escape(leg)}</td><td class="number">{count:,}</td></tr>' for leg, count in known.items())
    return f"<h2>Parameters</h2><table>{cells}</table>" if cells else ""


def _settings(report: Report) -> str:
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in report.settings.items())
    return f'<h2>Settings</h2><div class="scroll"><table>{rows}</table></div>'
