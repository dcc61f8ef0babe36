"""Looking at images: pages for people, pages to send, and the answer files that come back."""

from typing import TYPE_CHECKING, Any

from factory.api.words import AnyPath, Say, keep_quiet

if TYPE_CHECKING:
    from factory.publish.review import ReviewOptions, ServeOptions
    from factory.publish.review.server import Server


def review(
    folder: AnyPath,
    options: "ReviewOptions | None" = None,
    serve: "ServeOptions | None" = None,
    say: Say = keep_quiet,
) -> "Server":
    """Serves the page where people look at the images of a run; every answer is saved at once.

    Args:
        folder: finished run, or a copy of one, on this machine.
        options: what to show; None: all accepted images, to be accepted or rejected.
        serve: address and port; None: a free port of this machine alone.
        say: see above.

    Returns:
        The server, which listens: `url` is the link to open, `close()` ends it.

    Raises:
        InputError: options that do not fit, too few images, or a port that is taken.
        StoreError: damaged data, or answers cannot be kept in the folder.
    """
    from factory.publish.review import ReviewOptions, ServeOptions, open_desk
    from factory.publish.review.server import Server

    place = serve or ServeOptions()
    desk = open_desk(str(folder), options or ReviewOptions(), say)
    return Server(desk, host=place.host, port=place.port).start()


def watch(folder: AnyPath, serve: "ServeOptions | None" = None) -> "Server":
    """Serves a page that shows how far a run is, read from its folder alone.

    Args:
        folder: run folder or fsspec URL; the run may go on, be stopped or be finished.
        serve: address and port; None: a free port of this machine alone.

    Returns:
        The server, which listens: `url` is the link to open, `close()` ends it.

    Raises:
        MismatchError: not a run folder.
        InputError: a port that is taken.
    """
    from factory.publish.review import ServeOptions
    from factory.publish.review.server import Server
    from factory.publish.review.watch import Watcher

    place, watcher = serve or ServeOptions(), Watcher(str(folder))
    server = Server(None, watcher.read, watcher.read_image, place.host, place.port)
    return server.start()


def write_review_page(
    folder: AnyPath, out: AnyPath, options: "ReviewOptions | None" = None, say: Say = keep_quiet
) -> int:
    """Writes the page as one HTML file to send by mail; it saves an answer file.

    Args:
        folder: as for `review`.
        out: HTML file.
        options: what to show.
        say: see above.

    Returns:
        Bytes of the file.

    Raises:
        InputError: options that do not fit, or too many images for one file.
        StoreError: damaged data, or the file cannot be written.
    """
    from pathlib import Path

    from factory.core.files.atomic import write_file
    from factory.publish.review import ReviewOptions, open_desk
    from factory.publish.review.offline import write_offline

    data = write_offline(open_desk(str(folder), options or ReviewOptions(), say)).encode()
    write_file(Path(out), data)
    return len(data)


def read_review_answers(
    folder: AnyPath,
    file: AnyPath,
    options: "ReviewOptions | None" = None,
    say: Say = keep_quiet,
) -> dict[str, Any]:
    """Reads the answer file of a page that was sent into the run folder; again: adds nothing.

    Args:
        folder: as for `review`.
        file: what the page saved.
        options: with which the page was written.
        say: see above.

    Returns:
        `reader`, `role`, `answers` in the file, and how many were `new`.

    Raises:
        InputError: no answer file, or of another run or reading.
        StoreError: answers cannot be kept in the folder.
    """
    from pathlib import Path

    from factory.publish.review import ReviewOptions, open_desk

    desk = open_desk(str(folder), options or ReviewOptions(), say)
    person, answers, new = desk.take_file(Path(file))
    return {"reader": person.name, "role": person.role, "answers": answers, "new": new}
