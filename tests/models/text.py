"""Encoders of texts alone, of transformers."""

from tests.models.parts import DROPS, WIDTHS, build_hub
from tests.models.tokenizers import wordpieces


def bert(folder):
    """Build a BERT."""
    import transformers as t

    config = t.BertConfig(**WIDTHS, **DROPS, vocab_size=len(wordpieces()), max_position_embeddings=40)
    return build_hub(folder, t.BertModel(config), None, wordpieces())


def distilbert(folder):
    """Build a DistilBERT."""
    import transformers as t

    config = t.DistilBertConfig(
        vocab_size=len(wordpieces()), dim=32, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=40
    )
    return build_hub(folder, t.DistilBertModel(config), None, wordpieces())


def roberta(folder):
    """Build a RoBERTa, which counts positions from the padding's number on."""
    import transformers as t

    config = t.RobertaConfig(
        **WIDTHS, **DROPS, vocab_size=len(wordpieces()), max_position_embeddings=40, pad_token_id=0
    )
    return build_hub(folder, t.RobertaModel(config), None, wordpieces())


def modernbert(folder):
    """Build a ModernBERT, of which some layers attend to what is near alone."""
    import transformers as t

    ids = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    config = t.ModernBertConfig(
        **WIDTHS, vocab_size=len(wordpieces()), max_position_embeddings=40, local_attention=8, **ids
    )
    return build_hub(folder, t.ModernBertModel(config), None, wordpieces())


MEMBERS = {"hf-bert": bert, "hf-distilbert": distilbert, "hf-roberta": roberta, "hf-modernbert": modernbert}
