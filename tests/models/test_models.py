"""Built-in models: the same bytes every time, once; what a profile's model means on this machine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import models
from harness.core.errors import PreflightError
from harness.models import cache, smollm2, tiny
from harness.plan import corpus


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """builtin:tiny, made by a process of its own as everywhere."""
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE_DIR", str(root))
        yield models.resolve("builtin:tiny")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tiny_is_the_same_to_the_byte_in_every_process(made, tmp_path):
    tiny.build(tmp_path)
    assert contents(tmp_path) == contents(Path(made.path))


def test_two_makers_at_once_give_one_model(empty_cache):
    argv = [sys.executable, "-m", "harness.models.make", "tiny"]
    makers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {maker.communicate(timeout=60)[0].strip() for maker in makers}
    assert [maker.returncode for maker in makers] == [0, 0, 0]
    assert said == {str(cache.model_dir(tiny.name()))}
    visible = [
        path.name for path in (empty_cache / "models").iterdir() if not path.name.endswith(".lock")
    ]
    assert visible == [tiny.name()], "no scratch folder is left"


def test_an_interrupted_maker_leaves_nothing_that_looks_whole(empty_cache):
    def build(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with pytest.raises(PreflightError, match="No space left") as caught:
        cache.make_once("half-1", build)
    assert "HARNESS_CACHE_DIR" in (caught.value.next_step or "")
    assert not cache.is_whole("half-1")
    assert [path.name for path in (empty_cache / "models").iterdir()] == [".half-1.lock"]


def test_a_cache_below_a_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(PreflightError, match=str(tmp_path / "file")):
        cache.make_once("x-1", lambda _folder: None)


def test_facts_of_tiny(made):
    assert made.max_context_tok == 32768
    assert made.vocab_size == tiny.VOCAB_SIZE
    assert made.eos_reachable is False
    assert 1.2 < made.tok_per_word < 1.7
    assert 2e6 < made.parameters < 6e6
    assert made.dtype == "float32"
    assert len(made.fingerprint) == 64


def test_a_copy_of_a_folder_has_the_same_facts_under_its_own_name(made, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(made.path, copy)
    other = models.resolve(str(copy))
    assert (other.fingerprint, other.eos_reachable, other.parameters) == (
        made.fingerprint,
        False,
        made.parameters,
    )
    (copy / "generation_config.json").write_text("{}")
    assert models.resolve(str(copy)).fingerprint != made.fingerprint


def test_resolving_imports_neither_torch_nor_transformers(made, in_child, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(Path(made.path).parents[1]))
    heavy = in_child(
        "import json, sys, harness.models as m; m.resolve('builtin:tiny'); m.available()\n"
        "print(json.dumps([x for x in ('torch', 'transformers', 'numpy') if x in sys.modules]))"
    )
    assert heavy == []


def test_the_tokenizer_gives_back_any_text(made):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{made.path}/tokenizer.json")
    for text in ("plain words", "Zürich, 東京 and 🙂\n\ttabs", corpus.paragraphs()[20]):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_no_token_that_ends_or_garbles_an_answer_can_win(made):
    """The promise behind `eos_reachable: false`, on the real forward pass: banned logits are below
    all others by far.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    tokenizer = Tokenizer.from_file(f"{made.path}/tokenizer.json")
    banned = tiny._banned_ids(tokenizer)
    assert {
        tokenizer.token_to_id(token) for token in (tiny.TURN_END, tiny.TURN_START, tiny.END_OF_TEXT)
    } <= set(banned)
    model = AutoModelForCausalLM.from_pretrained(made.path)
    config = json.loads(Path(made.path, "config.json").read_text())
    assert (
        model.config.eos_token_id == config["eos_token_id"] == tokenizer.token_to_id(tiny.TURN_END)
    )
    ids = torch.tensor(
        [tokenizer.encode(" ".join(corpus.words()[:600])).ids[:512], list(range(512))]
    )
    with torch.no_grad():
        logits = model(ids).logits
    allowed = torch.ones(tiny.VOCAB_SIZE, dtype=torch.bool)
    allowed[banned] = False
    # e^-60 is below what a float32 softmax can draw, even when temperature 1.5 is asked for
    assert (logits[..., allowed].amin(-1) - logits[..., ~allowed].amax(-1)).min() > 90
    assert allowed.sum() > 1000


