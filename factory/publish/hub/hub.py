"""Publishes to a data set repository on the Hugging Face Hub, or on what speaks its API."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
    get_token,
)
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import DatasetInfo, RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    get_session,
)

from factory.core.errors import InputError
from factory.core.parquet import count_rows
from factory.publish.hub.items import Item, check_folders, compute_git_hash
from factory.publish.hub.retries import Caller
from factory.publish.hub.target import Held, Say, find_pending, find_stale

KIND = "dataset"
FOOTER_BLOCK = 1 << 16
"""Bytes of a parquet file's end that are asked for at a time."""


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Where on the Hub, and for whom.

    Attributes:
        repo: `owner/name`.
        public: for everybody to see; else only for the owner.
        gated: `auto` or `manual`: readers must ask; None: as it is.
        branch: to commit to.
        tag: name of the version.
        description: second paragraph of every commit message.
        endpoint: address of the Hub; None: that of HF_ENDPOINT.
    """

    repo: str
    public: bool = False
    gated: Literal["auto", "manual"] | None = None
    branch: str = "main"
    tag: str | None = None
    description: str = ""
    endpoint: str | None = None


class HubTarget:
    """A data set repository."""

    def __init__(self, options: HubOptions, say: Say) -> None:
        """Looks for the token, without asking the Hub anything.

        Raises:
            InputError: there is no token.
        """
        token = get_token()
        if not token:
            raise InputError(
                f"{options.repo}: no token: set HF_TOKEN to a token with write access "
                "(https://huggingface.co/settings/tokens), or run `hf auth login`"
            )
        self._token, self._options = token, options
        self._api = HfApi(options.endpoint, token=token, library_name="factory")
        self._caller = Caller(options.repo, token, say)
        self._say = say
        self._files = HfFileSystem(
            endpoint=self._api.endpoint, token=token, skip_instance_cache=True
        )
        self._commit = ""
        self.url = f"{self._api.endpoint}/datasets/{options.repo}"

    # --- looking ---------------------------------------------------------------------------------

    def list_held(self) -> Mapping[str, Held]:
        """Lists the files of the branch; empty where there is no repository yet."""
        return self._list_files(self._commit or self._options.branch)

    def check(self, items: Sequence[Item]) -> None:
        """Refuses full folders, a public repository not asked for, and a tag of something else.

        Raises:
            InputError: says what to change.
            PublishError: the Hub kept failing.
        """
        repo, tag = self._options.repo, self._options.tag
        check_folders(items, repo)
        info = self._find_repo()
        if info is None:
            return
        if info.private is False and not self._options.public:
            raise InputError(
                f"{self.url}: exists and is public: add --public to publish there for everybody, "
                "or take another name"
            )
        if info.private and self._options.public:
            self._say(f"{repo} exists and is private; it stays so (see its settings page)")
        if tag is not None and tag in self._list_tags():
            held = self._list_files(tag)
            if find_pending(self, items, held) or find_stale(items, held):
                raise InputError(
                    f"{self.url}: the tag {tag} is there and marks other files: give another --tag"
                )

    def holds(self, item: Item, held: Held | None) -> bool:
        """Compares size, and the hash that the Hub tells: sha256, or git's for small files."""
        if held is None or held.size != item.size:
            return False
        if held.sha256 is not None:
            return held.sha256 == item.sha256
        return held.git_hash == compute_git_hash(item)

    def count_rows(self, name: str) -> int:
        """Reads the footer of a parquet file, and little else of it."""

        def ask() -> int:
            path = f"datasets/{self._options.repo}@{self._commit}/{name}"
            with self._files.open(path, "rb", block_size=FOOTER_BLOCK) as stream:
                return count_rows(stream, name)

        return self._caller.call(f"reading {name}", ask)

    def _list_files(self, revision: str) -> dict[str, Held]:
        def ask() -> dict[str, Held]:
            try:
                tree = list(
                    self._api.list_repo_tree(
                        self._options.repo, recursive=True, revision=revision, repo_type=KIND
                    )
                )
            except (RepositoryNotFoundError, RevisionNotFoundError) as error:
                if error.response.status_code == 404:
                    return {}
                raise
            return {each.path: _tell(each) for each in tree if isinstance(each, RepoFile)}

        return self._caller.call("listing files", ask)

    def _find_repo(self) -> DatasetInfo | None:
        def ask() -> DatasetInfo | None:
            try:
                return self._api.dataset_info(self._options.repo)
            except RepositoryNotFoundError as error:
                if error.response.status_code == 404:
                    return None
                raise

        return self._caller.call("looking for the repository", ask)

    def _list_tags(self) -> dict[str, str]:
        refs = self._caller.call(
            "listing tags", lambda: self._api.list_repo_refs(self._options.repo, repo_type=KIND)
        )
        return {ref.name: ref.target_commit for ref in refs.tags}

    # --- writing ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes repository and branch where they are not there, and finds out how to send."""
        options, call = self._options, self._caller.call

        def create() -> None:
            self._api.create_repo(
                options.repo, repo_type=KIND, private=not options.public, exist_ok=True
            )

        if self._find_repo() is None:
            call("creating the repository", create)
        self._caller.has_touched = True
        if options.gated is not None:
            call(
                "setting the gate",
                lambda: self._api.update_repo_settings(
                    options.repo, gated=options.gated, repo_type=KIND
                ),
            )
        if options.branch != constants.DEFAULT_REVISION:
            call(
                "creating the branch",
                lambda: self._api.create_branch(
                    options.repo, branch=options.branch, repo_type=KIND, exist_ok=True
                ),
            )
        if not constants.HF_HUB_DISABLE_XET and not call("asking how to send", self._speaks_xet):
            constants.HF_HUB_DISABLE_XET = True  # read whenever a file is sent

    def send(self, items: Sequence[Item], removed: Sequence[str], message: str) -> None:
        """Uploads files and commits them; those whose bytes the Hub has are not sent again."""

        def ask() -> str:
            # Operations carry state of the try before: new ones each time. A commit that was made
            # although its answer was lost is found by its hashes, and not made twice.
            with ExitStack() as stack:
                sources = [(each.name, stack.enter_context(each.materialize())) for each in items]
                additions = [CommitOperationAdd(name, source) for name, source in sources]
                held = self._list_files(self._options.branch) if removed else {}
                deletions = [CommitOperationDelete(name) for name in removed if name in held]
                return self._api.create_commit(
                    self._options.repo,
                    [*additions, *deletions],
                    commit_message=message,
                    commit_description=self._options.description,
                    repo_type=KIND,
                    revision=self._options.branch,
                ).oid

        self._commit = self._caller.call(message, ask)

    def finish(self) -> str | None:
        """Tags the commit that was last made or found; returns the tag."""
        options = self._options
        if options.tag is None:
            return None
        if self._list_tags().get(options.tag) is None:
            self._caller.call(
                "tagging",
                lambda: self._api.create_tag(
                    options.repo,
                    tag=options.tag or "",
                    revision=self._commit or options.branch,
                    repo_type=KIND,
                    exist_ok=True,
                ),
            )
        return options.tag

    def pin(self) -> str:
        """Fixes the commit that is looked at from now on; returns its hash."""
        if not self._commit:
            info = self._caller.call(
                "looking for the last commit",
                lambda: self._api.dataset_info(self._options.repo, revision=self._options.branch),
            )
            self._commit = str(info.sha)
        return self._commit

    def _speaks_xet(self) -> bool:
        url = (
            f"{self._api.endpoint}/api/datasets/{self._options.repo}/xet-write-token/"
            f"{self._options.branch}"
        )
        answer = get_session().get(url, headers=build_hf_headers(token=self._token))
        return bool(answer.status_code == 200)


def _tell(file: RepoFile) -> Held:
    if file.lfs is not None:
        return Held(file.lfs.size, sha256=file.lfs.sha256)
    return Held(file.size, git_hash=file.blob_id)
