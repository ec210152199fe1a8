from diptych.metrics import Metric, catalogue


def test_every_metric_is_there_once_with_a_sentence() -> None:
    found = catalogue()
    assert len({metric.name for metric in found}) == len(found)
    assert Metric("diptych_gateway_cache_total", "counter", ("cache", "outcome"), "Look-ups in the cache.") in found
    assert all(metric.help.endswith(".") for metric in found)
    assert {metric.kind for metric in found} == {"counter", "gauge", "histogram"}
