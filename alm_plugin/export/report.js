"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const css = getComputedStyle(document.documentElement);
const colour = name => css.getPropertyValue("--" + name).trim();
const clock = s => Math.floor(s / 60) + ":" + String(Math.floor(s % 60)).padStart(2, "0");
const fixed = (x, digits) => (x < 0 && +x.toFixed(digits) ? "\u2212" : "") + Math.abs(x).toFixed(digits);
const sign = (unit, v) => unit !== "LUFS" && v > 0 ? "+" : "";
const LEFT = 36, RIGHT = 36, TOP = 18, BOTTOM = 24;

class Plot {
  constructor(spec) {
    this.spec = spec;
    const box = document.getElementById(spec.id);
    this.canvas = box.querySelector("canvas");
    this.cursor = box.querySelector(".cursor");
    this.playhead = box.querySelector(".playhead");
    this.read = box.querySelector(".read");
    for (const kind of ["pointerdown", "pointermove"])
      this.canvas.addEventListener(kind, e => point(this.time(e)));
    this.canvas.addEventListener("pointerleave", e => { if (e.pointerType === "mouse") point(null); });
    this.canvas.addEventListener("click", e => { const t = this.time(e); if (t !== null) seek(t); });
  }
  get width() { return this.canvas.clientWidth - LEFT - RIGHT; }
  x(t) { return LEFT + t / report.seconds * this.width; }
  y(axis, v) {
    const { low, high } = this.spec[axis], top = TOP, bottom = this.canvas.clientHeight - BOTTOM;
    return bottom - (Math.min(Math.max(v, low), high) - low) / (high - low) * (bottom - top);
  }
  time(e) {
    const t = (e.clientX - this.canvas.getBoundingClientRect().left - LEFT) / this.width * report.seconds;
    return t < 0 || t > report.seconds ? null : t;
  }
  place(line, t) {
    line.style.visibility = t === null ? "hidden" : "visible";
    if (t !== null) line.style.transform = `translateX(${this.x(t)}px)`;
  }
  point(t) {
    this.place(this.cursor, t);
    if (t === null) { this.read.textContent = ""; return; }
    const told = [clock(t) + "." + Math.floor(t * 10 % 10)];
    for (const s of this.spec.series) {
      const i = Math.floor((t - s.from) / (s.to - s.from) * s.high.length);
      const high = s.high[i], low = (s.low || s.high)[i];
      if (high === undefined || high === null) continue;
      const one = v => v <= report.floor ? "silent" : sign(s.unit, v) + fixed(v, 1);
      const both = one(low) === one(high) ? one(high) : one(low) + " to " + one(high);
      told.push((s.name ? s.name + " " : "") + both + (both === "silent" ? "" : " " + s.unit));
    }
    this.read.textContent = told.join(" \u00b7 ");
  }
  draw() {
    const { canvas, spec } = this, ratio = window.devicePixelRatio || 1;
    const wide = canvas.clientWidth, tall = canvas.clientHeight, c = canvas.getContext("2d");
    canvas.width = Math.round(wide * ratio);
    canvas.height = Math.round(tall * ratio);
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, wide, tall);
    c.font = "11px system-ui, sans-serif";
    const bottom = tall - BOTTOM, right = wide - RIGHT;
    const text = (said, x, y, align, ink) => {
      c.textAlign = align;
      c.fillStyle = colour(ink);
      c.fillText(said, x, y);
    };
    c.lineWidth = 1;
    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400]
      .find(s => s / report.seconds * this.width >= 56) || 36000;
    for (let t = 0; t <= report.seconds + 1e-6; t += step) {
      c.strokeStyle = colour("line");
      c.beginPath(); c.moveTo(this.x(t), TOP); c.lineTo(this.x(t), bottom); c.stroke();
      text(clock(t), this.x(t), tall - 6, "center", "soft");
    }
    c.save();
    c.beginPath(); c.rect(LEFT, TOP - 1, right - LEFT, bottom - TOP + 2); c.clip();
    for (const s of spec.series) if (s.ink === "level") {
      this.area(c, s, s.high, colour(s.low ? "level" : "deep"));
      if (s.low) this.area(c, s, s.low, colour("deep"));
    }
    c.restore();
    for (const [axis, x, align, from] of [["left", LEFT - 5, "right", LEFT], ["right", right + 5, "left", LEFT]]) {
      const a = spec[axis];
      if (!a) continue;
      text(a.unit, axis === "left" ? 0 : wide, 9, axis === "left" ? "left" : "right", a.ink);
      for (let v = a.low; v <= a.high + 1e-6; v += a.step) {
        const strong = v === 0 && a.ink !== "soft" || axis === "left" && !spec.right;
        if (strong) {
          c.strokeStyle = colour(v === 0 ? "soft" : "line");
          c.setLineDash(v === 0 ? [3, 3] : []);
          c.beginPath(); c.moveTo(from, this.y(axis, v)); c.lineTo(right, this.y(axis, v)); c.stroke();
          c.setLineDash([]);
        }
        text(sign(a.unit, v) + fixed(v, 0), x, this.y(axis, v) + 4, align, a.ink);
      }
    }
    c.save();
    c.beginPath(); c.rect(LEFT, TOP - 2, right - LEFT, bottom - TOP + 4); c.clip();
    for (const s of spec.series) if (s.ink !== "level") this.line(c, s);
    c.strokeStyle = colour("jump");
    c.lineWidth = 1.5;
    for (const t of spec.marks || []) {
      c.beginPath(); c.moveTo(this.x(t), TOP); c.lineTo(this.x(t), TOP + 14); c.stroke();
    }
    c.restore();
  }
  at(s, i) { return this.x(s.from + (i + 0.5) / s.high.length * (s.to - s.from)); }
  area(c, s, values, ink) {
    const floor = this.y(s.axis, -1e9);
    c.fillStyle = ink;
    c.beginPath();
    c.moveTo(this.x(s.from), floor);
    values.forEach((v, i) => c.lineTo(this.at(s, i), v === null ? floor : this.y(s.axis, v)));
    c.lineTo(this.x(s.to), floor);
    c.fill();
  }
  line(c, s) {
    c.strokeStyle = colour(s.ink);
    c.lineWidth = 1.75;
    c.lineJoin = "round";
    c.beginPath();
    let open = false;
    s.high.forEach((v, i) => {
      if (v === null) { open = false; return; }
      const x = this.at(s, i);
      if (open) c.lineTo(x, this.y(s.axis, v)); else c.moveTo(x, this.y(s.axis, v));
      c.lineTo(x + (open ? 0 : 0.5), this.y(s.axis, s.low ? s.low[i] : v));
      open = true;
    });
    c.stroke();
  }
}

