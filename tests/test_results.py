from gcl_toolkit.results import as_markdown
from gcl_toolkit.statistics import Interval


def test_tables_hold_every_number_with_its_interval_and_control():
    told = {
        "command": "gcl compare x",
        "date": "2026-01-02",
        "minutes": 3.5,
        "machine": {"processor": "CPU", "cores": 2, "device": "cpu", "versions": {"torch": "2.9"}},
        "worlds": ["x"],
        "seeds": 3,
        "division": "test",
        "queries": {"zero_shot": 1200},
        "control": "clip-top",
        "strongest": True,
        "averages": {
            metric: {
                method: {"zero_shot": Interval(0.5, 0.4, 0.6), "in_domain": Interval(0.9, 0.8, 1.0),
                         "macro": Interval(mean, 0.0, 0.2)}
                for method in ("clip-top", "gcl-matrix")
            }
            for metric, mean in (("NDCG@10", 0.1), ("AP", 0.7))
        },
        "gains": [
            {"method": "gcl-matrix", "control": "clip-top", "metric": metric, "split": split,
             "difference": gain, "low": -0.001, "high": 0.04, "relative": 0.051, "relative_low": -0.002,
             "relative_high": 0.1, "p_value": 0.0311}
            for metric, split, gain in (("NDCG@10", "zero_shot", 0.0204), ("NDCG@10", "in_domain", 0.0304),
                                        ("NDCG@10", "macro", 0.0254), ("AP", "zero_shot", 0.2),
                                        ("AP", "in_domain", -0.1), ("AP", "macro", 0.05))
        ],
    }  # fmt: skip
    text = as_markdown(told)
    assert "`gcl compare x`, 2026-01-02, 3.5 CPU-minutes of training on CPU, 2 cores" in text
    assert "1,200 zero_shot" in text
    assert "| gcl-matrix | 0.500 [0.400, 0.600] | 0.900 [0.800, 1.000] | 0.100 [0.000, 0.200] |" in text
    row = "| gcl-matrix | clip-top | NDCG@10 | zero_shot | +0.020 [-0.001, +0.040] | +5.1% [-0.2%, +10.0%] | 0.0311 |"
    assert row in text.splitlines()
    assert "**Order and recall** (the mean of the splits; gains over `clip-top`)" in text
    assert "| clip-top | 0.100 |  |  | 0.700 |  |  |" in text.splitlines()
    order = "0.100 | +0.025 [-0.001, +0.040] | +0.020 [-0.001, +0.040] zero_shot"
    recall = "0.700 | +0.050 [-0.001, +0.040] | -0.100 [-0.001, +0.040] in_domain"
    assert f"| gcl-matrix | {order} | {recall} |" in text.splitlines()
