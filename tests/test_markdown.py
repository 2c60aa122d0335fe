from gcl_toolkit.measure.statistics import Difference, Interval
from gcl_toolkit.studies.markdown import as_markdown
from gcl_toolkit.studies.results import Gain, Results


def test_tables_have_every_number_with_its_interval_and_control():
    results = Results(
        division="test",
        control="clip-top",
        strongest=True,
        queries={"zero_shot": 1200},
        seeds=3,
        worlds=["x"],
        averages={
            metric: {
                method: {"zero_shot": Interval(0.5, 0.4, 0.6), "in_domain": Interval(0.9, 0.8, 1.0),
                         "macro": Interval(mean, 0.0, 0.2)}
                for method in ("clip-top", "graded")
            }
            for metric, mean in (("NDCG@10", 0.1), ("AP", 0.7))
        },
        gains=[
            Gain("graded", "clip-top", split,
                 Difference(metric, 0, 0, gain, -0.001, 0.04, 0.051, -0.002, 0.1, 0.0311, 9))
            for metric, split, gain in (("NDCG@10", "zero_shot", 0.0204), ("NDCG@10", "in_domain", 0.0304),
                                        ("NDCG@10", "macro", 0.0254), ("AP", "zero_shot", 0.2),
                                        ("AP", "in_domain", -0.1), ("AP", "macro", 0.05))
        ],
        command="gcl compare x",
        date="2026-01-02",
        minutes=3.5,
        machine={"processor": "CPU", "cores": 2, "device": "cpu", "versions": {"torch": "2.9"}},
    )  # fmt: skip
    text = as_markdown(results)
    assert "`gcl compare x`, 2026-01-02, 3.5 CPU-minutes of training on CPU, 2 cores" in text
    assert "1,200 zero_shot" in text
    assert "| graded | 0.500 [0.400, 0.600] | 0.900 [0.800, 1.000] | 0.100 [0.000, 0.200] |" in text
    row = "| graded | clip-top | NDCG@10 | zero_shot | +0.020 [-0.001, +0.040] | +5.1% [-0.2%, +10.0%] | 0.0311 |"
    assert row in text.splitlines()
    assert "**Order and recall** (the mean of the splits; gains over `clip-top`)" in text
    assert "| clip-top | 0.100 |  |  | 0.700 |  |  |" in text.splitlines()
    order = "0.100 | +0.025 [-0.001, +0.040] | +0.020 [-0.001, +0.040] zero_shot"
    recall = "0.700 | +0.050 [-0.001, +0.040] | -0.100 [-0.001, +0.040] in_domain"
    assert f"| graded | {order} | {recall} |" in text.splitlines()
