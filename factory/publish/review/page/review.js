"use strict";
// The page of readers. Every answer goes to an outbox on the disk of this browser first, and leaves
// it once the server has saved it: a page or server that ends in between loses none. A page that was
// sent by mail has no server; its outbox is the answer file.

const $ = (id) => document.getElementById(id);
const MAILED = $("mailed") && JSON.parse($("mailed").textContent);
const state = {
  reading: null, reader: null, cases: [], answers: {}, place: 0, shownAt: 0, seen: 0,
  zoom: { scale: 1, x: 0, y: 0 }, marking: false, region: null, views: [], rejecting: false,
  keys: new Map(), isReview: false,
};

// --- keeping and sending answers ------------------------------------------------------------

const slot = (name) => `factory/${state.reading.run}/${state.reading.id}/${name}`;
const box = {
  db: null,
  open() {
    return new Promise((done) => {
      const asked = indexedDB.open("factory-review", 1);
      asked.onupgradeneeded = () => asked.result.createObjectStore("answers", { keyPath: "key" });
      asked.onsuccess = () => { this.db = asked.result; done(); };
      asked.onerror = () => done();
    });
  },
  run(mode, act) {
    if (!this.db) return Promise.reject(new Error("this browser keeps nothing"));
    return new Promise((done, fail) => {
      const change = this.db.transaction("answers", mode, { durability: "strict" });
      const asked = act(change.objectStore("answers"));
      change.oncomplete = () => done(asked.result);
      change.onerror = change.onabort = () => fail(change.error);
    });
  },
  put(answer) {
    return this.run("readwrite", (all) => all.put({ key: answer.key, slot: slot(state.reader.name), answer }));
  },
  remove(key) { return this.run("readwrite", (all) => all.delete(key)).catch(() => {}); },
  async list() {
    const all = await this.run("readonly", (each) => each.getAll()).catch(() => []);
    return all.filter((each) => each.slot === slot(state.reader.name)).map((each) => each.answer);
  },
};
const remembered = () => {
  try { return JSON.parse(localStorage.getItem(slot("reader"))); } catch { return null; }
};
const remember = (who) => {
  try { localStorage.setItem(slot("reader"), JSON.stringify(who)); } catch { /* the form stays empty */ }
};
let outbox = [];
let sending = false;

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (each) => each.toString(16).padStart(2, "0")).join("");
}

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const found = await fetch(path, { ...options, cache: "no-store", credentials: "same-origin" });
  const text = await found.text();
  let told;
  try { told = JSON.parse(text); } catch { told = { error: text }; }
  if (!found.ok) { const error = new Error(told.error || text); error.status = found.status; throw error; }
  return told;
}

function tellSaved(problem = "the server does not answer") {
  const waiting = outbox.length;
  $("saved").textContent = MAILED ? "kept in this browser" : waiting
    ? `${waiting} not saved yet: ${problem}` : "all saved";
  $("saved").className = waiting && !MAILED ? "error" : "faint";
}

async function send() {
  if (sending || MAILED) return;
  sending = true;
  while (outbox.length) {
    const first = outbox[0];
    try {
      await ask("/api/answer", { reader: state.reader.number, answer: first });
    } catch (error) {
      if (error.status !== 400) { tellSaved(error.status && error.message); break; }
      $("failed").textContent = `An answer was refused: ${error.message}`;
      delete state.answers[first.case];
    }
    outbox = outbox.filter((each) => each.key !== first.key);
    box.remove(first.key);
    tellSaved();
  }
  sending = false;
}

function take(fields) {
  const now = performance.now();
  const seconds = Math.round((state.seen + (now - state.shownAt) / 1000) * 1000) / 1000;
  const answer = { key: newKey(), case: current().id, seconds: Math.min(seconds, 86400), ...fields };
  if (state.region) answer.region = state.region;
  state.answers[answer.case] = answer;
  outbox.push(answer);
  tellSaved();
  box.put(answer).catch(() => {
    if (MAILED) $("failed").textContent = "This browser keeps nothing: save the answer file before you close the page.";
  }).finally(send);
  step(1, true);
}

// --- beginning ------------------------------------------------------------------------------

