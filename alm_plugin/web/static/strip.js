// One channel: what it hears, what it sends on, where its gain stands and who put it there.

import { Meter } from "./meter.js";
import { decibels } from "./scale.js";
import { write } from "./text.js";

const TRIM_STEP_DB = 0.5;
const REPEAT_AFTER_MS = 450;
const REPEAT_MS = 120;

export class Strip {
  #link;
  #index;
  #scale;
  #trimRange;
  #parts = {};
  #meters;
  #truth = null;
  #finger = null; // {id, y, db}: while a finger is on the fader it has the last word
  #heightPx = 1;
  #marker = null;
  #drawnMarker = -1;
  #texts = new Map();
  #quiet = false; // another is solo
  visible = false;

  constructor(link, index, about, scale, trimRange) {
    this.#link = link;
    this.#index = index;
    this.#scale = scale;
    this.#trimRange = trimRange;
    const element = document.getElementById("strip").content.firstElementChild.cloneNode(true);
    this.element = element;
    element.dataset.index = index;
    element.dataset.group = about.group ?? "unknown";
    element.setAttribute("aria-label", about.name);
    for (const part of element.querySelectorAll("[data-part]")) this.#parts[part.dataset.part] = part;
    const { name, role, fader, ticks, lock, less, more, mute, solo, before, after } = this.#parts;
    name.textContent = about.name;
    role.textContent = `${index + 1}${about.role ? ` · ${about.role}` : ""}`;
    for (const [part, what] of [[fader, "gain"], [before, "before"], [after, "after"], [less, "trim down"],
      [more, "trim up"], [mute, "mute"], [solo, "solo"]]) part.setAttribute("aria-label", `${about.name} ${what}`);
    fader.setAttribute("aria-valuemin", scale.low);
    fader.setAttribute("aria-valuemax", scale.high);
    for (const db of scale.ticks) {
      const tick = document.createElement("span");
      tick.textContent = db > 0 ? `+${db}` : db < 0 ? `−${-db}` : "0";
      tick.style.top = `${100 * (1 - scale.at(db))}%`;
      tick.classList.toggle("zero", db === 0);
      ticks.append(tick);
    }
    this.#parts.move.style.top = `${100 * (1 - scale.at(0))}%`;
    this.#meters = [new Meter(before), new Meter(after)];
    this.name = about.name;

    fader.addEventListener("pointerdown", (event) => this.#touch(event));
    fader.addEventListener("pointermove", (event) => this.#drag(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      fader.addEventListener(end, (event) => this.#leave(event));
    }
    lock.addEventListener("click", () => this.toggleLock());
    mute.addEventListener("click", () => this.toggle("mute"));
    solo.addEventListener("click", () => this.toggle("solo"));
    this.#repeats(less, -TRIM_STEP_DB);
    this.#repeats(more, TRIM_STEP_DB);
  }

  // Height of the fader's travel, from a ResizeObserver: a moving finger asks for no layout.
  set heightPx(px) {
    this.#heightPx = Math.max(px, 1);
  }

  get fader() {
    return this.#parts.fader;
  }

  get travel() {
    return this.#parts.travel;
  }

  // ---- the human ----

  #shown(name) {
    return this.#link.shown(name, this.#index, this.#truth?.[name] ?? null);
  }

