"""The one gate that every encoder, tokenizer, processor, adapter and file of weights passes before it is loaded.

Whoever names an encoder on the command line may name code: ``python:FILE`` runs. A store, a run and a model folder come
from other people: what they name may not run code, read files elsewhere, or wait for ever, unless the user passes
``--trust-remote-code``. Libraries take some arguments of their loaders from the configuration in a model's folder:
these are read here first, and refused by kind, at any depth and in any file.
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
"""Files of a model on the hub that hold arguments of loaders; of a folder, every JSON file is read."""
LOADERS = re.compile(
    r"(.*_)?((?<!use_)checkpoint|dir|file|filename|folder|hub_id|proxies|revision|subfolder|url)|(.*(?<!drop)_)?path|"
    r"pretrained(_cfg|_cfg_overlay|_backbone|_model_name_or_path)?|\w*name_or_path|adapter_kwargs|config|custom_load|"
    r"from_(flax|tf)|local_files_only|mirror|state_dict|(use_auth_)?token|tokenizer_(name|type)"
)
"""Arguments that tell a loader what to open, or how far to trust it."""
TOKENIZERS = re.compile(
    r"\w+_token|(additional|extra)_special_tokens|add_\w+|clean|clean_up_tokenization_spaces|do_lower_case|language|"
    r"legacy|lowercase|model_max_length|padding|padding_side|reduction_mask|split_special_tokens|strip_accents|"
    r"strip_sep_token|tokenize_chinese_chars|truncation|truncation_side|use_fast"
)
"""Arguments of open_clip's tokenizers that change which tokens they make."""
_ELSEWHERE = re.compile(r"^[/~\\]|^[A-Za-z]:|://|(^|[/\\])\.\.?([/\\]|$)")
_SCHEME = re.compile(r"^[A-Za-z][\w.+-]+:")


def admit(spec: str, *, named_by: str | None = None, trusted: bool = False) -> None:
    """Let an encoder be loaded, or say why not.

    Parameters
    ----------
    spec
        What is to be loaded; see `headwater.embed.load_encoder`.
    named_by
        The store or run that names it; None where the user does.
    trusted
        Whether the user lets code run that other people wrote.

    Raises
    ------
    EncoderError
        When it would run code, or read files that are not the model's, and is not to be trusted with that.
    """
    backend, _, name = spec.partition(":")
    if backend == "python" and named_by is not None and not trusted:
        raise EncoderError(
            f"{spec} is code that would run with your rights, named by {named_by}, which may be somebody else's. If "
            "you trust it, pass --trust-remote-code."
        )
    if backend == "joined" and (named_by or "").startswith("joined:"):
        raise EncoderError(f"{named_by}: names {spec}, but the encoders of a joined run are never joined ones.")
    source, _, place = name.partition(":")
    source = source.lower().replace("_", "-")  # as timm reads it
    if source == "local-dir" and backend in ("timm", "open_clip"):
        _admit_folder(Path(place), spec, named_by, trusted)
    elif backend == "hf" and Path(name).is_dir():
        _admit_folder(Path(name), spec, named_by, trusted)
    elif backend == "hf" and os.path.lexists(name):
        raise EncoderError(f"{spec}: is no directory. Give the directory that holds the model: hf:DIRECTORY.")
    elif backend == "hf":
        _admit_repository(name, spec, CONFIGS, trusted)
    elif source == "hf-hub" and backend in ("timm", "open_clip"):
        _admit_repository(place, spec, TIMM_CONFIGS if backend == "timm" else OPEN_CLIP_CONFIGS, trusted)


def admit_weights(weights: str | Path, named_by: str) -> None:
    """Let a file of weights that a store or run names be read: a regular file, of tensors alone.

    Raises
    ------
    EncoderError
        When it is none.
    """
    if not isinstance(weights, str | Path):
        raise EncoderError(f"{named_by}: names weights that are no path ({weights!r}). Pass --weights FILE.")
    try:
        open_regular(weights).close()
    except (OSError, ValueError) as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else _why(error)
        raise EncoderError(f"{named_by}: names the weights {weights}: {why}. Pass --weights FILE.") from error


def file_of(run: Path, *parts: str) -> Path:
    """Return a regular file of a run that may be somebody else's.

    Raises
    ------
    FileNotFoundError
        When there is none.
    EncoderError
        When it, or a folder on the way to it, is a symbolic link: the file would be one from outside the run.
    OSError
        When it is a pipe or a device.
    """
    path = run
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise EncoderError(
                f"{path} is a symbolic link, by which a run could read other files. Copy the run with its files (cp "
                "-rL)."
            )
    open_regular(path, follow=False).close()
    return path


def needs_code(spec: str) -> EncoderError:
    """Return the error for a model that cannot be loaded without code of its author's."""
    return EncoderError(
        f"{spec}: needs code of the model's author, which would run with your rights. If you trust it, pass "
        "--trust-remote-code."
    )


@contextmanager
def unasked(backend: str, trusted: bool) -> Iterator[None]:
    """Keep transformers from asking on the terminal whether to run a model's code: it is run when trusted, else not.

    Some libraries call it without saying whether the code may run, and it then waits for a ``y``.
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
    """Read every JSON file of a model's folder, and look at what kind of file each other one is."""
    if not folder.is_dir():
        raise EncoderError(f"{spec}: cannot be read (no such directory). Give the one that holds the model.")
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
            continue  # a link to nothing, which the library does not find either
        except (OSError, ValueError) as error:
            if isinstance(error, EncoderError):
                raise
            raise EncoderError(f"{spec}: {path.name}: cannot be read ({_why(error)}).") from error


