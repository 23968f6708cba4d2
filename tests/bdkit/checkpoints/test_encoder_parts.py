"""What stage 1 starts from: the image encoders of transformers and open_clip, Q-Formers of BERT and BLIP-2."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
)

from bdkit.checkpoints.encoder_parts import ENCODER, EncoderPart, load_encoder, new_encoder, save_encoder
from bdkit.checkpoints.save import save_blip_diffusion
from bdkit.checkpoints.tokenizers import save_bert_tokenizer
from bdkit.models.configs import MultimodalEncoderConfig
from bdkit.models.tokenizers import bert_tokenizer
from bdkit.testing.tiny_model import WORDS, tiny_model
from bdkit.utils.errors import InputError

VISION = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 1, "intermediate_size": 128}
VISION |= {"image_size": 32, "patch_size": 8}
QFORMER = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
SIZES = MultimodalEncoderConfig(num_query_tokens=4, projection_size=96)


@pytest.fixture(scope="module")
def tokenizer_size() -> int:
    return len(bert_tokenizer(WORDS, 16))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CLIPModel]:
    torch.manual_seed(0)
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**VISION, "layer_norm_eps": 1e-5})).eval()
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    mean = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(mean))
    return folder, model


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, tokenizer_size: int) -> tuple[Path, BertForMaskedLM]:
    torch.manual_seed(1)
    model = BertForMaskedLM(BertConfig(vocab_size=tokenizer_size - 1, **QFORMER)).eval()
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    save_bert_tokenizer(bert_tokenizer(WORDS, 16), folder)
    words = (folder / "vocab.txt").read_text().split("\n")
    (folder / "vocab.txt").write_text("\n".join(word for word in words if word != "[DEC]"))
    return folder, model


def hidden_before_last(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    vision = model.vision_model
    states = vision(pixel_values=pixels, output_hidden_states=True).hidden_states
    return vision.post_layernorm(states[-2])


def start(clip: tuple[Path, CLIPModel], qformer: Path | None, **options: object) -> EncoderPart:
    return new_encoder(clip[0], qformer, SIZES, **options)  # type: ignore[arg-type]


@torch.no_grad()
def test_the_image_encoder_is_clips_without_its_last_layer(clip, bert) -> None:
    part = start(clip, bert[0])
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert part.encoder.config.vision["num_hidden_layers"] == 2
    torch.testing.assert_close(part.encoder.encode_image(pixels), hidden_before_last(clip[1], pixels))
    assert (part.pixels.mean, part.pixels.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@torch.no_grad()
@pytest.mark.parametrize("quick", [True, False])
def test_open_clips_image_encoder(tmp_path: Path, bert, quick: bool) -> None:
    config = {
        "embed_dim": 32,
        "quick_gelu": quick,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(2)
    model = open_clip.CLIP(**config).eval()
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    told = {"model_cfg": config, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    part = new_encoder(tmp_path, bert[0], SIZES)
    assert part.pixels.mean == (0.5, 0.5, 0.5)
    pixels, visual = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), model.visual
    seen: list[torch.Tensor] = []
    visual.transformer.resblocks[1].register_forward_hook(lambda _m, _i, out: seen.append(out))
    visual(pixels)
    expected = visual.ln_post(seen[0])
    torch.testing.assert_close(part.encoder.encode_image(pixels), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_words_pass_through_the_qformer_as_through_bert(clip, bert) -> None:
    part = start(clip, bert[0])
    ids = part.tokenizer(["a dog in the snow"], return_tensors="pt").input_ids
    model = bert[1].bert
    model.embeddings.token_type_embeddings.weight.zero_()  # BLIP-2 leaves them out, too
    expected = model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(part.encoder.query(None, ids, torch.ones_like(ids)), expected, rtol=1e-4, atol=1e-5)
    state = part.encoder.qformer.state_dict()
    for name in ("intermediate", "output"):
        layer = f"encoder.layer.1.{name}"
        assert torch.equal(state[f"{layer}_query.dense.weight"], state[f"{layer}.dense.weight"])
    assert part.tokenizer.convert_tokens_to_ids("[DEC]") == len(state["embeddings.word_embeddings.weight"]) - 1
    assert part.told.endswith("random are crossattention, query_tokens")


@torch.no_grad()
def test_a_qformer_of_blip2_gives_all_that_fits(clip, tmp_path: Path, bert, tokenizer_size: int) -> None:
    vision = {**VISION, "hidden_size": 64}
    qformer = {**QFORMER, "vocab_size": tokenizer_size, "encoder_hidden_size": 64, "cross_attention_frequency": 2}
    config = Blip2Config(vision_config=vision, qformer_config=qformer | {"use_qformer_text_input": True})
    config.num_query_tokens = 6
    torch.manual_seed(3)
    model = Blip2ForImageTextRetrieval(config)
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(tmp_path)
    part = start(clip, tmp_path, qformer_tokenizer=bert[0])
    ours, theirs = part.encoder.state_dict(), model.state_dict()
    assert torch.equal(ours["query_tokens"], theirs["query_tokens"][:, :4])
    for name in ("attention.attention.query.weight", "intermediate_query.dense.weight"):
        layer = f"qformer.encoder.layer.1.{name}"
        assert torch.equal(ours[layer], theirs[layer])
    cross = "qformer.encoder.layer.{}.crossattention.attention.query.weight"
    assert torch.equal(ours[cross.format(0)], theirs[cross.format(0)])
    assert cross.format(1) in ours  # random, as BLIP-2 has it in every second layer only
    assert "random are crossattention" in part.told


def test_old_names_of_bert(clip, bert, tmp_path: Path) -> None:
    state = {n: v.contiguous() for n, v in bert[1].state_dict().items() if "decoder" not in n}
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v.clone()
           for n, v in state.items()}  # fmt: skip
    for name in ("config.json", "vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert[0] / name).read_bytes())
    save_file(old, tmp_path / "model.safetensors")
    ours, theirs = (start(clip, folder).encoder.state_dict() for folder in (tmp_path, bert[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_saved_is_read(clip, bert, tmp_path: Path) -> None:
    part = start(clip, bert[0])
    folder = save_encoder(part, tmp_path / "model", {"stage1": {"steps": 3}})
    again = load_encoder(folder)
    state = part.encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.encoder.state_dict().items())
    assert again.pixels == part.pixels
    text = "a dog wearing a hat"
    assert again.tokenizer(text).input_ids == part.tokenizer(text).input_ids
    assert json.loads((folder / ENCODER).read_text())["stage1"] == {"steps": 3}
    (folder / "qformer" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="is missing or damaged; run stage 1 again"):
        load_encoder(folder)


def test_a_whole_model_serves_as_image_encoder_and_to_continue(tmp_path: Path) -> None:
    model = tiny_model()
    save_blip_diffusion(model, tmp_path / "model")
    part = new_encoder(tmp_path / "model", None, model.multimodal_encoder.config, seed=5)
    ours, theirs = part.encoder.state_dict(), model.multimodal_encoder.state_dict()
    same = {name.split(".")[0] for name in ours if torch.equal(ours[name], theirs[name])}
    assert "vision_model" in same
    assert not torch.equal(ours["query_tokens"], theirs["query_tokens"])
    again = new_encoder(tmp_path / "model", None, model.multimodal_encoder.config, seed=5).encoder.state_dict()
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    assert len(part.tokenizer) == len(model.qformer_tokenizer)
    assert torch.equal(load_encoder(tmp_path / "model").encoder.query_tokens, model.multimodal_encoder.query_tokens)


def test_other_models_are_refused(clip, bert, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CLIP; give --image-encoder"):
        new_encoder(bert[0], bert[0], SIZES)
    with pytest.raises(InputError, match="type 'clip'; give --qformer a BERT or a BLIP-2"):
        new_encoder(clip[0], clip[0], SIZES)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(InputError, match="holds no weights"):
        new_encoder(tmp_path, bert[0], SIZES)
    with pytest.raises(InputError, match="no model at 'nowhere'"):
        new_encoder("nowhere", bert[0], SIZES)