  #ask(name, value) {
    this.#link.ask(name, this.#index, value);
    this.#show();
    this.#describeFader();
  }

  get standsAtDb() {
    return this.#finger?.db ?? this.#shown("lock_db") ?? this.#truth?.gain_db ?? 0;
  }

  toggle(name) {
    if (this.#truth) this.#ask(name, !this.#shown(name));
  }

  toggleLock() {
    if (this.#truth) this.#ask("lock_db", this.#shown("lock_db") === null ? this.#rounded(this.standsAtDb) : null);
  }

  nudge(db) {
    if (this.#truth) this.#ask("lock_db", this.#rounded(this.standsAtDb + db));
  }

  trim(db) {
    if (!this.#truth) return;
    const [low, high] = this.#trimRange;
    this.#ask("trim_db", Math.min(Math.max(Math.round(2 * (this.#shown("trim_db") + db)) / 2, low), high));
  }

  release() {
    this.#finger = null;
  }

  #rounded(db) {
    return this.#scale.clip(Math.round(10 * db) / 10);
  }

  // A touch holds the channel where it is; from there on it follows the finger, from wherever it was put down.
  #touch(event) {
    if (!this.#truth || this.#finger || event.button !== 0) return;
    event.preventDefault();
    this.#parts.fader.focus({ preventScroll: true });
    this.#parts.fader.setPointerCapture(event.pointerId);
    const db = this.#rounded(this.standsAtDb);
    this.#finger = { id: event.pointerId, y: event.clientY, at: this.#scale.at(db), db };
    this.#ask("lock_db", db);
  }

  #drag(event) {
    const finger = this.#finger;
    if (finger?.id !== event.pointerId) return;
    finger.at += ((finger.y - event.clientY) / this.#heightPx) * (event.shiftKey ? 0.2 : 1);
    finger.at = Math.min(Math.max(finger.at, 0), 1);
    finger.y = event.clientY;
    const db = this.#rounded(this.#scale.db(finger.at));
    if (db === finger.db) return;
    finger.db = db;
    this.#ask("lock_db", db);
  }

  #leave(event) {
    if (this.#finger?.id !== event.pointerId) return;
    this.#finger = null;
    this.#show();
  }

  #repeats(button, db) {
    let timer = 0;
    let repeated = false;
    const step = () => {
      repeated = true;
      this.trim(db);
      timer = setTimeout(step, REPEAT_MS);
    };
    button.addEventListener("pointerdown", () => {
      repeated = false;
      clearTimeout(timer);
      timer = setTimeout(step, REPEAT_AFTER_MS);
    });
    for (const end of ["pointerup", "pointercancel", "pointerleave", "blur"]) {
      button.addEventListener(end, () => clearTimeout(timer));
    }
    button.addEventListener("click", () => {
      if (!repeated) this.trim(db);
      repeated = false;
    });
  }

  // ---- the truth ----

  tell(truth, nowMs, quiet) {
    this.#truth = truth;
    this.#meters[0].hear(truth.input_db, nowMs);
    this.#meters[1].hear(truth.output_db, nowMs);
    this.#quiet = quiet;
    if (this.visible) this.#show();
  }

  get said() {
    return `${this.name}: ${this.#truth?.why || "as it is"}`;
  }

  get locked() {
    return this.#shown("lock_db") !== null;
  }

  get soloed() {
    return this.#shown("solo");
  }

  #show() {
    const { gain, why, lock, trim, mute, solo, cap } = this.#parts;
    const truth = this.#truth;
    const db = this.standsAtDb;
    const locked = this.#finger !== null || this.locked;
    const muted = this.#shown("mute");
    const trimDb = this.#shown("trim_db");
    this.#write(gain, decibels(db));
    this.#write(why, truth.why ?? "");
    this.#write(lock, locked ? "Release" : "Lock");
    this.#write(trim, decibels(trimDb));
    this.element.classList.toggle("locked", locked);
    this.element.classList.toggle("muted", muted);
    this.element.classList.toggle("quiet", this.#quiet);
    this.element.classList.toggle("held", this.#finger !== null);
    lock.setAttribute("aria-label", `${this.name} ${locked ? "release" : "lock"}`);
    mute.setAttribute("aria-pressed", muted);
    solo.setAttribute("aria-pressed", this.soloed);
    const at = (100 * (1 - this.#scale.at(db))).toFixed(2);
    if (this.#texts.get(cap) !== at) {
      this.#texts.set(cap, at);
      cap.style.transform = `translateY(${at}%)`;
    }
  }

  // For those who hear the page. A fader that moves by itself does not talk all the time to who is on it.
  describe() {
    if (!this.#truth) return;
    this.#show();
    if (this.locked || document.activeElement !== this.#parts.fader) this.#describeFader();
    for (const meter of this.#meters) meter.describe();
  }

  #describeFader() {
    const db = this.standsAtDb;
    this.#parts.fader.setAttribute("aria-valuenow", db.toFixed(1));
    this.#parts.fader.setAttribute("aria-valuetext", `${decibels(db)} dB, ${this.locked ? "locked" : "automatic"}`);
  }

  draw(nowMs, seconds, calm) {
    if (!this.#truth) return;
    for (const meter of this.#meters) meter.draw(nowMs, seconds);
    const at = this.#scale.at(this.#truth.predicted_db ?? this.#truth.gain_db ?? 0);
    const way = calm || this.#marker === null ? 1 : 1 - Math.exp(-seconds / 0.06);
    this.#marker = (this.#marker ?? at) + way * (at - (this.#marker ?? at));
    if (Math.abs(this.#marker - this.#drawnMarker) < 0.0005) return;
    this.#drawnMarker = this.#marker;
    const { marker, move } = this.#parts;
    marker.style.transform = `translateY(${(100 * (1 - this.#marker)).toFixed(2)}%)`;
    move.style.transform = `scaleY(${(this.#scale.at(0) - this.#marker).toFixed(4)})`;
  }

  #write(part, text) {
    if (this.#texts.get(part) === text) return;
    this.#texts.set(part, text);
    write(part, text);
  }
}
