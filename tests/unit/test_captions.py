"""Captions as the text encoder sees them: a tiny random BERT of the library, with a tokenizer of real words."""

import json
from pathlib import Path

import pytest
import torch

from backtrail.data.caption_archive import encode_captions, load_captions, save_captions
from backtrail.data.captions import CAPTIONS
from backtrail.errors import UserError
from backtrail.nets.sentence_encoder import LENGTH, SentenceEncoder, load_sentence_encoder
from backtrail.tensors import save_tensors

transformers = pytest.importorskip("transformers", reason="the extra `latent` is not installed")
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "hidden_act": "gelu"}
TEXTS = ["a red coat in front of a white wall", "bag, blue, on black", "a red coat in front of a white wall", "a bag"]


def write_encoder(folder: Path) -> Path:
    """The three files of an encoder, of random weights."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir()
    words = sorted({word for text in CAPTIONS for word in text.replace(",", " , ").replace("-", " - ").split()})
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.save(str(folder / "tokenizer.json"))
    configuration = SIZES | {"vocab_size": len(vocabulary), "max_position_embeddings": 32, "model_type": "bert", "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertModel(transformers.BertConfig(**configuration))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    weights = dict(model.state_dict()) | {"embeddings.position_ids": torch.arange(32)[None]}
    save_tensors(folder / "model.safetensors", weights)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "text-encoder")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SentenceEncoder:
    return load_sentence_encoder(folder)


def test_tokens_are_those_of_the_library_without_any_padding(folder: Path, encoder: SentenceEncoder) -> None:
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens, mask, pooled = encoder(TEXTS)
    assert tokens.shape == (4, LENGTH, 24) and mask.dtype == torch.bool and pooled.shape == (4, 24)
    for row, text in enumerate(TEXTS):
        ids = plain.encode(text).ids
        with torch.inference_mode():
            alone = encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        assert mask[row].tolist() == [True] * len(ids) + [False] * (LENGTH - len(ids))
        assert torch.allclose(tokens[row, : len(ids)], alone, atol=1e-5)
        assert not tokens[row, len(ids) :].any()
        assert torch.allclose(pooled[row], alone.mean(0), atol=1e-5)
    assert not torch.allclose(pooled[0], pooled[1], atol=0.01)


def test_every_caption_of_fashion_text_fits(encoder: SentenceEncoder) -> None:
    assert all(len(encoder.tokenizer.encode(text).ids) <= LENGTH for text in CAPTIONS)
    with pytest.raises(UserError, match=r"at most 16 tokens.*'a a a"):
        encoder(["a red coat", "a " * 20])


def test_each_distinct_caption_is_encoded_once_and_found_again(encoder: SentenceEncoder, tmp_path: Path) -> None:
    archive = encode_captions(TEXTS, encoder, "d" * 64)
    assert archive.texts == (TEXTS[0], TEXTS[1], TEXTS[3], "") and len(archive.tokens) == 4
    save_captions(tmp_path / "a.safetensors", archive)
    again = load_captions(tmp_path / "a.safetensors")
    assert again.texts == archive.texts and again.encoder == "d" * 64 and torch.equal(again.tokens, archive.tokens)
    rows, time_ids = again.rows([TEXTS[3], TEXTS[0]]), torch.tensor([[28.0, 28, 1, 2, 32, 32]] * 2)
    condition = again.condition(rows, time_ids)
    assert torch.equal(condition.tokens, encoder([TEXTS[3], TEXTS[0]])[0]) and condition.time_ids is time_ids
    with pytest.raises(UserError, match="'a blue bag' was not encoded"):
        again.rows(["a blue bag"])
    save_tensors(tmp_path / "b.safetensors", {"tokens": torch.zeros(1)})
    with pytest.raises(UserError, match="no archive of captions"):
        load_captions(tmp_path / "b.safetensors")


def test_the_null_text_is_the_empty_caption_or_zeros(encoder: SentenceEncoder) -> None:
    archive = encode_captions(TEXTS, encoder, "")
    empty, zeros = archive.null("empty"), archive.null("zeros")
    tokens, mask, pooled = encoder([""])
    assert torch.equal(empty.tokens, tokens) and torch.equal(empty.mask, mask) and torch.equal(empty.pooled, pooled)
    assert mask.sum() == 2 and tokens.any()  # the marks of beginning and end
    assert zeros.tokens.shape == tokens.shape and zeros.mask is None and not zeros.tokens.any() and not zeros.pooled.any()
    assert empty.time_ids is None and zeros.time_ids is None


def test_what_is_no_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no tokenizer.json, model.safetensors: run the stage `text-fetch`"):
        (tmp_path / "config.json").write_text("{}", encoding="utf-8")
        load_sentence_encoder(tmp_path)
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    smaller = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(smaller), encoding="utf-8")
    with pytest.raises(UserError, match="the weights do not fit the configuration"):
        load_sentence_encoder(tmp_path)
