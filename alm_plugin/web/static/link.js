// The connection to whoever owns the sound: what it says is the truth, what this page asks for is a wish. A wish is shown
// until the owner has heard it, and never for longer than WISH_MS.

const SILENT_MS = 2000; // states come 15 times per second
const WISH_MS = 1500;
const SEND_MS = 40;
const FULL_MS = 5000;

export class Link {
  #on;
  #socket;
  #alive = false;
  #sent = 0;
  #lastMs = performance.now();
  #retryMs = 250;
  #full = "";
  #wishes = new Map();
  #busy = false;

  // on: hello(about), state(state), error(text), lost(text), back()
  constructor(on) {
    this.#on = on;
    this.#open();
    setInterval(() => this.#watch(), 500);
  }

  get alive() {
    return this.#alive;
  }

  get silentMs() {
    return performance.now() - this.#lastMs;
  }

  // Ask for something. Of what a moving finger asks only the latest is sent.
  ask(name, strip, value) {
    if (!this.#alive) return;
    this.#wishes.set(`${name} ${strip}`, { name, strip, value, ordinal: Infinity, atMs: performance.now() });
    if (typeof value !== "number") this.#flush();
    else if (!this.#busy) this.#pace();
  }

  // What to show of a setting whose truth is known.
  shown(name, strip, truth) {
    const wish = this.#wishes.get(`${name} ${strip}`);
    return wish ? wish.value : truth;
  }

  #pace() {
    this.#busy = this.#flush();
    if (this.#busy) setTimeout(() => this.#pace(), SEND_MS);
  }

  #flush() {
    let any = false;
    for (const wish of this.#wishes.values()) {
      if (wish.ordinal !== Infinity || !this.#alive) continue;
      const { name, strip, value } = wish;
      this.#socket.send(JSON.stringify({ name, strip, value }));
      wish.ordinal = ++this.#sent;
      any = true;
    }
    return any;
  }

  #open() {
    const socket = new WebSocket(`ws://${location.host}/live`);
    this.#socket = socket;
    this.#sent = 0;
    this.#full = "";
    socket.onmessage = (event) => socket === this.#socket && this.#hear(JSON.parse(event.data));
    socket.onclose = (event) => socket === this.#socket && this.#close();
  }

  #hear(message) {
    if (message.type === "hello") this.#on.hello(message.about);
    else if (message.type === "error") this.#on.error(message.text);
    else if (message.type === "full") this.#full = message.text;
    else {
      const nowMs = performance.now();
      for (const [key, wish] of this.#wishes) {
        if (wish.ordinal <= message.heard || nowMs - wish.atMs > WISH_MS) this.#wishes.delete(key);
      }
      this.#on.state(message.state);
      // A state that could not be shown is as good as none.
      this.#lastMs = nowMs;
      this.#retryMs = 250;
      if (!this.#alive) {
        this.#alive = true;
        this.#on.back();
      }
    }
  }

  #watch() {
    if (this.#alive && this.silentMs > SILENT_MS) {
      // Whether the network or the mixer is gone: a new connection tells.
      this.#socket.close();
      this.#close();
    }
  }

  async #close() {
    this.#alive = false;
    this.#wishes.clear();
    this.#socket = null;
    this.#on.lost(this.#full);
    setTimeout(() => this.#open(), this.#full ? FULL_MS : this.#retryMs);
    this.#retryMs = Math.min(2 * this.#retryMs, 2000);
    const answer = await fetch("/", { method: "HEAD" }).catch(() => null);
    if (answer?.status === 403 && !this.#alive) this.#on.lost("This link is no longer valid: scan the QR code again.");
  }
}
