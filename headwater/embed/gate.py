"""The safety check that every encoder, tokenizer, processor, adapter and file of weights passes before it is loaded.

The user may name code on the command line: ``python:FILE`` is run. Stores, runs and model folders may come from other
people. What they name must not run code, read other files, or block, unless the user passes ``--trust-remote-code``.
Libraries read some arguments of their loaders from the configuration in a model's folder. This module reads the
configuration first, and rejects such arguments by kind, at any depth and in any file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headwater._extras import need
from headwater._links import leads_out
from headwater._reading import open_regular, read_json
from headwater.errors import EncoderError

TIMM_CONFIGS = ("config.json",)
TOWER_CONFIGS = ("config.json", "adapter_config.json")
TOKENIZER_CONFIGS = ("config.json", "tokenizer_config.json")
OPEN_CLIP_CONFIGS = ("open_clip_config.json", *TOKENIZER_CONFIGS)
CONFIGS = (
    *TOKENIZER_CONFIGS,
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "adapter_config.json",
)
"""Files of a model on the hub that hold arguments of loaders; in a folder, every JSON file is checked."""
LOADERS = re.compile(
    r"(.*_)?((?<!use_)checkpoint|dir|file|filename|folder|hub_id|proxies|revision|subfolder|url)|(.*(?<!drop)_)?path|"
    r"pretrained(_cfg|_cfg_overlay|_backbone|_model_name_or_path)?|\w*name_or_path|adapter_kwargs|config|custom_load|"
    r"from_(flax|tf)|local_files_only|mirror|state_dict|(use_auth_)?token|tokenizer_(name|type)"
)
"""Arguments that tell a loader which files to open, or how far to trust them."""
TOKENIZERS = re.compile(
    r"\w+_token|(additional|extra)_special_tokens|add_\w+|clean|clean_up_tokenization_spaces|do_lower_case|language|"
    r"legacy|lowercase|model_max_length|padding|padding_side|reduction_mask|split_special_tokens|strip_accents|"
    r"strip_sep_token|tokenize_chinese_chars|truncation|truncation_side|use_fast"
)
"""Arguments of open_clip's tokenizers that change which tokens they make."""
_ELSEWHERE = re.compile(r"^[/~\\]|^[A-Za-z]:|://|(^|[/\\])\.\.?([/\\]|$)")
_SCHEME = re.compile(r"^[A-Za-z][\w.+-]+:")


def admit(spec: str, *, named_by: str | None = None, trusted: bool = False) -> None:
    """Raise unless an encoder is safe to load.

    Parameters
    ----------
    spec
        The encoder spec; see `headwater.embed.load_encoder`.
    named_by
        The store or run that names the encoder; None if the user names it.
    trusted
        Whether the user allows code that other people wrote to run.

    Raises
    ------
    EncoderError
        When it would run code, or read files outside the model, and ``trusted`` is false.
    """
    backend, _, name = spec.partition(":")
    if backend == "python" and named_by is not None and not trusted:
        raise EncoderError(
            f"{named_by} names {spec}, which is code that would run with your rights. If you trust it, pass "
            "--trust-remote-code."
        )
    if backend == "joined" and (named_by or "").startswith("joined:"):
        raise EncoderError(f"{named_by} names {spec}, but a joined run cannot contain another joined run.")
    source, _, place = name.partition(":")
    source = source.lower().replace("_", "-")  # as timm reads it
    if source == "local-dir" and backend in ("timm", "open_clip"):
        _admit_folder(Path(place), spec, named_by, trusted)
    elif backend == "hf" and Path(name).is_dir():
        _admit_folder(Path(name), spec, named_by, trusted)
    elif backend == "hf" and os.path.lexists(name):
        raise EncoderError(f"{spec} is not a directory. Give the directory of the model: hf:DIRECTORY.")
    elif backend == "hf":
        _admit_repository(name, spec, CONFIGS, trusted)
    elif source == "hf-hub" and backend in ("timm", "open_clip"):
        _admit_repository(place, spec, TIMM_CONFIGS if backend == "timm" else OPEN_CLIP_CONFIGS, trusted)


def admit_weights(weights: str | Path, named_by: str) -> None:
    """Raise unless the weights that a store or run names are a regular file.

    Raises
    ------
    EncoderError
        When they are not.
    """
    if not isinstance(weights, str | Path):
        raise EncoderError(f"{named_by} names weights that are not a path ({weights!r}). Pass --weights FILE.")
    try:
        open_regular(weights).close()
    except (OSError, ValueError) as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else _why(error)
        raise EncoderError(f"{named_by} names the weights {weights}: {why}. Pass --weights FILE.") from error


def file_of(run: Path, *parts: str) -> Path:
    """Return the path of a regular file in a run that may come from somebody else.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    EncoderError
        When the file or one of its folders is a symbolic link, which could lead outside the run.
    OSError
        When it is a pipe or a device.
    """
    path = run
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise EncoderError(
                f"{path} is a symbolic link, which could lead outside the run. Copy the run with its files (cp -rL)."
            )
    open_regular(path, follow=False).close()
    return path


