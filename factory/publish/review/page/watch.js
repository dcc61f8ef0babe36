"use strict";
// How far a run is: asked of the server every few seconds, which reads the run folder alone.

const $ = (id) => document.getElementById(id);
const EVERY = 3000;
const count = (value) => (value ?? 0).toLocaleString("en");
const share = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);

function tellTime(seconds) {
  if (seconds === null) return "–";
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${whole} s`;
}

function fill(id, rows) {
  $(id).replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    cells.forEach((cell, place) => {
      const part = document.createElement(place ? "td" : "th");
      if (!place) part.scope = "row";
      if (typeof cell === "number") { part.className = "number"; part.textContent = count(cell); }
      else part.append(cell);
      row.append(part);
    });
    return row;
  }));
}

function addBar(value, most, name) {
  const bar = document.createElement("progress");
  bar.max = most || 1;
  bar.value = value;
  bar.setAttribute("aria-label", name);
  return bar;
}

function show(told) {
  document.title = `${told.accepted} of ${told.asked}: ${told.name}`;
  $("name").textContent = told.name;
  $("state").textContent = told.finalized ? "finished" : `not finished: ${told.unfinished}`;
  $("count").textContent = `${count(told.done)} of ${count(told.shards)} shards`;
  $("progress").max = told.shards || 1;
  $("progress").value = told.done;
  $("accepted").textContent = `${count(told.accepted)} of ${count(told.asked)}`;
  $("acceptance").textContent = `${share(told.acceptance)} of ${count(told.generated)}`;
  $("of-what").textContent = told.judged ? "Of images judged" : "Of images tried";
  $("speed").textContent = told.speed === null ? "–" : (told.speed * 60).toFixed(1);
  $("left").textContent = told.finalized ? "none" : tellTime(told.left);
  fill("series", told.series.map((part) => [
    part.label, part.accepted, part.asked, part.tried, addBar(part.accepted, part.asked, `${part.label}: accepted of asked`),
  ]));
  fill("reasons", Object.entries(told.reasons).map(([reason, images]) => [reason, images]));
  $("holder").textContent = told.holder ?? "Nobody works on it now.";
  fill("workers", told.workers.map((each) => [
    each.model, each.device, each.shards, each.images, each.speed === null ? "–" : Math.round(each.speed * 100) / 100,
  ]));
  $("quarantined").replaceChildren(...told.quarantined.map((each) => Object.assign(
    document.createElement("p"), { className: "error", textContent: `Shard ${each.shard} kept failing: ${each.error}` },
  )));
  const there = [...$("newest").children].map((each) => each.id).join();
  if (there === told.newest.map((each) => each.id).join()) return;
  $("newest").replaceChildren(...told.newest.map((each) => {
    const figure = document.createElement("figure"), image = document.createElement("img");
    const caption = document.createElement("figcaption");
    figure.id = each.id;
    image.src = `/newest/${each.id}`;
    image.alt = `${each.label}, ${each.verdict}`;
    caption.textContent = `${each.label}: ${each.verdict}`;
    figure.append(image, caption);
    return figure;
  }));
}

async function ask() {
  try {
    const found = await fetch("/api/watch", { cache: "no-store" });
    const text = await found.text();
    if (!found.ok) throw new Error(text);
    show(JSON.parse(text));
    $("failed").textContent = "";
  } catch (error) {
    $("failed").textContent = `The server does not answer: ${error.message}`;
  }
  setTimeout(ask, EVERY);
}

ask();
