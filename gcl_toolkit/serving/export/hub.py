"""Upload an exported folder to the Hugging Face hub. The hub's client reads the token: HF_TOKEN, or `hf auth login`."""

import json
from pathlib import Path

from gcl_toolkit.errors import UserError, first_line


def exported_files(folder: str | Path) -> list[str]:
    """The files to upload: those that `export` wrote and no others."""
    path = Path(folder) / "export.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no export ({path.name} is missing); make one with gcl export RUN {folder}")
    names = [*json.loads(path.read_text())["files"], path.name]
    for name in names:
        if not (Path(folder) / name).is_file():
            raise UserError(f"{folder} lacks {name}, which is listed in {path.name}; export the run again")
    return names


def check_name(repo: str) -> None:
    """Raise UserError unless `repo` is a valid OWNER/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(f"{repo!r} is not a repository; expected OWNER/NAME of letters, digits, - _ .") from None


def push(folder: str | Path, repo: str, *, private: bool = True) -> str:
    """Create the model repository `repo` ("owner/name") if needed and upload the folder; returns its address.

    Raises UserError in one line, without the token.
    """
    from huggingface_hub import HfApi, get_token

    files, token = exported_files(folder), get_token()
    check_name(repo)
    if not token:
        raise UserError("no token for the hub: set HF_TOKEN, or log in with hf auth login")
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        message = "A model by gcl export"
        api.upload_folder(repo_id=address.repo_id, folder_path=folder, allow_patterns=files, commit_message=message)
    except Exception as error:  # raised by the hub or by its HTTP client, which differs by version
        raise UserError(f"{repo} could not be pushed ({first_line(error).replace(token, '***')})") from None
    return str(address)