def test_the_template_renders_system_tools_calls_and_results(made):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made.path)
    tool = {
        "type": "function",
        "function": {"name": "look", "description": "looks", "parameters": {"type": "object"}},
    }
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Where?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "look", "arguments": {"at": "map"}}}],
        },
        {"role": "tool", "content": "north", "tool_call_id": "c1"},
    ]
    text = tokenizer.apply_chat_template(
        messages, tools=[tool], tokenize=False, add_generation_prompt=True
    )
    for part in (
        "Be brief.",
        '"look"',
        '<tool_call>\n{"name": "look", "arguments": {"at": "map"}}\n</tool_call>',
        "north",
        "Where?",
    ):
        assert part in text
    assert text.endswith("<|im_start|>assistant\n")
    # A longer conversation begins with the shorter one: that is what a prefix cache lives on.
    shorter = tokenizer.apply_chat_template(messages[:2], tools=[tool], tokenize=False)
    assert text.startswith(shorter)
    without = tokenizer.apply_chat_template(messages, tokenize=False)
    assert "<tools>" not in without
    assert "Be brief." in without


def test_an_unknown_builtin_names_the_known_ones(empty_cache):
    with pytest.raises(PreflightError) as caught:
        models.resolve("builtin:huge")
    assert "builtin:tiny" in (caught.value.next_step or "")


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ([], "config.json and a tokenizer (tokenizer.json) and weights (*.safetensors)"),
        (["tokenizer.json", "model.safetensors"], "config.json"),
        (["config.json", "tokenizer.json"], "weights (*.safetensors)"),
    ],
)
def test_a_folder_that_is_no_checkpoint_says_what_it_lacks(tmp_path, files, missing):
    for file in files:
        (tmp_path / file).write_text("{}")
    with pytest.raises(PreflightError) as caught:
        models.resolve(str(tmp_path))
    assert caught.value.what.endswith(f" {missing}")


def test_a_shape_without_weights_is_enough_for_dummy(made, tmp_path):
    for file in ("config.json", "tokenizer.json"):
        shutil.copy(Path(made.path, file), tmp_path)
    found = models.resolve(str(tmp_path), load_format="dummy")
    assert (found.eos_reachable, found.parameters, found.vocab_size) == (
        False,
        None,
        tiny.VOCAB_SIZE,
    )


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "a/b/c"])
def test_a_path_that_does_not_exist_is_an_error(name):
    with pytest.raises(PreflightError, match=str(Path(name))):
        models.resolve(name)


def test_a_damaged_config_is_named(tmp_path):
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / file).write_text("{")
    with pytest.raises(PreflightError, match=r"config\.json"):
        models.resolve(str(tmp_path))


def test_a_hub_id_is_looked_up_in_the_local_cache_only(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    absent = models.resolve("someone/some-8b")
    assert (absent.path, absent.max_context_tok, absent.eos_reachable, absent.fingerprint) == (
        None,
        None,
        None,
        None,
    )
    root = tmp_path / "models--someone--some-8b"
    shutil.copytree(made.path, root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    assert models.resolve("someone/some-8b").fingerprint == made.fingerprint


def test_smollm2_without_its_package_names_the_command(empty_cache, monkeypatch):
    monkeypatch.setattr(smollm2, "gguf_path", lambda: None)
    with pytest.raises(PreflightError) as caught:
        models.resolve("builtin:smollm2-135m")
    assert caught.value.next_step == "run `harness models add smollm2`"
    listed = {model.model_id: model for model in models.available()}
    assert listed["builtin:smollm2-135m"].add_command == "harness models add smollm2"
    assert listed["builtin:tiny"].add_command is None
    assert not listed["builtin:tiny"].cached
    assert listed["builtin:tiny"].size_bytes is None


def test_a_failing_maker_shows_its_last_lines(empty_cache, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(PreflightError, match="builtin:tiny"):
        models.resolve("builtin:tiny")


def test_the_corpus_is_plain_running_text():
    assert len(corpus.words()) >= 5000
    assert all(paragraph.isascii() and paragraph.strip() for paragraph in corpus.paragraphs())


@pytest.mark.live
def test_smollm2_converts_and_answers(empty_cache):
    """Real weights: greedy decoding knows a capital, and the tokenizer gives text back."""
    found = models.add_smollm2()
    assert (found.vocab_size, found.max_context_tok, found.eos_reachable) == (49152, 8192, True)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = (
        AutoTokenizer.from_pretrained(found.path),
        AutoModelForCausalLM.from_pretrained(found.path),
    )
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0])