def _files(folder: Path, spec: str) -> Iterator[Path]:
    """Give what is in a folder and in those right in it, other folders left out."""
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
    """Return where a file of ``ORG/NAME``, or ``ORG/NAME@REVISION``, is in the hub's cache, fetched if need be.

    None where the model has no such file, or it cannot be reached.
    """
    repository, _, revision = name.partition("@")
    if os.path.lexists(repository):  # transformers would take what has this name in the current directory
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
    """Look at the configuration of a model on the hub or in its cache; without the first file, the library says so."""
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
    """Reads the configuration of one model.

    Parameters
    ----------
    spec
        The encoder.
    folder
        Where the model is; None for one on the hub.
    trusted
        Whether code may run that the configuration asks for.
    towers
        Whether a text tower that it names is looked at, too: a tower's own configuration names none.
    folders
        Whether a text tower may lie in another folder, which is looked at, too: where the user names the model.
    """

    def __init__(
        self, spec: str, folder: Path | None, trusted: bool, *, towers: bool = True, folders: bool = False
    ) -> None:
        self.spec, self.folder, self.trusted, self.towers, self.folders = spec, folder, trusted, towers, folders

    def require_plain(self, file: str, values: Any) -> None:
        """Raise `EncoderError` where a configuration asks for what only its loader may decide."""
        if file.endswith("config.json") and not isinstance(values, dict):
            raise EncoderError(f"{self.spec}: {file}: holds no JSON object. Fetch the model anew.")
        if self.trusted:
            return
        if file == "adapter_config.json":
            raise self._refusal(file, "peft may load other models and modules for an adapter", "Save it merged")
        if not file.endswith(("config.json", ".index.json")):
            return  # vocabularies and the like: data, however their words are called
        for keys, value in _entries(values):
            for rule in (self._code, self._argument, self._weights, self._model):
                if why := rule(keys, value):
                    raise self._refusal(file, f"{'.'.join(keys)} = {_shown(value)} {why}", "Take it out")

    def _refusal(self, file: str, what: str, advice: str) -> EncoderError:
        flag = "" if self.spec.startswith("timm:") else ", or pass --trust-remote-code if you trust the model"
        return EncoderError(f"{self.spec}: {file}: {what}. {advice}{flag}.")

    def _code(self, keys: tuple[str, ...], value: Any) -> str:
        """Say what of an entry would run code."""
        key = keys[-1].lower().replace("-", "_")
        if key.endswith(("trust_remote_code", "allow_all_kernels")) and value not in (False, None, "", 0):
            return "would let code run that comes with the model"
        if "implementation" in key and any(isinstance(leaf, str) and "/" in leaf for leaf in _leaves(value)):
            return "would fetch code from the hub and run it"
        return ""

    def _argument(self, keys: tuple[str, ...], value: Any) -> str:
        """Say what of an entry is an argument of a loader, among those that are passed on."""
        if len(keys) < 2 or not re.search(r"(^|_)(kw)?args$", keys[-2]) or value is None:
            return ""
        if keys[-2] == "tokenizer_kwargs" and "text_cfg" in keys:
            return "" if TOKENIZERS.fullmatch(keys[-1]) else "is no argument that a tokenizer of open_clip needs"
        if keys[-1] == "weights_only" and value is not True:
            return "would let code run that is in the weights"
        plain = value is False or value == "" or (isinstance(value, int | float) and value is not True)
        return "tells a loader what to open" if LOADERS.fullmatch(keys[-1]) and not plain else ""

    def _weights(self, keys: tuple[str, ...], value: Any) -> str:
        """Say which weights, or which other file, lie elsewhere."""
        if keys[-1].endswith("_file") and isinstance(value, str) and not self._is_own(value):
            # a path that is nowhere is one of the author's machine, which libraries pass over
            return "names a file that is not in this folder" if os.path.lexists(value) else ""
        if "weight_map" not in keys[:-1] and keys[-1] != "transformers_weights":
            return ""
        return "" if isinstance(value, str) and Path(value).name == value else "is no file of this folder"

    def _model(self, keys: tuple[str, ...], value: Any) -> str:
        """Say which part of a model is to come from elsewhere."""
        key = keys[-1]
        if not isinstance(value, str) or not value or self._is_own(value):
            return ""
        if key in ("timm_model_name", "architecture"):
            return "names another model" if _SCHEME.match(value) or re.search(r"[/\\]", value) else ""
        if key.endswith("name_or_path") and key.strip("_") != "name_or_path":
            return "names another model"
        if key == "hf_tokenizer_name" and self.folder is not None:
            return ""  # open_clip takes the tokenizer that lies in the folder itself
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
                return "names another model, in a folder of its own"
            if key == "hf_model_name":
                _admit_repository(value, self.spec, TOWER_CONFIGS, self.trusted)
        return ""

    def _is_own(self, value: Any) -> bool:
        """Whether a path is the model's own folder, or in it."""
        if self.folder is None or not isinstance(value, str):
            return False
        try:
            return Path(value).resolve().is_relative_to(self.folder.resolve()) and Path(value).exists()
        except (OSError, ValueError):
            return False


def _entries(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every entry of nested JSON with the keys that lead to it."""
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
    """Give what is at the ends of nested JSON."""
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
