// The live console: one strip per channel, the mix, and what the operator asks of both.

import { keepAwake } from "./awake.js";
import { Link } from "./link.js";
import { Meter } from "./meter.js";
import { FaderScale, decibels, meterAt } from "./scale.js";
import { Strip } from "./strip.js";
import { write } from "./text.js";

const STRIP_PX = 92; // the least that fingers can use
const PANIC_KEY_MS = 500;
const OPEN_AGAIN_MS = 1000;
const ERROR_MS = 6000;
const DRAW_MS = 25; // every second picture of most screens
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const $ = (id) => document.getElementById(id);

let about = null;
let described = "";
let truth = null;
let strips = [];
let focused = null; // what had the focus when the connection was lost
const sum = [...document.querySelectorAll("#sum .meter")].map((element) => new Meter(element));

const link = new Link({ hello, state, error: (text) => say(text), lost, back });

// ---- what the mixer says ----

function hello(said) {
  const text = JSON.stringify(said);
  if (text === described) return;
  described = text;
  about = said;
  truth = null;
  document.title = said.title;
  $("title").textContent = said.title;
  $("facts").textContent =
    `${said.model} · ${Number(said.sample_rate) / 1000} kHz · ${said.block_size} samples · ${said.strips.length} ch`;
  const [low, high] = said.ranges.strength;
  Object.assign($("strength"), { min: low, max: high });
  sizes.disconnect();
  seen.disconnect();
  const scale = new FaderScale(said.ranges.lock_db);
  strips = said.strips.map((strip, index) => new Strip(link, index, strip, scale, said.ranges.trim_db));
  $("strips").replaceChildren(...strips.map((strip) => strip.element));
  for (const strip of strips) {
    sizes.observe(strip.travel);
    seen.observe(strip.element);
  }
  sizes.observe($("strips"));
  arrange();
}

function state(said) {
  if (said.strips.length !== strips.length) return;
  const nowMs = performance.now();
  truth = said;
  const solos = strips.filter((strip, index) => link.shown("solo", index, said.strips[index].solo)).length;
  strips.forEach((strip, index) => {
    const quiet = solos > 0 && !link.shown("solo", index, said.strips[index].solo);
    strip.tell(said.strips[index], nowMs, quiet);
  });
  said.mix.peak_db.forEach((db, side) => sum[side].hear(db, nowMs));
  write($("loud"), decibels(said.mix.loudness_lufs));
  const peakDb = Math.max(...sum.map((meter) => meter.peakDb ?? -Infinity));
  write($("peak"), `peak ${peakDb > -Infinity ? `${decibels(peakDb)} dB` : "–"}`);
  write($("clock"), clock(said.time_s));
  count($("xruns"), "xruns", said.xruns, said.xruns);
  const share = said.frames ? (100 * said.late_frames) / said.frames : 0;
  count($("late"), "late", said.late_frames, `${said.late_frames} (${share.toFixed(share && share < 1 ? 2 : 0)} %)`);
  $("solos").hidden = !solos;
  write($("solos"), `Solo ${solos} ×`);
  $("solos").setAttribute("aria-label", `${solos} solo: switch off`);
  faults(said.faults);
  showMaster();
}

function showMaster() {
  if (!truth) return;
  const strength = $("strength");
  const value = link.shown("strength", null, truth.strength);
  if (!strength.matches(":active")) strength.value = value;
  strength.style.setProperty("--filled", `${(100 * (strength.value - strength.min)) / (strength.max - strength.min)}%`);
  write($("strength-text"), `${Math.round(strength.value)} %`);
  for (const name of ["freeze", "bypass", "panic"]) {
    const on = link.shown(name, null, truth[name]);
    $(name).setAttribute("aria-pressed", on);
    document.body.classList.toggle(name, on);
  }
  const silent = panicked();
  write($("panic-what"), silent ? "SILENT" : "PANIC");
  write($("panic-how"), !silent ? "silence now" : confirming ? "press again to open" : "hold to open again");
}

