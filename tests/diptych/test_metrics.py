from diptych.reference.metrics import SERVICES, found, name


def test_every_metric_is_there_once_with_a_sentence() -> None:
    metrics = [metric for place in ("shared", *SERVICES) for metric in found(place)]
    assert len({name(metric) for metric in metrics}) == len(metrics)
    about = [(name(one), one._type, tuple(one._labelnames), one._documentation) for one in metrics]
    assert ("diptych_gateway_cache_total", "counter", ("cache", "outcome"), "Look-ups in the cache.") in about
    assert all(metric._documentation.endswith(".") for metric in metrics)
    assert {metric._type for metric in metrics} == {"counter", "gauge", "histogram"}
