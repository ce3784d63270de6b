"""A chart as SVG: bars on a logarithmic scale, with their values. No library is worth two rectangles."""

import math
from collections.abc import Mapping

WIDTH, BAR, GAP, LEFT, RIGHT = 720, 18, 6, 130, 90
TITLE = 34


def bars(groups: Mapping[str, Mapping[str, float]], marked: str) -> str:
    """Each group is a title and bars by name, the shortest first; `marked` stands out."""
    parts, top = [], 0
    for title, values in groups.items():
        parts.append(f'<text x="0" y="{top + 20}" font-weight="bold">{title} (logarithmic)</text>')
        top += TITLE
        least, most = min(values.values()), max(values.values())
        for name in sorted(values, key=values.__getitem__):
            length = _length(values[name], least, most)
            colour = "#0969da" if name == marked else "#8c959f"
            middle = top + BAR - 5
            parts += [
                f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{name}</text>',
                f'<rect x="{LEFT}" y="{top}" width="{length:.0f}" height="{BAR}" fill="{colour}"/>',
                f'<text x="{LEFT + length + 6:.0f}" y="{middle}">{values[name]:.3g}</text>',
            ]
            top += BAR + GAP
        top += GAP
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}">'
    return "\n".join([opening, '<g style="font: 13px sans-serif; fill: #57606a">', *parts, "</g></svg>\n"])


def _length(value: float, least: float, most: float) -> float:
    """The shortest bar is a tenth of the longest."""
    share = math.log(value / least) / math.log(most / least) if most > least else 1.0
    return (WIDTH - LEFT - RIGHT) * (0.1 + 0.9 * share)
