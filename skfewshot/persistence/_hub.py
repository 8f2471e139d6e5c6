"""Saved models to the Hugging Face hub, by huggingface_hub."""

import os
from collections.abc import Iterable
from pathlib import Path

from skfewshot.clip._sources import reach_hub
from skfewshot.persistence._saving import CARD, MODEL, load


def push_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload a model of skfewshot",
    trusted: Iterable[str] = (),
) -> str:
    """Upload a saved model, with its card, to the Hugging Face hub.

    The repository is made if it is missing. Only the two files that
    :func:`~skfewshot.save` wrote are uploaded, whatever else the folder holds.

    Parameters
    ----------
    folder : str or os.PathLike
        As :func:`~skfewshot.save` wrote it.
    repo_id : str
        ``"ORG/NAME"``.
    private : bool, default=None
        Whether a repository that is made is private; None is the organisation's
        default.
    token : str, default=None
        None takes that of ``huggingface_hub.login()``.
    message : str
        What the commit says.
    trusted : iterable of str, default=()
        See :func:`~skfewshot.load`.

    Returns
    -------
    str
        The address of the commit. The model loads by
        ``skfewshot.load("hf-hub:ORG/NAME")``.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder holds no saved model, or one that would not be loaded, or
        `repo_id` is no name of a repository.
    ConnectionError
        If the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    path = Path(folder).expanduser()
    load(path, trusted=trusted)  # what nobody could load is not to be uploaded
    if not (path / CARD).is_file():
        raise FileNotFoundError(
            f"folder={str(path)!r} has no {CARD}; wanted is a folder that "
            "skfewshot.save wrote."
        )
    api = HfApi(token=token)
    try:
        reach_hub()
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=path,
            allow_patterns=[MODEL, CARD],
            commit_message=message,
        )
    except ValueError:  # a name that the hub would not take
        raise
    except Exception as error:  # of whatever library the client uses
        raise ConnectionError(
            f"{str(path)!r} could not be uploaded to {repo_id!r}: {error}"
        ) from error
    return str(commit.commit_url)
