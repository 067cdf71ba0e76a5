"use strict";
const analysis = JSON.parse(document.getElementById("data").textContent);
const css = getComputedStyle(document.documentElement);
const colour = name => css.getPropertyValue("--" + name).trim();
const clock = s => Math.floor(s / 60) + ":" + String(Math.floor(s % 60)).padStart(2, "0");
const BANDS = analysis.edges.length - 1, STEMS = analysis.names.length;
const LEFT = 44, RIGHT = 16, TOP = 8, BOTTOM = 24;
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

class Picture {
  constructor(spec) {
    const box = document.getElementById(spec.id);
    this.seconds = spec.seconds;
    this.shares = bytes(spec.shares);
    this.canvas = box.querySelector("canvas");
    this.read = box.querySelector(".read");
    for (const kind of ["pointerdown", "pointermove"]) this.canvas.addEventListener(kind, e => this.point(e));
    this.canvas.addEventListener("pointerleave", () => { this.read.textContent = ""; });
  }
  get width() { return this.canvas.clientWidth - LEFT - RIGHT; }
  get height() { return this.canvas.clientHeight - TOP - BOTTOM; }
  at(second, band) {
    const from = (second * BANDS + band) * STEMS;
    return this.shares.subarray(from, from + STEMS);
  }
  point(e) {
    const box = this.canvas.getBoundingClientRect();
    const second = Math.floor((e.clientX - box.left - LEFT) / this.width * this.seconds);
    const band = Math.floor(BANDS - (e.clientY - box.top - TOP) / this.height * BANDS);
    if (second < 0 || second >= this.seconds || band < 0 || band >= BANDS) { this.read.textContent = ""; return; }
    const shares = [...this.at(second, band)].map((share, stem) => [share, analysis.names[stem]]);
    const heard = shares.filter(([share]) => share).sort((a, b) => b[0] - a[0]).slice(0, 3);
    const told = heard.map(([share, name]) => name + " " + Math.round(share / 2.55) + " %").join(", ") || "nobody";
    this.read.textContent = `${clock(second)} \u00b7 ${analysis.edges[band]}\u2013${analysis.edges[band + 1]} Hz \u00b7 ${told}`;
  }
  image() {
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = [this.seconds, BANDS];
    const c = sheet.getContext("2d"), image = c.createImageData(this.seconds, BANDS);
    const inks = [...analysis.names.map((_, stem) => "stem-" + stem), "line"].map(name =>
      [1, 3, 5].map(i => parseInt(colour(name).slice(i, i + 2), 16)));
    for (let second = 0; second < this.seconds; second++) for (let band = 0; band < BANDS; band++) {
      const shares = this.at(second, band), to = ((BANDS - 1 - band) * this.seconds + second) * 4;
      const sum = shares.reduce((a, b) => a + b, 0), nobody = Math.max(0, 255 - sum);
      for (let k = 0; k < 3; k++) {
        let mixed = nobody * inks[STEMS][k];
        for (let stem = 0; stem < STEMS; stem++) mixed += shares[stem] * inks[stem][k];
        image.data[to + k] = Math.round(mixed / (sum + nobody));
      }
      image.data[to + 3] = 255;
    }
    c.putImageData(image, 0, 0);
    return sheet;
  }
  draw() {
    const ratio = window.devicePixelRatio || 1, { canvas } = this, c = canvas.getContext("2d");
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.font = "11px system-ui, sans-serif";
    c.imageSmoothingEnabled = this.seconds > this.width * ratio;
    c.drawImage(this.image(), LEFT, TOP, this.width, this.height);
    c.fillStyle = colour("soft");
    c.textAlign = "center";
    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600]
      .find(s => s / this.seconds * this.width >= 48) || 7200;
    for (let t = 0; t <= this.seconds; t += step)
      c.fillText(clock(t), LEFT + t / this.seconds * this.width, canvas.clientHeight - 6);
    c.textAlign = "right";
    for (const band of [1, 4, 8, 12, 16, 20, 24]) {
      const hz = analysis.edges[band], y = TOP + (1 - band / BANDS) * this.height;
      c.fillText(hz < 1000 ? hz + " Hz" : hz / 1000 + " k", LEFT - 5, y + 4);
    }
  }
}

const pictures = analysis.pictures.map(spec => new Picture(spec));
const draw = () => pictures.forEach(p => p.draw());
new ResizeObserver(draw).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
