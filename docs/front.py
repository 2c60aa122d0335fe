"""Draws docs/images/front.png: order against recall of every trained method of a study.

    python docs/front.py runs/lab-grocery

Needs the extra `notebooks` (kaleido) and Chromium.
"""

from __future__ import annotations

import sys

from gcl_toolkit.studies.results import MACRO, read_results
from gcl_toolkit.studies.study import BASELINES
from gcl_toolkit.views import figures


def main(folder: str, out: str = "docs/images/front.png") -> None:
    averages = read_results(f"{folder}/results.json").averages
    order, recall = (
        {name: cells[MACRO] for name, cells in averages[metric].items() if name not in BASELINES}
        for metric in ("NDCG@10", "AP")
    )
    figure = figures.order_against_recall(order, recall)
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white", margin={"l": 70, "r": 20, "t": 20, "b": 130})
    figure.write_image(out, width=900, height=560, scale=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