def needs_code(spec: str) -> EncoderError:
    """Return the error for a model that needs its author's code."""
    return EncoderError(
        f"{spec} needs code of the model's author, which would run with your rights. If you trust it, pass "
        "--trust-remote-code."
    )


@contextmanager
def unasked(backend: str, trusted: bool) -> Iterator[None]:
    """Keep transformers from asking on the terminal whether to run a model's code; ``trusted`` decides instead.

    Some libraries call transformers without saying whether the code may run; it then waits for a ``y``.
    """
    if trusted or backend not in ("hf", "open_clip"):
        yield
        return
    module = need("transformers.dynamic_module_utils", "encoders")
    before = module.TIME_OUT_REMOTE_CODE
    module.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        module.TIME_OUT_REMOTE_CODE = before


# Configuration of a model


def _admit_folder(folder: Path, spec: str, named_by: str | None, trusted: bool, *, towers: bool = True) -> None:
    """Check every JSON file in a model's folder, and that all other files are regular."""
    if not folder.is_dir():
        raise EncoderError(f"{spec}: cannot be read (no such directory). Give the directory of the model.")
    links = named_by is None or trusted
    reader = _Reader(spec, folder, trusted, towers=towers, folders=links)
    for path in _files(folder, spec):
        if not links:
            _refuse_link(path, folder, spec)
        try:
            if path.suffix.lower() == ".json":
                reader.require_plain(path.name, read_json(path))
            else:
                open_regular(path).close()
        except FileNotFoundError:
            continue  # a broken link, which the library cannot open either
        except (OSError, ValueError) as error:
            if isinstance(error, EncoderError):
                raise
            raise EncoderError(f"{spec}: {path.name}: cannot be read ({_why(error)}).") from error


def _files(folder: Path, spec: str) -> Iterator[Path]:
    """Yield the files in a folder and in its direct subfolders."""
    try:
        for path in sorted(folder.iterdir()):
            if not path.is_dir():
                yield path
            elif not path.name.startswith("."):
                yield from (below for below in sorted(path.iterdir()) if not below.is_dir())
    except OSError as error:
        raise EncoderError(f"{spec}: cannot be read ({error.strerror}).") from error


def _refuse_link(path: Path, folder: Path, spec: str) -> None:
    if leads_out(path, folder):
        raise EncoderError(
            f"{spec}: {path.name} is a symbolic link out of the model's folder. Copy the folder with its files "
            "(cp -rL), or pass --trust-remote-code if you trust it."
        )


