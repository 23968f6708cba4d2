"""The mini world as shards."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bdkit.training.preparation.prepare_mini import prepare_mini
from bdkit.training.pretraining.corpus import CorpusConfig, build_corpus
from bdkit.training.shards.read import Shards


def test_the_mini_world_as_shards_is_the_corpus(tmp_path: Path) -> None:
    config = CorpusConfig(scenes=12, seed=3, plain=True)
    corpus = build_corpus(config, tmp_path / "corpus", workers=1, progress=False)
    with ThreadPoolExecutor(1) as pool:
        prepare_mini(config, str(tmp_path / "out"), shard_mb=0.05, executor=pool, progress=False)
    shards = Shards(tmp_path / "out")
    assert len(shards.names) > 1
    assert len(shards) == 12
    for number in range(12):
        record = shards[number]
        assert (record.image() == corpus.images[number]).all()
        assert (record.pixels("alpha.png", "L") == corpus.alphas[number]).all()
        texts = [record.details[name] for name in ("template", "detail", "subject")]
        assert texts == [corpus.templates[number], corpus.details[number], corpus.class_nouns[number]]
        assert ("plain.png" in record.files) == (number in corpus.plain)
        if number in corpus.plain:
            assert (record.pixels("plain.png", "RGB") == corpus.plain[number][0]).all()
            assert (record.pixels("plain_alpha.png", "L") == corpus.plain[number][1]).all()
    assert corpus.plain
