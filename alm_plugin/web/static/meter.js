// A level that rises at once and falls slowly, and the peak that stands above it. Nothing here reads the layout.

import { meterAt } from "./scale.js";

const FALL_DB_PER_S = 36;
const HOLD_MS = 1500;
const CLIP_MS = 2500;
const FLOOR_DB = -70;

export class Meter {
  #element;
  #cover;
  #hold;
  #level = FLOOR_DB;
  #shown = FLOOR_DB;
  #peak = FLOOR_DB;
  #peakMs = 0;
  #clipMs = -Infinity;
  #drawn = [-1, -1, null];

  constructor(element) {
    this.#element = element;
    this.#cover = element.querySelector(".cover");
    this.#hold = element.querySelector(".hold");
  }

  // null is silence
  hear(db, nowMs) {
    this.#level = Math.max(db ?? FLOOR_DB, FLOOR_DB);
    if (this.#level >= this.#peak) {
      this.#peak = this.#level;
      this.#peakMs = nowMs;
    }
    if (this.#level > -0.1) this.#clipMs = nowMs;
  }

  get peakDb() {
    return this.#peak > FLOOR_DB ? this.#peak : null;
  }

  draw(nowMs, seconds) {
    const fall = FALL_DB_PER_S * seconds;
    this.#shown = Math.max(this.#level, this.#shown - fall);
    if (nowMs - this.#peakMs > HOLD_MS) this.#peak = Math.max(this.#shown, this.#peak - fall);
    this.#put(0, meterAt(this.#shown), (at) => this.#cover.style.setProperty("--at", at));
    this.#put(1, meterAt(this.#peak), (at) => this.#hold.style.setProperty("--at", at));
    const clips = nowMs - this.#clipMs < CLIP_MS;
    if (clips !== this.#drawn[2]) this.#element.classList.toggle("clips", (this.#drawn[2] = clips));
  }

  describe() {
    const db = this.#level > FLOOR_DB ? Math.round(this.#level) : null;
    this.#element.setAttribute("aria-valuenow", db ?? -60);
    this.#element.setAttribute("aria-valuetext", db === null ? "silent" : `${db} dB`);
  }

  #put(which, at, write) {
    const from = this.#drawn[which];
    if (at === from || (at > 0 && Math.abs(at - from) < 0.002)) return; // nobody sees less, but silence is nothing at all
    this.#drawn[which] = at;
    write(at.toFixed(4));
  }
}
