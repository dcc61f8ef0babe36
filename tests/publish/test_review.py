"""`factory review`: no answer is lost or doubled, nothing leaks, all can use the page."""

import http.client
import json
import re
import shutil
import socket
import sqlite3
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import factory
from factory.core.errors import DamageError, InputError, MismatchError
from factory.data.review.store import PLACE, ReviewStore
from factory.publish.review import ReviewOptions, ServeOptions, open_desk
from factory.publish.review.server import read_page
from tests import forked
from tests.browser import compute_contrast, kill_browser, open_browsers, read_palettes
from tests.running import call, read_rows, run, write_recipe

COUNTS = {"normal": 20, "tumor": 20}
NAMES = ("Ada", "Ben")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of 40 images."""
    folder = tmp_path_factory.mktemp("review")
    conditions = [{"kind": "class", "per_class": COUNTS}]
    run(write_recipe(folder, conditions=conditions, output={"shard_size": 20}), folder / "run")
    return folder / "run"


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


class Client:
    """Speaks to a server as a page does."""

    def __init__(self, url):
        self.place = urlsplit(url)
        self.token = self.place.query.partition("=")[2]
        self.cookie = f"factory_{self.place.port}={self.token}"

    def ask(self, path, body=None, **headers):
        """Returns status, headers and body."""
        line = http.client.HTTPConnection(self.place.hostname, self.place.port, timeout=30)
        given = {"Cookie": self.cookie, "Content-Type": "application/json", **headers}
        given = {name.replace("_", "-"): value for name, value in given.items() if value}
        data = None if body is None else json.dumps(body)
        line.request("GET" if body is None else "POST", path, data, given)
        found = line.getresponse()
        content = found.read()
        line.close()
        return found.status, found.headers, content

    def post(self, path, body):
        status, _, content = self.ask(path, body)
        return status, json.loads(content)

    def enter(self, name):
        return self.post("/api/enter", {"name": name, "role": "pathologist"})[1]

    def answer(self, reader, case, **fields):
        key = fields.pop("key", f"{reader:04d}-{case}")
        given = {"key": key, "case": case, "seconds": 1.5, "verdict": "accept", **fields}
        return self.post("/api/answer", {"reader": reader, "answer": given})


@pytest.fixture
def client(folder):
    server = factory.review(folder)
    yield Client(server.url)
    server.close()


def list_answers(folder, reading="review"):
    """Returns name -> case -> answer in force."""
    store = ReviewStore(folder)
    names = {each.number: each.name for each in store.list_readers()}
    found = store.list_answers(reading)
    return {names[n]: {each.case: each for each in answers} for n, answers in found.items()}


def test_answers_of_many_at_once_are_all_there_once(folder, client):
    told = {name: client.enter(name) for name in (*NAMES, "Cy", "Di")}
    cases = [each["id"] for each in told["Ada"]["cases"]]

    def answer_all(name):
        number = told[name]["reader"]["number"]
        for case in cases:
            for _ in range(2):  # a page that got no answer sends again
                assert client.answer(number, case)[0] == 200

    threads = [threading.Thread(target=answer_all, args=(name,)) for name in told]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert {name: set(found) for name, found in list_answers(folder).items()} == {
        name: set(cases) for name in told
    }
    assert ReviewStore(folder).count_kept() == len(told) * len(cases) == 160


def test_a_killed_server_has_kept_what_it_confirmed(folder, tmp_path):
    done = {}
    for start in (0, 15):
        log = tmp_path / f"{start}.log"
        process = forked.start_command(["review", str(folder)], log)
        client = Client(wait_for_link(log))
        told = client.enter("Ada")
        assert set(told["answers"]) == set(done)
        for each in told["cases"][start : start + 15]:
            verdict = {"verdict": "reject", "reason": "blurred"} if len(done) % 3 else {}
            assert client.answer(told["reader"]["number"], each["id"], **verdict)[1] == {"new": 1}
            done[each["id"]] = verdict.get("verdict", "accept")
        process.kill()
        process.join()
    found = list_answers(folder)["Ada"]
    assert {case: each.verdict for case, each in found.items()} == done
    assert len(done) == 30


def wait_for_link(log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = re.search(r"http://\S+", log.read_text()) if log.exists() else None
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError("the server did not begin")


def test_ctrl_c_ends_the_server_and_tells_how_far_it_is(folder, tmp_path):
    log = tmp_path / "log"
    process = forked.start_command(["review", str(folder)], log)
    client = Client(wait_for_link(log))
    told = client.enter("Ada")
    client.answer(told["reader"]["number"], told["cases"][0]["id"])
    process.terminate()
    assert forked.wait(process) == 0
    assert "Ada: 1 of 40 answered" in log.read_text()


def test_a_changed_answer_counts_and_the_first_stays(folder, client):
    told = client.enter("Ada")
    number, case = told["reader"]["number"], told["cases"][0]["id"]
    client.answer(number, case, key="first-answer")
    more = {"class_name": "tumor", "region": [0.1, 0.2, 0.5, 0.6]}
    client.answer(number, case, key="second-one", verdict="reject", reason="blurred", **more)
    answer = list_answers(folder)["Ada"][case]
    assert (answer.verdict, answer.reason, answer.region) == (
        "reject",
        "blurred",
        (0.1, 0.2, 0.5, 0.6),
    )
    assert ReviewStore(folder).count_kept() == 2
    again = client.enter("Ada")
    assert again["answers"][case]["reason"] == "blurred"
    assert again["reader"]["number"] == number
    assert client.enter("Ben")["answers"] == {}


def test_readers_see_other_orders_and_each_the_same_again(client):
    orders = [
        [each["id"] for each in client.enter(name)["cases"]] for name in ("Ada", "Ben", "Ada")
    ]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_images_are_those_of_the_rows(folder, client):
    rows = {row["image"]["bytes"]: row["class_name"] for row in read_rows(folder)}
    for case in client.enter("Ada")["cases"][:5]:
        status, headers, body = client.ask(f"/image/{case['id']}/0")
        assert (status, headers["Content-Type"]) == (200, "image/webp")
        assert rows[body] == case["class_name"]


def test_a_refilter_while_people_look_changes_no_image(folder, client):
    rows = {row["sample_id"]: row["image"]["bytes"] for row in read_rows(folder)}
    told = client.enter("Ada")
    for place, case in enumerate(told["cases"]):
        said = {} if place % 2 else {"verdict": "reject", "reason": "blurred"}
        client.answer(told["reader"]["number"], case["id"], **said)
    assert call("refilter", folder, "--set", "filters.review.min_review=0.5").exit_code in (0, 1)
    names = {each.id: each.images[0].key for each in ReviewStore(folder).list_cases("review")}
    for case, name in names.items():
        assert client.ask(f"/image/{case}/0")[2] == rows[name]


@pytest.mark.parametrize("fields, part", [
    ({"verdict": None}, "verdict"),
    ({"verdict": "maybe"}, "verdict"),
    ({"verdict": "reject"}, "reason: is missing"),
    ({"reason": "blurred"}, "only of what is rejected"),
    ({"class_name": "other"}, "no class 'other'"),
    ({"region": [0.5, 0.1, 0.2, 0.6]}, "left < right"),
    ({"region": [0, 0, 1, 7]}, "region"),
    ({"choice": "real"}, "is not asked here"),
    ({"seconds": -1}, "seconds"),
    ({"seconds": float("nan")}, "seconds"),
    ({"key": "x"}, "key"),
    ({"case": "0" * 16}, "is not in this reading"),
    ({"case": "../../etc"}, "case"),
    ({"sql": "'; DROP TABLE answers"}, "sql"),
])  # fmt: skip
def test_answers_that_do_not_fit_are_refused_in_words(folder, client, fields, part):
    told = client.enter("Ada")
    given = {"key": "some-key-1", "case": told["cases"][0]["id"], **fields}
    status, said = client.answer(told["reader"]["number"], given.pop("case"), **given)
    assert status == 400 and part in said["error"]
    assert list_answers(folder) == {}


def test_a_reader_who_never_entered_is_refused(client):
    case = client.enter("Ada")["cases"][0]["id"]
    assert client.answer(77, case)[1]["error"].startswith("no reader 77")
    for given in ({}, {"name": "x"}, {"name": " ", "role": "other"}, [], {"name": 3, "role": None}):
        assert client.post("/api/enter", given)[0] == 400


@pytest.mark.parametrize("path", [
    "/", "/api/reading", "/page/review.js", "/image/0000000000000000/0", "/?token=wrong",
])  # fmt: skip
def test_without_the_token_nothing_is_told(client, path):
    for cookie in (None, f"factory_{client.place.port}=wrong"):
        status, _, body = client.ask(path, Cookie=cookie)
        assert status == 403
        assert client.token not in body.decode() and b"<html" not in body


def test_the_link_sets_a_cookie_and_takes_the_token_out_of_the_address(client):
    status, headers, _ = client.ask(f"/?token={client.token}", Cookie=None)
    assert (status, headers["Location"]) == (303, "/")
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
    status, headers, body = client.ask("/")
    assert status == 200 and b"<html" in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert not any(name.startswith("Access-Control") for name in headers)


@pytest.mark.parametrize("headers", [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Content_Type": "text/plain"},
    {"Content_Type": "application/x-www-form-urlencoded"},
    {"Host": "evil.example"},
])  # fmt: skip
def test_other_pages_cannot_answer(folder, client, headers):
    status, _, _ = client.ask("/api/enter", {"name": "x", "role": "other"}, **headers)
    assert status == 403
    assert ReviewStore(folder).list_readers() == ()


@pytest.mark.parametrize("path", [
    "/page/../server.py", "/page/..%2fserver.py", "/page/%2e%2e/desk.py", "/page/server.py",
    "/image/../../../etc/passwd/0", "/image/..%2f..%2fsummary.json/0", "/summary.json",
    "/.factory/review.sqlite",
])  # fmt: skip
def test_no_path_leads_out_of_the_pages(client, path):
    assert client.ask(path)[0] in (400, 404)


def test_it_listens_on_this_machine_alone(folder, client):
    own = {
        each[4][0] for each in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    } - {"127.0.0.1", "127.0.1.1"}
    for address in own:
        with pytest.raises(OSError), socket.create_connection((address, client.place.port), 2):
            pass
    with pytest.raises(InputError, match="give another --port"):
        factory.review(folder, serve=ServeOptions(port=client.place.port))


def test_blind_shows_no_class(folder):
    desk = open_desk(str(folder), ReviewOptions(blind=True))
    told = desk.enter({"name": "Ada", "role": "other"})
    assert all("class_name" not in each for each in told["cases"])
    assert told["reading"]["id"] != "review"


def test_some_are_of_each_class_alike(folder):
    desk = open_desk(str(folder), ReviewOptions(count=7))
    names = [case.class_name for case in desk.cases.values()]
    assert sorted(map(names.count, ("normal", "tumor"))) == [3, 4]
    assert len(open_desk(str(folder), ReviewOptions(count=30)).cases) == 30


def test_a_damaged_or_newer_store_is_told(folder):
    store = ReviewStore(folder)
    open_desk(str(folder), ReviewOptions())
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(MismatchError, match="install a newer factory"):
        store.list_readers()
    store.path.write_bytes(b"no data base" * 999)
    with pytest.raises(DamageError, match="backup"):
        store.list_readers()


def test_folders_that_cannot_be_looked_at(folder, tmp_path):
    for place in ("s3://bucket/run", tmp_path / "none", tmp_path):
        result = call("review", place)
        assert result.exit_code == 2 and "Traceback" not in result.output
    assert call("review", folder, "--real", folder).exit_code == 2


def test_answers_on_another_run_do_not_mix(folder, tmp_path):
    open_desk(str(folder), ReviewOptions())
    other = tmp_path / "other"
    run(write_recipe(tmp_path, seed=8), other)
    (other / PLACE).write_bytes((folder / PLACE).read_bytes())
    with pytest.raises(InputError, match="another run"):
        open_desk(str(other), ReviewOptions())


# --- a page to send --------------------------------------------------------------------------


def write_file(path, desk, name="Ada", **changes):
    cases = [each["id"] for each in desk.list_cases(name)]
    answers = [
        {"key": f"mailed-{case}", "case": case, "seconds": 2, "verdict": "accept"} for case in cases
    ]
    told = {
        "version": 1, "format": "factory-review-answers", "reading": desk.reading.id,
        "run": desk.reading.run, "reader": {"name": name, "role": "pathologist"},
        "answers": answers, **changes,
    }  # fmt: skip
    path.write_text(json.dumps(told))
    return path


def test_an_answer_file_is_read_once(folder, tmp_path):
    page, answers = tmp_path / "page.html", tmp_path / "answers.json"
    assert call("review", folder, "--offline", page).exit_code == 0
    text = page.read_text()
    assert "http" not in re.sub(r"http-equiv", "", text) and "/page/" not in text
    write_file(answers, open_desk(str(folder), ReviewOptions()))
    for new in (40, 0):
        result = call("review", folder, "--read", answers)
        assert f"40 answers of Ada, {new} of them new" in result.output
    assert len(list_answers(folder)["Ada"]) == 40


@pytest.mark.parametrize("changes, part", [
    ({"run": "0" * 16}, "another run"),
    ({"reading": "review-blind"}, "another reading"),
    ({"format": "else"}, "no answer file"),
    ({"answers": [{"key": "12345678", "case": "0" * 16, "seconds": 1, "verdict": "accept"}]},
     "is not in this reading"),
    ({"answers": [{"key": "12345678"}]}, "case"),
    ({"reader": {"name": "x" * 999, "role": "other"}}, "no answer file"),
    ({"version": 9}, "newer"),
])  # fmt: skip
def test_strange_answer_files_are_refused_whole(folder, tmp_path, changes, part):
    path = write_file(tmp_path / "a.json", open_desk(str(folder), ReviewOptions()), **changes)
    result = call("review", folder, "--read", path)
    assert result.exit_code == 2 and part in result.output
    assert list_answers(folder) == {}


def test_the_page_to_send_holds_no_truth_and_no_name(folder, tmp_path):
    open_desk(str(folder), ReviewOptions()).enter({"name": "Secret Name", "role": "other"})
    factory.write_review_page(folder, tmp_path / "p.html", ReviewOptions(blind=True))
    text = (tmp_path / "p.html").read_text()
    told = json.loads(re.search(r'id="mailed">(.*?)</script>', text, re.S)[1])
    assert "Secret Name" not in text
    assert {key for each in told["cases"] for key in each} == {"id", "sides"}
    ids = {row["sample_id"] for row in read_rows(folder)}
    assert not any(each in text for each in ids)


# --- for all who look ------------------------------------------------------------------------


def test_contrast_is_that_of_wcag_aa():
    words = [(name, on) for name in ("text", "faint", "bad") for on in ("ground", "panel")]
    words += [("text", "notice"), ("on", "good"), ("on", "bad")]
    parts = [(name, on) for name in ("line", "focus", "good") for on in ("ground", "panel")]
    parts += [("pen", "glass")]
    palettes = read_palettes(read_page("style.css"))
    assert len(palettes) == 2
    for named in palettes:
        for first, second in words:  # 1.4.3: text
            assert compute_contrast(named[first], named[second]) >= 4.5, (first, second)
        for first, second in parts:  # 1.4.11: borders, focus, marks
            assert compute_contrast(named[first], named[second]) >= 3.0, (first, second)


class Labels(HTMLParser):
    """Collects fields without a label, and buttons without a name."""

    def __init__(self, html):
        super().__init__()
        self.labels, self.fields, self.ids = set(), set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        if tag == "label":
            self.labels.add(named["for"])
        if tag in ("input", "select"):
            self.fields.add(named["id"])
        if tag == "html":
            assert named["lang"] == "en"
        assert not any(name.startswith("on") or name == "style" for name in named)


@pytest.mark.parametrize("name", ["review.html"])
def test_every_field_has_a_label(name):
    found = Labels(read_page(name))
    assert found.fields <= found.labels
    assert len(set(found.ids)) == len(found.ids)
    assert "outline: none" not in read_page("style.css")


def test_what_a_page_brings_is_of_this_machine():
    for name in ("review.html", "style.css", "review.js"):
        assert not re.search(r"https?:|//cdn|@import|url\(", read_page(name)), name


# --- a real browser --------------------------------------------------------------------------


def decide(case, name):
    """What a scripted reader answers: the same whenever asked."""
    return (int(case, 16) + len(name) + ord(name[0])) % 3 == 0


def begin(browser, url, name):
    page = browser.pages[0]
    page.goto(url)
    page.fill("#name", name)
    page.press("#name", "Enter")
    page.wait_for_selector("#work:visible, #done:visible")
    return page


def answer(page, name):
    """Answers what is shown, by keys alone."""
    case = page.get_attribute("#sides img", "src").split("/")[2]
    if decide(case, name):
        page.keyboard.press("r")
        page.keyboard.press("3")
    else:
        page.keyboard.press("a")


def find_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow("test_a_killed_server_has_kept_what_it_confirmed")
def test_two_scripted_readers_in_a_real_browser_lose_nothing_to_kills(folder, tmp_path):
    words, profiles = ["review", str(folder), "--port", str(find_port())], {}
    with open_browsers() as launch:
        for turn in range(2):
            log = tmp_path / f"{turn}.log"
            process = forked.start_command(words, log)
            url = wait_for_link(log)
            profiles = {name: tmp_path / name for name in NAMES}
            browsers = {name: launch(place) for name, place in profiles.items()}
            pages = {name: begin(browsers[name], url, name) for name in NAMES}
            for _ in range(40 if turn else 15):
                for name, page in pages.items():
                    if page.is_visible("#work"):
                        answer(page, name)
            if turn == 0:
                process.kill()
                process.join()
                for name, page in pages.items():  # to the outbox alone
                    answer(page, name)
                    answer(page, name)
                    page.wait_for_selector("#saved.error")
                    page.wait_for_timeout(500)
                    kill_browser(profiles[name])
                continue
            for name, page in pages.items():
                page.wait_for_selector("#done:visible")
                page.wait_for_function(
                    "document.getElementById('saved').textContent === 'all saved'"
                )
                browsers[name].close()
            process.terminate()
            assert forked.wait(process) == 0
    found = list_answers(folder)
    for name in NAMES:
        assert len(found[name]) == 40
        for case, given in found[name].items():
            assert given.verdict == ("reject" if decide(case, name) else "accept")
            assert given.reason == ("blurred" if decide(case, name) else None)
            assert 0 <= given.seconds < 600
    assert ReviewStore(folder).count_kept() == 80
