"""How measures are called and written for people."""

from cslm.evaluate.figures import Figure

_MEANINGS: dict[str, str] = {
    "cer": "character error",
    "wer": "word error",
    "original_cer": "character error of the recordings",
    "original_wer": "word error of the recordings",
    "silent": "without speech",
    "bleu": "BLEU",
    "chrf": "chrF2",
    "accuracy": "right",
    "accuracy_sum": "right by the whole",
    "speech_accuracy": "right in speech",
    "question_cer": "question's character error",
    "asr_er": "speech against its text",
    "off_target": "off-target text",
    "speech_off_target": "off-target speech",
    "grade": "grade",
    "speech_grade": "grade of speech",
    "parallel": "similarity, own text",
    "random": "similarity, other texts",
    "gap": "gap",
    "retrieval": "own text is nearest",
    "perplexity": "perplexity",
    "text_perplexity": "perplexity of text",
    "unit_perplexity": "perplexity of units",
    "first_text_s": "first text (s)",
    "first_speech_s": "first speech (s)",
    "real_time_factor": "time over speech",
    "interleaved_first_speech_s": "first speech, interleaved (s)",
    "full_first_speech_s": "first speech, full chain (s)",
    "full_over_interleaved": "full over interleaved",
}
# Of what families of tasks a report has a table each, in this order: title and what it says.
FAMILIES: dict[str, tuple[str, str]] = {
    "asr": ("Recognition", "speech to text, compared after normalising"),
    "tts": ("Speech", "text to speech, as the recogniser hears it; of the recordings too, to know its own errors"),
    "mt": ("Translation", "text to text"),
    "st": ("Speech translation", "speech to text of another language"),
    "answer": ("Dialogue", "spoken questions; speech as the recogniser hears it"),
    "alignment": ("Speech and text in the model", "cosine of averages over tokens; the gap is what counts"),
}
_OTHER = ("Foretelling", "perplexity of held-out data, and minimal pairs")
_PLAIN = ("bleu", "chrf", "grade", "speech_grade", "perplexity", "text_perplexity", "unit_perplexity")
_LATENCY = (
    *("first_text_s", "first_speech_s", "real_time_factor"),
    *("interleaved_first_speech_s", "full_first_speech_s", "full_over_interleaved"),
)
_PERPLEXITIES = ("perplexity", "text_perplexity", "unit_perplexity")


def meaning(metric: str) -> str:
    """A measure in words."""
    return _MEANINGS.get(metric, metric.replace("_", " "))


def number(metric: str, value: float) -> str:
    """A value as people read it: shares in per cent."""
    if value != value:
        return "-"
    if metric in _LATENCY:
        return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    if metric in _PLAIN:
        return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
    return f"{100 * value:.1f}%"


def interval(figure: Figure) -> str:
    """The confidence interval of a figure."""
    if figure.low != figure.low:
        return "-"
    return f"{number(figure.metric, figure.low).removesuffix('%')} to {number(figure.metric, figure.high)}"


def family(figure: Figure) -> tuple[str, str]:
    """The table that a figure stands in: title and meaning."""
    if figure.metric in _LATENCY:
        return "Waiting", "seconds and ratios on this machine, one question at a time"
    if figure.metric in _PERPLEXITIES:
        return _OTHER
    return FAMILIES.get(figure.task.partition("/")[0], _OTHER)
