"""SVG and HTML of the lessons' figures. Colours are CSS variables of the page."""

import numpy as np

TIMING = 'dur="1.2s" begin="indefinite"'
MARKS = ("var(--one)", "var(--two)")


def table(head, rows):
    head = "".join(f"<th scope=col>{name}</th>" for name in head)
    rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def circle(frames, positions):
    """Two queries (squares) and their products (numbered circles), moving from start to end. Only angles count:
    products are drawn inside, later positions further, so that none hides another or its query."""
    parts = ['<circle class="rim" r="100"/>']
    for point in range(frames.shape[1]):
        query = point if point < 2 else (point - 2) // 4
        radius = 100 if point < 2 else 87 - 13 * ((point - 2) % 4)
        x, y = radius * np.cos(frames[:, point]), -radius * np.sin(frames[:, point])
        way = ";".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        move = f'<animateTransform attributeName="transform" type="translate" values="{way}" {TIMING}/>'
        if point < 2:
            body = '<rect x="-9" y="-9" width="18" height="18"/><text dy="4">q</text>'
        else:
            body = f'<circle r="8"/><text dy="3.5">{positions[(point - 2) % 4]}</text>'
        end = f"translate({x[-1]:.1f},{y[-1]:.1f})"
        parts.append(f'<g fill="{MARKS[query]}" transform="{end}">{body}{move}</g>')
    about = "Squares are two queries, circles their products with their positions; colours show which belong together."
    return f'<svg class="circle" viewBox="-125 -118 250 236" role="img" aria-label="{about}">{"".join(parts)}</svg>'


def bars(values, low=0.0, high=1.0):
    """Named values as horizontal bars, with an optional range (name, value, from, to)."""
    rows = []
    for name, value, *reach in values:
        share = [100 * (v - low) / (high - low) for v in (value, *reach)]
        span = f'<i class="span" style="left:{share[1]:.1f}%;width:{share[2] - share[1]:.1f}%"></i>' if reach else ""
        words = f"<br><small>{reach[0]:.3f} to {reach[1]:.3f}</small>" if reach else ""
        rows.append(
            f'<tr><th scope=row>{name}</th><td class="bar"><b style="width:{share[0]:.1f}%"></b>{span}</td>'
            f"<td>{value:.3f}{words}</td></tr>"
        )
    return f'<table class="bars"><tbody>{"".join(rows)}</tbody></table>'


def intervals(rows, truth, reach):
    """Intervals (mean, low, high) as horizontal lines, with a line at 0 and one at the truth; axis -reach..reach."""

    def x(value):
        return 200 + 190 * max(-1.0, min(1.0, value / reach))

    height = 8 * len(rows) + 24
    lines = [f'<path class="zero" d="M200 0V{height - 16}"/><path class="truth" d="M{x(truth):.1f} 0V{height - 16}"/>']
    for place, (mean, low, high) in enumerate(rows):
        y = 8 * place + 6
        kind = "clear" if low > 0 or high < 0 else "open"
        lines.append(f'<path class="{kind}" d="M{x(low):.1f} {y}H{x(high):.1f}"/>')
        lines.append(f'<circle class="{kind}" cx="{x(mean):.1f}" cy="{y}" r="2.5"/>')
    for tick in (-1, -0.5, 0, 0.5, 1):
        lines.append(
            f'<text x="{x(tick * reach):.0f}" y="{height - 3}">{tick * reach:{"+.2f" if tick else ".0f"}}</text>'
        )
    about = f"{len(rows)} experiments, each with its interval; the line at 0, and the true difference {truth:+.3f}."
    return f'<svg class="intervals" viewBox="-15 0 430 {height}" role="img" aria-label="{about}">{"".join(lines)}</svg>'
