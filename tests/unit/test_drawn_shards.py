from cslm.apps import drawn_shards

SHARDS = [{"language": language, "digest": f"{language}{number}"} for language in ("en", "es") for number in range(4)]


def test_languages_take_turns_and_every_shard_comes_once():
    ordered = drawn_shards.drawn(SHARDS, seed=0)
    assert [shard["language"] for shard in ordered] == ["en", "es"] * 4
    assert sorted(shard["digest"] for shard in ordered) == sorted(shard["digest"] for shard in SHARDS)


def test_the_order_follows_from_seed_and_content_alone():
    assert drawn_shards.drawn(SHARDS[::-1], seed=3) == drawn_shards.drawn(SHARDS, seed=3)
    assert len({str(drawn_shards.drawn(SHARDS, seed=seed)) for seed in range(5)}) > 1
