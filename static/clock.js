// The service's time, and the ages of tickets.

/** The ages in ms at which stages begin; most tickets stay for about 45 s. */
const STAGES = [
  ["late", 30_000],
  ["aging", 15_000],
  ["fresh", 0],
];

export class Clock {
  #offset = 0;

  now() {
    return Date.now() + this.#offset;
  }

  /** A `Date` header is imprecise: only an offset outside its bounds is corrected. */
  sync(date, requestedAt) {
    const min = Date.parse(date) - Date.now();
    const max = Date.parse(date) + 1000 - requestedAt;
    if (this.#offset < min || this.#offset > max) this.#offset = (min + max) / 2;
  }
}

export const clock = new Clock();

export function ageStage(age) {
  return STAGES.find(([, from]) => age >= from)?.[0] ?? "fresh";
}

/** Returns `0:42`, `12:05` or `1 h 05`. */
export function formatAge(age) {
  const seconds = Math.max(0, Math.floor(age / 1000));
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}:${twoDigits(seconds % 60)}`;
  return `${Math.floor(minutes / 60)} h ${twoDigits(minutes % 60)}`;
}

function twoDigits(number) {
  return String(number).padStart(2, "0");
}
