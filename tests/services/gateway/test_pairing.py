from services.gateway.pairing import Pair, choose, mismatch
from shared.schemas import EncoderStatus, IndexStatus, Scoring, ServedIndex, ServedModel


def model(ref: str, fingerprint: str, *, reranker: bool = True) -> ServedModel:
    return ServedModel(
        ref=ref, fingerprint=fingerprint, embedding_dim=64, token_dim=16, has_reranker=reranker, scoring=Scoring()
    )


def index(ref: str, fingerprint: str, images: int = 3) -> ServedIndex:
    return ServedIndex(ref=ref, fingerprint=fingerprint, embedding_dim=64, collections={"images": images})


def encoder_has(current: str | None, *models: ServedModel) -> EncoderStatus:
    return EncoderStatus(engine="onnx", current=current, models=list(models))


def index_has(current: str | None, *indexes: ServedIndex) -> IndexStatus:
    return IndexStatus(current=current, indexes=list(indexes))


M1, M2 = model("m/1", "aaa"), model("m/2", "bbb")
I1, I2 = index("i/1", "aaa"), index("i/2", "bbb")
OLD = Pair(M1, I1)


def test_current_versions_that_fit_are_the_pair() -> None:
    assert choose(encoder_has("m/2", M1, M2), index_has("i/2", I1, I2), OLD) == Pair(M2, I2)
    assert choose(encoder_has("m/1", M1), index_has("i/1", I1), None) == OLD


def test_while_the_index_lags_behind_the_old_pair_answers() -> None:
    assert choose(encoder_has("m/2", M1, M2), index_has("i/1", I1), OLD) == OLD


def test_while_the_encoder_lags_behind_the_old_pair_answers() -> None:
    assert choose(encoder_has("m/1", M1), index_has("i/2", I1, I2), OLD) == OLD


def test_the_index_decides_when_both_have_both_but_point_apart() -> None:
    assert choose(encoder_has("m/1", M1, M2), index_has("i/2", I1, I2), OLD) == Pair(M2, I2)


def test_a_gateway_that_starts_in_the_middle_of_a_switch_finds_a_pair() -> None:
    assert choose(encoder_has("m/2", M1, M2), index_has("i/1", I1), None) == OLD
    assert choose(encoder_has("m/1", M1), index_has("i/2", I1, I2), None) == OLD


def test_a_new_reranker_on_the_same_towers_is_used_with_the_index_that_is_there() -> None:
    again = model("m/1b", "aaa")
    assert choose(encoder_has("m/1b", M1, again), index_has("i/1", I1), OLD) == Pair(again, I1)


def test_among_models_that_fit_equally_the_one_in_use_stays() -> None:
    twin = model("m/0", "aaa")
    status = encoder_has("m/2", twin, M1, M2)
    assert choose(status, index_has("i/1", I1), OLD) == OLD
    assert choose(encoder_has("m/2", M1, twin, M2), index_has("i/1", I1), Pair(twin, I1)) == Pair(twin, I1)


def test_of_several_encoders_most_decide_as_long_as_the_index_has_what_they_have() -> None:
    both = encoder_has("m/2", M1, M2)
    assert choose(both, index_has("i/2", I1, I2), OLD, {"m/1": 3, "m/2": 1}) == OLD
    assert choose(both, index_has("i/2", I1, I2), OLD, {"m/1": 3, "m/2": 3}) == Pair(M2, I2)
    assert choose(both, index_has("i/2", I1, I2), OLD, {"m/1": 1, "m/2": 2}) == Pair(M2, I2)
    assert choose(both, index_has("i/2", I2), OLD, {"m/1": 3, "m/2": 1}) == Pair(M2, I2)


def test_nothing_is_chosen_where_nothing_fits() -> None:
    assert choose(encoder_has("m/2", M2), index_has("i/1", I1), OLD) is None
    assert choose(encoder_has(None), index_has("i/1", I1), OLD) is None
    assert choose(encoder_has("m/1", M1), index_has(None), OLD) is None


def test_a_mismatch_names_both_sides_and_what_to_do() -> None:
    problem = mismatch(encoder_has("m/2", M2), index_has("i/1", I1))
    assert problem.slug == "model-index-mismatch"
    assert problem.status == 503
    for part in ("m/2", "bbb", "i/1", "aaa", "diptych index build"):
        assert part in problem.detail


def test_a_pair_has_another_key_when_anything_about_it_differs() -> None:
    keys = {
        OLD.key,
        Pair(M2, I2).key,
        Pair(M1, index("i/1", "aaa", images=4)).key,
        Pair(model("m/1", "aaa", reranker=False), I1).key,
    }
    assert len(keys) == 4
    assert Pair(model("m/1", "aaa"), index("i/1", "aaa")).key == OLD.key
