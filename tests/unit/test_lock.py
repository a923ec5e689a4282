from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import ConfigError, ModelNotFound
from appliance.models.lock import read_lock

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "models.lock").read_text()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "models.lock"
    path.write_text(text)
    return path


def test_the_first_model_is_the_default() -> None:
    lock = read_lock(ROOT / "models.lock")
    assert lock.entry(None) is lock.models[0]
    assert lock.entry("smollm2-135m-instruct").license == "Apache-2.0"


def test_an_unknown_model_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(ModelNotFound, match="'gpt-5' does not exist; there are: smollm2-135m-instruct"):
        read_lock(ROOT / "models.lock").entry("gpt-5")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 2", "want 1"),
        ('kind = "pypi"', 'kind = "ftp"', "ftp"),
        ('sha256 = "b179', 'sha256 = "xyz', "sha256"),
        ("size_bytes = 98362432", "size_bytes = 0", "size_bytes"),
        ('quantization = "Q4_1"', "", "quantization"),
        ('license = "Apache-2.0"', 'licence = "Apache-2.0"', "licence"),
        ('name = "smollm2-135m-instruct"', 'name = "../../etc"', "name"),
        ("[[models]]", "[[models", "models.lock"),
    ],
)
def test_a_bad_lock_names_the_file_and_the_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, TEXT.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        read_lock(path)
    assert str(path) in caught.value.message


def test_a_name_stands_once(tmp_path: Path) -> None:
    entry = TEXT[TEXT.index("[[models]]") : TEXT.index("# Not fully pinned")]
    with pytest.raises(ConfigError, match="stands in it twice"):
        read_lock(write(tmp_path, TEXT + "\n" + entry))


def test_an_alias_means_its_model_and_is_no_other_s_name(tmp_path: Path) -> None:
    with_alias = TEXT.replace('license = "Apache-2.0"', 'license = "Apache-2.0"\naliases = ["gpt-4o-mini"]')
    lock = read_lock(write(tmp_path, with_alias))
    assert lock.entry("gpt-4o-mini") is lock.models[0]
    assert lock.resolve("gpt-4o-mini@b179") == (lock.models[0], lock.models[0].versions[0])
    with pytest.raises(ConfigError, match="phi-4-mini-instruct stands in it twice"):
        read_lock(write(tmp_path, with_alias.replace("gpt-4o-mini", "phi-4-mini-instruct")))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ('[models.versions.chat_template]\npath = "../x.jinja"\nsha256 = "{sha}"', "no path inside"),
        ('[models.versions.chat_template]\npath = "/x.jinja"\nsha256 = "{sha}"', "no path inside"),
        ('[models.versions.chat_template]\npath = "x.jinja"\nsha256 = "x"', "chat_template.sha256"),
        ('[models.versions.projector]\npath = "../x.gguf"\nsha256 = "{sha}"\nsize_bytes = 1', "no path inside"),
    ],
)
def test_what_belongs_beside_a_model_stays_inside_its_folder(tmp_path: Path, part: str, message: str) -> None:
    text = TEXT.replace("[models.versions.gguf]", part.replace("{sha}", "0" * 64) + "\n\n[models.versions.gguf]")
    with pytest.raises(ConfigError, match=message):
        read_lock(write(tmp_path, text))


def test_a_missing_lock_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="APPLIANCE_MODELS_LOCK"):
        read_lock(tmp_path / "models.lock")
