"""A finished LoRA, put where others find it."""

from pathlib import Path

from rdt.hub import answered, reason


def push(folder: Path, repo: str) -> str:
    """Put a folder's files into a repository of the hub, made where it is not there; the address.

    ConnectionError in one line where that fails: the files stay where they are.
    """
    from huggingface_hub import HfApi

    try:
        if refusal := answered(lambda: HfApi().whoami()):
            raise ConnectionError(refusal)
        HfApi().create_repo(repo, exist_ok=True)
        return str(
            HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="Add a LoRA trained with rdt")
        )
    except Exception as error:  # the hub has a dozen unrelated error types
        cure = f"all is in {folder}; once that is mended run: hf upload {repo} {folder}"
        raise ConnectionError(f"push_to_hub={repo}: {reason(error)}; {cure}") from None