async function begin() {
  try {
    state.reading = MAILED ? MAILED.reading : await ask("/api/reading");
  } catch (error) {
    $("failed").textContent = `The server says: ${error.message}`;
    return;
  }
  document.title = state.reading.question;
  for (const role of state.reading.roles) $("role").append(new Option(role, role));
  const before = remembered();
  if (MAILED) {
    $("kept").textContent = "Your answers are kept in this browser, until you save them as a file to send back. "
      + "Reports tell your role alone. Enter the same name again to go on where you stopped.";
  }
  await box.open();
  if (before) { $("name").value = before.name; $("role").value = before.role; }
  $("enter").hidden = false;
  $("name").focus();
}

$("enter").addEventListener("submit", async (event) => {
  event.preventDefault();
  const who = { name: $("name").value.trim(), role: $("role").value };
  $("enter-error").textContent = "";
  try {
    const told = MAILED ? enterMailed(who) : await ask("/api/enter", who);
    state.reader = told.reader;
    state.cases = told.cases;
    state.answers = told.answers;
  } catch (error) {
    $("enter-error").textContent = error.message;
    return;
  }
  remember(who);
  outbox = await box.list();
  for (const each of outbox) state.answers[each.case] = each;
  state.isReview = state.reading.kind === "review";
  $("enter").hidden = true;
  $("save").hidden = !MAILED; // at any time: not all who begin answer all
  $("question").textContent = state.reading.question;
  $("mark").hidden = !state.reading.may.includes("region");
  writeKeys();
  tellSaved();
  send();
  const open = state.cases.findIndex((each) => !(each.id in state.answers));
  if (open < 0) finish(); else show(open);
});

