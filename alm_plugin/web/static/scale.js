// Where a level or gain stands on its scale, 0 at the bottom to 1 at the top.

// A fader's travel per dB is full above the first of these gains, and less below each.
const FADER = [
  [-12, 1.0],
  [-24, 0.55],
  [-40, 0.3],
  [-Infinity, 0.12],
];

const travel = (db) => {
  let sum = 0;
  let from = 0;
  if (db >= FADER[0][0]) return db;
  for (const [to, slope] of FADER) {
    if (db >= to) return sum + (db - from) * slope;
    sum += (to - from) * slope;
    from = to;
  }
  return sum;
};

const gainAt = (way) => {
  let sum = 0;
  let from = 0;
  for (const [to, slope] of FADER) {
    const next = sum + (to - from) * slope;
    if (way >= next) return from + (way - sum) / slope;
    sum = next;
    from = to;
  }
  return from;
};

export class FaderScale {
  constructor([low, high]) {
    this.low = low;
    this.high = high;
    this.bottom = travel(low);
    this.length = travel(high) - this.bottom;
  }

  clip(db) {
    return Math.min(Math.max(db, this.low), this.high);
  }

  at(db) {
    return (travel(this.clip(db)) - this.bottom) / this.length;
  }

  db(at) {
    return this.clip(gainAt(this.bottom + at * this.length));
  }

  get ticks() {
    return [12, 6, 0, -6, -12, -24, -40, -60].filter((db) => db >= this.low && db <= this.high);
  }
}

// Half of a meter is its upper 20 dB.
export const meterAt = (db) => {
  if (db >= -20) return Math.min(1 + db / 40, 1);
  if (db >= -40) return 0.5 + ((db + 20) * 0.35) / 20;
  return Math.max(0.15 + ((db + 40) * 0.15) / 20, 0);
};

// "+1.5", "−3.0", "0.0"; a dash for null.
export const decibels = (db, digits = 1) => {
  if (db === null || db === undefined) return "–";
  const text = Math.abs(db).toFixed(digits);
  return Number(text) === 0 ? text : (db > 0 ? "+" : "−") + text;
};