function clock(seconds) {
  const s = Math.floor(seconds);
  const two = (n) => String(n).padStart(2, "0");
  return `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

// A count is loud for a while when it grows, and stays marked.
function count(element, what, n, text) {
  write(element, `${what} ${text}`);
  if (n > Number(element.dataset.count ?? n)) {
    element.classList.add("grew");
    clearTimeout(element.timer);
    element.timer = setTimeout(() => element.classList.remove("grew"), 5000);
  }
  element.dataset.count = n;
  element.classList.toggle("some", n > 0);
}

// ---- faults and errors: each shown once, until dismissed ----

const lines = new Map();

function faults(list) {
  for (const { text, count: n } of list) {
    if (!lines.has(text)) lines.set(text, line(text, "fault"));
    write(lines.get(text).querySelector("b"), n > 1 ? `×${n}` : "");
  }
}

function say(text) {
  const said = line(text, "said");
  setTimeout(() => said.remove(), ERROR_MS);
}

function line(text, kind) {
  const item = document.createElement("li");
  item.className = kind;
  const words = document.createElement("span");
  words.textContent = text;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Dismiss";
  button.setAttribute("aria-label", `dismiss: ${text}`);
  button.addEventListener("click", () => item.remove());
  item.append(words, document.createElement("b"), button);
  $("faults").prepend(item);
  return item;
}

// ---- the connection ----

function lost(why) {
  if (document.body.dataset.link === "live") focused = document.activeElement;
  document.body.dataset.link = described ? "lost" : "waiting";
  for (const part of [$("strips"), $("master"), $("banks")]) part.inert = true;
  for (const strip of strips) strip.release();
  disarm();
  write($("lost-what"), described ? "Connection lost" : "Connecting");
  $("lost-why").dataset.why = why;
  age();
}

function back() {
  document.body.dataset.link = "live";
  for (const part of [$("strips"), $("master"), $("banks")]) part.inert = false;
  if (focused?.isConnected) focused.focus({ preventScroll: true });
}

function age() {
  if (link?.alive) return;
  const s = Math.round((link?.silentMs ?? 0) / 1000);
  const why = $("lost-why").dataset.why;
  write($("lost-why"), why || (described ? `What you see is ${s} s old, and nothing you do here arrives.` : ""));
}

setInterval(() => {
  age();
  if (link.alive) for (const strip of strips) strip.describe();
  for (const meter of sum) meter.describe();
}, 1000);

// ---- master ----

$("strength").addEventListener("input", () => {
  link.ask("strength", null, Number($("strength").value));
  showMaster();
});
for (const name of ["freeze", "bypass"]) {
  $(name).addEventListener("click", () => ask(name, !link.shown(name, null, truth?.[name])));
}
$("solos").addEventListener("click", () => {
  strips.forEach((strip) => strip.soloed && strip.toggle("solo"));
});

function ask(name, value) {
  if (!truth) return;
  link.ask(name, null, value);
  showMaster();
}

// ---- panic: silence is one press away, sound is a deliberate one ----

let arming = 0;
let spent = false; // this press has done its work
let confirming = 0;

function panicked() {
  return Boolean(truth && link.shown("panic", null, truth.panic));
}

function arm(ms) {
  disarm();
  $("panic").style.setProperty("--hold", `${ms}ms`);
  $("panic").classList.add("arming");
  const silent = panicked();
  arming = setTimeout(() => {
    disarm();
    spent = true;
    ask("panic", !silent);
  }, ms);
}

function disarm() {
  clearTimeout(arming);
  arming = 0;
  $("panic").classList.remove("arming");
}

$("panic").addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !truth) return;
  if (panicked()) arm(OPEN_AGAIN_MS);
  else ask("panic", true);
});
for (const end of ["pointerup", "pointercancel", "pointerleave"]) $("panic").addEventListener(end, disarm);
$("panic").addEventListener("contextmenu", (event) => event.preventDefault());
// From a keyboard or a screen reader, which cannot hold: press once to silence, twice to open again.
$("panic").addEventListener("click", (event) => {
  if (event.detail !== 0 || !truth) return;
  if (!panicked()) ask("panic", true);
  else if (confirming) {
    ask("panic", false);
    clearTimeout(confirming);
    confirming = 0;
  } else {
    confirming = setTimeout(() => {
      confirming = 0;
      showMaster();
    }, 3000);
    showMaster();
  }
});

// ---- keys ----

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.code === "Space") {
    if (event.repeat) event.preventDefault();
    else if (truth && link.alive) {
      spent = false;
      arm(panicked() ? OPEN_AGAIN_MS : PANIC_KEY_MS);
      if (!event.target.matches("button")) event.preventDefault();
    }
    return;
  }
  if (event.key === "?") {
    if (!$("help").open) $("help").showModal();
    return;
  }
  if ($("help").open || !link.alive) return;
  const strip = strips[event.target.closest?.(".strip")?.dataset.index];
  const act = strip ? KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key] : null;
  if (act) {
    act(strip, event);
    event.preventDefault();
  } else if (!strip && (event.key === "ArrowRight" || event.key === "ArrowLeft") && event.target === document.body) {
    go(strips[0]);
  }
});

addEventListener("keyup", (event) => {
  if (event.code !== "Space") return;
  if (spent) event.preventDefault(); // a button under the focus is not pressed as well
  disarm();
});
addEventListener("blur", disarm);

const KEYS = {
  ArrowUp: (strip, event) => strip.nudge(event.shiftKey ? 0.1 : 0.5),
  ArrowDown: (strip, event) => strip.nudge(event.shiftKey ? -0.1 : -0.5),
  PageUp: (strip) => strip.nudge(3),
  PageDown: (strip) => strip.nudge(-3),
  ArrowLeft: (strip) => go(strips[strips.indexOf(strip) - 1]),
  ArrowRight: (strip) => go(strips[strips.indexOf(strip) + 1]),
  "+": (strip) => strip.trim(0.5),
  "=": (strip) => strip.trim(0.5),
  "-": (strip) => strip.trim(-0.5),
  m: (strip) => strip.toggle("mute"),
  s: (strip) => strip.toggle("solo"),
  l: (strip) => strip.toggleLock(),
};

function go(strip) {
  strip?.fader.focus({ preventScroll: true });
  strip?.element.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// What does not fit a strip is said whole when it is touched.
$("strips").addEventListener("click", (event) => {
  const strip = event.target.closest("header, .why")?.closest(".strip");
  if (strip) say(strips[strip.dataset.index].said);
});
$("ask").addEventListener("click", () => $("help").showModal());

// ---- banks: as many strips as fit, all of one width ----

function arrange() {
  if (!strips.length) return;
  const fit = Math.max(Math.floor($("strips").clientWidth / STRIP_PX), 1);
  const banked = strips.length > fit;
  document.body.style.setProperty("--per-bank", banked ? fit : strips.length);
  const starts = banked ? Array.from({ length: Math.ceil(strips.length / fit) }, (_, bank) => bank * fit) : [];
  if ($("banks").childElementCount === starts.length && Number($("banks").dataset.fit) === fit) return;
  $("banks").dataset.fit = fit;
  $("banks").hidden = !banked;
  $("banks").replaceChildren(
    ...starts.map((start) => {
      const button = document.createElement("button");
      button.type = "button";
      const end = Math.min(start + fit, strips.length);
      button.textContent = start + 1 === end ? end : `${start + 1}–${end}`;
      button.addEventListener("click", () => {
        strips[start].element.scrollIntoView({ block: "nearest", inline: "start", behavior: calm.matches ? "auto" : "smooth" });
      });
      return button;
    }),
  );
}

function markBank() {
  const first = strips.findIndex((strip) => strip.visible);
  const fit = Number($("banks").dataset.fit);
  const last = strips.findLastIndex((strip) => strip.visible) === strips.length - 1;
  const bank = last ? $("banks").childElementCount - 1 : Math.floor((first + fit / 2) / fit);
  [...$("banks").children].forEach((button, index) => {
    if (index !== bank) button.removeAttribute("aria-current");
    else if (!button.hasAttribute("aria-current")) {
      button.setAttribute("aria-current", "true");
      button.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  });
}

const byElement = (element) => strips[element.closest(".strip").dataset.index];
const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    if (target === $("strips")) arrange();
    else if (target.isConnected) byElement(target).heightPx = contentRect.height;
  }
});
const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) if (target.isConnected) byElement(target).visible = isIntersecting;
    markBank();
  },
  { root: $("strips"), threshold: 0.5 },
);

// ---- drawing: only what is in sight, only what has moved ----

let drawnMs = performance.now();

function draw(nowMs) {
  requestAnimationFrame(draw);
  if (nowMs - drawnMs < DRAW_MS) return;
  const seconds = Math.min((nowMs - drawnMs) / 1000, 0.1);
  drawnMs = nowMs;
  if (link.alive) {
    for (const strip of strips) if (strip.visible) strip.draw(nowMs, seconds, calm.matches);
    for (const meter of sum) meter.draw(nowMs, seconds);
  }
}

for (const db of [0, -6, -12, -20, -30, -40, -60]) {
  const level = document.createElement("span");
  level.textContent = -db;
  level.style.top = `${100 * (1 - meterAt(db))}%`;
  $("levels").append(level);
}
if (location.search) history.replaceState(null, "", "/"); // the token is in a cookie now
keepAwake((text) => ($("awake").textContent = text));
requestAnimationFrame(draw);
