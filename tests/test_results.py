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
        "averages": {
            "NDCG@10": {"gcl-matrix": {"zero_shot": Interval(0.5, 0.4, 0.6), "macro": Interval(0.1, 0.0, 0.2)}}
        },
        "gains": [
            {"method": "gcl-matrix", "control": "clip-top", "metric": "NDCG@10", "split": "zero_shot",
             "difference": 0.0204, "low": -0.001, "high": 0.04, "relative": 0.051, "relative_low": -0.002,
             "relative_high": 0.1, "p_value": 0.0311}
        ],
    }  # fmt: skip
    text = as_markdown(told)
    assert "`gcl compare x`, 2026-01-02, 3.5 CPU-minutes of training on CPU, 2 cores" in text
    assert "1,200 zero_shot" in text
    assert "| gcl-matrix | 0.500 [0.400, 0.600] | 0.100 [0.000, 0.200] |" in text
    row = "| gcl-matrix | clip-top | NDCG@10 | zero_shot | +0.020 [-0.001, +0.040] | +5.1% [-0.2%, +10.0%] | 0.0311 |"
    assert row in text.splitlines()