function enterMailed(who) {
  if (!who.name) throw new Error("give a name or initials");
  const order = [...MAILED.cases];
  let seed = [...who.name].reduce((sum, each) => (sum * 31 + each.codePointAt(0)) >>> 0, 7);
  for (let i = order.length - 1; i > 0; i--) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const j = Math.floor((seed / 2 ** 32) * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return { reader: { number: 0, ...who }, cases: order, answers: {} };
}

setInterval(() => { if (state.reader) send(); }, 2000);
addEventListener("beforeunload", (event) => { if (outbox.length && !MAILED) event.preventDefault(); });
document.addEventListener("visibilitychange", () => {
  const now = performance.now();
  if (document.hidden) state.seen += (now - state.shownAt) / 1000; // a page that nobody sees: no time
  state.shownAt = now;
});

// --- showing a case -------------------------------------------------------------------------

const current = () => state.cases[state.place];

function step(by, skip = false) {
  const count = state.cases.length;
  if (skip) {
    for (let i = 1; i <= count; i++) {
      const place = (state.place + i) % count;
      if (!(state.cases[place].id in state.answers)) { show(place); return; }
    }
    finish();
  } else if (state.place + by >= 0 && state.place + by < count) show(state.place + by);
}

function source(each, side) {
  return MAILED ? MAILED.images[each.id][side] : `/image/${each.id}/${side}`;
}

function show(place) {
  state.place = place;
  state.rejecting = state.marking = false;
  const each = current(), before = state.answers[each.id];
  state.region = before?.region ?? null;
  $("done").hidden = true;
  $("work").hidden = false;
  $("work").classList.toggle("pair", each.sides === 2);
  const done = state.cases.filter((one) => one.id in state.answers).length;
  $("count").textContent = `Image ${place + 1} of ${state.cases.length}, ${done} answered,`;
  $("progress").max = state.cases.length;
  $("progress").value = done;
  $("asked").textContent = each.class_name ? `Asked for: ${each.class_name}` : "";
  $("sides").replaceChildren();
  state.views = [];
  for (let side = 0; side < each.sides; side++) addView(each, side);
  fit();
  writeAnswer(before);
  $("back").disabled = place === 0;
  $("next").disabled = place === state.cases.length - 1;
  state.seen = 0;
  state.shownAt = performance.now();
  if (!MAILED && place + 1 < state.cases.length) new Image().src = source(state.cases[place + 1], 0);
}

function addView(each, side) {
  const view = document.createElement("figure");
  const sheet = document.createElement("div");
  const image = document.createElement("img");
  view.className = "view";
  sheet.className = "sheet";
  image.alt = each.sides === 2 ? `${side ? "right" : "left"} image` : `image ${state.place + 1}`;
  image.draggable = false;
  image.addEventListener("load", () => { fit(); state.shownAt = performance.now(); });
  image.addEventListener("error", () => { $("failed").textContent = "The image cannot be loaded."; });
  image.src = source(each, side);
  sheet.append(image);
  view.append(sheet);
  if (each.sides === 2) {
    const caption = document.createElement("figcaption");
    caption.textContent = side ? "right" : "left";
    view.append(caption);
  }
  $("sides").append(view);
  state.views.push({ view, sheet, image });
  listen(view);
}

function fit() {
  state.zoom = { scale: 1, x: 0, y: 0 };
  place();
}

function place() {
  for (const { view, sheet, image } of state.views) {
    const width = image.naturalWidth || 1, height = image.naturalHeight || 1;
    const base = Math.min(view.clientWidth / width, view.clientHeight / height);
    const scale = base * state.zoom.scale;
    sheet.style.width = `${width}px`;
    sheet.style.height = `${height}px`;
    const x = state.zoom.x * base - (width * scale) / 2, y = state.zoom.y * base - (height * scale) / 2;
    sheet.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    image.style.imageRendering = scale > 4 ? "pixelated" : "auto";
    sheet.querySelector(".region")?.remove();
    if (state.region) {
      const box = document.createElement("div"), [left, top, right, bottom] = state.region;
      box.className = "region";
      Object.assign(box.style, {
        left: `${left * 100}%`, top: `${top * 100}%`, width: `${(right - left) * 100}%`,
        height: `${(bottom - top) * 100}%`, borderWidth: `${3 / scale}px`,
        boxShadow: `0 0 0 ${2 / scale}px #000`,
      });
      sheet.append(box);
    }
  }
}

function zoom(by) {
  state.zoom.scale = Math.min(32, Math.max(1, state.zoom.scale * by));
  if (state.zoom.scale === 1) { state.zoom.x = 0; state.zoom.y = 0; }
  place();
}

function move(dx, dy) {
  const { view, image } = state.views[0];
  const base = Math.min(view.clientWidth / image.naturalWidth, view.clientHeight / image.naturalHeight);
  state.zoom.x += dx / base;
  state.zoom.y += dy / base;
  place();
}

function listen(view) {
  const points = new Map();
  let from = null;
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
  }, { passive: false });
  view.addEventListener("dblclick", () => { if (state.zoom.scale > 1) fit(); else zoom(3); });
  view.addEventListener("pointerdown", (event) => {
    view.setPointerCapture(event.pointerId);
    points.set(event.pointerId, event);
    if (state.marking && points.size === 1) from = locate(view, event);
  });
  view.addEventListener("pointermove", (event) => {
    const before = points.get(event.pointerId);
    if (!before) return;
    if (points.size === 2) {
      const other = [...points.values()].find((each) => each.pointerId !== event.pointerId);
      const span = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1;
      zoom(span(event, other) / span(before, other));
    } else if (from) {
      const to = locate(view, event);
      const box = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
      if (box[2] - box[0] > 0.01 && box[3] - box[1] > 0.01) { state.region = box; place(); }
    } else if (!state.marking) move(event.clientX - before.clientX, event.clientY - before.clientY);
    points.set(event.pointerId, event);
  });
  const end = (event) => {
    points.delete(event.pointerId);
    if (from && state.region) mark(false);
    from = null;
  };
  view.addEventListener("pointerup", end);
  view.addEventListener("pointercancel", end);
}

function locate(view, event) {
  const box = view.querySelector("img").getBoundingClientRect();
  const share = (value, low, size) => Math.round(Math.min(1, Math.max(0, (value - low) / size)) * 1e4) / 1e4;
  return [share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height)];
}

function mark(on) {
  state.marking = on;
  $("mark").setAttribute("aria-pressed", String(on));
  for (const { view } of state.views) view.classList.toggle("marking", on);
  $("marking").hidden = !on && !state.region;
  $("marking").textContent = on
    ? "Draw a box over the image; or arrow keys move it, Shift and arrows size it, Enter keeps it, Delete takes it away."
    : "A region is marked; it goes with the answer. M changes it.";
  if (on && !state.region) { state.region = [0.35, 0.35, 0.65, 0.65]; place(); }
}

