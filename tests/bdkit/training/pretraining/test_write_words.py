"""Captions as ITG writes them, word by word."""

import torch

from bdkit.testing.tiny_model import tiny_model
from bdkit.training.pretraining.multimodal_representation import MultimodalRepresentation, multimodal_causal_mask


def stage1() -> MultimodalRepresentation:
    model = tiny_model()
    torch.manual_seed(1)
    return MultimodalRepresentation(model.multimodal_encoder, model.qformer_tokenizer.bos_token_id).eval()


def test_each_word_is_what_itg_predicts_from_all_before_it() -> None:
    module = stage1()
    tokens = module.encoder.encode_image(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    written = module.write_words(tokens, end_token_id=-1, length=6)
    assert written.shape == (3, 6)
    ids = torch.cat([torch.full((3, 1), module.dec_token_id), written[:, :-1]], dim=1)
    queries = module.encoder.config.num_query_tokens
    hidden = module.encoder.query(tokens, ids, multimodal_causal_mask(queries, torch.ones_like(ids)))[:, queries:]
    words = module.encoder.qformer.get_input_embeddings().weight
    at_once = (module.word_transform(hidden) @ words.T + module.word_bias).argmax(-1)
    assert at_once.tolist() == written.tolist()


def test_the_end_ends_a_caption() -> None:
    module = stage1()
    tokens = module.encoder.encode_image(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    free = module.write_words(tokens, end_token_id=-1, length=6)[0].tolist()
    end = free[3]
    stopped = module.write_words(tokens, end_token_id=end, length=6)[0].tolist()
    assert stopped == free[: free.index(end) + 1]
    # a row that has ended is filled up while another goes on
    both = module.write_words(tokens.repeat(2, 1, 1) * torch.tensor([1.0, -1.0]).view(2, 1, 1), end_token_id=end)
    first = both[0].tolist()
    assert set(first[first.index(end) :]) == {end}
