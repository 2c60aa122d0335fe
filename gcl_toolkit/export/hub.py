"""An exported folder -> the Hugging Face hub. The token is the hub client's own: HF_TOKEN, or `hf auth login`."""

from __future__ import annotations

import json
from pathlib import Path

from gcl_toolkit.errors import UserError, first_line


def files_of(folder: str | Path) -> list[str]:
    """What is uploaded: the files that `export` wrote and nothing else that came to lie there."""
    path = Path(folder) / "export.json"
    if not path.is_file():
        raise UserError(f"{folder} is not of gcl export ({path.name} is missing); gcl export RUN {folder} makes one")
    named = [*json.loads(path.read_text())["files"], path.name]
    for name in named:
        if not (Path(folder) / name).is_file():
            raise UserError(f"{folder} lacks {name}, which {path.name} names; export the run again")
    return named


def has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


def check_name(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(f"{repo!r} is no repository; OWNER/NAME of letters, digits, - _ . is expected") from None


def push(folder: str | Path, repo: str, *, private: bool = True) -> str:
    """Make the model repository `repo` ("owner/name") if it isn't there, and upload the folder; returns its address.

    Raises UserError in one line, in which the token never stands.
    """
    from huggingface_hub import HfApi, get_token

    files = files_of(folder)
    check_name(repo)
    token = get_token()
    if not token:
        raise UserError("no token for the hub: set HF_TOKEN, or log in with hf auth login")
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id, folder_path=folder, allow_patterns=files, commit_message="A model by gcl export"
        )
    except Exception as error:  # of the hub, or of whichever HTTP client this version of huggingface_hub has
        raise UserError(f"{repo} could not be pushed ({first_line(error).replace(token, '***')})") from None
    return str(address)