def file_on_hub(name: str, file: str) -> str | None:
    """Return the path of a file of ``ORG/NAME``, or ``ORG/NAME@REVISION``, in the hub's cache; fetch it if needed.

    Return None if the model has no such file, or the hub cannot be reached.
    """
    repository, _, revision = name.partition("@")
    if os.path.lexists(repository):  # transformers would use a file of this name in the current directory
        try:
            known = need("huggingface_hub", "encoders").try_to_load_from_cache(
                repository, file, revision=revision or None
            )
        except ValueError:
            return None
        return known if isinstance(known, str) else None
    hub = need("transformers.utils.hub", "encoders")
    try:
        found: str | None = hub.cached_file(
            repository,
            file,
            revision=revision or None,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None
    return found


def _admit_repository(name: str, spec: str, files: Sequence[str], trusted: bool) -> None:
    """Check the configuration of a model on the hub or in its cache; the library reports a missing first file."""
    for file in files:
        path = file_on_hub(name, file)
        if path is None and file == files[0]:
            return
        if path is not None:
            try:
                read = read_json(path)
            except (OSError, ValueError) as error:
                raise EncoderError(f"{spec}: {file}: cannot be read ({_why(error)}).") from error
            _Reader(spec, None, trusted, towers=files is not TOWER_CONFIGS).require_plain(file, read)


class _Reader:
    """Checks the configuration of one model.

    Parameters
    ----------
    spec
        The encoder spec.
    folder
        Folder of the model; None for a model on the hub.
    trusted
        Whether code named by the configuration may run.
    towers
        Whether to check the text tower that it names; false for the configuration of a tower itself.
    folders
        Whether a text tower may be in another folder, which is then checked too; true if the user names the model.
    """

    def __init__(
        self, spec: str, folder: Path | None, trusted: bool, *, towers: bool = True, folders: bool = False
    ) -> None:
        self.spec, self.folder, self.trusted, self.towers, self.folders = spec, folder, trusted, towers, folders

    def require_plain(self, file: str, values: Any) -> None:
        """Raise `EncoderError` if a configuration sets arguments that only the loader may set."""
        if file.endswith("config.json") and not isinstance(values, dict):
            raise EncoderError(f"{self.spec}: {file} does not hold a JSON object. Fetch the model again.")
        if self.trusted:
            return
        if file == "adapter_config.json":
            raise self._refusal(
                file, "peft may load other models and modules for an adapter", "Save the model with the adapter merged"
            )
        if not file.endswith(("config.json", ".index.json")):
            return  # vocabularies and other data, whose words have no effect
        for keys, value in _entries(values):
            for rule in (self._code, self._argument, self._weights, self._model):
                if why := rule(keys, value):
                    raise self._refusal(file, f"{'.'.join(keys)} = {_shown(value)} {why}", "Remove the entry")

    def _refusal(self, file: str, what: str, advice: str) -> EncoderError:
        flag = "" if self.spec.startswith("timm:") else ", or pass --trust-remote-code if you trust the model"
        return EncoderError(f"{self.spec}: {file}: {what}. {advice}{flag}.")

    def _code(self, keys: tuple[str, ...], value: Any) -> str:
        """Say how an entry would run code; empty if it would not."""
        key = keys[-1].lower().replace("-", "_")
        if key.endswith(("trust_remote_code", "allow_all_kernels")) and value not in (False, None, "", 0):
            return "would run code that comes with the model"
        if "implementation" in key and any(isinstance(leaf, str) and "/" in leaf for leaf in _leaves(value)):
            return "would fetch code from the hub and run it"
        return ""

    def _argument(self, keys: tuple[str, ...], value: Any) -> str:
        """Say why an entry is an unsafe argument of a loader; empty if it is safe."""
        if len(keys) < 2 or not re.search(r"(^|_)(kw)?args$", keys[-2]) or value is None:
            return ""
        if keys[-2] == "tokenizer_kwargs" and "text_cfg" in keys:
            return "" if TOKENIZERS.fullmatch(keys[-1]) else "is not an argument that a tokenizer of open_clip needs"
        if keys[-1] == "weights_only" and value is not True:
            return "would run code in the weights"
        plain = value is False or value == "" or (isinstance(value, int | float) and value is not True)
        return "tells a loader which files to open" if LOADERS.fullmatch(keys[-1]) and not plain else ""

    def _weights(self, keys: tuple[str, ...], value: Any) -> str:
        """Say that an entry names weights or another file outside the folder; empty if it does not."""
        if keys[-1].endswith("_file") and isinstance(value, str) and not self._is_own(value):
            # a missing path is one on the author's machine, which libraries ignore
            return "names a file that is not in this folder" if os.path.lexists(value) else ""
        if "weight_map" not in keys[:-1] and keys[-1] != "transformers_weights":
            return ""
        return "" if isinstance(value, str) and Path(value).name == value else "is not a file in this folder"

    def _model(self, keys: tuple[str, ...], value: Any) -> str:
        """Say that an entry names a model elsewhere; empty if it does not."""
        key = keys[-1]
        if not isinstance(value, str) or not value or self._is_own(value):
            return ""
        if key in ("timm_model_name", "architecture"):
            return "names another model" if _SCHEME.match(value) or re.search(r"[/\\]", value) else ""
        if key.endswith("name_or_path") and key.strip("_") != "name_or_path":
            return "names another model"
        if key == "hf_tokenizer_name" and self.folder is not None:
            return ""  # open_clip uses the tokenizer in the folder itself
        if key == "hf_model_name" and not self.towers:
            return ""
        named = Path(value)
        if key == "hf_model_name" and self.folder is not None:
            named = self.folder / value
            if self._is_own(str(named)):
                return ""
        if key == "hf_model_name" and self.folders and named.is_absolute() and named.is_dir():
            _admit_folder(named, self.spec, None, self.trusted, towers=False)
            return ""
        if key in ("hf_model_name", "hf_tokenizer_name", "backbone"):
            if _ELSEWHERE.search(value) or _SCHEME.match(value) or os.path.lexists(named):
                return "names another model, in another folder"
            if key == "hf_model_name":
                _admit_repository(value, self.spec, TOWER_CONFIGS, self.trusted)
        return ""

    def _is_own(self, value: Any) -> bool:
        """Whether a path is the model's folder, or inside it."""
        if self.folder is None or not isinstance(value, str):
            return False
        try:
            return Path(value).resolve().is_relative_to(self.folder.resolve()) and Path(value).exists()
        except (OSError, ValueError):
            return False


def _entries(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every entry of nested JSON with the keys that lead to it."""
    pairs: Any = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = ((keys[-1] if keys else "", part) for part in value)
    for key, part in pairs:
        inner = (*keys, str(key)) if isinstance(value, Mapping) else keys
        if isinstance(value, Mapping):
            yield inner, part
        if isinstance(part, (Mapping, list)):
            yield from _entries(part, inner)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the leaf values of nested JSON."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _why(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0].rstrip(".")


def _shown(value: Any) -> str:
    words = repr(value).splitlines()[0]
    return words if len(words) <= 80 else f"{words[:79]}…"