function shiftRegion(key, sizes) {
  const by = 0.02, [left, top, right, bottom] = state.region;
  const dx = key === "ArrowLeft" ? -by : key === "ArrowRight" ? by : 0;
  const dy = key === "ArrowUp" ? -by : key === "ArrowDown" ? by : 0;
  const clamp = (value, low, high) => Math.round(Math.min(high, Math.max(low, value)) * 1e4) / 1e4;
  if (sizes) {
    state.region = [left, top, clamp(right + dx, left + by, 1), clamp(bottom + dy, top + by, 1)];
  } else {
    const x = clamp(dx, -left, 1 - right), y = clamp(dy, -top, 1 - bottom);
    state.region = [left + x, top + y, right + x, bottom + y].map((each) => clamp(each, 0, 1));
  }
  place();
}

// --- answers --------------------------------------------------------------------------------

function addButton(parent, text, key, act, kind = "") {
  const button = document.createElement("button");
  button.type = "button";
  button.className = kind;
  button.append(text);
  if (key) {
    const hint = document.createElement("kbd");
    hint.textContent = key.toUpperCase();
    button.append(" ", hint);
    button.setAttribute("aria-keyshortcuts", key);
    state.keys.set(key, act);
  }
  button.addEventListener("click", act);
  parent.append(button);
  return button;
}

function addGroup(title, kind = "choices") {
  const set = document.createElement("fieldset");
  const legend = document.createElement("legend");
  const row = document.createElement("div");
  legend.textContent = title;
  row.className = kind;
  set.append(legend, row);
  $("answer").append(set);
  return row;
}

function choose(button, is) {
  if (!is) return;
  button.classList.add("chosen");
  button.setAttribute("aria-pressed", "true");
}

function writeAnswer(before) {
  $("answer").replaceChildren();
  state.keys = new Map();
  $("marking").hidden = !state.region;
  if (state.region) mark(false); else $("mark").setAttribute("aria-pressed", "false");
  ({ review: askReview, turing: askTuring, label: askLabel, pair: askPair })[state.reading.kind](before);
}

function askReview(before) {
  const row = addGroup("Your answer");
  const accept = addButton(row, "Accept", "a", () => take({ verdict: "accept", ...otherClass() }), "accept wide");
  const reject = addButton(row, "Reject …", "r", () => { state.rejecting = true; writeReasons(); }, "reject wide");
  choose(accept, before?.verdict === "accept");
  choose(reject, before?.verdict === "reject");
  if (before?.reason) {
    const text = document.createElement("p");
    text.className = "faint";
    text.textContent = `Rejected: ${before.reason}`;
    $("answer").append(text);
  }
  if (!state.reading.classes.length) return;
  const line = document.createElement("div"), label = document.createElement("label");
  const select = document.createElement("select");
  label.htmlFor = select.id = "class";
  label.append("Class that it shows ", Object.assign(document.createElement("kbd"), { textContent: "C" }));
  select.append(new Option(current().class_name ? "as asked for" : "not said", ""));
  for (const name of state.reading.classes) select.append(new Option(name, name));
  select.value = before?.class_name ?? "";
  line.className = "own";
  line.append(label, select);
  $("answer").append(line);
  state.keys.set("c", () => select.focus());
}

const otherClass = () => {
  const value = $("class")?.value;
  return value ? { class_name: value } : {};
};

function writeReasons() {
  const fields = otherClass();
  const refuse = (reason) => take({ verdict: "reject", reason, ...fields });
  $("answer").replaceChildren();
  state.keys = new Map();
  const row = addGroup("Why not?");
  state.reading.reasons.forEach((text, place) => addButton(row, text, String(place + 1), () => refuse(text)));
  const line = document.createElement("form"), input = document.createElement("input");
  line.className = "own";
  input.maxLength = 200;
  input.setAttribute("aria-label", "another reason");
  input.placeholder = "another reason";
  line.append(input);
  const send = addButton(line, "Reject", "", () => {}, "reject");
  send.type = "submit";
  line.addEventListener("submit", (event) => {
    event.preventDefault();
    if (input.value.trim()) refuse(input.value.trim());
  });
  $("answer").append(line);
  addButton($("answer"), "Back", "Escape", () => { state.rejecting = false; writeAnswer(state.answers[current().id]); });
  row.querySelector("button").focus();
}