const plots = report.plots.map(spec => new Plot(spec));
const point = t => plots.forEach(p => p.point(t));
const draw = () => plots.forEach(p => p.draw());
const held = report.players;
let seek = () => {};

if (held) {
  const sounds = ["raw", "mix"].map(id => document.getElementById("sound-" + id));
  const choices = ["raw", "mix"].map(id => document.getElementById("choose-" + id));
  const play = document.getElementById("play"), slider = document.getElementById("place");
  const shown = document.getElementById("time");
  let active = 1;
  const show = () => {
    const sound = sounds[active], t = sound.currentTime;
    slider.value = t;
    shown.textContent = clock(held.start_s + t) + " / " + clock(held.start_s + held.seconds);
    play.textContent = sound.paused ? "Play" : "Pause";
    choices.forEach((b, i) => b.setAttribute("aria-pressed", String(i === active)));
    const at = t > 0 ? Math.min(held.start_s + t, report.seconds) : null;
    plots.forEach(p => p.place(p.playhead, at));
    if (!sound.paused) requestAnimationFrame(show);
  };
  const failed = () => { shown.textContent = "This browser cannot play the sound."; };
  const start = sound => sound.play().catch(e => { if (e.name !== "AbortError") failed(); });
  const choose = next => {
    if (next === active) return;
    const from = sounds[active], to = sounds[next];
    to.currentTime = from.currentTime;
    active = next;
    if (!from.paused) start(to).then(() => sounds[1 - active].pause());
    show();
  };
  seek = t => {
    const at = t - held.start_s;
    if (at >= 0 && at <= held.seconds) { sounds[active].currentTime = at; show(); }
  };
  choices.forEach((b, i) => b.addEventListener("click", () => choose(i)));
  play.addEventListener("click", () => { const s = sounds[active]; if (s.paused) start(s); else s.pause(); });
  slider.addEventListener("input", () => { sounds[active].currentTime = +slider.value; show(); });
  document.addEventListener("keydown", e => {
    if (e.key === "x" && !e.ctrlKey && !e.metaKey && !e.altKey) choose(1 - active);
  });
  for (const sound of sounds) {
    sound.controls = false;
    for (const kind of ["play", "pause", "ended", "seeked"]) sound.addEventListener(kind, show);
    sound.addEventListener("error", failed);
  }
  document.getElementById("transport").hidden = false;
  show();
}

new ResizeObserver(() => { draw(); point(null); }).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
