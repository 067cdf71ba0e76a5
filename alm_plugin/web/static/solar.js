// The soundcheck's page: black, unless a player has something to turn. Before the first song it looks at the level.

import { keepAwake } from "./awake.js";
import { Link } from "./link.js";
import { Meter } from "./meter.js";
import { meterAt } from "./scale.js";
import { write } from "./text.js";

const BAR_MS = 4000;
const DRAW_MS = 25;
const SAYS = { up: "turn up", down: "turn down" };
const LEVELS = {
  silent: "Nothing comes in: choose another input, or switch it on.",
  quiet: "Too quiet: turn the input up, or move the microphone closer, while the band plays.",
  clipped: "Clipped: turn the input down until the red end stays dark.",
  good: "Good: keep it like this while the loudest song is played.",
  broken: "What comes in is no sound: choose another input.",
};
const $ = (id) => document.getElementById(id);
const body = document.body;

let described = "";
let about = null;
let truth = null;
let barTimer = 0;
const meter = new Meter($("meter"));
const link = new Link({ hello, state, error: note, lost, back });

function hello(said) {
  const text = JSON.stringify(said);
  if (text === described) return;
  described = text;
  about = said;
  document.title = said.title;
  write($("title"), said.title);
  $("input").replaceChildren(...said.inputs.map((input, index) => new Option(input.name, index)));
  $("picker").hidden = said.inputs.length < 2 && said.inputs[0].ports < 2;
  const names = said.strips.map((strip) => strip.name);
  $("players").hidden = names.length < 2;
  const everyone = ["all of us", ...names].map((name, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => look(index ? name : ""));
    return button;
  });
  $("players").replaceChildren($("players").firstElementChild, ...everyone);
  look(decodeURIComponent(location.hash.slice(1)));
}

// Each player may have a screen that is nobody else's; it stays so when the page is loaded again.
function look(name) {
  const index = about.strips.findIndex((strip) => strip.name === name);
  history.replaceState(null, "", index < 0 ? location.pathname : `#${encodeURIComponent(name)}`);
  [...$("players").querySelectorAll("button")].forEach((b, i) => b.setAttribute("aria-pressed", i === index + 1));
  if (truth) state(truth);
}

function mine() {
  const name = decodeURIComponent(location.hash.slice(1));
  const index = about.strips.findIndex((strip) => strip.name === name);
  return truth.order.filter((player) => truth.shown[player] && (index < 0 || player === index));
}

function state(said) {
  if (said.shown.length !== about.strips.length) return;
  truth = said;
  const phase = link.shown("start", null, said.started) ? "play" : "check";
  if (body.dataset.phase !== phase) body.dataset.phase = phase;
  $("check").hidden = phase !== "check";
  meter.hear(said.level_db, performance.now());
  const verdict = phase === "check" ? said.verdict : "";
  if ($("verdict").dataset.verdict !== verdict) $("verdict").dataset.verdict = verdict;
  write($("verdict"), LEVELS[verdict] ?? "");
  $("start").disabled = !about.inputs.length;
  choose($("input"), link.shown("input", null, said.input));
  ports(about.inputs[said.input]?.ports ?? 1);
  choose($("port"), link.shown("port", null, said.port));
  note(said.note);
  show(phase === "play" ? mine() : []);
}

function choose(select, value) {
  if (select !== document.activeElement && select.value !== String(value)) select.value = value;
}

function ports(count) {
  $("port-of").hidden = count < 2;
  if ($("port").length === count) return;
  $("port").replaceChildren(...Array.from({ length: count }, (_, port) => new Option(port + 1, port + 1)));
}

// ---- the one thing to see ----