function askTuring(before) {
  const row = addGroup("1: surely real … 6: surely synthetic", "scale");
  const words = ["surely real", "rather real", "real, a guess", "synthetic, a guess", "rather synthetic", "surely synthetic"];
  words.forEach((text, place) => {
    const choice = place < 3 ? "real" : "synthetic", confidence = place < 3 ? 3 - place : place - 2;
    const button = addButton(row, text, String(place + 1), () => take({ choice, confidence }));
    choose(button, before?.choice === choice && before?.confidence === confidence);
  });
}

function askLabel(before) {
  const row = addGroup("Class");
  state.reading.classes.forEach((name, place) => {
    const key = place < 9 ? String(place + 1) : "";
    choose(addButton(row, name, key, () => take({ class_name: name })), before?.class_name === name);
  });
}

function askPair(before) {
  const row = addGroup("The better one");
  [["left", "1"], ["right", "2"]].forEach(([choice, key]) => {
    const button = addButton(row, choice === "left" ? "Left is better" : "Right is better", key, () => take({ choice }), "wide");
    choose(button, before?.choice === choice);
  });
}

function finish() {
  $("work").hidden = true;
  $("done").hidden = false;
  $("done-text").textContent = MAILED
    ? "Save the answer file, and send it back to whom you have this page from."
    : "Thank you. You may close this page when it says that all is saved.";
  $("done").append($("saved"));
  $("done").focus();
}

$("again").addEventListener("click", () => { document.querySelector(".state p").append($("saved")); show(0); });
$("save").addEventListener("click", () => {
  const file = {
    version: 1, format: "factory-review-answers", reading: state.reading.id, run: state.reading.run,
    reader: { name: state.reader.name, role: state.reader.role }, answers: Object.values(state.answers),
  };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
  link.download = `answers-${state.reading.kind}-${state.reader.name.replace(/[^\w-]+/g, "-")}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
});

// --- keys and buttons -----------------------------------------------------------------------

$("larger").addEventListener("click", () => zoom(1.5));
$("smaller").addEventListener("click", () => zoom(1 / 1.5));
$("whole").addEventListener("click", fit);
$("mark").addEventListener("click", () => mark(!state.marking));
$("back").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("help").addEventListener("click", () => {
  $("keys").hidden = !$("keys").hidden;
  $("help").setAttribute("aria-expanded", String(!$("keys").hidden));
});
addEventListener("resize", place);

function writeKeys() {
  const own = {
    review: [["A", "accept"], ["R, then 1 to 7", "reject, and why"], ["C", "choose the class"], ["M", "mark a region"]],
    turing: [["1 to 6", "from surely real to surely synthetic"]],
    label: [["1 to 9", "the class"]], pair: [["1", "left"], ["2", "right"]],
  }[state.reading.kind];
  const list = document.createElement("dl");
  for (const [key, text] of [...own, ["+ − 0", "zoom in, out, fit"], ["← →", "the image before, after"], ["Shift + arrows", "move the image"]]) {
    const term = document.createElement("dt"), told = document.createElement("dd");
    term.append(Object.assign(document.createElement("kbd"), { textContent: key }));
    told.textContent = text;
    list.append(term, told);
  }
  $("keys").replaceChildren(list);
}

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if ($("work").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    if (event.key !== "Escape" || !state.rejecting) return;
  }
  const arrow = event.key.startsWith("Arrow");
  if (state.marking && (arrow || ["Enter", "Delete", "Backspace", "Escape"].includes(event.key))) {
    if (arrow) shiftRegion(event.key, event.shiftKey);
    else {
      if (event.key !== "Enter") { state.region = null; place(); }
      mark(false);
    }
    event.preventDefault();
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const acts = {
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "0": fit, "?": () => $("help").click(),
    m: () => { if (!$("mark").hidden) mark(true); },
    ArrowLeft: () => (event.shiftKey ? move(40, 0) : step(-1)),
    ArrowRight: () => (event.shiftKey ? move(-40, 0) : step(1)),
    ArrowUp: () => { if (event.shiftKey) move(0, 40); }, ArrowDown: () => { if (event.shiftKey) move(0, -40); },
  };
  const act = state.keys.get(key) ?? acts[key];
  if (!act || event.repeat && state.keys.has(key)) return;
  if (key === "ArrowUp" || key === "ArrowDown") { if (!event.shiftKey) return; }
  event.preventDefault();
  act();
});

begin();