function show([first, ...others]) {
  const now = first === undefined ? null : truth.shown[first];
  const what = now?.state ?? "blank";
  if (body.dataset.state !== what) body.dataset.state = what;
  if (!now) {
    for (const id of ["who", "number", "what"]) write($(id), "");
    $("others").replaceChildren();
    return;
  }
  const name = about.strips[first].name;
  const deaf = what === "cant-hear";
  write($("who"), deaf ? "" : name);
  write($("what"), deaf ? `can’t hear ${name}` : SAYS[what]);
  if (deaf) $("number").replaceChildren();
  else if ($("number").dataset.db !== decibels(now) || !$("number").firstElementChild) {
    const unit = document.createElement("small");
    unit.textContent = "dB";
    $("number").replaceChildren(decibels(now), unit);
  }
  $("number").dataset.db = decibels(now);
  const also = others.map((player) => short(about.strips[player].name, truth.shown[player]));
  if ($("others").textContent !== also.join("")) {
    $("others").replaceChildren(...also.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  }
}

const decibels = (now) => String(Math.max(Math.round(Math.abs(now.change_db)), 1));
const short = (name, now) => (now.state === "cant-hear" ? `${name} ?` : `${name} ${now.state === "up" ? "▲" : "▼"} ${decibels(now)}`);

function note(text) {
  if (typeof text !== "string") return;
  write($("note"), text);
  $("note").hidden = !text;
}

// ---- what a player does ----

function touch() {
  if (body.dataset.state === "blank") {
    bar();
    return;
  }
  for (const player of mine().slice(0, 1)) link.ask("done", player, true);
}

function bar() {
  $("bar").hidden = false;
  body.classList.remove("quiet");
  clearTimeout(barTimer);
  barTimer = setTimeout(() => {
    $("bar").hidden = true;
    body.classList.toggle("quiet", body.dataset.phase === "play");
  }, BAR_MS);
}

function start(on) {
  link.ask("start", null, on);
  if (on && !document.fullscreenElement) document.documentElement.requestFullscreen?.().catch(() => {});
  if (on) body.classList.add("quiet");
}

function full() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().catch(() => {});
}

$("start").addEventListener("click", () => start(true));
$("back").addEventListener("click", () => start(false));
$("full").addEventListener("click", full);
$("input").addEventListener("change", () => link.ask("input", null, Number($("input").value)));
$("port").addEventListener("change", () => link.ask("port", null, Number($("port").value)));
for (const select of [$("input"), $("port")]) select.addEventListener("change", () => select.blur());
addEventListener("click", (event) => {
  if (body.dataset.phase === "play" && !event.target.closest("#bar")) touch();
});
addEventListener("pointermove", (event) => {
  if (body.dataset.phase === "play" && event.pointerType === "mouse" && body.dataset.state === "blank") bar();
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const key = event.key.toLowerCase();
  if (key === "f") full();
  else if (body.dataset.phase !== "play") return;
  else if (key === "l") start(false);
  else if ((key === " " || key === "enter") && !event.target.matches("button")) touch();
  else return;
  event.preventDefault();
});

// ---- the connection ----

function lost(text) {
  body.dataset.link = "lost";
  write($("lost-what"), text ? "" : "No connection");
  write($("lost-why"), text || "to the soundcheck: trying again.");
}

function back() {
  body.dataset.link = "live";
}

let drawnMs = performance.now();

function draw(nowMs) {
  requestAnimationFrame(draw);
  if (nowMs - drawnMs < DRAW_MS) return;
  if (link.alive && body.dataset.phase === "check") meter.draw(nowMs, Math.min((nowMs - drawnMs) / 1000, 0.1));
  drawnMs = nowMs;
}

for (const db of [-60, -40, -30, -20, -12, -6, 0]) {
  const level = document.createElement("span");
  level.textContent = db;
  level.style.left = `${100 * meterAt(db)}%`;
  $("scale").append(level);
}
setInterval(() => meter.describe(), 1000);
if (location.search) history.replaceState(null, "", location.pathname + location.hash); // the token is in a cookie now
keepAwake((text) => write($("awake"), text));
requestAnimationFrame(draw);
